//! The way of a request: one flat function. Every branch is here; helpers compute, they do not decide.

use super::observe::Observation;
use super::{Host, Peer, respond};
use crate::names::strip_host_headers;
use crate::receipt::Outcome;
use crate::release::Route;
use crate::release::routes::RouteError;
use crate::runtime::invoke::{self, Call, Measure};
use axum::body::Body;
use axum::extract::State;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const ROUTE_HEADER: HeaderName = HeaderName::from_static("fnhost-route");

/// Answers one request.
pub(super) async fn handle(State(host): State<Arc<Host>>, mut request: Request<Body>) -> Response<Body> {
    let mut observed = Observation::begin(Arc::clone(&host), &request);
    let close = host.draining.load(Ordering::Acquire);
    let Some(target) = Target::of(&request) else {
        return respond::refusal(observed, Outcome::BadRequest, close);
    };
    let release = host.live.current();
    let path = target.path_and_query.clone();
    let found = match release.routes.find(target.authority.host(), request.method(), path.path()) {
        Ok(found) => found,
        Err(RouteError::NoRoute) => return respond::refusal(observed, Outcome::NoRoute, close),
        Err(RouteError::NoMethod { allow }) => return respond::wrong_method(observed, &allow, close),
    };
    let function = &found.route.function;
    observed.found(found.route);
    if declared_length(request.headers()).is_some_and(|length| length > function.limits.request_body_bytes) {
        return respond::refusal(observed, Outcome::BodyTooLarge, close);
    }
    let permit = match function.gate.enter().await {
        Ok(permit) => permit,
        Err(refused) => return respond::busy(observed, refused, function.limits.queue_wait, close),
    };
    let measure = Measure::begin(function);
    observed.admitted(measure.clone());
    mark(request.headers_mut(), found.route, &found.params);
    let call = target.apply(&mut request, &observed, found.route);
    let bodiless = respond::sends_no_body(request.method());
    match invoke::invoke(function, permit, &measure, request, call).await {
        Ok(response) => respond::answer(observed, response, bodiless, close),
        Err(error) => respond::failure(observed, &error, close),
    }
}

/// Whom and what a request asks for.
struct Target {
    authority: Authority,
    path_and_query: PathAndQuery,
    peer: Option<Peer>,
}

impl Target {
    /// Reads it from the target and from Host; a target in absolute form wins (RFC 9112, 3.2.2). Without either, as
    /// HTTP/1.0 allows, it is the address that was connected to.
    fn of(request: &Request<Body>) -> Option<Self> {
        let peer = request.extensions().get::<Peer>().cloned();
        let path_and_query = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let authority = match (request.uri().authority(), request.headers().get(HOST)) {
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => Authority::try_from(host.as_bytes()).ok()?,
            (None, None) => Authority::try_from(peer.as_ref()?.ends.local.to_string()).ok()?,
        };
        (!authority.as_str().contains('@')).then_some(Self { authority, path_and_query, peer })
    }

    /// Writes it into the request, whole, so that a guest finds scheme and authority there whatever the protocol was.
    fn apply(self, request: &mut Request<Body>, observed: &Observation, route: &Route) -> Call {
        let authority = self.authority.to_string();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority);
        parts.path_and_query = Some(self.path_and_query);
        // Three parts that were valid by themselves, with an authority there, make a valid URI.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        Call {
            request_id: observed.request_id(),
            authority,
            client_address: self.peer.as_ref().map(|peer| peer.ends.peer.ip().to_string()).unwrap_or_default(),
            route_prefix_bytes: route.prefix_bytes,
            stalled: self.peer.map(|peer| peer.stalled).unwrap_or_default(),
        }
    }
}

/// The length that a request declares. One that is no number was refused before.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Replaces whatever a client said in the host's own headers by what the host knows.
fn mark(headers: &mut HeaderMap, route: &Route, params: &[&str]) {
    strip_host_headers(headers);
    headers.insert(ROUTE_HEADER, route.label.clone());
    for (name, value) in route.param_headers.iter().zip(params) {
        // A path was parsed as a URI, so it has nothing that a header could not carry; it may be raw UTF-8.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.insert(name.clone(), value);
        }
    }
}
