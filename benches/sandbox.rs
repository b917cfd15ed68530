//! What a fresh sandbox costs, phase by phase, for each guest, without a network: `cargo bench --bench sandbox`.
//!
//! Each measured stretch is timed inside of whole requests, so that caches and the pool are as they are in service.

#![expect(missing_docs, reason = "criterion makes a public function that nobody can document")]

use anyhow::Context as _;
use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use fnhost::manifest::Manifest;
use fnhost::names::RequestId;
use fnhost::release::Release;
use fnhost::release::install::{self, Silent};
use fnhost::runtime::invoke::Call;
use fnhost::runtime::probe::{self, Sample};
use http::Request;
use http::uri::Authority;
use http_body_util::Full;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The guests of functions.toml that answer by themselves, and what they are asked.
const REQUESTS: &[(&str, &str)] = &[
    ("hello", "/hello/you"),
    ("hello-p3", "/hello-p3"),
    ("router", "/router/"),
    ("cgi", "/cgi/"),
    ("config", "/config/theme"),
    ("misbehave", "/misbehave/counter"),
    ("misbehave-p3", "/misbehave-p3/counter"),
];

/// A part of a sample.
type Part = fn(&Sample) -> Duration;

/// What is measured: the phases, and the whole.
const PARTS: &[(&str, Part)] = &[
    ("store", |sample| sample.phases.store),
    ("instantiate", |sample| sample.phases.instantiate),
    ("first-call", |sample| sample.phases.handler + sample.phases.body),
    ("teardown", |sample| sample.teardown),
    ("cpu", |sample| sample.cpu),
];

fn installed() -> anyhow::Result<Release> {
    let manifest = Manifest::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("functions.toml"))
        .map_err(|error| anyhow::Error::msg(error.to_string()))?;
    install::install(&manifest, &Silent).map_err(|error| anyhow::Error::msg(error.to_string()))
}

async fn once(release: &Release, path: &str) -> anyhow::Result<Sample> {
    let uri = format!("http://localhost{path}");
    let mut request = Request::builder().uri(uri).header("host", "localhost").body(Full::new(Bytes::new()))?;
    let found = release.routes.find("localhost", request.method(), path);
    let found = found.ok().with_context(|| format!("nothing answers {path}"))?;
    found.route.mark(request.headers_mut(), &found.params);
    let call = Call {
        request_id: RequestId::new(),
        authority: Authority::from_static("localhost"),
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        route_prefix_bytes: found.route.prefix_bytes,
        traceparent: None,
        stalled: Arc::default(),
    };
    Ok(probe::probe(&found.route.function, request, call).await?)
}

#[expect(clippy::unwrap_used, reason = "a benchmark that cannot run has nothing else to say")]
fn sandbox(criterion: &mut Criterion) {
    let release = installed().unwrap();
    let runtime = Runtime::new().unwrap();
    for (name, path) in REQUESTS {
        let mut group = criterion.benchmark_group(*name);
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for (part_name, part) in PARTS {
            group.bench_function(*part_name, |bencher| {
                bencher.iter_custom(|count| {
                    runtime.block_on(async {
                        let mut total = Duration::ZERO;
                        for _ in 0..count {
                            total += part(&once(&release, path).await.unwrap());
                        }
                        total
                    })
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, sandbox);
criterion_main!(benches);
