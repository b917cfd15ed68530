//! Releases of a host's apps: deployed, tried, promoted, rolled back.
//!
//! Owns the order of a change: everything that can fail comes first, then the record is written, then one pointer is
//! swapped; a canary that ends is the exception, for its requests should not wait for a disk. **Invariant:** what is served
//! is what the record says, but for the moment between the two; a start serves what the record says. Changes come one at
//! a time.

use super::Release;
use super::canary::Canary;
use super::install::{Found, InstallError, Installer, Kept, Progress};
use super::live::{AppServing, Live};
use crate::limits::Share;
use crate::manifest::{HostConfig, Manifest, ManifestError, RoutePattern};
use crate::names::Name;
use crate::receipt::Kind;
use crate::runtime::pool::Needs;
use crate::storage::artifacts::Digest256;
use crate::storage::components::Components;
use crate::storage::releases::{
    FunctionRecord, NewRelease, Pointers, RecordError, ReleaseLine, ReleaseRecord, Releases, Source,
};
use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a change was not made. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The release cannot be installed.
    #[error("{0}")]
    Install(#[from] InstallError),
    /// The record cannot be read or written.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The manifest of a recorded release is not understood any more.
    #[error("release {number} of {app} was recorded by another version of fnhost: {cause}")]
    Outdated {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
        /// What is wrong with it now.
        cause: ManifestError,
    },
    /// Another host has the state folder.
    #[error("another fnhost serves from the state folder {}; `up --take-over` takes its place", .0.display())]
    Taken(PathBuf),
    /// The state folder cannot be locked.
    #[error("the state folder {} cannot be locked: {cause}", folder.display())]
    Lock {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// Components that have to be uploaded first.
    #[error("{} components have to be uploaded first", .0.len())]
    Missing(Vec<Digest256>),
    /// Another change of the same app is under way.
    #[error("another change of {0} is under way; name the release that yours builds on, or force it")]
    Busy(Name),
    /// Another process is about to serve in this one's place.
    #[error("the host is being handed over to another process; try again")]
    HandingOver,
    /// The app is not what the change was made for.
    #[error("{app} is at release {}, and not at {base}", live.map_or_else(|| "none".to_owned(), |live| live.to_string()))]
    Moved {
        /// The app.
        app: Name,
        /// What the change was made for.
        base: u64,
        /// What is live.
        live: Option<u64>,
    },
    /// Another app answers the same requests.
    #[error("`{pattern}` of {app} claims the same requests as a route of {owner}")]
    Claimed {
        /// The route.
        pattern: RoutePattern,
        /// Whose it is.
        app: Name,
        /// Who has it already.
        owner: Name,
    },
    /// There is no such app.
    #[error("there is no app {0}")]
    NoApp(Name),
    /// There is no such release, or none any more.
    #[error("{app} has no release {number}")]
    NoRelease {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
    },
    /// Nothing is on trial.
    #[error("{0} has no canary")]
    NoCanary(Name),
    /// Nothing is live that a canary could stand beside.
    #[error("{0} has no live release that a canary could stand beside; deploy it whole first")]
    NoLive(Name),
    /// Nothing was live before.
    #[error("{0} has no earlier release to go back to")]
    NothingBefore(Name),
    /// It is live already.
    #[error("release {number} of {app} is live already")]
    AlreadyLive {
        /// The app.
        app: Name,
        /// The release.
        number: u64,
    },
}

/// What a change expects to find.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expect {
    /// The release that is live, if that matters.
    pub base: Option<u64>,
    /// Whatever it finds will do.
    pub force: bool,
}

/// A release that is to be made of components in the state folder.
#[derive(Debug)]
pub struct Deploy {
    /// What it is.
    pub manifest: Manifest,
    /// The components of its functions, in the manifest's order.
    pub components: Vec<Digest256>,
    /// What its author says of it.
    pub message: String,
    /// The part of the requests that it gets at first, if it is to be tried.
    pub canary: Option<Share>,
    /// What it builds on.
    pub expect: Expect,
}

/// A change that was made, or need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployed {
    /// The release.
    pub number: u64,
    /// It is what was live already.
    pub unchanged: bool,
}

