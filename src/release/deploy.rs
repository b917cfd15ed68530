//! Releases of a host's apps: deployed, tried, promoted, rolled back.
//!
//! Owns the order of a change: everything that can fail comes first, then the record is written, then one pointer is
//! swapped; a canary that ends is the exception, for its requests should not wait for a disk. **Invariant:** what is served
//! is what the record says, but for the moment between the two; a start serves what the record says. Changes come one at
//! a time.

mod change;
mod error;

pub use error::DeployError;

use super::Release;
use super::canary::Canary;
use super::data::Migrations;
use super::install::{InstallError, Installer, Kept, Progress, Silent};
use super::live::{AppServing, Live};
use super::turns::AppTurns;
use crate::limits::Share;
use crate::manifest::{HostConfig, Manifest, RoutePattern};
use crate::names::Name;
use crate::receipt::Kind;
use crate::runtime::engine::Haste;
use crate::runtime::pool::Needs;
use crate::storage::artifacts::Digest256;
use crate::storage::components::Components;
use crate::storage::releases::{FunctionRecord, Pointers, ReleaseLine, ReleaseRecord, Releases};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Its middleware that is a component, in the manifest's order.
    pub middleware: Vec<Digest256>,
    /// What is to be done to its databases first.
    pub migrations: Migrations,
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

/// A canary that has ended by itself, and is not recorded as such yet.
struct Ended {
    app: Name,
    number: u64,
    reason: String,
}

/// The releases of a host.
pub struct Deployments {
    state: PathBuf,
    installer: Installer,
    components: Components,
    record: Releases,
    live: Live,
    keep_releases: u32,
    /// Of the host's own, so that nobody can tell which clients a canary meets.
    secret: String,
    /// One change of an app at a time.
    turns: AppTurns,
    /// Held while the record and what is served are changed together: for a moment, not while anything is compiled.
    changing: Mutex<()>,
    ended: Mutex<Vec<Ended>>,
    /// What an operator should know, by app.
    warnings: Mutex<BTreeMap<Name, String>>,
    /// Locked while this process may change the record.
    lock: File,
    suspended: AtomicBool,
}

