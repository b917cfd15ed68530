//! The changes themselves: a file or an upload becomes a release; a canary is promoted; an earlier release answers again.
//!
//! Each takes its app's turn, does all that can fail or takes long, and then commits: the record, and the pointer.

use super::super::Release;
use super::super::canary::Canary;
use super::super::data::{self, Migrations};
use super::super::install::{Found, InstallError, Kept, Progress, Silent};
use super::super::live::AppServing;
use super::super::turns::Turn;
use super::{Deploy, DeployError, Deployed, Deployments, Expect, lock, origin_of};
use crate::limits::Share;
use crate::manifest::{Manifest, RoutePattern};
use crate::names::Name;
use crate::receipt::Kind;
use crate::runtime::code::CodeSource;
use crate::runtime::pool::Needs;
use crate::storage::artifacts::Digest256;
use crate::storage::releases::{FunctionRecord, NewRelease, Pointers, Source};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl Deployments {
    /// Serves `manifest`, which stands in a file, with the components that it names: as a new release, unless that is what
    /// the file was when it was last looked at. Then what the record says is served: it may have been rolled back since.
    pub fn deploy_file(&self, manifest: &Manifest, progress: &dyn Progress) -> Result<Deployed, DeployError> {
        let app = &manifest.name;
        let _turn = self.turns.take(app);
        self.refuse_suspended()?;
        let origin = origin_of(manifest);
        let replaces = self.record.others_of_file(&origin, app)?;
        self.refuse_claimed(app, patterns_of(manifest), &replaces)?;
        let migrations =
            data::migrations_of(manifest).map_err(|errors| InstallError::Refused(manifest.errors_at(errors)))?;
        let found = self.installer.find_files(manifest, Some(&self.components), progress)?;
        let new = New::of(manifest, &found, Source::File, "", origin);
        let pointers = self.record.pointers(app)?.unwrap_or_default();
        if let Some(number) = pointers.live
            && self.record.newest_of_file(app)? == Some(new.digest)
            && new.is_whole(manifest)
        {
            let of_live = self.release(app, number)?.line.digest == new.digest;
            self.serve_again(app, pointers, of_live.then_some((manifest, found)), progress)?;
            self.migrate(manifest, &migrations)?;
            return Ok(Deployed { number, unchanged: true });
        }
        let number = self.record.next_number(app)?;
        let release = Arc::new(self.installer.prepare(manifest, number, found)?);
        release.data.migrate(&migrations)?;
        self.commit(release, &new, None, Expect { base: None, force: true }, &replaces)
    }

    /// Serves what is recorded of an app, if it is not served.
    fn serve_again(
        &self,
        app: &Name,
        pointers: Pointers,
        live: Option<(&Manifest, Found<'_>)>,
        progress: &dyn Progress,
    ) -> Result<(), DeployError> {
        if self.live.current().app(app).is_some() {
            return Ok(());
        }
        let Some(number) = pointers.live else { return Ok(()) };
        let live = match live {
            Some((manifest, found)) => Arc::new(self.installer.prepare(manifest, number, found)?),
            None => self.recorded(app, number, progress)?,
        };
        self.refuse_claimed(app, live.routes.iter().map(|route| &route.pattern), &[])?;
        lock(&self.warnings).remove(app);
        let canary = self.recorded_canary(app, pointers, progress);
        let _changing = lock(&self.changing);
        self.live.replace(app, Some(AppServing { live, canary }));
        Ok(())
    }

    /// Makes a release of what was uploaded. What is live already is not made again, and of what is on trial already, only the
    /// share is changed.
    pub fn deploy(&self, deploy: &Deploy, progress: &dyn Progress) -> Result<Deployed, DeployError> {
        let Deploy { manifest, components, middleware, migrations, message, canary, expect } = deploy;
        let app = &manifest.name;
        let _turn = self.begin(app, *expect)?;
        let distinct: HashSet<&Digest256> = components.iter().chain(middleware).collect();
        let missing: Vec<Digest256> =
            distinct.into_iter().filter(|digest| !self.components.touch(digest)).copied().collect();
        if !missing.is_empty() {
            return Err(DeployError::Missing(missing));
        }
        self.refuse_claimed(app, patterns_of(manifest), &[])?;
        let of_link: HashMap<&Name, Digest256> =
            manifest.middleware_components().map(|(name, _)| name).zip(middleware.iter().copied()).collect();
        let kept = manifest.functions.iter().zip(components).map(|(spec, digest)| {
            let before = spec.middleware.iter().filter_map(|name| of_link.get(name).copied()).collect();
            self.kept(digest, before)
        });
        let kept = kept.collect::<Result<Vec<_>, _>>()?;
        let found = match self.installer.find_kept(manifest, &kept, &self.components, progress) {
            Err(InstallError::Missing(digest)) => return Err(DeployError::Missing(vec![digest])),
            found => found?,
        };
        let new = New::of(manifest, &found, Source::Deploy, message, String::new());
        let pointers = self.record.pointers(app)?.unwrap_or_default();
        let is = |number: u64| Ok::<_, DeployError>(self.release(app, number)?.line.digest == new.digest);
        if new.is_whole(manifest) {
            if let Some((number, _)) = pointers.canary
                && is(number)?
                && let Some(trial) = self.live.current().app(app).and_then(|serving| serving.canary.clone())
            {
                return match canary {
                    Some(share) => self.share_out(app, &trial, *share, *expect),
                    None => self.make_live(app, &trial.release, *expect),
                };
            }
            if let Some(number) = pointers.live
                && pointers.canary.is_none()
                && is(number)?
            {
                self.serve_again(app, pointers, Some((manifest, found)), progress)?;
                self.migrate(manifest, migrations)?;
                return Ok(Deployed { number, unchanged: true });
            }
        }
        let number = self.record.next_number(app)?;
        let release = Arc::new(self.installer.prepare(manifest, number, found)?);
        // Behind all else that can fail: no rollback undoes what is done to a database.
        release.data.migrate(migrations)?;
        self.commit(release, &new, *canary, *expect, &[])
    }

    /// Of an app that has not changed otherwise: its databases are made what it needs.
    fn migrate(&self, manifest: &Manifest, migrations: &Migrations) -> Result<(), DeployError> {
        if migrations.iter().any(|(_, migrations)| !migrations.is_empty()) {
            self.installer.open_data(manifest)?.migrate(migrations)?;
        }
        Ok(())
    }

    /// Records a release, and serves it: whole, or for a share of the requests.
    fn commit(
        &self,
        release: Arc<Release>,
        new: &New<'_>,
        canary: Option<Share>,
        expect: Expect,
        replaces: &[Name],
    ) -> Result<Deployed, DeployError> {
        let (app, number) = (&release.app.clone(), release.number);
        let changing = lock(&self.changing);
        self.refuse_suspended()?;
        self.refuse_moved(app, expect)?;
        // Another app may have been deployed since it was looked at.
        self.refuse_claimed(app, release.routes.iter().map(|route| &route.pattern), replaces)?;
        let before = self.record.pointers(app)?.unwrap_or_default();
        let serving = match canary {
            None => AppServing { live: release, canary: None },
            Some(share) => {
                let serving = self.live.current().app(app).cloned();
                let live = serving.ok_or_else(|| DeployError::NoLive(app.clone()))?.live;
                AppServing { live, canary: Some(self.canary(release, share)) }
            }
        };
        let pointers = Pointers {
            live: Some(serving.live.number),
            canary: serving.canary.as_ref().map(|canary| (canary.release.number, canary.share.parts())),
        };
        let ended = before.canary.map(|(canary, _)| (canary, format!("ended by release {number}")));
        let notes: Vec<(u64, &str)> = ended.iter().map(|(canary, note)| (*canary, note.as_str())).collect();
        self.record.add(number, &new.record(app), pointers, &notes, replaces)?;
        for replaced in replaces {
            self.live.replace(replaced, None);
            self.installer.forget_totals(replaced, &HashSet::new());
            tracing::info!(app = replaced.as_str(), now = app.as_str(), "the app of this file has another name now");
        }
        self.live.replace(app, Some(serving));
        drop(changing);
        lock(&self.warnings).remove(app);
        let share = canary.unwrap_or(Share::ALL).to_string();
        tracing::info!(app = app.as_str(), release = number, source = new.source.as_str(), share, "deployed");
        self.forget_old(app);
        Ok(Deployed { number, unchanged: false })
    }

    /// Gives a canary another share.
    fn share_out(&self, app: &Name, trial: &Canary, share: Share, expect: Expect) -> Result<Deployed, DeployError> {
        let number = trial.release.number;
        if trial.share == share {
            return Ok(Deployed { number, unchanged: true });
        }
        let _changing = lock(&self.changing);
        self.refuse_suspended()?;
        self.refuse_moved(app, expect)?;
        let serving = self.serving_canary(app, number)?;
        let pointers = Pointers { live: Some(serving.live.number), canary: Some((number, share.parts())) };
        self.record.point(app, pointers, &[])?;
        let canary = Some(self.canary(Arc::clone(&trial.release), share));
        self.live.replace(app, Some(AppServing { canary, ..serving }));
        tracing::info!(app = app.as_str(), release = number, %share, "the canary has another share");
        Ok(Deployed { number, unchanged: false })
    }

    /// Has the canary answer everything.
    pub fn promote(&self, app: &Name, expect: Expect) -> Result<Deployed, DeployError> {
        let _turn = self.begin(app, expect)?;
        let serving = self.live.current().app(app).cloned();
        let canary = serving.and_then(|serving| serving.canary).ok_or_else(|| DeployError::NoCanary(app.clone()))?;
        self.make_live(app, &canary.release, expect)
    }

    fn make_live(&self, app: &Name, release: &Arc<Release>, expect: Expect) -> Result<Deployed, DeployError> {
        let number = release.number;
        let changing = lock(&self.changing);
        self.refuse_suspended()?;
        self.refuse_moved(app, expect)?;
        self.serving_canary(app, number)?;
        self.record.point(app, Pointers { live: Some(number), canary: None }, &[])?;
        self.live.replace(app, Some(AppServing { live: Arc::clone(release), canary: None }));
        drop(changing);
        tracing::info!(app = app.as_str(), release = number, "the canary is live");
        self.record.copy_aside();
        Ok(Deployed { number, unchanged: false })
    }

    /// What of `app` answers, if its canary is still `number`: it may have ended by itself.
    fn serving_canary(&self, app: &Name, number: u64) -> Result<AppServing, DeployError> {
        let is_it =
            |serving: &AppServing| serving.canary.as_ref().is_some_and(|canary| canary.release.number == number);
        let serving = self.live.current().app(app).cloned();
        serving.filter(is_it).ok_or_else(|| DeployError::NoCanary(app.clone()))
    }

    /// Has an earlier release answer again: `number`, or else the live one in place of its canary, or else the one that was
    /// live before it.
    pub fn rollback(&self, app: &Name, number: Option<u64>, expect: Expect) -> Result<Deployed, DeployError> {
        let _turn = self.begin(app, expect)?;
        let pointers = self.record.pointers(app)?.ok_or_else(|| DeployError::NoApp(app.clone()))?;
        let live = pointers.live.ok_or_else(|| DeployError::NoLive(app.clone()))?;
        let back_to_live = pointers.canary.is_some() && number.is_none();
        let before = || self.record.before(app, live)?.ok_or_else(|| DeployError::NothingBefore(app.clone()));
        let number = if back_to_live { live } else { number.map_or_else(before, Ok)? };
        if number == live && !back_to_live {
            return Err(DeployError::AlreadyLive { app: app.clone(), number });
        }
        let served = self.live.current().app(app).map(|serving| Arc::clone(&serving.live));
        let release = match served.filter(|release| release.number == number) {
            Some(release) => release,
            None => self.recorded(app, number, &Silent)?,
        };
        let changing = lock(&self.changing);
        self.refuse_suspended()?;
        self.refuse_moved(app, expect)?;
        self.refuse_claimed(app, release.routes.iter().map(|route| &route.pattern), &[])?;
        let pointers = self.record.pointers(app)?.unwrap_or_default();
        let left = format!("rolled back to release {number}");
        let left_live = (number != live).then_some((live, left.as_str()));
        let left_canary = pointers.canary.map(|(canary, _)| (canary, left.as_str()));
        let notes: Vec<(u64, &str)> = left_live.into_iter().chain(left_canary).collect();
        self.record.point(app, Pointers { live: Some(number), canary: None }, &notes)?;
        self.live.replace(app, Some(AppServing { live: release, canary: None }));
        drop(changing);
        lock(&self.warnings).remove(app);
        tracing::info!(app = app.as_str(), release = number, from = live, "rolled back");
        self.record.copy_aside();
        Ok(Deployed { number, unchanged: false })
    }

    /// Takes `app` away, and forgets its releases.
    pub fn remove(&self, app: &Name, expect: Expect) -> Result<(), DeployError> {
        let _turn = self.begin(app, expect)?;
        let changing = lock(&self.changing);
        self.refuse_suspended()?;
        if !self.record.remove(app)? {
            return Err(DeployError::NoApp(app.clone()));
        }
        self.live.replace(app, None);
        self.installer.forget_totals(app, &HashSet::new());
        drop(changing);
        lock(&self.warnings).remove(app);
        tracing::info!(app = app.as_str(), "removed");
        self.record.copy_aside();
        Ok(())
    }

    /// Lets go of what no kept release needs. That it could not be done is no reason for a deploy to fail.
    fn forget_old(&self, app: &Name) {
        let forgotten = self.record.prune(app, self.keep_releases);
        match forgotten.and_then(|_| Ok((self.record.used()?, self.record.functions(app)?))) {
            Ok((used, functions)) => {
                self.installer.prune(&used.codes);
                self.components.prune(&used.components);
                self.installer.forget_totals(app, &functions);
            }
            Err(error) => tracing::warn!(%error, "old releases could not be removed"),
        }
        self.record.copy_aside();
    }

    fn refuse_moved(&self, app: &Name, expect: Expect) -> Result<(), DeployError> {
        let Some(base) = expect.base.filter(|_| !expect.force) else { return Ok(()) };
        let live = self.record.pointers(app)?.unwrap_or_default().live;
        if live == Some(base) { Ok(()) } else { Err(DeployError::Moved { app: app.clone(), base, live }) }
    }

    fn kept(&self, digest: &Digest256, before: Vec<Digest256>) -> Result<Kept, DeployError> {
        // What the component is alone says nothing of what is composed with it.
        let known = if before.is_empty() { self.record.known(digest)? } else { None };
        let known = known.and_then(|(kind, needs)| Some((Kind::from_name(&kind)?, Needs::from_line(&needs)?)));
        Ok(Kept { digest: *digest, before, known })
    }

    /// Begins a change of `app`. A second one, meanwhile, is refused, unless it says what it expects: then it waits.
    fn begin(&self, app: &Name, expect: Expect) -> Result<Turn<'_>, DeployError> {
        self.refuse_suspended()?;
        let turn = if expect.base.is_none() && !expect.force {
            self.turns.take_if_alone(app).ok_or_else(|| DeployError::Busy(app.clone()))?
        } else {
            self.turns.take(app)
        };
        self.refuse_suspended()?;
        // What a canary came to should be noted before anything else becomes of it.
        self.record_ended();
        self.refuse_moved(app, expect)?;
        Ok(turn)
    }
}

