//! When engines are made anew, to give back the memory that a burst of requests left with them.
//!
//! A pool keeps for each slot what its last sandbox had written to: that is cleared in place, which costs a fraction of what fresh
//! pages from the kernel do. A burst that was over long ago is remembered for as long as its engines live, for wasmtime has no
//! call that gives it back. So where far fewer sandboxes were in use for a while than the pools keep memory for, functions get
//! their code on new engines, and the former ones go with the last of their requests (`residents`).
//!
//! **Invariant:** there are never more than two sets of engines for the same code: none is made anew before the former is gone.

use super::code::Code;
use super::engine::{Engines, PoolUsage};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long fewer sandboxes have been in use, when what is kept for more is given back: so many times so long.
const PARTS: usize = 3;
const PART: Duration = Duration::from_secs(10);
/// The longest that is waited where it is wanted again each time: an hour.
const PARTS_MAX: usize = 360;
/// The least that is given back at once.
const WORTH_BYTES: u64 = 16 << 20;
/// All code is read and linked anew for it, so it has to be this part of the code as well.
const WORTH_PART_OF_CODE: u64 = 8;

/// How far it is.
pub(super) enum Renewal {
    /// One set of engines.
    Watching(Watch),
    /// There will be others in place of these.
    UnderWay(Arc<Engines>),
    /// Two: requests are under way on these, and no others begin there.
    Emptying(Former),
}

/// Engines that nothing is begun on.
pub(super) struct Former {
    pub(super) engines: Arc<Engines>,
    /// What ran there, kept so that no request is the last to have it: that gives back what the pools keep for it, which takes time.
    _code: Vec<Arc<Code>>,
    was_empty: bool,
    /// How many parts are waited behind their end.
    wait: usize,
}

impl Former {
    pub(super) fn new(engines: Arc<Engines>, code: Vec<Arc<Code>>, wait: usize) -> Self {
        Self { engines, _code: code, was_empty: false, wait }
    }

    /// Whether their last request has ended. Believed the second time: whoever takes a sandbox apart is counted no more, and has
    /// not done with it.
    pub(super) fn is_over(&mut self) -> bool {
        let is_empty = self.engines.are_empty();
        std::mem::replace(&mut self.was_empty, is_empty) && is_empty
    }

    /// The watch that follows.
    pub(super) fn watch(&self, now: Instant) -> Watch {
        Watch::begin(now, self.wait)
    }
}

/// How many slots were in use at once lately.
#[derive(Debug)]
pub(super) struct Watch {
    /// The most in each part of the time, the present one first.
    peaks: [u64; PARTS],
    part_began: Instant,
    /// Parts that are over, and how many there have to be.
    parts: usize,
    wait: usize,
    /// Nothing was given back before.
    is_first: bool,
}

impl Watch {
    /// The first.
    pub(super) fn new(now: Instant) -> Self {
        Self { peaks: [0; PARTS], part_began: now, parts: 0, wait: PARTS, is_first: true }
    }

    /// One behind engines that were made anew, or could not be.
    pub(super) fn begin(now: Instant, wait: usize) -> Self {
        Self { wait, is_first: false, ..Self::new(now) }
    }

    /// So many are in use.
    pub(super) fn note(&mut self, used: u64, now: Instant) {
        if now.duration_since(self.part_began) >= PART {
            self.peaks.rotate_right(1);
            self.peaks[0] = 0;
            self.part_began = now;
            self.parts += 1;
        }
        self.peaks[0] = self.peaks[0].max(used);
    }

    /// The bytes that are kept for more than twice as many as were in use; nothing before that was watched for long enough.
    pub(super) fn surplus(&self, usage: &PoolUsage) -> Option<u64> {
        if self.parts < self.wait {
            return None;
        }
        let needed = self.peaks.iter().max()?.saturating_mul(2);
        let surplus = (usage.used + usage.warm).saturating_sub(needed).min(usage.warm);
        usage.warm_bytes.checked_div(usage.warm).map(|each| each.saturating_mul(surplus))
    }

    /// How many parts the next one waits. What is there again so soon was no burst: many functions that are called by turns have as
    /// many slots, however few are in use at once. It is then left alone for twice as long.
    pub(super) fn next_wait(&self) -> usize {
        let is_again = !self.is_first && self.parts < 2 * self.wait;
        if is_again { (2 * self.wait).min(PARTS_MAX) } else { PARTS }
    }
}

/// What is worth being given back, with so many bytes of code mapped.
pub(super) fn worth(code_bytes: usize) -> u64 {
    WORTH_BYTES.max(code_bytes as u64 / WORTH_PART_OF_CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What is kept for `slots`, 1 MiB each, of which none is in use now.
    fn kept_for(slots: u64) -> PoolUsage {
        PoolUsage { slots: 1000, used: 0, warm: slots, warm_bytes: slots * MIB }
    }

    /// A watch that saw `used` slots in use, for one part of the time each.
    fn watched(used: &[u64]) -> Watch {
        let began = Instant::now();
        let mut watch = Watch::new(began);
        for (part, used) in (0..).zip(used) {
            watch.note(*used, began + PART * part);
        }
        watch
    }

    #[test]
    fn what_is_kept_for_a_burst_is_surplus_a_while_after_it() {
        assert_eq!(watched(&[0, 0, 0]).surplus(&kept_for(100)), None, "not watched for long enough");
        assert_eq!(watched(&[0, 0, 0, 0]).surplus(&kept_for(100)), Some(100 * MIB));
        assert_eq!(watched(&[100, 0, 0, 5]).surplus(&kept_for(100)), Some(90 * MIB));
    }

    #[test]
    fn what_is_kept_for_twice_the_most_in_use_is_none() {
        for used in [[0, 50, 0, 0], [0, 0, 50, 0], [0, 0, 0, 50]] {
            assert_eq!(watched(&used).surplus(&kept_for(100)), Some(0), "{used:?}");
        }
        assert_eq!(watched(&[0, 0, 0, 60]).surplus(&kept_for(100)), Some(0));
    }

    #[test]
    fn what_is_in_use_is_not_given_back() {
        let usage = PoolUsage { used: 60, ..kept_for(40) };
        assert_eq!(watched(&[0, 0, 0, 10]).surplus(&usage), Some(40 * MIB));
        assert_eq!(watched(&[0, 0, 0, 0]).surplus(&PoolUsage::default()), None);
    }

    #[test]
    fn what_is_there_again_each_time_is_left_alone_for_longer_and_longer() {
        let mut watch = watched(&[0; 4]);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = watch.next_wait();
            waits.push(wait);
            watch = Watch { parts: wait, ..Watch::begin(Instant::now(), wait) };
        }
        assert_eq!(waits, [3, 6, 12, 24, 48, 96, 192, 360, 360]);
        let seldom = Watch { parts: 30, ..Watch::begin(Instant::now(), 12) };
        assert_eq!(seldom.next_wait(), PARTS);
        let soon = Watch { parts: 5, ..Watch::begin(Instant::now(), 6) };
        assert_eq!(soon.surplus(&kept_for(100)), None);
    }

    #[test]
    fn more_code_has_to_be_worth_more() {
        assert_eq!(worth(0), 16 * MIB);
        assert_eq!(worth(800 << 20), 100 * MIB);
    }
}
