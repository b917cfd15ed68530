//! What `GET /metrics` says: `OpenMetrics` 1.0, written by `prometheus-client` from the figures that are kept anyway.
//!
//! **Invariant:** labels come from functions.toml and from this program, never from a request: there are as many series as
//! functions and their latest releases make.

use crate::names::Name;
use crate::receipt::Outcome;
use crate::receipt::buckets::Buckets;
use crate::receipt::totals::{FunctionTotals, Histograms, ReleaseTotals};
use crate::runtime::engine::PoolUsage;
use crate::server::Host;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const NANOS_PER_SECOND: f64 = 1e9;
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metrics of `host`, as text.
pub(in crate::server) fn text_of(host: Arc<Host>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("fnhost");
    registry.register_collector(Box::new(Figures { host }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

struct Figures {
    host: Arc<Host>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

/// The labels of one release of a function.
type Labels<'a> = [(&'static str, &'a str); 3];

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let figures = Snapshot::of(&self.host);
        encode_counts(&mut encoder, &figures)?;
        encode_unrouted(&mut encoder, &figures)?;
        encode_histograms(&mut encoder, &figures)?;
        encode_gauges(&mut encoder, &self.host)
    }
}

/// What was counted by one moment: figures of the same requests, whichever metric they are in.
struct Snapshot {
    /// The functions that were called, by app and name, with their releases.
    functions: Vec<(Name, Name, Vec<ReleaseTotals>)>,
    unrouted: [u64; Outcome::ALL.len()],
}

impl Snapshot {
    fn of(host: &Host) -> Self {
        // Whoever reads the books has all in them that has ended, and holds up whoever would enter more.
        host.observer.collector.read(|books| {
            let all = host.deployments.installer().totals().into_iter();
            let of_each = |totals: &FunctionTotals| totals.read(|totals| totals.releases.clone());
            let functions = all.map(|(app, function, totals)| (app, function, of_each(&totals)));
            Self { functions: functions.collect(), unrouted: books.unrouted }
        })
    }

    /// Each release of each function.
    fn each(&self, mut write: impl FnMut(&Labels<'_>, &ReleaseTotals) -> fmt::Result) -> fmt::Result {
        for (app, function, releases) in &self.functions {
            for release in releases {
                let number = release.release.to_string();
                write(&[("app", app.as_str()), ("function", function.as_str()), ("release", &number)], release)?;
            }
        }
        Ok(())
    }
}

fn count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn encode_counts(encoder: &mut DescriptorEncoder<'_>, figures: &Snapshot) -> fmt::Result {
    let help = "Requests by the class of their status; none, where the client was gone before it";
    let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    figures.each(|[app, function, release], totals| {
        for (class, requests) in CLASSES.iter().zip(totals.by_status_class).filter(|(_, requests)| *requests > 0) {
            count(&mut metric.encode_family(&[*app, *function, *release, ("status", class)])?, requests)?;
        }
        Ok(())
    })?;
    let help = "Requests by how they ended";
    let mut metric = encoder.encode_descriptor("outcomes", help, None, MetricType::Counter)?;
    figures.each(|[app, function, release], totals| {
        for (outcome, requests) in Outcome::ALL.iter().zip(totals.by_outcome).filter(|(_, requests)| *requests > 0) {
            count(&mut metric.encode_family(&[*app, *function, *release, ("outcome", outcome.as_str())])?, requests)?;
        }
        Ok(())
    })
}

fn encode_unrouted(encoder: &mut DescriptorEncoder<'_>, figures: &Snapshot) -> fmt::Result {
    let help = "Requests that reached no function, by how they ended";
    let mut metric = encoder.encode_descriptor("unrouted_requests", help, None, MetricType::Counter)?;
    for (outcome, requests) in Outcome::ALL.iter().zip(figures.unrouted).filter(|(_, requests)| *requests > 0) {
        count(&mut metric.encode_family(&[("outcome", outcome.as_str())])?, requests)?;
    }
    Ok(())
}

/// Which buckets of a release.
type Of = fn(&Histograms) -> &Buckets;

fn encode_histograms(encoder: &mut DescriptorEncoder<'_>, figures: &Snapshot) -> fmt::Result {
    let times: [(&str, &str, Of); 2] = [
        ("cold_start", "What it took to have a fresh sandbox ready: store and instantiate", |of| &of.cold_start),
        ("cpu_time", "CPU time of requests", |of| &of.cpu),
    ];
    for (name, help, of) in times {
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        figures.each(|labels, totals| {
            encode_buckets(&mut metric.encode_family(labels)?, of(&totals.histograms), NANOS_PER_SECOND)
        })?;
    }
    let help = "The phases of requests that had a sandbox";
    let mut metric = encoder.encode_descriptor("phase", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    figures.each(|[app, function, release], totals| {
        let names = ["queue", "store", "instantiate", "handler", "body"];
        for (name, buckets) in names.iter().zip(&totals.histograms.phases) {
            let labels = [*app, *function, *release, ("phase", name)];
            encode_buckets(&mut metric.encode_family(&labels)?, buckets, NANOS_PER_SECOND)?;
        }
        Ok(())
    })?;
    let sizes: [(&str, &str, Of); 3] = [
        ("memory_peak", "The most that a sandbox's memories and tables had together", |of| &of.memory),
        ("request_body", "Uploads, as far as guests read them", |of| &of.bytes_in),
        ("response_body", "Response bodies", |of| &of.bytes_out),
    ];
    for (name, help, of) in sizes {
        let mut metric = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Histogram)?;
        figures
            .each(|labels, totals| encode_buckets(&mut metric.encode_family(labels)?, of(&totals.histograms), 1.0))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "the format has doubles")]
fn encode_buckets(metric: &mut MetricEncoder<'_>, buckets: &Buckets, scale: f64) -> fmt::Result {
    let each = buckets.iter().map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound as f64 / scale), count));
    let each: Vec<(f64, u64)> = each.collect();
    metric.encode_histogram::<NoLabelSet>(buckets.sum() as f64 / scale, buckets.count(), &each, None)
}