/// A release that is to be recorded.
struct New<'m> {
    source: Source,
    message: &'m str,
    manifest: &'m str,
    origin: String,
    digest: Digest256,
    functions: Vec<FunctionRecord>,
}

impl<'m> New<'m> {
    fn of(manifest: &'m Manifest, found: &Found<'_>, source: Source, message: &'m str, origin: String) -> Self {
        let functions: Vec<FunctionRecord> = manifest
            .functions
            .iter()
            .zip(found.sources())
            .map(|(spec, source)| record_of(&spec.name, source))
            .collect();
        let digest = digest_of(manifest, &functions);
        Self { source, message, manifest: manifest.source(), origin, digest, functions }
    }

    /// Whether a component was found for each function; if not, installing will say what is wrong.
    fn is_whole(&self, manifest: &Manifest) -> bool {
        self.functions.len() == manifest.functions.len()
    }

    fn record<'a>(&'a self, app: &'a Name) -> NewRelease<'a> {
        let Self { source, message, manifest, origin, digest, functions } = self;
        NewRelease { app, source: *source, message, manifest, origin, digest: *digest, functions }
    }
}

fn patterns_of(manifest: &Manifest) -> impl Iterator<Item = &RoutePattern> {
    manifest.functions.iter().flat_map(|spec| &spec.routes).map(|route| &route.pattern)
}

fn record_of(name: &Name, source: &CodeSource) -> FunctionRecord {
    FunctionRecord {
        name: name.to_string(),
        component: source.component.digest,
        before: source.before.iter().map(|part| part.digest).collect(),
        kind: source.kind.as_str().to_owned(),
        needs: source.needs.to_line(),
        bytes: std::fs::metadata(&source.component.path).map_or(0, |metadata| metadata.len()),
    }
}

/// What tells releases apart: the text of functions.toml, and every component.
fn digest_of(manifest: &Manifest, functions: &[FunctionRecord]) -> Digest256 {
    let mut text = manifest.source().to_owned();
    for component in functions.iter().flat_map(|function| function.before.iter().chain([&function.component])) {
        text.push('\n');
        text.push_str(&component.to_string());
    }
    Digest256::of(text.as_bytes())
}
