//! The one place where an outcome becomes a status, and where a guest's answer becomes the client's.
//!
//! Errors are `application/problem+json` (RFC 9457) with a stable `code`; what went wrong in detail is in the log under
//! the same request id, and never in the body. **Invariant:** no wildcard arm: a new outcome must choose its status.

mod file;
mod guest;

use super::build_page::BuildFailure;
use super::framing;
use super::observe::Observation;
use super::streams;
use crate::middleware::Answer;
use crate::names::{RELEASE_HEADER, RequestId, strip_host_headers};
use crate::receipt::Outcome;
use crate::release::canary::strip_cookie;
use crate::runtime::gate::Refused;
use crate::runtime::guest::InvokeError;
use crate::runtime::response::{GuestBody, Rest};
use bytes::Bytes;
use file::FileOut;
use guest::{ObservedBody, Promised};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The status of an outcome, and what a client is told about it.
fn status_and_detail(outcome: Outcome) -> (StatusCode, &'static str) {
    match outcome {
        Outcome::Ok | Outcome::StaticFile => (StatusCode::OK, ""),
        Outcome::Redirected => (StatusCode::PERMANENT_REDIRECT, ""),
        Outcome::Preflight => (StatusCode::NO_CONTENT, ""),
        Outcome::Unauthorized => {
            (StatusCode::UNAUTHORIZED, "The request does not say who asks, or not so that it is believed.")
        }
        Outcome::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "There were enough requests for now; try again later."),
        Outcome::BadRequest => (StatusCode::BAD_REQUEST, "The request is malformed."),
        Outcome::NoRoute => (StatusCode::NOT_FOUND, "No function has a route for this host and path."),
        Outcome::NoMethod => (StatusCode::METHOD_NOT_ALLOWED, "This path is answered for other methods."),
        Outcome::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "This host does not do that for anybody."),
        Outcome::TargetTooLong => (StatusCode::URI_TOO_LONG, "The target is longer than this host reads."),
        Outcome::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The upload is larger than the function takes."),
        Outcome::HeadersTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are larger than the host or the function takes.")
        }
        Outcome::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "The upload stopped in its middle."),
        Outcome::Busy => (StatusCode::SERVICE_UNAVAILABLE, "The function is busy; try again."),
        Outcome::Trap => (StatusCode::BAD_GATEWAY, "The function failed."),
        Outcome::NoResponse => (StatusCode::BAD_GATEWAY, "The function gave no response."),
        Outcome::GuestError => (StatusCode::BAD_GATEWAY, "The function answered with an error."),
        Outcome::MemoryLimit => (StatusCode::BAD_GATEWAY, "The function ran out of memory."),
        Outcome::Timeout => (StatusCode::GATEWAY_TIMEOUT, "The function did not finish in time."),
        Outcome::CpuLimit => (StatusCode::GATEWAY_TIMEOUT, "The function used up its CPU time."),
        Outcome::Host => (StatusCode::INTERNAL_SERVER_ERROR, "The host could not run the function."),
        Outcome::NotBuilt => {
            (StatusCode::SERVICE_UNAVAILABLE, "The app could not be built; its host's terminal says why.")
        }
        Outcome::Shutdown => (StatusCode::SERVICE_UNAVAILABLE, "The host is stopping."),
        // Nobody is there to read it; 499 is what logs have for it since nginx.
        Outcome::ClientGone => (StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST), ""),
    }
}

/// The status of an outcome that is not the guest's to choose.
pub(super) fn status_of(outcome: Outcome) -> StatusCode {
    status_and_detail(outcome).0
}

/// What a client reads of a failure (RFC 9457, 3).
#[derive(serde::Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    request_id: &'a str,
}

/// A request that no guest saw.
pub(super) fn refusal(observed: Observation, outcome: Outcome, close: bool) -> Response<ResponseBody> {
    problem(observed, outcome, HeaderMap::new(), close)
}

