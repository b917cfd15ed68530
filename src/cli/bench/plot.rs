//! The percentiles of each phase, drawn: one row a phase, on a logarithmic scale.

use super::report::Report;
use crate::limits::show_nanos;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 110.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 64.0;
const ROW: f64 = 30.0;
/// From the median to here a row is thick; from here to the 99.9th percentile it is thin.
const THICK: f64 = 0.99;

/// The drawing.
pub(super) fn svg(report: &Report) -> String {
    let rows: Vec<_> = report.measures().filter(|(_, histogram)| histogram.max() > 0).collect();
    let least = rows.iter().map(|(_, histogram)| histogram.value_at_quantile(0.5).max(1)).min().unwrap_or(1);
    let most = rows.iter().map(|(_, histogram)| histogram.value_at_quantile(0.999).max(10)).max().unwrap_or(10);
    let (first, last) = (least.ilog10(), most.ilog10() + 1);
    let x = |nanos: u64| LEFT + (log10(nanos) - f64::from(first)) / f64::from(last - first) * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * f64::from(u32::try_from(rows.len()).unwrap_or(0)) + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"14\">{}</text>\n\
         <text x=\"16\" y=\"44\" fill=\"#666666\">dot: median; thick: to p99; thin: to p99.9</text>\n",
        report.title(),
    );
    // Writing to a string cannot fail.
    for power in first..=last {
        let at = x(10_u64.saturating_pow(power));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">{}</text>",
            height - 34.0,
            height - 16.0,
            show_nanos(10_u64.saturating_pow(power)),
        );
    }
    let mut y = TOP + ROW / 2.0;
    for (name, histogram) in rows {
        let [median, thick, thin] = [0.5, THICK, 0.999].map(|quantile| histogram.value_at_quantile(quantile).max(1));
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#4c78a8\" stroke-width=\"2\"/>\
             <line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#4c78a8\" stroke-width=\"10\"/>\
             <circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"#1b3a5c\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#333333\">{}</text>",
            LEFT - 10.0,
            y + 4.0,
            x(median),
            x(thin),
            x(median),
            x(thick),
            x(median),
            x(thin) + 10.0,
            y + 4.0,
            show_nanos(median),
        );
        y += ROW;
    }
    svg.push_str("</svg>\n");
    svg
}

#[expect(clippy::cast_precision_loss, reason = "a place in a drawing")]
fn log10(nanos: u64) -> f64 {
    (nanos.max(1) as f64).log10()
}
