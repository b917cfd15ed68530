//! The live loop: changes of sources, of functions.toml and of components, served without a restart.

use super::progress::Waiting;
use super::rebuild::{self, Failure, FirstBuild, Rebuild};
use crate::authoring::sources::Changes;
use crate::authoring::watch::FileWatch;
use crate::manifest::{FunctionSpec, Manifest};
use crate::release::deploy::{Deployed, Deployments};
use crate::release::install;
use crate::server::{BuildFailure, Host};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Builds and installs what has changed, when it changes or when it is told to.
pub(super) struct Reloader {
    manifest: Manifest,
    deployments: Arc<Deployments>,
    rebuild: Rebuild,
    /// Why the app could not be served at the start.
    failure: Option<Failure>,
    watch: Option<FileWatch>,
    hangup: Signal,
}

/// What became of a change.
struct Served {
    deployed: Deployed,
    built: Option<Duration>,
    compiled: Duration,
    installed: Duration,
}

impl Reloader {
    /// For the app of `manifest`. SIGHUP always has it look; with a `watch`, so do changes. The live loop goes on
    /// from its `first` build.
    pub(super) fn new(
        manifest: Manifest,
        first: Option<FirstBuild>,
        deployments: &Arc<Deployments>,
        mut watch: Option<FileWatch>,
    ) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let FirstBuild { rebuild, failure } =
            first.unwrap_or_else(|| FirstBuild { rebuild: Rebuild::new(&manifest, false), failure: None });
        if let Some(watch) = &mut watch {
            rebuild.watch(watch);
        }
        Ok(Self { manifest, deployments: Arc::clone(deployments), rebuild, failure, watch, hangup })
    }

    /// Looks until it is to `leave`, or nobody polls it any more.
    pub(super) async fn run(self, host: Arc<Host>, leave: Arc<Notify>) {
        tokio::select! {
            () = self.look(&host) => {}
            () = leave.notified() => {}
        }
    }

    async fn look(mut self, host: &Host) {
        if let Some(failure) = self.failure.take() {
            self.report(host, &failure);
        }
        if self.watch.is_some() {
            // There may have been changes while the first build was under way.
            let changes = self.changes().await.without_lock_files();
            self.follow(host, changes, false).await;
        }
        loop {
            let changed = async {
                match &self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                () = changed => false,
                told = self.hangup.recv() => match told {
                    Some(()) => true,
                    None => return,
                },
            };
            let changes = self.changes().await;
            self.follow(host, changes, told).await;
        }
    }

    async fn changes(&mut self) -> Changes {
        self.rebuild.changes(self.watch.as_mut()).await
    }

    /// Serves what has changed, until nothing has any more: what changes meanwhile is one more round.
    async fn follow(&mut self, host: &Host, mut changes: Changes, mut told: bool) {
        loop {
            let concerns = self.rebuild.note(&changes);
            if !(told || concerns || !changes.files.is_empty()) {
                return;
            }
            told = false;
            match self.serve(&changes).await {
                Ok(served) => {
                    host.show_build_failure(None);
                    self.tell(&served);
                }
                Err(failure) => self.report(host, &failure),
            }
            if self.watch.is_none() {
                return;
            }
            changes = self.changes().await.without_lock_files();
        }
    }

    /// Builds what is to be built, and has it installed.
    async fn serve(&mut self, changes: &Changes) -> Result<Served, Failure> {
        let manifest = Manifest::read(self.manifest.path()).map_err(|error| error.to_string())?;
        self.rebuild.turn_to(&manifest, &self.manifest);
        let host_changed = manifest.host != self.manifest.host;
        // Also one that is not served: what is wrong may be a file that it names, and that will change.
        self.manifest = manifest.clone();
        self.rebuild.describe(&manifest);
        if self.rebuild.is_pending() {
            let changed = rebuild::first_of(changes, &manifest);
            tracing::debug!(changed, "building");
        }
        let built = self.rebuild.build(&manifest).await?;
        let (deployments, began) = (Arc::clone(&self.deployments), Instant::now());
        let installing = tokio::task::spawn_blocking(move || {
            let timed = Timed::default();
            let deployed = deployments.deploy_file(&manifest, &timed);
            (deployed, timed.took())
        });
        let (deployed, compiled) = installing.await.map_err(|error| error.to_string())?;
        let deployed = deployed.map_err(|error| error.to_string())?;
        if host_changed {
            tracing::warn!("what [host] says now holds from the next start on");
        }
        Ok(Served { deployed, built, compiled, installed: began.elapsed().saturating_sub(compiled) })
    }

    fn tell(&self, served: &Served) {
        let Served { deployed: Deployed { number, unchanged }, built, compiled, installed } = served;
        if *unchanged {
            tracing::debug!(release = number, "nothing has changed");
            return;
        }
        let shown = |took: Duration| (!took.is_zero()).then(|| tracing::field::display(rebuild::show(took)));
        tracing::info!(
            app = self.manifest.name.as_str(),
            release = number,
            build = built.and_then(shown),
            compile = shown(*compiled),
            install = shown(*installed),
            "the change is live"
        );
    }

    fn report(&self, host: &Host, failure: &Failure) {
        let app = &self.manifest.name;
        let report = &failure.report;
        if self.deployments.live().current().app(app).is_some() {
            tracing::error!("the change is not served, and what was live still is:\n{report}");
        } else {
            tracing::error!("the app is not served yet:\n{report}");
        }
        // Without a watch, nobody would take the page away again.
        if self.watch.is_some() {
            host.show_build_failure(Some(BuildFailure::new(app.clone(), &failure.printed)));
        }
    }
}

/// What people see while components are compiled, and how long that takes.
#[derive(Default)]
struct Timed {
    nanos: AtomicU64,
    waiting: Mutex<Option<Waiting>>,
}

impl Timed {
    fn took(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

impl install::Progress for Timed {
    fn compiling(&self, function: &FunctionSpec, done: usize, total: usize) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get_or_insert_with(Waiting::new).compiling(function, done, total);
    }

    fn compiled(&self, took: Duration) {
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        // Lines of the log come behind it, and a line that moves would stand among them.
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// What SIGHUP comes to where there is no functions.toml: nothing. Without this, it would end the process.
pub(super) fn without_file() -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("there is no functions.toml to be read again");
        }
    })
}
