//! What happens now, as the dashboard draws it: `/v1/live` and `/v1/functions`.

use super::events::{self, Events};
use super::problem::Problem;
use super::releases::ok;
use super::{Admin, blocking};
use crate::api::{FunctionFigures, FunctionFiguresList};
use crate::platform;
use crate::receipt::buckets::TIME_BOUNDS;
use crate::receipt::totals::Totals;
use crate::server::Host;
use axum::extract::State;
use axum::response::Response;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often it is looked whether a second is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The gauges of a moment.
#[derive(serde::Serialize)]
struct Now {
    second: u64,
    sandboxes: u32,
    sandboxes_max: u32,
    connections: usize,
    queued: u32,
}

/// Each second: what happened in it (`tick`), the last minutes first, and how the host is (`now`). The bounds of the
/// latencies, in nanoseconds, come before (`bounds`).
pub(super) async fn live(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    if !admin.host.settings.observe.metrics {
        return Err(Problem::Off("metrics are", "metrics"));
    }
    let host = Arc::clone(&admin.host);
    // Minutes of a thousand functions are some megabytes: too much to write where requests are served.
    let first = blocking(move || {
        let (mut events, mut last_tick) = (Events::default(), 0);
        events.add_json("bounds", &TIME_BOUNDS);
        add_ticks(&mut events, &host, &mut last_tick, platform::unix_seconds());
        Ok((events, last_tick, host))
    });
    let (first, mut last_tick, host) = first.await?;
    let (mut first, mut last_now) = (Some(first), 0);
    Ok(events::answer(admin, LOOK_INTERVAL, move |events: &mut Events| {
        if let Some(first) = first.take() {
            events.append(&first);
        }
        let second = platform::unix_seconds();
        if second == last_now {
            return;
        }
        last_now = second;
        add_ticks(events, &host, &mut last_tick, second);
        events.add_json("now", &now(&host, second));
    }))
}

/// Adds the seconds behind `last`, which goes on to the last of them, that are over by the second `now`.
fn add_ticks(events: &mut Events, host: &Host, last: &mut u64, now: u64) {
    // Taken under the lock, and written behind it.
    let ticks: Vec<Arc<_>> = host.observer.collector.read(|books| books.ticks.since(*last, now).cloned().collect());
    for tick in ticks {
        *last = tick.second;
        events.add_json("tick", &*tick);
    }
}

fn now(host: &Host, second: u64) -> Now {
    let (sandboxes, sandboxes_max) = host.deployments.installer().sandboxes();
    let serving = host.deployments.live().current();
    let functions = serving.releases().flat_map(|release| &release.functions);
    Now {
        second,
        sandboxes,
        sandboxes_max,
        connections: host.connections.load(Ordering::Relaxed),
        queued: functions.map(|function| function.gate.waiting()).sum(),
    }
}

/// Each function that answers, and what it has done since the host started.
pub(super) async fn functions(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let list = blocking(move || {
        let serving = admin.host.deployments.live().current();
        // All that has ended is counted.
        admin.host.observer.collector.read(|_| ());
        let totals = admin.host.deployments.installer().totals().into_iter();
        let totals: BTreeMap<_, _> = totals.map(|(app, function, totals)| ((app, function), totals)).collect();
        let mut functions = Vec::new();
        for release in serving.apps().iter().map(|app| &app.live) {
            for function in &release.functions {
                let named = FunctionFigures {
                    app: release.app.to_string(),
                    function: function.name.to_string(),
                    release: release.number,
                    kind: function.kind().as_str().to_owned(),
                    ..FunctionFigures::default()
                };
                let totals = totals.get(&(release.app.clone(), function.name.clone()));
                functions
                    .push(totals.map_or_else(|| named.clone(), |totals| totals.read(|totals| figures(&named, totals))));
            }
        }
        Ok(FunctionFiguresList { functions })
    });
    Ok(ok(&list.await?))
}

fn figures(named: &FunctionFigures, totals: &Totals) -> FunctionFigures {
    let pair = |histogram: &Histogram<u64>| [histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99)];
    let times = totals.times.as_ref();
    FunctionFigures {
        requests: totals.requests,
        errors: totals.errors,
        cold_start_ns: times.map(|times| pair(&times.cold_start)).unwrap_or_default(),
        handler_ns: times.map(|times| pair(&times.handler)).unwrap_or_default(),
        cpu_ns: times.map(|times| pair(&times.cpu)).unwrap_or_default(),
        memory_peak_bytes: totals.memory_peak_bytes,
        ..named.clone()
    }
}
