//! The admin API: what an operator asks of a host and tells it, as JSON over HTTP, on a listener of its own.
//!
//! Owns the routes, who may use them, and what an error looks like there. **Invariant:** nothing but `health` and `ready`
//! answers without the token, and every refusal is a problem (RFC 9457) with a stable code. Work that takes its time is
//! done on a thread for it; a client that goes away stops no change that has begun.

mod auth;
mod components;
mod problem;
mod releases;
mod status;

pub use auth::{TOKEN_FILE, TOKEN_VARIABLE, Token};

use super::Host;
use super::tasks::Tasks;
use crate::api::PREFIX;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, head, post, put};
use http::header::CONTENT_TYPE;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use problem::Problem;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections open at once; an operator has few.
const CONNECTIONS_MAX: usize = 256;
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
    began: Instant,
    /// Where the host serves.
    listen: SocketAddr,
}

impl Admin {
    /// The admin API of `host`, which serves at `listen`.
    pub fn new(host: Arc<Host>, token: Token, listen: SocketAddr) -> Arc<Self> {
        Arc::new(Self { host, token, began: Instant::now(), listen })
    }
}

/// What answers one method.
type Answers = (&'static str, MethodRouter<Arc<Admin>>);

/// Its routes: the path behind the version, and who answers which method.
fn routes() -> Vec<(&'static str, Vec<Answers>)> {
    vec![
        ("/health", vec![("get", get(status::health))]),
        ("/ready", vec![("get", get(status::ready))]),
        ("/openapi.json", vec![("get", get(openapi))]),
        ("/status", vec![("get", get(status::status))]),
        ("/apps", vec![("get", get(status::apps))]),
        ("/apps/{app}", vec![("get", get(status::app)), ("delete", delete(releases::remove))]),
        ("/apps/{app}/releases", vec![("get", get(releases::list)), ("post", post(releases::deploy))]),
        ("/apps/{app}/releases/{number}", vec![("get", get(releases::one))]),
        ("/apps/{app}/promote", vec![("post", post(releases::promote))]),
        ("/apps/{app}/rollback", vec![("post", post(releases::rollback))]),
        ("/components/{sha256}", vec![("head", head(components::head)), ("put", put(components::put))]),
    ]
}

fn router(admin: Arc<Admin>) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, (path, answers)| {
        let methods = answers.into_iter().fold(MethodRouter::new(), |methods, (_, one)| methods.merge(one));
        router.route(&format!("{PREFIX}{path}"), methods)
    });
    router
        .fallback(async || Problem::NoRoute)
        .method_not_allowed_fallback(async || Problem::NoMethod)
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize))
        .with_state(admin)
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

/// Answers on `listener` until `stop` completes; then finishes what it has begun.
pub async fn serve(admin: Arc<Admin>, listener: TcpListener, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = Tasks::default();
    let service = TowerToHyperService::new(router(admin));
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
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = service.clone();
        tasks.spawn(async move {
            // HTTP/1.1 alone, where hyper bounds each head and the time between requests: a client that says nothing holds no
            // place for long.
            let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
            builder.http1().timer(TokioTimer::new()).header_read_timeout(CLIENT_TIMEOUT);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a connection to the admin API ended early");
            }
            drop(place);
        });
    }
    tasks.finish_within(STOP_TIME).await.stop().await;
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
            .flat_map(|(path, answers)| answers.iter().map(move |(method, _)| format!("{method} {PREFIX}{path}")))
            .collect();
        assert_eq!(documented, answered);
    }
}