/// Where the same is to be had.
pub(super) fn elsewhere(observed: Observation, location: HeaderValue, close: bool) -> Response<ResponseBody> {
    own(observed, Outcome::Redirected, HeaderMap::from_iter([(LOCATION, location)]), Bytes::new(), close)
}

/// 405, with the methods that would do (RFC 9110, 15.5.6).
pub(super) fn wrong_method(observed: Observation, allow: &str, close: bool) -> Response<ResponseBody> {
    problem(observed, Outcome::NoMethod, allowing(allow), close)
}

/// What the host itself can do, for who asks it and no function (RFC 9110, 9.3.7).
pub(super) fn server_options(mut observed: Observation, allow: &str, close: bool) -> Response<ResponseBody> {
    let mut headers = allowing(allow);
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    observed.answered(StatusCode::OK);
    observed.sign(&mut headers);
    observed.end(Outcome::Ok);
    let mut response = Response::new(ResponseBody::of(Bytes::new()));
    *response.headers_mut() = headers;
    response
}

fn allowing(allow: &str) -> HeaderMap {
    HeaderValue::from_str(allow).into_iter().map(|value| (ALLOW, value)).collect()
}

/// 503, with the time after which to try again (RFC 9110, 10.2.3).
pub(super) fn busy(
    observed: Observation,
    refused: Refused,
    queue_wait: Duration,
    close: bool,
) -> Response<ResponseBody> {
    observed.log_refusal(refused);
    let mut headers = HeaderMap::new();
    let seconds = queue_wait.as_secs() + u64::from(queue_wait.subsec_nanos() > 0);
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    problem(observed, Outcome::Busy, headers, close)
}

/// A guest that did not answer.
pub(super) fn failure(observed: Observation, error: &InvokeError, close: bool) -> Response<ResponseBody> {
    observed.log_failure(error);
    problem(observed, error.outcome(), HeaderMap::new(), close)
}