/// The releases of a host.
pub struct Deployments {
    state: PathBuf,
    installer: Installer,
    components: Components,
    record: Releases,
    live: Live,
    keep_releases: u32,
    /// Held through each change.
    changing: Mutex<()>,
    /// Apps of which a change is under way, or waits.
    busy: Mutex<HashSet<Name>>,
    /// What an operator should know, by app.
    warnings: Mutex<BTreeMap<Name, String>>,
    /// Locked while this process may change the record.
    lock: File,
    suspended: AtomicBool,
}

impl Deployments {
    /// Opens the state folder; nothing is served yet. One host at a time has it.
    pub fn open(settings: &HostConfig) -> Result<Self, DeployError> {
        let installer = Installer::open(settings)?;
        let lock = lock_folder(&settings.state)?;
        Ok(Self {
            state: settings.state.clone(),
            installer,
            components: Components::open(&settings.state).map_err(InstallError::from)?,
            record: Releases::open(&settings.state)?,
            live: Live::default(),
            keep_releases: settings.keep_releases,
            changing: Mutex::default(),
            busy: Mutex::default(),
            warnings: Mutex::default(),
            lock,
            suspended: AtomicBool::new(false),
        })
    }

    /// What answers.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// What makes releases.
    pub fn installer(&self) -> &Installer {
        &self.installer
    }

    /// Where components are kept.
    pub fn components(&self) -> &Components {
        &self.components
    }

    /// What an operator should know, by app.
    pub fn warnings(&self) -> Vec<(Name, String)> {
        lock(&self.warnings).iter().map(|(app, warning)| (app.clone(), warning.clone())).collect()
    }

    /// The apps, and what of them is to answer.
    pub fn apps(&self) -> Result<Vec<(Name, Pointers)>, DeployError> {
        Ok(self.record.apps()?)
    }

    /// The releases of `app`, the newest first, and what of them is to answer.
    pub fn releases(&self, app: &Name) -> Result<(Pointers, Vec<ReleaseLine>), DeployError> {
        let pointers = self.record.pointers(app)?.ok_or_else(|| DeployError::NoApp(app.clone()))?;
        Ok((pointers, self.record.list(app)?))
    }

    /// One release, whole.
    pub fn release(&self, app: &Name, number: u64) -> Result<ReleaseRecord, DeployError> {
        let found = self.record.find(app, number)?;
        found.ok_or_else(|| DeployError::NoRelease { app: app.clone(), number })
    }

    /// Serves what the record says of every app but `except`. An app that cannot be served is left out and warned of: the
    /// others should not go with it.
    pub fn restore(&self, except: Option<&Name>, progress: &dyn Progress) -> Result<(), DeployError> {
        let _changing = lock(&self.changing);
        for (app, pointers) in self.record.apps()?.iter().filter(|(app, _)| Some(app) != except) {
            if let Err(error) = self.restore_app(app, *pointers, progress) {
                tracing::error!(app = app.as_str(), %error, "an app cannot be served");
                lock(&self.warnings).insert(app.clone(), format!("it cannot be served: {error}"));
            }
        }
        Ok(())
    }

    fn restore_app(&self, app: &Name, pointers: Pointers, progress: &dyn Progress) -> Result<(), DeployError> {
        let Some(number) = pointers.live else { return Ok(()) };
        let live = self.recorded(app, number, progress)?;
        let canary = pointers.canary.and_then(|(number, parts)| {
            let release = self.recorded(app, number, progress).inspect_err(|error| {
                tracing::error!(app = app.as_str(), %error, "a canary cannot be served");
            });
            Some(Arc::new(Canary::new(release.ok()?, Share::of_parts(parts)?)))
        });
        self.live.replace(app, Some(AppServing { live, canary }));
        Ok(())
    }

    /// Makes a release of what is recorded.
    fn recorded(&self, app: &Name, number: u64, progress: &dyn Progress) -> Result<Arc<Release>, DeployError> {
        let record = self.release(app, number)?;
        let outdated = |cause| DeployError::Outdated { app: app.clone(), number, cause };
        let manifest = Manifest::parse(Path::new("functions.toml"), record.manifest).map_err(outdated)?;
        let kept: Vec<Kept> = record.functions.iter().map(kept).collect();
        let found = self.installer.find_kept(&manifest, &kept, &self.components, progress)?;
        Ok(Arc::new(self.installer.prepare(&manifest, number, found)?))
    }

