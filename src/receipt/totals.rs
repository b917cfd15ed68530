//! What a function has done since the host started: counts, and percentiles instead of means; and by release, what metrics
//! tell of it.

use super::buckets::{Buckets, SIZE_BOUNDS, TIME_BOUNDS};
use super::{Outcome, Receipt};
use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Significant digits of the percentiles: within 1%.
const DIGITS: u8 = 2;
/// The most releases of a function that are told apart; of more, the one that was called least recently goes.
const RELEASES_MAX: usize = 4;

/// One function's totals, through all of its releases.
#[derive(Default)]
pub struct FunctionTotals(Mutex<Totals>);

/// What they come to.
#[derive(Default)]
pub struct Totals {
    /// Requests that reached it.
    pub requests: u64,
    /// Those of them that are errors.
    pub errors: u64,
    /// From the first request on that had a sandbox: of many functions, most are never called.
    pub times: Option<Box<Times>>,
    /// The most bytes that one sandbox's memories and tables had together.
    pub memory_peak_bytes: u64,
    /// By release, the one that was called last behind all others; empty if nobody wants metrics.
    pub releases: Vec<ReleaseTotals>,
}

/// What one release of a function has done.
#[derive(Clone)]
pub struct ReleaseTotals {
    /// Its number.
    pub release: u64,
    /// Requests by the first digit of their status; those without one are the first.
    pub by_status_class: [u64; 6],
    /// Requests by their outcome, in the order of [`Outcome::ALL`].
    pub by_outcome: [u64; Outcome::ALL.len()],
    /// Of requests that had a sandbox.
    pub histograms: Histograms,
}

/// Of requests that had a sandbox: times in nanoseconds, sizes in bytes.
#[derive(Clone)]
pub struct Histograms {
    /// Each phase, in their order.
    pub phases: [Buckets; 5],
    /// `store` + `instantiate`.
    pub cold_start: Buckets,
    /// CPU time.
    pub cpu: Buckets,
    /// Peak memory.
    pub memory: Buckets,
    /// Uploads, as far as they were read.
    pub bytes_in: Buckets,
    /// Response bodies.
    pub bytes_out: Buckets,
}

/// Nanoseconds of the requests that had a sandbox.
pub struct Times {
    /// `store` + `instantiate`.
    pub cold_start: Histogram<u64>,
    /// `handler`.
    pub handler: Histogram<u64>,
    /// CPU time.
    pub cpu: Histogram<u64>,
}

impl Times {
    fn new() -> Option<Box<Self>> {
        let histogram = || Histogram::new(DIGITS).ok();
        Some(Box::new(Self { cold_start: histogram()?, handler: histogram()?, cpu: histogram()? }))
    }
}

impl FunctionTotals {
    /// Adds a request; with `metrics`, also to what its release has done.
    pub fn add(&self, receipt: &Receipt, metrics: bool) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(receipt);
        if let (true, Some(release)) = (metrics, receipt.release) {
            totals.release(release).add(receipt);
        }
    }

    /// Looks at them as they stand, while nobody adds to them.
    pub fn read<T>(&self, look: impl FnOnce(&Totals) -> T) -> T {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Totals {
    fn add(&mut self, receipt: &Receipt) {
        self.requests += 1;
        self.errors += u64::from(receipt.is_error());
        // A request that was refused has no cold start to speak of.
        if receipt.had_sandbox()
            && let Some(times) = self.times.take().or_else(Times::new)
        {
            let times = self.times.insert(times);
            for (histogram, duration) in [
                (&mut times.cold_start, receipt.phases.cold_start()),
                (&mut times.handler, receipt.phases.handler),
                (&mut times.cpu, receipt.cpu),
            ] {
                // It grows with what it is given, and fails beyond 2^63.
                let _ = histogram.record(nanos(duration));
            }
        }
        self.memory_peak_bytes = self.memory_peak_bytes.max(receipt.memory_peak_bytes);
    }

    /// Those of one release, which is the last from here on.
    fn release(&mut self, release: u64) -> &mut ReleaseTotals {
        match self.releases.iter().position(|each| each.release == release) {
            Some(at) if at + 1 == self.releases.len() => {}
            Some(at) => {
                let found = self.releases.remove(at);
                self.releases.push(found);
            }
            None => {
                if self.releases.len() == RELEASES_MAX {
                    self.releases.remove(0);
                }
                self.releases.push(ReleaseTotals::new(release));
            }
        }
        let last = self.releases.len() - 1;
        #[expect(clippy::indexing_slicing, reason = "it was found there, or pushed")]
        &mut self.releases[last]
    }
}

impl ReleaseTotals {
    fn new(release: u64) -> Self {
        let (times, sizes) = (|| Buckets::new(TIME_BOUNDS), || Buckets::new(SIZE_BOUNDS));
        let histograms = Histograms {
            phases: [times(), times(), times(), times(), times()],
            cold_start: times(),
            cpu: times(),
            memory: sizes(),
            bytes_in: sizes(),
            bytes_out: sizes(),
        };
        Self { release, by_status_class: [0; 6], by_outcome: [0; Outcome::ALL.len()], histograms }
    }

    fn add(&mut self, receipt: &Receipt) {
        if let Some(count) = self.by_status_class.get_mut(usize::from(receipt.status / 100)) {
            *count += 1;
        }
        let outcome = Outcome::ALL.iter().position(|outcome| *outcome == receipt.outcome);
        if let Some(count) = outcome.and_then(|at| self.by_outcome.get_mut(at)) {
            *count += 1;
        }
        if !receipt.had_sandbox() {
            return;
        }
        let histograms = &mut self.histograms;
        for (buckets, (_, duration)) in histograms.phases.iter_mut().zip(receipt.phases.named()) {
            buckets.add(nanos(duration));
        }
        histograms.cold_start.add(nanos(receipt.phases.cold_start()));
        histograms.cpu.add(nanos(receipt.cpu));
        histograms.memory.add(receipt.memory_peak_bytes);
        histograms.bytes_in.add(receipt.bytes_in);
        histograms.bytes_out.add(receipt.bytes_out);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart_and_few_are_remembered() {
        let totals = FunctionTotals::default();
        let of = |release| Receipt { release: Some(release), ..Receipt::sample() };
        for release in [1, 2, 3, 4, 1, 5] {
            totals.add(&of(release), true);
        }
        totals.add(
            &Receipt { outcome: Outcome::Busy, status: 503, phases: super::super::Phases::default(), ..of(5) },
            true,
        );
        totals.read(|totals| {
            assert_eq!(totals.releases.iter().map(|each| each.release).collect::<Vec<_>>(), [3, 4, 1, 5]);
            let last = totals.releases.last().unwrap();
            assert_eq!((last.by_status_class[2], last.by_status_class[5]), (1, 1));
            assert_eq!(last.by_outcome[3], 1, "busy");
            assert_eq!(last.histograms.cold_start.count(), 1, "what was refused had none");
            assert_eq!((totals.requests, totals.errors), (7, 1));
        });
    }

    #[test]
    fn nobody_who_wants_no_metrics_pays_for_them() {
        let totals = FunctionTotals::default();
        totals.add(&Receipt::sample(), false);
        totals.read(|totals| assert!(totals.releases.is_empty() && totals.requests == 1));
    }
}
