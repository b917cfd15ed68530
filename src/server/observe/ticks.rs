//! What happened in each of the last seconds, as the dashboard draws it.

use crate::names::Name;
use crate::receipt::Receipt;
use crate::receipt::buckets::{Buckets, TIME_BOUNDS};
use hdrhistogram::Histogram;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How many seconds are remembered.
const TICKS_MAX: usize = 300;
/// Significant digits of the percentiles: within 10%, as fine as anybody sees.
const DIGITS: u8 = 1;

/// The last seconds.
#[derive(Default)]
pub(in crate::server) struct Ticks {
    past: VecDeque<Arc<Tick>>,
    current: Option<Second>,
}

/// What happened in one second.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(in crate::server) struct Tick {
    /// Since the epoch of Unix.
    pub(in crate::server) second: u64,
    requests: u64,
    errors: u64,
    /// Median and 99th percentile of each phase of the requests that had a sandbox, in nanoseconds.
    phases: [(u64, u64); 5],
    /// The same of cold starts.
    cold_start: (u64, u64),
    /// Requests by how long they took, from their head to the end of their body: as many as [`TIME_BOUNDS`], and one more.
    latency: Vec<u64>,
    /// Requests and errors of each function that had any.
    functions: Vec<(Name, Name, u64, u64)>,
}

/// The second that it is.
struct Second {
    number: u64,
    requests: u64,
    errors: u64,
    phases: Vec<Histogram<u64>>,
    cold_start: Option<Histogram<u64>>,
    latency: Buckets,
    functions: HashMap<(Name, Name), (u64, u64)>,
}

impl Ticks {
    pub(super) fn add(&mut self, receipt: &Receipt) {
        let number = receipt.ended.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.roll(number);
        self.current.get_or_insert_with(|| Second::new(number)).add(receipt);
    }

    /// Those since the second `after`, which have ended by the second `now`.
    pub(in crate::server) fn since(&mut self, after: u64, now: u64) -> impl Iterator<Item = &Arc<Tick>> {
        self.roll(now);
        self.past.iter().filter(move |tick| tick.second > after)
    }

    /// Puts the current second among those that are past, if it is another one now.
    fn roll(&mut self, number: u64) {
        if let Some(second) = self.current.take_if(|current| current.number < number) {
            if self.past.len() == TICKS_MAX {
                self.past.pop_front();
            }
            self.past.push_back(Arc::new(second.finish()));
        }
    }
}

impl Second {
    fn new(number: u64) -> Self {
        let histogram = || Histogram::new(DIGITS).ok();
        Self {
            number,
            requests: 0,
            errors: 0,
            phases: (0..5).filter_map(|_| histogram()).collect(),
            cold_start: histogram(),
            latency: Buckets::new(TIME_BOUNDS),
            functions: HashMap::new(),
        }
    }

    fn add(&mut self, receipt: &Receipt) {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.requests += 1;
        self.errors += u64::from(receipt.is_error());
        self.latency.add(nanos(receipt.phases.queue + receipt.phases.since_permit()));
        if receipt.had_sandbox() {
            // They grow with what they are given, and fail beyond 2^63.
            for (histogram, (_, duration)) in self.phases.iter_mut().zip(receipt.phases.named()) {
                let _ = histogram.record(nanos(duration));
            }
            if let Some(histogram) = &mut self.cold_start {
                let _ = histogram.record(nanos(receipt.phases.cold_start()));
            }
        }
        if let Some(function) = receipt.app.clone().zip(receipt.function.clone()) {
            let counts = self.functions.entry(function).or_default();
            counts.0 += 1;
            counts.1 += u64::from(receipt.is_error());
        }
    }

    fn finish(self) -> Tick {
        let pair = |histogram: &Histogram<u64>| (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
        let mut phases = [(0, 0); 5];
        for (slot, histogram) in phases.iter_mut().zip(&self.phases) {
            *slot = pair(histogram);
        }
        Tick {
            second: self.number,
            requests: self.requests,
            errors: self.errors,
            phases,
            cold_start: self.cold_start.as_ref().map(pair).unwrap_or_default(),
            latency: self.latency.iter().map(|(_, count)| count).collect(),
            functions: self
                .functions
                .into_iter()
                .map(|((app, function), (requests, errors))| (app, function, requests, errors))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Receipt {
        Receipt { ended: UNIX_EPOCH + Duration::from_secs(second), ..Receipt::sample() }
    }

    #[test]
    fn a_second_is_told_when_it_is_over() {
        let mut ticks = Ticks::default();
        for second in [10, 10, 12] {
            ticks.add(&at(second));
        }
        let told: Vec<(u64, u64)> = ticks.since(0, 12).map(|tick| (tick.second, tick.requests)).collect();
        assert_eq!(told, [(10, 2)]);
        let told: Vec<Arc<Tick>> = ticks.since(10, 13).cloned().collect();
        assert_eq!((told.len(), told[0].second, told[0].functions[0].2), (1, 12, 1));
        assert_eq!(told[0].latency.iter().sum::<u64>(), 1);
        assert!((1400..1700).contains(&told[0].phases[1].0), "{told:?}");
    }

    #[test]
    fn no_more_than_some_minutes_are_remembered() {
        let mut ticks = Ticks::default();
        for second in 0..1000 {
            ticks.add(&at(second));
        }
        assert_eq!(ticks.since(0, 2000).count(), TICKS_MAX);
    }
}