    /// Serves `manifest`, which stands in a file, with the components that it names: as a new release, unless it is what is
    /// live already.
    pub fn deploy_file(&self, manifest: &Manifest, progress: &dyn Progress) -> Result<Deployed, DeployError> {
        let _changing = lock(&self.changing);
        self.refuse_suspended()?;
        self.refuse_claimed(manifest)?;
        let found = self.installer.find_files(manifest, Some(&self.components), progress)?;
        self.install(manifest, found, (Source::File, ""), None, progress)
    }

    /// Makes a release of what was uploaded.
    pub fn deploy(&self, deploy: &Deploy, progress: &dyn Progress) -> Result<Deployed, DeployError> {
        let Deploy { manifest, components, message, canary, expect } = deploy;
        let _change = self.begin(&manifest.name, *expect)?;
        let distinct: HashSet<&Digest256> = components.iter().collect();
        let missing: Vec<Digest256> =
            distinct.into_iter().filter(|digest| !self.components.has(digest)).copied().collect();
        if !missing.is_empty() {
            return Err(DeployError::Missing(missing));
        }
        self.refuse_claimed(manifest)?;
        let kept = components.iter().map(|digest| self.kept(digest)).collect::<Result<Vec<_>, _>>()?;
        let found = match self.installer.find_kept(manifest, &kept, &self.components, progress) {
            Err(InstallError::Missing(digest)) => return Err(DeployError::Missing(vec![digest])),
            found => found?,
        };
        self.install(manifest, found, (Source::Deploy, message), *canary, progress)
    }

    /// Has the canary answer everything.
    pub fn promote(&self, app: &Name, expect: Expect) -> Result<Deployed, DeployError> {
        let _change = self.begin(app, expect)?;
        let serving = self.live.current().app(app).cloned();
        let canary = serving.and_then(|serving| serving.canary).ok_or_else(|| DeployError::NoCanary(app.clone()))?;
        let number = canary.release.number;
        self.record.point(app, Pointers { live: Some(number), canary: None }, &[])?;
        self.live.replace(app, Some(AppServing { live: Arc::clone(&canary.release), canary: None }));
        tracing::info!(app = app.as_str(), release = number, "the canary is live");
        Ok(Deployed { number, unchanged: false })
    }

    /// Has an earlier release answer again: `number`, or else the live one in place of its canary, or else the one that was
    /// live before. Nothing is compiled.
    pub fn rollback(&self, app: &Name, number: Option<u64>, expect: Expect) -> Result<Deployed, DeployError> {
        let _change = self.begin(app, expect)?;
        let pointers = self.record.pointers(app)?.ok_or_else(|| DeployError::NoApp(app.clone()))?;
        let live = pointers.live.ok_or_else(|| DeployError::NoLive(app.clone()))?;
        if let (Some((canary, _)), None) = (pointers.canary, number) {
            self.end_canary(app, canary, "rolled back by hand")?;
            return Ok(Deployed { number: live, unchanged: false });
        }
        let before = || self.record.live_before(app, live)?.ok_or_else(|| DeployError::NothingBefore(app.clone()));
        let number = number.map_or_else(before, Ok)?;
        if number == live {
            return Err(DeployError::AlreadyLive { app: app.clone(), number });
        }
        let release = self.recorded(app, number, &Silent)?;
        let ended = pointers.canary.map(|(canary, _)| (canary, format!("ended by going back to release {number}")));
        let left = format!("rolled back to release {number}");
        let notes: Vec<(u64, &str)> = std::iter::once((live, left.as_str()))
            .chain(ended.iter().map(|(canary, note)| (*canary, note.as_str())))
            .collect();
        self.record.point(app, Pointers { live: Some(number), canary: None }, &notes)?;
        self.live.replace(app, Some(AppServing { live: release, canary: None }));
        tracing::info!(app = app.as_str(), release = number, from = live, "rolled back");
        Ok(Deployed { number, unchanged: false })
    }

    /// Takes `app` away, and forgets its releases.
    pub fn remove(&self, app: &Name, expect: Expect) -> Result<(), DeployError> {
        let _change = self.begin(app, expect)?;
        if !self.record.remove(app)? {
            return Err(DeployError::NoApp(app.clone()));
        }
        self.live.replace(app, None);
        lock(&self.warnings).remove(app);
        tracing::info!(app = app.as_str(), "removed");
        Ok(())
    }

    /// Whether some canary could end by itself.
    pub fn watches(&self) -> bool {
        let serving = self.live.current();
        serving.apps().iter().any(|app| app.canary.as_ref().is_some_and(|canary| canary.watch.is_some()))
    }

