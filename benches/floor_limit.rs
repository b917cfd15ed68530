//! What it costs to refuse without WebAssembly: axum, and a layer with the crate that the host's own limit has it from.
//!
//! `floor_limit REQUESTS` lets so many through each second, with a tenth of that at once, counted by the client's address, and
//! answers 429 to all others, with the same headers and about as many bytes as the host.

#![expect(clippy::disallowed_methods, reason = "what it spawns ends with the process")]

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Limit {
    limiter: RateLimiter<IpAddr, HashMapStateStore<IpAddr>, MonotonicClock, NoOpMiddleware<Instant>>,
    policy: String,
}

#[derive(Clone)]
struct Client(IpAddr);

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the address there")]
fn main() -> anyhow::Result<()> {
    let requests: u32 = std::env::args().nth(1).context("how many requests each second is missing")?.parse()?;
    let quota = Quota::with_period(Duration::from_secs(1) / requests).context("a limit")?;
    let quota = quota.allow_burst(NonZeroU32::new(requests / 10).context("ten at the least")?);
    let limit = Arc::new(Limit {
        limiter: RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock),
        policy: format!("\"limit\";q={requests};w=1"),
    });
    let app = Router::new().fallback(async || "Hello, world!\n").layer(middleware::from_fn_with_state(limit, check));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        println!("listening on http://{}", listener.local_addr()?);
        loop {
            let (stream, peer) = listener.accept().await?;
            let app = app.clone().layer(axum::Extension(Client(peer.ip())));
            tokio::spawn(async move {
                // Clients go away all the time.
                let _ = stream.set_nodelay(true);
                let service = TowerToHyperService::new(app);
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn check(State(limit): State<Arc<Limit>>, request: Request, next: Next) -> Response {
    let client = request.extensions().get::<Client>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |client| client.0);
    let Err(not_until) = limit.limiter.check_key(&client) else { return next.run(request).await };
    let wait = not_until.wait_time_from(limit.limiter.clock().now());
    let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
    let headers = [
        ("content-type", "application/problem+json".to_owned()),
        ("retry-after", seconds.to_string()),
        ("ratelimit-policy", limit.policy.clone()),
        ("ratelimit", format!("\"limit\";r=0;t={seconds}")),
    ];
    let body = r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"There were enough requests for now; try again later.","code":"rate_limited"}"#;
    (StatusCode::TOO_MANY_REQUESTS, headers, body).into_response()
}
