//! `fnhost bench`: what a function of one's own costs, by phase.
//!
//! Requests go the whole way but for the network: the gate, a fresh sandbox each, the guest, its body, and taking the
//! sandbox apart.

mod plot;
mod report;

use super::request::{self, Asked, Target};
use crate::names::RequestId;
use crate::release::Release;
use crate::runtime::probe::{self, Sample};
use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::Method;
use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http_body_util::Full;
use report::Report;
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
    let release = request::release_of(&request::function_of(&args.config, &args.name)?)?;
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
            plan.release.residents.engines().sweep();
        }
        // A guest that never waits would keep its thread for itself.
        tokio::task::yield_now().await;
    }
    Ok(report)
}

/// The request that is sent again and again.
struct Plan {
    release: Release,
    target: Target,
    body: Bytes,
}

impl Plan {
    fn new(args: &BenchArgs, release: Release) -> anyhow::Result<Self> {
        let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let body = args.body.as_ref().map(read).transpose()?.map(Bytes::from);
        let asked = Asked { method: args.method.as_ref(), path: args.path.as_ref(), headers: &args.headers };
        let mut target = Target::of(&release, &asked, |pattern| request::example_path(pattern, Some("x")))?;
        if let Some(body) = &body {
            target.request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        }
        Ok(Self { release, target, body: body.unwrap_or_default() })
    }

    async fn once(&self) -> anyhow::Result<Sample> {
        let request = self.target.request.clone().map(|()| Full::new(self.body.clone()));
        let call = self.target.call(RequestId::new());
        Ok(probe::probe(&self.target.route.function, request, call).await?)
    }
}