    /// Ends the canaries that do worse than they may.
    pub fn judge(&self) {
        for serving in self.live.current().apps() {
            let Some(canary) = &serving.canary else { continue };
            let Some(reason) = canary.watch.as_ref().and_then(super::canary::Watch::verdict) else { continue };
            let (app, number) = (&serving.live.app, canary.release.number);
            let _changing = lock(&self.changing);
            // It may have been promoted meanwhile.
            if self.suspended.load(Ordering::Acquire) {
                return;
            }
            let still = self.live.current().app(app).and_then(|app| app.canary.clone());
            if still.is_some_and(|still| still.release.number == number)
                && let Err(error) = self.end_canary(app, number, &format!("ended by itself: {reason}"))
            {
                tracing::error!(app = app.as_str(), release = number, %error, "a canary could not be ended");
            }
        }
    }

    fn end_canary(&self, app: &Name, number: u64, reason: &str) -> Result<(), DeployError> {
        let serving = self.live.current().app(app).cloned();
        let serving = serving.ok_or_else(|| DeployError::NoLive(app.clone()))?;
        let pointers = Pointers { live: Some(serving.live.number), canary: None };
        self.live.replace(app, Some(AppServing { canary: None, ..serving }));
        tracing::warn!(app = app.as_str(), release = number, reason, "the canary has ended");
        self.record.point(app, pointers, &[(number, reason)])?;
        Ok(())
    }

    /// Makes the next release of what was found, and serves it. The caller holds the lock.
    fn install(
        &self,
        manifest: &Manifest,
        found: Found<'_>,
        (source, message): (Source, &str),
        canary: Option<Share>,
        progress: &dyn Progress,
    ) -> Result<Deployed, DeployError> {
        let app = &manifest.name;
        let functions: Vec<FunctionRecord> = manifest
            .functions
            .iter()
            .zip(found.sources())
            .map(|(spec, source)| record_of(&spec.name, source))
            .collect();
        let digest = digest_of(manifest, &functions);
        let before = self.record.pointers(app)?.unwrap_or_default();
        if let Some(number) = before.live
            && self.release(app, number)?.line.digest == digest
            && functions.len() == manifest.functions.len()
        {
            if self.live.current().app(app).is_none() {
                self.restore_app(app, before, progress)?;
                lock(&self.warnings).remove(app);
            }
            return Ok(Deployed { number, unchanged: true });
        }
        let number = self.record.next_number(app)?;
        let release = Arc::new(self.installer.prepare(manifest, number, found)?);
        let serving = match canary {
            None => AppServing { live: release, canary: None },
            Some(share) => {
                let serving = self.live.current().app(app).cloned();
                let live = serving.ok_or_else(|| DeployError::NoLive(app.clone()))?.live;
                AppServing { live, canary: Some(Arc::new(Canary::new(release, share))) }
            }
        };
        let pointers = Pointers {
            live: Some(serving.live.number),
            canary: serving.canary.as_ref().map(|canary| (canary.release.number, canary.share.parts())),
        };
        let ended = before.canary.map(|(canary, _)| (canary, format!("ended by release {number}")));
        let notes: Vec<(u64, &str)> = ended.iter().map(|(canary, note)| (*canary, note.as_str())).collect();
        let new = NewRelease { app, source, message, manifest: manifest.source(), digest, functions };
        self.record.add(number, &new, pointers, &notes)?;
        let share = canary.map_or_else(|| Share::ALL.to_string(), |share| share.to_string());
        self.live.replace(app, Some(serving));
        lock(&self.warnings).remove(app);
        tracing::info!(app = app.as_str(), release = number, source = source.as_str(), share, "deployed");
        self.forget_old(app);
        Ok(Deployed { number, unchanged: false })
    }

    /// Lets go of what no kept release needs. That it could not be done is no reason for a deploy to fail.
    fn forget_old(&self, app: &Name) {
        let forgotten = self.record.prune(app, self.keep_releases).and_then(|_| self.record.components());
        match forgotten {
            Ok(used) => {
                self.installer.prune(&used);
                self.components.prune(&used.into_iter().map(|(digest, _)| digest).collect());
            }
            Err(error) => tracing::warn!(%error, "old releases could not be removed"),
        }
    }