/// What middleware answers in place of the function.
pub(super) fn by_middleware(mut observed: Observation, answer: Answer, close: bool) -> Response<ResponseBody> {
    let (usual, detail) = status_and_detail(answer.outcome);
    if !detail.is_empty() {
        return problem(observed, answer.outcome, answer.headers, close);
    }
    let status = answer.status.unwrap_or(usual);
    let mut headers = answer.headers;
    observed.answered(status);
    observed.passage().go_back(&mut headers);
    let size = answer.file.as_ref().and_then(|file| file.size_hint().exact());
    let encoder = answer.file.as_ref().and_then(|_| observed.passage().encoder(status, &mut headers, size));
    observed.sign(&mut headers);
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let body = if let Some(file) = answer.file {
        let expected = declared_length(&headers);
        ResponseBody::File(FileOut::new(file, encoder, observed, answer.outcome, expected))
    } else {
        observed.end(answer.outcome);
        ResponseBody::of(Bytes::new())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A person whose app could not be built. What of it is live goes on answering others, and is named.
pub(super) fn build_page(
    observed: Observation,
    failure: &BuildFailure,
    live: Option<u64>,
    close: bool,
) -> Response<ResponseBody> {
    let mut headers = failure.headers();
    headers.extend(live.map(|number| (RELEASE_HEADER, HeaderValue::from(number))));
    own(observed, Outcome::NotBuilt, headers, failure.page(), close)
}

fn problem(observed: Observation, outcome: Outcome, mut headers: HeaderMap, close: bool) -> Response<ResponseBody> {
    let body = words(outcome, observed.function_name(), observed.request_id());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    own(observed, outcome, headers, body.into(), close)
}

/// What a client reads of `outcome`.
pub(super) fn words(outcome: Outcome, function: Option<&str>, id: RequestId) -> Vec<u8> {
    let (status, detail) = status_and_detail(outcome);
    let mut buffer = [0; 32];
    let body = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
        code: outcome.as_str(),
        function,
        request_id: id.encode(&mut buffer),
    };
    // Strings and numbers cannot fail to become JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// The host's own words.
fn own(
    mut observed: Observation,
    outcome: Outcome,
    mut headers: HeaderMap,
    mut body: Bytes,
    close: bool,
) -> Response<ResponseBody> {
    let status = status_of(outcome);
    observed.answered(status);
    if close || is_last(outcome) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    observed.passage().go_back(&mut headers);
    observed.sign(&mut headers);
    if observed.method().is_some_and(sends_no_body) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        body.clear();
    }
    observed.add_bytes_out(body.len() as u64);
    observed.end(outcome);
    let mut response = Response::new(ResponseBody::of(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Whether nothing more is read from a connection behind this outcome: the rest of an upload that nobody wants, or what follows
/// a request that others may end at another byte.
fn is_last(outcome: Outcome) -> bool {
    matches!(
        outcome,
        Outcome::BadRequest
            | Outcome::NotImplemented
            | Outcome::TargetTooLong
            | Outcome::HeadersTooLarge
            | Outcome::BodyTooLarge
            | Outcome::BodyTimeout
    )
}

/// Whether a response to this method has no body, whatever it says (RFC 9110, 9.3.2).
pub(super) fn sends_no_body(method: &Method) -> bool {
    method == Method::HEAD
}

/// Makes an answer one of `version`, where that changes what it says: a client of HTTP/1.0 that would like to keep its connection is
/// told so by hyper, beside `close`, unless the answer is of HTTP/1.0 as well.
pub(super) fn fit_version(response: &mut Response<ResponseBody>, version: Version) {
    if version == Version::HTTP_10 && response.headers().contains_key(CONNECTION) {
        *response.version_mut() = version;
    }
}

/// A guest's answer.
pub(super) fn answer(
    mut observed: Observation,
    response: Response<GuestBody>,
    bodiless: bool,
    close: bool,
) -> Response<ResponseBody> {
    let (mut parts, mut body) = response.into_parts();
    let given = body.size_hint().exact();
    let promised = match framing::correct(&mut parts, given, bodiless) {
        Ok(promised) => promised,
        Err(unfit) => return failure(observed, &InvokeError::GuestError(unfit.to_string()), close),
    };
    // A client that does not read its answer must not hold a sandbox that nobody needs.
    observed.guest_ended(&mut body);
    strip_host_headers(&mut parts.headers);
    strip_cookie(&mut parts.headers);
    observed.answered(parts.status);
    observed.passage().go_back(&mut parts.headers);
    let no_body = framing::is_bodiless(parts.status);
    let encoder =
        if no_body { None } else { observed.passage().encoder(parts.status, &mut parts.headers, promised.or(given)) };
    observed.sign(&mut parts.headers);
    if close {
        // HTTP/2 has no such header, and hyper takes it out there.
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if bodiless || no_body {
        if let (true, Some(length), None, false) = (bodiless, given, promised, no_body) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        observed.finish_without_client(body, Rest::Unread);
        return Response::from_parts(parts, ResponseBody::of(Bytes::new()));
    }
    let body = ObservedBody::new(Promised::new(body, promised), encoder, observed, promised.or(given));
    Response::from_parts(parts, ResponseBody::Guest(body))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// What a client gets.
pub(super) enum ResponseBody {
    /// The host's own words.
    Host(Full<Bytes>),
    /// A guest's.
    Guest(ObservedBody),
    /// A file's.
    File(FileOut),
}

impl ResponseBody {
    fn of(text: Bytes) -> Self {
        Self::Host(Full::new(text))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = match self.get_mut() {
            Self::Host(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Guest(body) => Pin::new(body).poll_frame(cx),
            Self::File(body) => Pin::new(body).poll_frame(cx),
        };
        streams::note_given(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Host(body) => body.is_end_stream(),
            Self::Guest(body) => body.is_end_stream(),
            Self::File(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Host(body) => body.size_hint(),
            Self::Guest(body) => body.size_hint(),
            Self::File(body) => body.size_hint(),
        }
    }
}
