//! The table that `up` prints on exit: what each function has done, by percentiles, not by means.

use crate::limits::show_nanos;
use crate::names::Name;
use crate::receipt::{Outcome, Receipt};
use hdrhistogram::Histogram;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Significant digits of the percentiles: within 1%.
const DIGITS: u8 = 2;

/// Totals since the start, by function.
pub struct Summary {
    functions: Vec<(Name, Mutex<Totals>)>,
    /// Requests that reached no function.
    unrouted: Mutex<u64>,
}

/// One function's.
#[derive(Default)]
struct Totals {
    requests: u64,
    errors: u64,
    /// From the first request on that had a sandbox: of many functions, most are never called.
    times: Option<Box<Times>>,
    memory_peak_bytes: u64,
}

/// Nanoseconds of the requests that had a sandbox.
struct Times {
    cold_start: Histogram<u64>,
    handler: Histogram<u64>,
    cpu: Histogram<u64>,
}

impl Times {
    fn new() -> Option<Box<Self>> {
        let histogram = || Histogram::new(DIGITS).ok();
        Some(Box::new(Self { cold_start: histogram()?, handler: histogram()?, cpu: histogram()? }))
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

impl Summary {
    /// For these functions, in this order.
    pub fn new(names: impl Iterator<Item = Name>) -> Self {
        let functions = names.map(|name| (name, Mutex::default())).collect();
        Self { functions, unrouted: Mutex::new(0) }
    }

    /// Adds a request of the function at `index`, if it reached one.
    pub(super) fn record(&self, receipt: &Receipt, index: Option<usize>) {
        match index.and_then(|index| self.functions.get(index)) {
            Some((_, totals)) => lock(totals).add(receipt),
            None => *lock(&self.unrouted) += 1,
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.functions.iter().map(|(name, _)| name.as_str().len()).max().unwrap_or(0).max("function".len());
        writeln!(
            f,
            "{:width$} {:>9} {:>7}  {:>26}  {:>17}  {:>17} {:>9}",
            "function", "requests", "errors", "cold start p50/p99/max", "handler p50/p99", "CPU p50/p99", "memory",
        )?;
        for (name, totals) in &self.functions {
            let totals = lock(totals);
            let at = |histogram: &Histogram<u64>, quantile| show(histogram.value_at_quantile(quantile));
            let pair = |histogram: &Histogram<u64>| format!("{}/{}", at(histogram, 0.5), at(histogram, 0.99));
            let (cold, handler, cpu) = totals.times.as_ref().map_or_else(
                || ("-/-/-".to_owned(), "-/-".to_owned(), "-/-".to_owned()),
                |times| {
                    let cold = format!("{}/{}", pair(&times.cold_start), show(times.cold_start.max()));
                    (cold, pair(&times.handler), pair(&times.cpu))
                },
            );
            writeln!(
                f,
                "{:width$} {:>9} {:>7}  {cold:>26}  {handler:>17}  {cpu:>17} {:>9}",
                name.as_str(),
                totals.requests,
                totals.errors,
                show_memory(totals.memory_peak_bytes),
            )?;
        }
        match *lock(&self.unrouted) {
            0 => Ok(()),
            unrouted => writeln!(f, "requests that reached no function: {unrouted}"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn show(nanos: u64) -> String {
    if nanos == 0 { "-".to_owned() } else { show_nanos(nanos) }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn show_memory(bytes: u64) -> String {
    if bytes == 0 { "-".to_owned() } else { format!("{:.1}MiB", bytes as f64 / 1_048_576.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::RequestId;
    use crate::receipt::Phases;
    use std::time::Duration;

    #[test]
    fn the_table_has_a_line_for_each_function() {
        let name = Name::new("hello").unwrap();
        let summary = Summary::new(std::iter::once(name.clone()));
        let receipt = |outcome, micros| Receipt {
            request_id: RequestId::new(),
            function: Some(name.clone()),
            kind: None,
            method: http::Method::GET,
            outcome,
            status: 200,
            phases: Phases { store: Duration::from_micros(micros), ..Phases::default() },
            cpu: Duration::from_micros(50),
            memory_peak_bytes: 1 << 20,
            bytes_in: 0,
            bytes_out: 0,
        };
        summary.record(&receipt(Outcome::Ok, 10), Some(0));
        summary.record(&receipt(Outcome::Trap, 2000), Some(0));
        summary.record(&receipt(Outcome::NoRoute, 0), None);
        let table = summary.to_string();
        let line = table.lines().nth(1).unwrap();
        assert!(line.starts_with("hello            2       1"), "{table}");
        assert!(line.contains("10.0us/2.0") && line.contains("1.0MiB"), "{table}");
        assert!(table.ends_with("requests that reached no function: 1\n"), "{table}");
    }
}