    fn refuse_claimed(&self, manifest: &Manifest) -> Result<(), DeployError> {
        match self.live.current().claimed(manifest) {
            Some((pattern, owner)) => {
                Err(DeployError::Claimed { pattern: pattern.clone(), app: manifest.name.clone(), owner })
            }
            None => Ok(()),
        }
    }

    fn kept(&self, digest: &Digest256) -> Result<Kept, DeployError> {
        let known = self.record.known(digest)?;
        let known = known.and_then(|(kind, needs)| Some((Kind::from_name(&kind)?, Needs::from_line(&needs)?)));
        Ok(Kept { digest: *digest, known })
    }

    /// Begins a change of `app`. A second one, meanwhile, is refused, unless it says what it expects.
    fn begin(&self, app: &Name, expect: Expect) -> Result<Change<'_>, DeployError> {
        self.refuse_suspended()?;
        let alone = lock(&self.busy).insert(app.clone());
        if !alone && expect.base.is_none() && !expect.force {
            return Err(DeployError::Busy(app.clone()));
        }
        let mine = alone.then(|| BusyApp { busy: &self.busy, app: app.clone() });
        let changing = lock(&self.changing);
        self.refuse_suspended()?;
        if let Some(base) = expect.base
            && !expect.force
        {
            let live = self.record.pointers(app)?.unwrap_or_default().live;
            if live != Some(base) {
                return Err(DeployError::Moved { app: app.clone(), base, live });
            }
        }
        Ok(Change { _changing: changing, _busy: mine })
    }

    /// Lets go of the state folder: what is served stays, and nothing is changed until [`Deployments::resume`]. A change
    /// that is under way comes to its end first.
    pub fn suspend(&self) -> Result<(), DeployError> {
        self.suspended.store(true, Ordering::Release);
        let _changing = lock(&self.changing);
        let unlocked = self.lock.unlock();
        unlocked.map_err(|cause| DeployError::Lock { folder: self.state.clone(), cause })
    }

    /// Takes the state folder back.
    pub fn resume(&self) -> Result<(), DeployError> {
        let _changing = lock(&self.changing);
        try_lock(&self.lock, &self.state)?;
        self.suspended.store(false, Ordering::Release);
        Ok(())
    }

    fn refuse_suspended(&self) -> Result<(), DeployError> {
        if self.suspended.load(Ordering::Acquire) { Err(DeployError::HandingOver) } else { Ok(()) }
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// A change under way.
struct Change<'d> {
    _changing: MutexGuard<'d, ()>,
    _busy: Option<BusyApp<'d>>,
}

struct BusyApp<'d> {
    busy: &'d Mutex<HashSet<Name>>,
    app: Name,
}

impl Drop for BusyApp<'_> {
    fn drop(&mut self) {
        lock(self.busy).remove(&self.app);
    }
}

struct Silent;

impl Progress for Silent {
    fn compiling(&self, _function: &crate::manifest::FunctionSpec, _done: usize, _total: usize) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the state folder for this process, for as long as the file is open (flock(2)).
fn lock_folder(state: &Path) -> Result<File, DeployError> {
    let failed = |cause| DeployError::Lock { folder: state.to_owned(), cause };
    let file = File::options().create(true).truncate(false).write(true).open(state.join("lock")).map_err(failed)?;
    try_lock(&file, state)?;
    Ok(file)
}

fn try_lock(file: &File, state: &Path) -> Result<(), DeployError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => DeployError::Taken(state.to_owned()),
        TryLockError::Error(cause) => DeployError::Lock { folder: state.to_owned(), cause },
    })
}

fn kept(function: &FunctionRecord) -> Kept {
    let known = Kind::from_name(&function.kind).zip(Needs::from_line(&function.needs));
    Kept { digest: function.component, known }
}

fn record_of(name: &Name, source: &crate::runtime::code::CodeSource) -> FunctionRecord {
    FunctionRecord {
        name: name.to_string(),
        component: source.key.component,
        kind: source.kind.as_str().to_owned(),
        needs: source.needs.to_line(),
        bytes: std::fs::metadata(&source.component).map_or(0, |metadata| metadata.len()),
    }
}

/// What tells releases apart: the text of functions.toml, and every component.
fn digest_of(manifest: &Manifest, functions: &[FunctionRecord]) -> Digest256 {
    let mut text = manifest.source().to_owned();
    for function in functions {
        text.push('\n');
        text.push_str(&function.component.to_string());
    }
    Digest256::of(text.as_bytes())
}
