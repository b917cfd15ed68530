//! The releases that answer now: one pointer to all of them.
//!
//! **Invariant:** a request takes the pointer once and finishes on what it took. What it points to is never changed, only
//! replaced.

use super::canary::{Canary, Lot};
use super::routes::{Match, RouteError, RouteTable};
use super::{Release, Route};
use crate::manifest::RoutePattern;
use crate::middleware;
use crate::names::Name;
use arc_swap::ArcSwap;
use http::{HeaderMap, Method};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The pointer.
#[derive(Default)]
pub struct Live {
    serving: ArcSwap<Serving>,
    /// Held by whoever replaces what it points to.
    replacing: Mutex<()>,
}

/// All that answers: the live release of each app, and canaries.
#[derive(Default)]
pub struct Serving {
    apps: Vec<AppServing>,
    /// The routes of the live releases.
    table: RouteTable<Arc<Route>>,
    trials: Vec<Trial>,
}

/// What of one app answers.
#[derive(Clone)]
pub struct AppServing {
    /// The live release.
    pub live: Arc<Release>,
    /// The release on trial, if there is one.
    pub canary: Option<Arc<Canary>>,
}

/// A canary, and the routes as they are for those whom it answers.
struct Trial {
    canary: Arc<Canary>,
    table: RouteTable<Arc<Route>>,
}

/// What a request comes to.
pub struct Found<'t, 'r> {
    /// Its route, or why there is none.
    pub matched: Result<Match<'t, 'r, Arc<Route>>, RouteError>,
    /// The canary that it could have met, and the lot that it drew.
    pub trial: Option<(&'t Canary, Lot)>,
}

impl Live {
    /// What answers now. Lock-free.
    pub fn current(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// Has `serving` answer from now on, in place of what `app` had; nothing takes it away.
    pub fn replace(&self, app: &Name, serving: Option<AppServing>) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut apps = self.current().apps.clone();
        match (apps.iter().position(|each| each.live.app == *app), serving) {
            (Some(at), Some(serving)) => {
                if let Some(slot) = apps.get_mut(at) {
                    *slot = serving;
                }
            }
            (Some(at), None) => drop(apps.remove(at)),
            (None, Some(serving)) => apps.push(serving),
            (None, None) => return,
        }
        self.serving.store(Arc::new(Serving::of(apps)));
    }
}

impl Serving {
    fn of(apps: Vec<AppServing>) -> Self {
        let live: Vec<&Release> = apps.iter().map(|app| &*app.live).collect();
        let trials = apps.iter().enumerate().filter_map(|(at, app)| {
            let canary = app.canary.as_ref()?;
            let with_it =
                live.iter().enumerate().map(|(other, live)| if other == at { &*canary.release } else { live });
            Some(Trial { canary: Arc::clone(canary), table: table_of(with_it) })
        });
        let trials = trials.collect();
        Self { table: table_of(live.into_iter()), trials, apps }
    }

    /// What of each app answers.
    pub fn apps(&self) -> &[AppServing] {
        &self.apps
    }

    /// All releases that answer, live or on trial.
    pub fn releases(&self) -> impl Iterator<Item = &Arc<Release>> {
        self.apps
            .iter()
            .flat_map(|app| [Some(&app.live), app.canary.as_ref().map(|canary| &canary.release)].into_iter().flatten())
    }

    /// What of `app` answers.
    pub fn app(&self, name: &Name) -> Option<&AppServing> {
        self.apps.iter().find(|app| app.live.app == *name)
    }

    /// Finds who answers a request. Where an app has a canary that could answer it, or could have, a lot is drawn by what
    /// its `headers` say.
    pub fn find<'t, 'r>(&'t self, host: &str, method: &Method, path: &'r str, headers: &HeaderMap) -> Found<'t, 'r> {
        // What a browser asks beforehand is for the route that it will come to, though that has another method.
        if let Some(asked) = middleware::method_asked(method, headers) {
            let found = self.find_for(host, &asked, path, headers);
            if found.matched.as_ref().is_ok_and(|found| found.route.chain.answers_preflights()) {
                return found;
            }
        }
        self.find_for(host, method, path, headers)
    }

    fn find_for<'t, 'r>(&'t self, host: &str, method: &Method, path: &'r str, headers: &HeaderMap) -> Found<'t, 'r> {
        let matched = self.table.find(host, method, path);
        for trial in &self.trials {
            let with_canary = trial.table.find(host, method, path);
            let is_its = |found: &Result<Match<'_, '_, Arc<Route>>, RouteError>| {
                found.as_ref().is_ok_and(|found| found.route.app == trial.canary.release.app)
            };
            if is_its(&matched) || is_its(&with_canary) {
                let lot = trial.canary.draw(headers);
                let matched = if lot.canary { with_canary } else { matched };
                return Found { matched, trial: Some((&trial.canary, lot)) };
            }
        }
        Found { matched, trial: None }
    }

    /// One of `patterns`, which are to be `app`'s, that another app has as well, live or on trial, and that app. Those of
    /// `but` do not count.
    pub fn claimed<'p>(
        &self,
        app: &Name,
        mut patterns: impl Iterator<Item = &'p RoutePattern>,
        but: &[Name],
    ) -> Option<(&'p RoutePattern, Name)> {
        let others = self.apps.iter().filter(|other| other.live.app != *app && !but.contains(&other.live.app));
        let releases = others.flat_map(|other| {
            [Some(&other.live), other.canary.as_ref().map(|canary| &canary.release)].into_iter().flatten()
        });
        let routes = releases.flat_map(|release| release.routes.iter());
        let taken: HashMap<String, &Name> = routes.map(|route| (route.pattern.claim(), &route.app)).collect();
        if taken.is_empty() {
            return None;
        }
        patterns.find_map(|pattern| taken.get(&pattern.claim()).map(|owner| (pattern, (*owner).clone())))
    }
}

fn table_of<'a>(releases: impl Iterator<Item = &'a Release>) -> RouteTable<Arc<Route>> {
    let mut table = RouteTable::default();
    for route in releases.flat_map(|release| release.routes.iter()) {
        table.insert(&route.pattern, Arc::clone(route));
    }
    table
}
