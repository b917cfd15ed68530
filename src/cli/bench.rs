//! `fnhost bench`: what a function of one's own costs, by phase.
//!
//! Requests go the whole way but for the network: the gate, a fresh sandbox each, the guest, its body, and taking the
//! sandbox apart.

mod plot;
mod report;

use super::ManifestArgs;
use super::progress::Waiting;
use crate::manifest::{HostPattern, RoutePattern, Segment};
use crate::names::RequestId;
use crate::release::{Release, install};
use crate::runtime::invoke::Call;
use crate::runtime::probe::{self, Sample};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Uri};
use http_body_util::Full;
use report::Report;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Requests before those that count: code is read in, slots of the pool are mapped.
const WARM_UP: u64 = 100;

/// Requests after which streams that are gone are forgotten, as a host does several times a second.
const SWEEP_EVERY: u64 = 1000;

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// The file that describes the app.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_FILE)]
    config: PathBuf,
    /// The function.
    name: String,
    /// How many requests.
    #[arg(short = 'n', long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    requests: u64,
    /// How many of them at once.
    #[arg(short, long = "concurrency", default_value_t = 1, value_name = "C", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    concurrency: u32,
    /// The method; what the function's first route has, if nobody says otherwise.
    #[arg(long)]
    method: Option<Method>,
    /// The path and query; the function's first route with `x` in place of each parameter, if nobody says otherwise.
    #[arg(long)]
    path: Option<PathAndQuery>,
    /// A header, as `NAME: VALUE`. May be given many times.
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// A file to upload with each request.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Draws the percentiles of each phase into an SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints JSON: nanoseconds, by phase and percentile.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let mut manifest = ManifestArgs { config: args.config.clone() }.read()?;
    let known: Vec<String> = manifest.functions.iter().map(|spec| spec.name.to_string()).collect();
    manifest.functions.retain(|spec| spec.name.as_str() == args.name);
    if manifest.functions.is_empty() {
        bail!("there is no function `{}`; there are {}", args.name, known.join(", "));
    }
    let waiting = Waiting::new();
    let release = install::install(&manifest, &waiting).map_err(|error| anyhow::Error::msg(error.to_string()))?;
    drop(waiting);
    let plan = Arc::new(Plan::new(args, release)?);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        for _ in 0..WARM_UP.min(args.requests) {
            plan.once().await?;
        }
        let left = Arc::new(AtomicU64::new(args.requests));
        let began = Instant::now();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..args.concurrency {
            workers.spawn(work(Arc::clone(&plan), Arc::clone(&left)));
        }
        let mut report = Report::new(&args.name, args.concurrency)?;
        while let Some(done) = workers.join_next().await {
            report.merge(&done??)?;
        }
        report.took(began.elapsed());
        if let Some(file) = &args.svg {
            std::fs::write(file, plot::svg(&report)).with_context(|| format!("cannot write {}", file.display()))?;
        }
        super::print(&if args.json { report.json() } else { report.text() });
        Ok(())
    })
}

/// Sends requests until none is left.
async fn work(plan: Arc<Plan>, left: Arc<AtomicU64>) -> anyhow::Result<Report> {
    let mut report = Report::new("", 0)?;
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    while take() {
        match plan.once().await {
            Ok(sample) => report.add(&sample),
            Err(error) => report.add_failure(&error),
        }
        if report.answered() % SWEEP_EVERY == 0 {
            plan.release.engines.sweep();
        }
        // A guest that never waits would keep its thread for itself.
        tokio::task::yield_now().await;
    }
    Ok(report)
}

/// The request that is sent again and again.
struct Plan {
    release: Release,
    request: Request<Full<Bytes>>,
    authority: Authority,
}

impl Plan {
    fn new(args: &BenchArgs, release: Release) -> anyhow::Result<Self> {
        let first = release.routes.iter().next().map(|route| &route.pattern);
        let method = args.method.clone().or_else(|| first?.method.as_ref()?.parse().ok()).unwrap_or(Method::GET);
        let path = match (&args.path, first) {
            (Some(path), _) => path.clone(),
            (None, Some(pattern)) => example_path(pattern)?,
            (None, None) => bail!("{} has no route; say what to ask for with --path", args.name),
        };
        let authority = match first.and_then(|pattern| pattern.host.as_ref()) {
            None => Authority::from_static("localhost"),
            Some(HostPattern::Exact(name)) => name.parse()?,
            Some(HostPattern::AnyLabelOf(name)) => format!("x.{name}").parse()?,
        };
        let uri = Uri::builder().scheme("http").authority(authority.clone()).path_and_query(path).build()?;
        let body = match &args.body {
            Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
            None => Vec::new(),
        };
        let mut request = Request::builder().method(method).uri(uri).header(HOST, authority.as_str());
        if args.body.is_some() {
            request = request.header(CONTENT_LENGTH, body.len());
        }
        for header in &args.headers {
            let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is no `NAME: VALUE`"))?;
            request = request.header(name.trim().parse::<HeaderName>()?, value.trim().parse::<HeaderValue>()?);
        }
        Ok(Self { release, request: request.body(Full::new(Bytes::from(body)))?, authority })
    }

    async fn once(&self) -> anyhow::Result<Sample> {
        let mut request = self.request.clone();
        let path = self.request.uri().path();
        let found = self.release.routes.find(self.authority.host(), self.request.method(), path);
        let found = found.map_err(|_| anyhow::anyhow!("the function has no route for {} {path}", request.method()))?;
        found.route.mark(request.headers_mut(), &found.params);
        let call = Call {
            request_id: RequestId::new(),
            authority: self.authority.clone(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            route_prefix_bytes: found.route.prefix_bytes,
            traceparent: None,
            stalled: Arc::default(),
        };
        Ok(probe::probe(&found.route.function, request, call).await?)
    }
}

/// A path that a pattern matches.
fn example_path(pattern: &RoutePattern) -> anyhow::Result<PathAndQuery> {
    let segments = pattern.segments.iter().map(|segment| match segment {
        Segment::Static(text) => text.as_str(),
        Segment::Param(_) | Segment::Rest(_) => "x",
    });
    Ok(format!("/{}", segments.collect::<Vec<_>>().join("/")).parse()?)
}