fn encode_gauges(encoder: &mut DescriptorEncoder<'_>, host: &Host) -> fmt::Result {
    let installer = host.deployments.installer();
    let (sandboxes, sandboxes_max) = installer.sandboxes();
    let code = installer.mapped();
    let open = host.connections.load(Ordering::Relaxed);
    let gauges: [(&str, &str, Option<&Unit>, u64); 8] = [
        ("sandboxes", "Sandboxes alive", None, sandboxes.into()),
        ("sandboxes_max", "Sandboxes that there may be: the host's own concurrency", None, sandboxes_max.into()),
        ("connections", "Connections open", None, open as u64),
        ("connections_max", "Connections that there may be", None, host.settings.connections.into()),
        ("code_components", "Components whose compiled code is mapped", None, code.components() as u64),
        ("code", "Compiled code that is mapped, as it is on disk", Some(&Unit::Bytes), code.bytes() as u64),
        ("uptime", "Since the host began to serve", Some(&Unit::Seconds), host.began.elapsed().as_secs()),
        ("draining", "1, if the host is on its way out", None, host.draining.load(Ordering::Acquire).into()),
    ];
    for (name, help, unit, value) in gauges {
        encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)?;
    }
    encode_pools(encoder, host)?;
    let help = "Requests that wait for a permit";
    let mut metric = encoder.encode_descriptor("queue", help, None, MetricType::Gauge)?;
    let serving = host.deployments.live().current();
    for release in serving.releases() {
        let number = release.number.to_string();
        for function in &release.functions {
            let labels = [("app", release.app.as_str()), ("function", function.name.as_str()), ("release", &number)];
            let waiting = u64::from(function.gate.waiting());
            metric.encode_family(&labels)?.encode_gauge(&waiting)?;
        }
    }
    Ok(())
}

/// What a pool has of something.
type OfPool = fn(&PoolUsage) -> u64;

/// The pools of all engines, of 0.2 (and commands) and of 0.3.
fn encode_pools(encoder: &mut DescriptorEncoder<'_>, host: &Host) -> fmt::Result {
    let mut pools = [("0.2", PoolUsage::default()), ("0.3", PoolUsage::default())];
    for engines in host.deployments.installer().engines() {
        for ((_, sum), pool) in pools.iter_mut().zip(engines.pool_usage()) {
            sum.add(&pool);
        }
    }
    let gauges: [(&str, &str, Option<&Unit>, OfPool); 4] = [
        ("pool_slots", "Linear memories that the pools have room for", None, |pool| pool.slots),
        ("pool_slots_used", "Those of them that are in use", None, |pool| pool.used),
        ("pool_slots_warm", "Those that were used, and are kept ready", None, |pool| pool.warm),
        ("pool_warm", "Memory that is kept with those", Some(&Unit::Bytes), |pool| pool.warm_bytes),
    ];
    for (name, help, unit, of) in gauges {
        let mut metric = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (engine, pool) in &pools {
            metric.encode_family(&[("engine", *engine)])?.encode_gauge(&of(pool))?;
        }
    }
    Ok(())
}
