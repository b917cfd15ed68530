//! The way of a request: one flat function. Every branch is here; helpers compute, they do not decide.

use super::build_page::BuildFailure;
use super::client_body::ClientBody;
use super::observe::Observation;
use super::respond::{self, ResponseBody};
use super::{Host, Peer};
use crate::names::RequestId;
use crate::receipt::Outcome;
use crate::release::Route;
use crate::release::routes::RouteError;
use crate::runtime::invoke::{self, Call, Measure};
use http::header::{CONTENT_LENGTH, HOST, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Answers one request.
pub(super) async fn handle(host: Arc<Host>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<ResponseBody> {
    let mut request = request.map(|body| ClientBody::new(body, peer.upload_socket()));
    let close = host.draining.load(Ordering::Acquire);
    let serving = host.deployments.live().current();
    // In the live loop alone.
    let failure = host.build_failure.load_full();
    let live_of = |failure: &BuildFailure| serving.app(failure.app()).map(|app| app.live.number);
    let mut observed = Observation::begin(host, Arc::clone(&peer), &request);
    let Some(target) = Target::of(&request, &peer) else {
        return respond::refusal(observed, Outcome::BadRequest, close);
    };
    let path = target.path_and_query.clone();
    let found = serving.find(target.authority.host(), request.method(), path.path(), request.headers());
    if let Some((canary, lot)) = found.trial {
        observed.drew(canary, lot);
    }
    if let Some(failure) = &failure
        && failure.concerns(&request, found.matched.as_ref().ok().map(|found| &found.route.app))
    {
        return respond::build_page(observed, failure, live_of(failure), close);
    }
    let found = match found.matched {
        Ok(found) => found,
        Err(_) if failure.as_ref().is_some_and(|failure| live_of(failure).is_none()) => {
            return respond::refusal(observed, Outcome::NotBuilt, close);
        }
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
    found.route.mark(request.headers_mut(), &found.params);
    let mut call = target.apply(&mut request, &peer, observed.request_id(), found.route);
    call.traceparent = observed.mark_trace(request.headers_mut());
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
}

impl Target {
    /// Reads it from the target and from Host; a target in absolute form wins (RFC 9112, 3.2.2). Without either, as
    /// HTTP/1.0 allows, it is the address that was connected to.
    fn of<B>(request: &Request<B>, peer: &Peer) -> Option<Self> {
        let path_and_query = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let authority = match (request.uri().authority(), request.headers().get(HOST)) {
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => Authority::try_from(host.as_bytes()).ok()?,
            (None, None) => Authority::try_from(peer.ends.local.to_string()).ok()?,
        };
        (!authority.as_str().contains('@')).then_some(Self { authority, path_and_query })
    }

    /// Writes it into the request, whole, so that a guest finds scheme and authority there whatever the protocol was.
    fn apply<B>(self, request: &mut Request<B>, peer: &Peer, request_id: RequestId, route: &Route) -> Call {
        let authority = self.authority.clone();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority);
        parts.path_and_query = Some(self.path_and_query);
        // Three parts that were valid by themselves, with an authority there, make a valid URI.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        Call {
            request_id,
            authority,
            client: peer.ends.peer.ip(),
            route_prefix_bytes: route.prefix_bytes,
            traceparent: None,
            stalled: Arc::clone(&peer.stalled),
        }
    }
}

/// The length that a request declares. One that is no number was refused before.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
