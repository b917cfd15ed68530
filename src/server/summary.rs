//! The table that `up` prints on exit: what each function has done, by percentiles, not by means.

use crate::limits::show_nanos;
use crate::names::Name;
use crate::receipt::totals::{FunctionTotals, Totals};
use hdrhistogram::Histogram;
use std::fmt;
use std::sync::Arc;

/// Totals since the start, by app and function.
pub struct Summary {
    pub(super) functions: Vec<(Name, Name, Arc<FunctionTotals>)>,
    /// Requests that reached no function.
    pub(super) unrouted: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_app = self.functions.windows(2).all(|pair| matches!(pair, [(a, ..), (b, ..)] if a == b));
        let named = |app: &Name, function: &Name| {
            if one_app { function.to_string() } else { format!("{app}/{function}") }
        };
        let widths = self.functions.iter().map(|(app, function, _)| named(app, function).len());
        let width = widths.max().unwrap_or(0).max("function".len());
        writeln!(
            f,
            "{:width$} {:>9} {:>7}  {:>26}  {:>17}  {:>17} {:>9}",
            "function", "requests", "errors", "cold start p50/p99/max", "handler p50/p99", "CPU p50/p99", "memory",
        )?;
        for (app, function, totals) in &self.functions {
            let name = named(app, function);
            totals.read(|totals| write_line(f, &format!("{name:width$}"), totals))?;
        }
        match self.unrouted {
            0 => Ok(()),
            unrouted => writeln!(f, "requests that reached no function: {unrouted}"),
        }
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, name: &str, totals: &Totals) -> fmt::Result {
    let at = |histogram: &Histogram<u64>, quantile| show(histogram.value_at_quantile(quantile));
    let pair = |histogram: &Histogram<u64>| format!("{}/{}", at(histogram, 0.5), at(histogram, 0.99));
    let (cold, handler, cpu) = totals.times.as_ref().map_or_else(
        || ("-/-/-".to_owned(), "-/-".to_owned(), "-/-".to_owned()),
        |times| {
            let cold = format!("{}/{}", pair(&times.cold_start), show(times.cold_start.max()));
            (cold, pair(&times.handler), pair(&times.cpu))
        },
    );
    let (requests, errors, memory) = (totals.requests, totals.errors, show_memory(totals.memory_peak_bytes));
    writeln!(f, "{name} {requests:>9} {errors:>7}  {cold:>26}  {handler:>17}  {cpu:>17} {memory:>9}")
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
    use crate::receipt::{Outcome, Phases, Receipt};
    use std::time::Duration;

    #[test]
    fn the_table_has_a_line_for_each_function() {
        let (app, name) = (Name::new("demo").unwrap(), Name::new("hello").unwrap());
        let totals = Arc::new(FunctionTotals::default());
        let receipt = |outcome, micros| Receipt {
            outcome,
            phases: Phases { store: Duration::from_micros(micros), ..Phases::default() },
            ..Receipt::sample()
        };
        totals.add(&receipt(Outcome::Ok, 10), true);
        totals.add(&receipt(Outcome::Trap, 2000), true);
        let mut summary = Summary { functions: vec![(app.clone(), name.clone(), Arc::clone(&totals))], unrouted: 1 };
        let table = summary.to_string();
        let line = table.lines().nth(1).unwrap();
        assert!(line.starts_with("hello            2       1"), "{table}");
        assert!(line.contains("10.0us/2.0") && line.contains("1.0MiB"), "{table}");
        assert!(table.ends_with("requests that reached no function: 1\n"), "{table}");
        summary.functions.push((Name::new("other").unwrap(), name, totals));
        assert!(summary.to_string().contains("\ndemo/hello "), "{summary}");
    }
}
