//! Log lines of what may happen at any rate: a few in a time, and a count of those that were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines of one kind. **Invariant:** each that is asked about is written, or counted with one that is written later.
#[derive(Debug)]
pub struct Trickle {
    lines_max: u32,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first line of this interval was written.
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Default for Trickle {
    /// As it is for what a guest does: ten a second.
    fn default() -> Self {
        Self::new(10, Duration::from_secs(1))
    }
}

impl Trickle {
    /// `lines_max` in each `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> Self {
        Self { lines_max, interval, state: Mutex::default() }
    }

    /// As it is for what goes wrong again and again until somebody sees to it: one in ten seconds.
    pub fn seldom() -> Self {
        Self::new(1, Duration::from_secs(10))
    }

    /// Whether a line may be written now; if so, how many were left out before it, if any were.
    pub fn admit(&self) -> Option<LeftOut> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<LeftOut> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.began.is_none_or(|began| now.saturating_duration_since(began) >= self.interval) {
            (state.began, state.lines) = (Some(now), 0);
        }
        if state.lines >= self.lines_max {
            state.left_out += 1;
            return None;
        }
        state.lines += 1;
        let left_out = std::mem::take(&mut state.left_out);
        Some(LeftOut((left_out > 0).then_some(left_out)))
    }
}

/// How many lines were left out before one, if any were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut(pub Option<u64>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_a_count_of_the_rest() {
        let trickle = Trickle::default();
        let began = Instant::now();
        let written = |after_ms| trickle.admit_at(began + Duration::from_millis(after_ms));
        assert!((0..10).all(|_| written(0) == Some(LeftOut(None))));
        assert!((0..7).all(|_| written(900).is_none()));
        assert_eq!(written(1000), Some(LeftOut(Some(7))));
        assert_eq!(written(1001), Some(LeftOut(None)));
    }
}
