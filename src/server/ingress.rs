//! The way of a request: one flat function. Every branch is here; helpers compute, they do not decide.

use super::build_page::BuildFailure;
use super::client_body::ClientBody;
use super::forwarded::Client;
use super::observe::Observation;
use super::respond::{self, ResponseBody};
use super::target::{NoTarget, Target};
use super::{Host, Peer};
use crate::names::RequestId;
use crate::receipt::Outcome;
use crate::release::Route;
use crate::release::routes::RouteError;
use crate::runtime::invoke::{self, Call, Measure};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http::uri::Scheme;
use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What can be asked here, of some function or other; functions may answer methods of their own besides.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Answers one request.
pub(super) async fn handle(host: Arc<Host>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<ResponseBody> {
    let mut request = request.map(|body| ClientBody::new(body, peer.upload_socket()));
    let close = peer.is_spent(host.settings.requests_per_connection.into()) || host.draining.load(Ordering::Acquire);
    let client = Client::of(request.headers_mut(), &peer, &host.settings.trusted_proxies);
    let serving = host.deployments.live().current();
    // In the live loop alone.
    let failure = host.build_failure.load_full();
    let live_of = |failure: &BuildFailure| serving.app(failure.app()).map(|app| app.live.number);
    let mut observed = Observation::begin(host, Arc::clone(&peer), &request);
    let target = match Target::of(&request, peer.authority()) {
        // It came with an upload that others may end elsewhere.
        _ if peer.socket.has_unclear_end() => return respond::refusal(observed, Outcome::BadRequest, close),
        Ok(target) => target,
        Err(NoTarget::Malformed) => return respond::refusal(observed, Outcome::BadRequest, close),
        Err(NoTarget::TooLong) => return respond::refusal(observed, Outcome::TargetTooLong, close),
        Err(NoTarget::HeadTooLarge) => return respond::refusal(observed, Outcome::HeadersTooLarge, close),
        Err(NoTarget::NotImplemented) => return respond::refusal(observed, Outcome::NotImplemented, close),
        // Who asks for a tunnel may be using it already, and what goes through it is no request.
        Err(NoTarget::Tunnel) => return respond::wrong_method(observed, METHODS, true),
        Err(NoTarget::Server) => return respond::server_options(observed, METHODS, close),
    };
    if let Some(https_port) = peer.leads_to {
        let close = close || !request.body().is_end_stream();
        // Whom a proxy asks for that has HTTPS already would be sent here again and again.
        return match target.at_https(https_port).filter(|_| client.scheme == Scheme::HTTP) {
            Some(location) => respond::elsewhere(observed, location, close),
            None => respond::refusal(observed, Outcome::BadRequest, close),
        };
    }
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
        Err(RouteError::NoMethod { allow }) => return respond::wrong_method(observed, &allow.join(", "), close),
    };
    let function = &found.route.function;
    observed.found(found.route);
    let (passage, answer) = found.route.chain.pass(&mut request, found.route.asked(client.address)).await;
    observed.passed(passage);
    if let Some(answer) = answer {
        return respond::by_middleware(observed, answer, close);
    }
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
    observed.passage().mark_user(request.headers_mut());
    let mut call = call_of(&target, &client, &peer, observed.request_id(), found.route);
    target.write(client.scheme, &mut request);
    call.traceparent = observed.mark_trace(request.headers_mut());
    let bodiless = respond::sends_no_body(request.method());
    match invoke::invoke(function, permit, &measure, request, call).await {
        Ok(response) => respond::answer(observed, response, bodiless, close),
        Err(error) => respond::failure(observed, &error, close),
    }
}

/// What the host says of a request, beside the request itself.
fn call_of(target: &Target, client: &Client, peer: &Peer, request_id: RequestId, route: &Route) -> Call {
    Call {
        request_id,
        authority: target.authority.clone(),
        client: client.address,
        route_prefix_bytes: route.prefix_bytes,
        traceparent: None,
        stalled: Arc::clone(&peer.stalled),
    }
}

/// The length that a request declares. One that is no number was refused before.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