impl Deployments {
    /// Opens the state folder; nothing is served yet. One host at a time has it.
    pub fn open(settings: &HostConfig, haste: Haste) -> Result<Self, DeployError> {
        let installer = Installer::open(settings, haste)?;
        let lock = lock_folder(&settings.state)?;
        let record = Releases::open(&settings.state)?;
        Ok(Self {
            state: settings.state.clone(),
            installer,
            components: Components::open(&settings.state).map_err(InstallError::from)?,
            secret: record.secret()?,
            record,
            live: Live::default(),
            keep_releases: settings.keep_releases,
            turns: AppTurns::default(),
            changing: Mutex::default(),
            ended: Mutex::default(),
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

    /// Serves what the record says of every app but those of `manifest`, which will be deployed. An app that cannot be served
    /// is left out and warned of: the others should not go with it.
    pub fn restore(&self, manifest: Option<&Manifest>, progress: &dyn Progress) -> Result<(), DeployError> {
        let mut except = match manifest {
            Some(manifest) => self.record.others_of_file(&origin_of(manifest), &manifest.name)?,
            None => Vec::new(),
        };
        except.extend(manifest.map(|manifest| manifest.name.clone()));
        for (app, pointers) in self.record.apps()?.iter().filter(|(app, _)| !except.contains(app)) {
            self.restore_app(app, *pointers, progress);
        }
        Ok(())
    }

    /// Serves what the record says of `app`, if it says anything.
    pub fn restore_one(&self, app: &Name, progress: &dyn Progress) -> Result<(), DeployError> {
        if let Some(pointers) = self.record.pointers(app)? {
            self.restore_app(app, pointers, progress);
        }
        Ok(())
    }

    fn restore_app(&self, app: &Name, pointers: Pointers, progress: &dyn Progress) {
        let Some(number) = pointers.live else { return };
        let live = self.recorded(app, number, progress).and_then(|live| {
            self.refuse_claimed(app, live.routes.iter().map(|route| &route.pattern), &[])?;
            Ok(live)
        });
        match live {
            Ok(live) => {
                let canary = self.recorded_canary(app, pointers, progress);
                self.live.replace(app, Some(AppServing { live, canary }));
            }
            Err(error) => self.warn(app, format!("it cannot be served: {error}")),
        }
    }

    fn warn(&self, app: &Name, warning: String) {
        tracing::error!(app = app.as_str(), warning, "an app is not served as it should be");
        lock(&self.warnings).insert(app.clone(), warning);
    }

    /// The canary that is recorded. One that cannot be served is left out: the live release answers everything then.
    fn recorded_canary(&self, app: &Name, pointers: Pointers, progress: &dyn Progress) -> Option<Arc<Canary>> {
        let (number, parts) = pointers.canary?;
        let release = self.recorded(app, number, progress).and_then(|release| {
            self.refuse_claimed(app, release.routes.iter().map(|route| &route.pattern), &[])?;
            Ok(release)
        });
        match release {
            Ok(release) => Some(self.canary(release, Share::of_parts(parts)?)),
            Err(error) => {
                self.warn(app, format!("its canary cannot be served: {error}"));
                None
            }
        }
    }

    fn canary(&self, release: Arc<Release>, share: Share) -> Arc<Canary> {
        Arc::new(Canary::new(release, share, &self.secret))
    }

    /// Makes a release of what is recorded.
    fn recorded(&self, app: &Name, number: u64, progress: &dyn Progress) -> Result<Arc<Release>, DeployError> {
        let record = self.release(app, number)?;
        let outdated = |cause| DeployError::Outdated { app: app.clone(), number, cause };
        // What stands in a file of this machine may name others beside it.
        let manifest = if record.origin.is_empty() {
            Manifest::of_upload(record.manifest)
        } else {
            Manifest::parse(Path::new(&record.origin), record.manifest)
        };
        let manifest = manifest.map_err(outdated)?;
        let kept: Vec<Kept> = record.functions.iter().map(kept).collect();
        let found = self.installer.find_kept(&manifest, &kept, &self.components, progress)?;
        Ok(Arc::new(self.installer.prepare(&manifest, number, found)?))
    }

    /// Whether some canary could end by itself, or has and is not recorded.
    pub fn watches(&self) -> bool {
        let serving = self.live.current();
        let watched = |app: &AppServing| app.canary.as_ref().is_some_and(|canary| canary.watch.is_some());
        serving.apps().iter().any(watched) || !lock(&self.ended).is_empty()
    }

    /// Ends the canaries that do worse than they may. Their requests go first; it is recorded as soon as that can be done.
    pub fn judge(&self) {
        for serving in self.live.current().apps() {
            let Some(canary) = &serving.canary else { continue };
            let Some(reason) = canary.watch.as_ref().and_then(super::canary::Watch::verdict) else { continue };
            let (app, number) = (&serving.live.app, canary.release.number);
            let _changing = lock(&self.changing);
            // It may have been promoted meanwhile.
            let now = self.live.current().app(app).cloned();
            let is_still =
                |serving: &AppServing| serving.canary.as_ref().is_some_and(|canary| canary.release.number == number);
            if let Some(serving) = now.filter(is_still) {
                self.live.replace(app, Some(AppServing { canary: None, ..serving }));
                tracing::warn!(app = app.as_str(), release = number, reason, "the canary has ended");
                let reason = format!("ended by itself: {reason}");
                lock(&self.ended).push(Ended { app: app.clone(), number, reason });
            }
        }
        self.record_ended();
    }

    fn record_ended(&self) {
        if lock(&self.ended).is_empty() {
            return;
        }
        let _changing = lock(&self.changing);
        if self.suspended.load(Ordering::Acquire) {
            return;
        }
        lock(&self.ended).retain(|Ended { app, number, reason }| {
            let recorded = self.record.pointers(app).and_then(|pointers| {
                let pointers = pointers.unwrap_or_default();
                if pointers.canary.is_some_and(|(canary, _)| canary == *number) {
                    self.record.point(app, Pointers { canary: None, ..pointers }, &[(*number, reason)])?;
                }
                Ok(())
            });
            if let Err(error) = &recorded {
                self.warn(app, format!("its canary {number} has ended, and that could not be recorded: {error}"));
            }
            recorded.is_err()
        });
    }

    fn refuse_claimed<'p>(
        &self,
        app: &Name,
        patterns: impl Iterator<Item = &'p RoutePattern>,
        but: &[Name],
    ) -> Result<(), DeployError> {
        match self.live.current().claimed(app, patterns, but) {
            Some((pattern, owner)) => Err(DeployError::Claimed { pattern: pattern.clone(), app: app.clone(), owner }),
            None => Ok(()),
        }
    }

    /// Lets go of the state folder: what is served stays, and nothing is recorded until [`Deployments::resume`].
    pub fn suspend(&self) -> Result<(), DeployError> {
        let _changing = lock(&self.changing);
        self.suspended.store(true, Ordering::Release);
        let unlocked = self.lock.unlock();
        unlocked.map_err(|cause| DeployError::Lock { folder: self.state.clone(), cause })
    }

    /// Takes the state folder back, and serves what whoever had it meanwhile has recorded.
    pub fn resume(&self) -> Result<(), DeployError> {
        try_lock(&self.lock, &self.state)?;
        self.suspended.store(false, Ordering::Release);
        self.record_ended();
        let recorded = self.record.apps()?;
        let gone: Vec<Name> = {
            let serving = self.live.current();
            let apps = serving.apps().iter().map(|app| app.live.app.clone());
            apps.filter(|app| !recorded.iter().any(|(name, _)| name == app)).collect()
        };
        for app in gone {
            self.live.replace(&app, None);
        }
        for (app, pointers) in recorded {
            let served = self.live.current().app(&app).map(|serving| Pointers {
                live: Some(serving.live.number),
                canary: serving.canary.as_ref().map(|canary| (canary.release.number, canary.share.parts())),
            });
            if served != Some(pointers) {
                self.restore_app(&app, pointers, &Silent);
            }
        }
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
    Kept { digest: function.component, before: function.before.clone(), known }
}

/// The file that a manifest stands in, so that it is known again under another name of its app.
fn origin_of(manifest: &Manifest) -> String {
    std::fs::canonicalize(manifest.path()).unwrap_or_else(|_| manifest.path().to_owned()).display().to_string()
}
