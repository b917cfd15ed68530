//! One change of an app at a time: who has the turn, and who waits for it.

use crate::names::Name;
use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The turns of all apps.
#[derive(Default)]
pub(super) struct AppTurns {
    /// By app, for as long as somebody has the turn or waits for it.
    apps: Mutex<HashMap<Name, AppTurn>>,
    given_back: Condvar,
}

#[derive(Default)]
struct AppTurn {
    taken: bool,
    /// Those who wait, and the one who has it.
    wanted: usize,
}

/// The right to change an app. Given back when dropped.
pub(super) struct Turn<'t> {
    turns: &'t AppTurns,
    app: Name,
}

impl AppTurns {
    /// Waits for the turn.
    pub(super) fn take(&self, app: &Name) -> Turn<'_> {
        let mut apps = self.lock();
        apps.entry(app.clone()).or_default().wanted += 1;
        while apps.get(app).is_some_and(|turn| turn.taken) {
            apps = self.given_back.wait(apps).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(turn) = apps.get_mut(app) {
            turn.taken = true;
        }
        Turn { turns: self, app: app.clone() }
    }

    /// The turn, if nobody else has it or waits for it.
    pub(super) fn take_if_alone(&self, app: &Name) -> Option<Turn<'_>> {
        let mut apps = self.lock();
        if apps.contains_key(app) {
            return None;
        }
        apps.insert(app.clone(), AppTurn { taken: true, wanted: 1 });
        Some(Turn { turns: self, app: app.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, AppTurn>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut apps = self.turns.lock();
        if let Some(turn) = apps.get_mut(&self.app) {
            turn.taken = false;
            turn.wanted -= 1;
            if turn.wanted == 0 {
                apps.remove(&self.app);
            }
        }
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_turn_and_whoever_waits_counts() {
        let (turns, app) = (AppTurns::default(), Name::new("app").unwrap());
        let first = turns.take_if_alone(&app).unwrap();
        assert!(turns.take_if_alone(&app).is_none());
        assert!(turns.take_if_alone(&Name::new("other").unwrap()).is_some());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(turns.take(&app)));
            while turns.lock().get(&app).is_none_or(|turn| turn.wanted < 2) {
                std::thread::yield_now();
            }
            drop(first);
            waiting.join().unwrap();
        });
        assert!(turns.take_if_alone(&app).is_some());
    }
}
