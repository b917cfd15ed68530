//! What a function has done since the host started: counts, and percentiles instead of means.

use super::{Outcome, Receipt};
use hdrhistogram::Histogram;
use std::sync::{Mutex, PoisonError};

/// Significant digits of the percentiles: within 1%.
const DIGITS: u8 = 2;

/// One function's totals, through all of its releases.
#[derive(Default)]
pub struct FunctionTotals(Mutex<Totals>);

/// What they come to.
#[derive(Default, Clone)]
pub struct Totals {
    /// Requests that reached it.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// From the first request on that had a sandbox: of many functions, most are never called.
    pub times: Option<Box<Times>>,
    /// The most bytes that one sandbox's memories and tables had together.
    pub memory_peak_bytes: u64,
}

/// Nanoseconds of the requests that had a sandbox.
#[derive(Clone)]
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
    /// Adds a request.
    pub fn add(&self, receipt: &Receipt) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(receipt);
    }

    /// As they stand.
    pub fn now(&self) -> Totals {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Totals {
    fn add(&mut self, receipt: &Receipt) {
        self.requests += 1;
        // A client that goes away is no error of the function, and neither is the host's own end.
        if !matches!(receipt.outcome, Outcome::Ok | Outcome::ClientGone | Outcome::Shutdown) {
            self.errors += 1;
        }
        // A request that was refused has no cold start to speak of.
        if !receipt.phases.cold_start().is_zero()
            && let Some(times) = self.times.take().or_else(Times::new)
        {
            let times = self.times.insert(times);
            for (histogram, duration) in [
                (&mut times.cold_start, receipt.phases.cold_start()),
                (&mut times.handler, receipt.phases.handler),
                (&mut times.cpu, receipt.cpu),
            ] {
                // It grows with what it is given, and fails beyond 2^63.
                let _ = histogram.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        self.memory_peak_bytes = self.memory_peak_bytes.max(receipt.memory_peak_bytes);
    }
}
