//! What `bench` found out: percentiles of each phase, as a table with a histogram, and as JSON.

use crate::limits::{show_nanos, show_size};
use crate::runtime::probe::Sample;
use anyhow::Context as _;
use hdrhistogram::Histogram;
use std::fmt::Write as _;
use std::time::Duration;

/// Significant digits of the percentiles: within 0.1%.
const DIGITS: u8 = 3;
/// The widest bar of the histogram, in characters.
const BAR_WIDTH: u64 = 40;

/// The percentiles that are shown.
pub(super) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// What is measured of each request, in the order of the table.
const MEASURES: [&str; 9] =
    ["queue", "store", "instantiate", "handler", "body", "teardown", "cold start", "total", "CPU"];
const COLD_START: usize = 6;

/// Nanoseconds of many requests.
pub(super) struct Report {
    function: String,
    concurrency: u32,
    took: Duration,
    histograms: Vec<Histogram<u64>>,
    memory_peak_bytes: u64,
    failures: u64,
    first_failure: Option<String>,
    other_status: u64,
}

impl Report {
    pub(super) fn new(function: &str, concurrency: u32) -> anyhow::Result<Self> {
        let histograms = MEASURES.iter().map(|_| Histogram::new(DIGITS)).collect::<Result<_, _>>();
        Ok(Self {
            function: function.to_owned(),
            concurrency,
            took: Duration::ZERO,
            histograms: histograms.context("no histogram")?,
            memory_peak_bytes: 0,
            failures: 0,
            first_failure: None,
            other_status: 0,
        })
    }

    pub(super) fn add(&mut self, sample: &Sample) {
        let phases = &sample.phases;
        let total = phases.queue + phases.cold_start() + phases.handler + phases.body + sample.teardown;
        let durations = [
            phases.queue,
            phases.store,
            phases.instantiate,
            phases.handler,
            phases.body,
            sample.teardown,
            phases.cold_start(),
            total,
            sample.cpu,
        ];
        for (histogram, duration) in self.histograms.iter_mut().zip(durations) {
            // It grows with what it is given, and fails beyond 2^63.
            let _ = histogram.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
        self.memory_peak_bytes = self.memory_peak_bytes.max(sample.memory_peak_bytes);
        self.other_status += u64::from(!(200..400).contains(&sample.status));
    }

    pub(super) fn add_failure(&mut self, error: &anyhow::Error) {
        self.failures += 1;
        self.first_failure.get_or_insert_with(|| format!("{error:#}"));
    }

    pub(super) fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        for (histogram, more) in self.histograms.iter_mut().zip(&other.histograms) {
            histogram.add(more).context("cannot add up the histograms")?;
        }
        self.memory_peak_bytes = self.memory_peak_bytes.max(other.memory_peak_bytes);
        self.failures += other.failures;
        self.other_status += other.other_status;
        self.first_failure = self.first_failure.take().or_else(|| other.first_failure.clone());
        Ok(())
    }

    pub(super) fn took(&mut self, took: Duration) {
        self.took = took;
    }

    /// Requests that were answered.
    pub(super) fn answered(&self) -> u64 {
        self.histograms.first().map_or(0, Histogram::len)
    }

    /// Each measure with its histogram.
    pub(super) fn measures(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        MEASURES.into_iter().zip(&self.histograms)
    }

    /// The first line of every form: what was done.
    pub(super) fn title(&self) -> String {
        format!(
            "{}: {} requests, {} at once, a fresh sandbox each, in {:.2} s ({:.0} a second)",
            self.function,
            self.answered(),
            self.concurrency,
            self.took.as_secs_f64(),
            self.rate(),
        )
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate, shown without decimals")]
    fn rate(&self) -> f64 {
        self.answered() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n{:12}", self.title(), "");
        // Writing to a string cannot fail.
        for (name, _) in QUANTILES {
            let _ = write!(text, "{name:>10}");
        }
        text.push('\n');
        for (name, histogram) in self.measures() {
            let _ = write!(text, "{name:12}");
            for (_, quantile) in QUANTILES {
                let _ = write!(text, "{:>10}", show_nanos(histogram.value_at_quantile(quantile)));
            }
            text.push('\n');
        }
        let _ = writeln!(text, "\nmemory, at most: {}", show_size(self.memory_peak_bytes));
        self.write_histogram(&mut text);
        if self.other_status > 0 {
            let _ = writeln!(text, "\n{} answers had a status that is neither 2xx nor 3xx", self.other_status);
        }
        if let Some(error) = &self.first_failure {
            let _ = writeln!(text, "\n{} requests failed; the first: {error}", self.failures);
        }
        text
    }

    fn write_histogram(&self, text: &mut String) {
        let Some(cold_start) = self.histograms.get(COLD_START).filter(|histogram| !histogram.is_empty()) else {
            return;
        };
        text.push_str("\ncold start (store + instantiate)\n");
        let buckets: Vec<_> = cold_start
            .iter_log((cold_start.min() / 2).next_power_of_two(), 2.0)
            .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
            .skip_while(|(_, count)| *count == 0)
            .collect();
        let most = buckets.iter().map(|(_, count)| *count).max().unwrap_or(1);
        for (until, count) in buckets {
            let width = usize::try_from((count * BAR_WIDTH).div_ceil(most)).unwrap_or(0);
            let _ = writeln!(text, "{:>12} {count:>9} {}", format!("< {}", show_nanos(until + 1)), "#".repeat(width));
        }
    }

    /// For machines: nanoseconds.
    pub(super) fn json(&self) -> String {
        let phases: serde_json::Map<String, serde_json::Value> = self
            .measures()
            .map(|(name, histogram)| {
                let quantiles = QUANTILES.map(|(label, quantile)| (label, histogram.value_at_quantile(quantile)));
                (name.replace(' ', "_").to_lowercase(), quantiles.into_iter().collect())
            })
            .collect();
        let report = serde_json::json!({
            "function": self.function,
            "requests": self.answered(),
            "at_once": self.concurrency,
            "seconds": self.took.as_secs_f64(),
            "failures": self.failures,
            "other_status": self.other_status,
            "memory_peak_bytes": self.memory_peak_bytes,
            "nanoseconds": phases,
        });
        format!("{report:#}\n")
    }
}
