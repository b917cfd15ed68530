//! The admin API: what an operator asks of a host and tells it, as JSON over HTTP, on a listener of its own.
//!
//! Owns the routes, who may use them, and what an error looks like there. **Invariant:** nothing but `health`, `ready` and
//! the files of the dashboard, which know nothing, answers without the token, and every refusal is a problem (RFC 9457) with a stable code. Work that takes its time is
//! done on a thread for it; a client that goes away stops no change that has begun.

mod auth;
mod components;
mod dashboard;
mod events;
mod live;
mod logs;
mod metrics;
mod problem;
mod receipts;
mod releases;
mod status;
mod usage;

pub use auth::{TOKEN_FILE, TOKEN_VARIABLE, Token};

use super::Host;
use super::connection::secure;
use super::places::Places;
use super::stream::Stream;
use super::tasks::Tasks;
use super::tls::Tls;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, head, post, put};
use http::header::CONTENT_TYPE;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use problem::Problem;
#[cfg(fuzzing)]
pub(super) use problem::of_text as problem_of;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Connections open at once, and those among them of one client; an operator has few.
const CONNECTIONS_MAX: usize = 256;
const CONNECTIONS_PER_CLIENT_MAX: u32 = 128;
/// How long a client may take over a request's head, and over the next piece of a body.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests go on that were begun when the host stops to answer.
const STOP_TIME: Duration = Duration::from_secs(1);
/// How long the host waits after an accept failed before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What anybody may ask.
const OPEN_PATHS: [&str; 2] = ["/v1/health", "/v1/ready"];

/// What describes it to programs.
const OPENAPI: &str = include_str!("admin/openapi.json");

/// What the handlers know.
pub struct Admin {
    host: Arc<Host>,
    token: Token,
    /// Answers that go on end here.
    stopping: AtomicBool,
    /// Where the host serves.
    listen: SocketAddr,
}

impl Admin {
    /// The admin API of `host`, which serves at `listen`.
    pub fn new(host: Arc<Host>, token: Token, listen: SocketAddr) -> Arc<Self> {
        Arc::new(Self { host, token, stopping: AtomicBool::new(false), listen })
    }
}

/// What answers one method.
type Answers = (&'static str, MethodRouter<Arc<Admin>>);

/// Its routes: who answers which method of which path.
fn routes() -> Vec<(&'static str, Vec<Answers>)> {
    vec![
        ("/metrics", vec![("get", get(metrics::metrics))]),
        ("/v1/health", vec![("get", get(status::health))]),
        ("/v1/ready", vec![("get", get(status::ready))]),
        ("/v1/openapi.json", vec![("get", get(openapi))]),
        ("/v1/status", vec![("get", get(status::status))]),
        ("/v1/functions", vec![("get", get(live::functions))]),
        ("/v1/live", vec![("get", get(live::live))]),
        ("/v1/logs", vec![("get", get(logs::find))]),
        ("/v1/logs/tail", vec![("get", get(logs::tail))]),
        ("/v1/receipts", vec![("get", get(receipts::find))]),
        ("/v1/receipts/tail", vec![("get", get(receipts::tail))]),
        ("/v1/receipts/{id}", vec![("get", get(receipts::one))]),
        ("/v1/usage", vec![("get", get(usage::usage))]),
        ("/v1/apps", vec![("get", get(status::apps))]),
        ("/v1/apps/{app}", vec![("get", get(status::app)), ("delete", delete(releases::remove))]),
        ("/v1/apps/{app}/releases", vec![("get", get(releases::list)), ("post", post(releases::deploy))]),
        ("/v1/apps/{app}/releases/{number}", vec![("get", get(releases::one))]),
        ("/v1/apps/{app}/promote", vec![("post", post(releases::promote))]),
        ("/v1/apps/{app}/rollback", vec![("post", post(releases::rollback))]),
        ("/v1/components/{sha256}", vec![("head", head(components::head)), ("put", put(components::put))]),
    ]
}

fn router(admin: Arc<Admin>) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, answers)| {
        let methods = answers.into_iter().fold(MethodRouter::new(), |methods, (_, one)| methods.merge(one));
        router.route(path, methods)
    });
    router
        .fallback(async || Problem::NoRoute)
        .method_not_allowed_fallback(async || Problem::NoMethod)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize))
        .merge(dashboard::router())
        .with_state(admin)
}

/// The query of a request, as axum has it.
type QueryOf<T> = Result<Query<T>, QueryRejection>;

fn query<T>(asked: QueryOf<T>) -> Result<T, Problem> {
    asked.map(|Query(query)| query).map_err(|error| Problem::BadRequest(format!("{}.", error.body_text())))
}

/// This API, as programs read it.
async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Lets nobody in without the token. Who has none does not learn which paths there are either.
async fn authorize(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let open = OPEN_PATHS.contains(&request.uri().path());
    if open || admin.token.is_in(request.headers()) {
        next.run(request).await
    } else {
        Problem::NoToken.into_response()
    }
}

/// Answers on `listener`, by TLS where there is any, until `stop` completes; then finishes what it has begun.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener, tls: Option<Arc<Tls>>, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let places = Places::new(CONNECTIONS_PER_CLIENT_MAX);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = Tasks::default();
    let (stop_connections, stopping) = watch::channel(false);
    let service = TowerToHyperService::new(router(Arc::clone(&admin)));
    loop {
        let accepted = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (stream, client) = match accepted {
            Ok((stream, peer)) => (stream, places.take(peer.ip())),
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(client) = client else {
            tracing::debug!("a client of the admin API has as many connections as it may have");
            continue;
        };
        // As for functions (`socket`): an answer must not wait for the acknowledgement of what TLS sent before it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let (admin, tls) = (Arc::clone(&admin), tls.clone());
        let (service, mut stopping) = (service.clone(), stopping.clone());
        tasks.spawn(async move {
            let _places = (place, client);
            let secured = tokio::select! {
                secured = secure(&admin.host, tls.as_deref(), stream) => secured,
                _ = stopping.wait_for(|stopping| *stopping) => None,
            };
            if let Some(stream) = secured {
                serve_connection(stream, service, stopping).await;
            }
        });
    }
    admin.stopping.store(true, Ordering::Release);
    let _ = stop_connections.send(true);
    if let Some(left) = tasks.finish_within(STOP_TIME).await {
        left.stop().await;
    }
}

async fn serve_connection(stream: Stream, service: TowerToHyperService<Router>, mut stopping: watch::Receiver<bool>) {
    // HTTP/1.1 alone, where hyper bounds each head and the time between requests: a client that says nothing holds no
    // place for long.
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => Some(served),
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let served = if let Some(served) = served {
        served
    } else {
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin API ended early");
    }
}

/// Runs `work` on a thread where it may block, to its end, whether its client waits or not.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Problem::Host(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_openapi_file_has_exactly_the_routes_that_are_answered() {
        let described: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut documented = BTreeSet::new();
        for (path, methods) in described["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                documented.insert(format!("{method} {path}"));
            }
        }
        let answered: BTreeSet<String> = routes()
            .iter()
            .flat_map(|(path, answers)| answers.iter().map(move |(method, _)| format!("{method} {path}")))
            .collect();
        assert_eq!(documented, answered);
    }
}
