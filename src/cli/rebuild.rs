//! What the live loop builds: the functions whose sources have changed, and those whose last build failed.

use super::progress::Waiting;
use crate::authoring::build::{BuildError, BuildUnderWay};
use crate::authoring::sources::{Changes, Sources};
use crate::authoring::watch::{FileWatch, QUIET_COMPONENT};
use crate::limits::show_nanos;
use crate::manifest::{Build, Manifest};
use crate::names::Name;
use std::collections::HashSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// The functions of an app, as far as they are built.
pub(super) struct Rebuild {
    sources: Sources,
    /// Whether anything is built: else, components are taken as they are.
    builds: bool,
    /// What is to be built.
    pending: HashSet<Build>,
}

/// How the live loop begins.
pub(super) struct FirstBuild {
    pub(super) rebuild: Rebuild,
    /// Why the app is not built.
    pub(super) failure: Option<Failure>,
}

impl FirstBuild {
    /// With `builds`, builds all of `manifest`.
    pub(super) async fn of(manifest: &Manifest, builds: bool) -> Self {
        let mut rebuild = Rebuild::new(manifest, builds);
        let failure = rebuild.build(manifest).await.err();
        Self { rebuild, failure }
    }
}

/// Why a change is not served.
#[derive(Debug)]
pub(super) struct Failure {
    /// For the log: without what is on the terminal already.
    pub(super) report: String,
    /// For the page: what was printed, with its colours.
    pub(super) printed: String,
}

impl From<String> for Failure {
    fn from(report: String) -> Self {
        Self { printed: report.clone(), report }
    }
}

impl From<BuildError> for Failure {
    fn from(mut error: BuildError) -> Self {
        let output = error.take_output();
        let printed = format!("{output}{error}");
        let report = if is_shown() { error.to_string() } else { anstream::adapter::strip_str(&printed).to_string() };
        Self { report, printed }
    }
}

/// Whether people see what a build prints while it runs.
fn is_shown() -> bool {
    std::io::stderr().is_terminal()
}

impl Rebuild {
    /// With `builds`, all functions of `manifest` are to be built that have a command for that.
    pub(super) fn new(manifest: &Manifest, builds: bool) -> Self {
        let sources = Sources::of(manifest, builds);
        let pending = builds_of(manifest).filter(|_| builds).cloned().collect();
        Self { sources, builds, pending }
    }

    /// Has `watch` tell of everything that may matter. Whether there was something new to look at.
    pub(super) fn watch(&self, watch: &mut FileWatch) -> bool {
        watch.set(self.sources.files(), self.sources.folders())
    }

    /// What has changed since the last time. What somebody else has written is waited for, until it is whole.
    pub(super) async fn changes(&mut self, watch: Option<&mut FileWatch>) -> Changes {
        let mut changes = tokio::task::block_in_place(|| self.sources.changes());
        let Some(watch) = watch else { return changes };
        if !changes.files.is_empty() {
            watch.quiet(QUIET_COMPONENT).await;
        }
        // What comes into a folder before that is watched is told by nobody.
        let is_new = self.watch(watch);
        if is_new || !changes.files.is_empty() {
            let more = tokio::task::block_in_place(|| self.sources.changes());
            changes.sources.extend(more.sources);
            changes.files.extend(more.files);
        }
        changes
    }

    /// Notes whom a change of sources concerns. Whether it concerns anybody.
    pub(super) fn note(&mut self, changes: &Changes) -> bool {
        let concerned = changes.sources.iter().flat_map(|path| self.sources.concerned(path));
        let concerned: HashSet<Build> = concerned.cloned().collect();
        let is_any = !concerned.is_empty();
        self.pending.extend(concerned);
        is_any
    }

    /// Goes on with `now` in place of `before`: functions that are new, or built otherwise, or whose component is gone, are to
    /// be built.
    pub(super) fn turn_to(&mut self, now: &Manifest, before: &Manifest) {
        let old: HashSet<&Build> = builds_of(before).collect();
        let builds: HashSet<&Build> = builds_of(now).filter(|_| self.builds).collect();
        self.pending.retain(|build| builds.contains(build));
        let lacks = |build: &Build| now.builds().any(|(_, component, built)| built == build && !component.exists());
        self.pending.extend(builds.into_iter().filter(|build| !old.contains(*build) || lacks(build)).cloned());
    }

    /// Builds what is to be built, in the order of the file. How long that took; nothing, if there was nothing to do. What
    /// is built when the next fails stays built.
    pub(super) async fn build(&mut self, manifest: &Manifest) -> Result<Option<Duration>, Failure> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let began = Instant::now();
        let built = self.build_pending(manifest).await;
        let took = began.elapsed();
        tokio::task::block_in_place(|| {
            // Now Cargo says what it made them from.
            self.sources.describe(manifest, self.builds);
            self.sources.accept_components();
        });
        built.map(|()| Some(took))
    }

    async fn build_pending(&mut self, manifest: &Manifest) -> Result<(), Failure> {
        let total = self.pending.len();
        let waiting = Waiting::new();
        for (name, _, build) in manifest.builds() {
            if self.pending.contains(build) {
                waiting.building(name, total - self.pending.len(), total);
                run(name, build).await?;
                self.pending.remove(build);
            }
        }
        Ok(())
    }

    /// Whether something is still to be built.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the files of `manifest` in place of those before.
    pub(super) fn describe(&mut self, manifest: &Manifest) {
        tokio::task::block_in_place(|| self.sources.describe(manifest, self.builds));
    }
}

async fn run(name: &Name, build: &Build) -> Result<(), Failure> {
    let shown = is_shown();
    let show = |bytes: &[u8]| {
        if shown {
            let _ = std::io::stderr().lock().write_all(bytes);
        }
    };
    Ok(BuildUnderWay::start(name, build)?.finish(name, build, show).await?)
}

fn builds_of(manifest: &Manifest) -> impl Iterator<Item = &Build> {
    manifest.builds().map(|(_, _, build)| build)
}

/// A measured time, for people.
pub(super) fn show(took: Duration) -> String {
    show_nanos(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}

/// The changed file that is told of, relative to the app.
pub(super) fn first_of(changes: &Changes, manifest: &Manifest) -> Option<String> {
    let path = changes.sources.iter().chain(&changes.files).next()?;
    let folder = std::path::absolute(manifest.path().parent().unwrap_or(Path::new(""))).ok()?;
    Some(path.strip_prefix(folder).unwrap_or(path).display().to_string())
}
