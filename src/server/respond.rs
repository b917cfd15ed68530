//! The one place where an outcome becomes a status, and where a guest's answer becomes the client's.
//!
//! Errors are `application/problem+json` (RFC 9457) with a stable `code`; what went wrong in detail is in the log under
//! the same request id, and never in the body. **Invariant:** no wildcard arm: a new outcome must choose its status.

mod file;

use super::observe::Observation;
use crate::middleware::{Answer, Encoder};
use crate::names::strip_host_headers;
use crate::receipt::Outcome;
use crate::release::canary::strip_cookie;
use crate::runtime::gate::Refused;
use crate::runtime::guest::InvokeError;
use crate::runtime::response::{GuestBody, Rest};
use bytes::Bytes;
use file::FileOut;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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
        Outcome::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The upload is larger than the function takes."),
        Outcome::HeadersTooLarge => {
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are larger than the function takes.")
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
        Outcome::Shutdown => (StatusCode::SERVICE_UNAVAILABLE, "The host is stopping."),
        // Nobody is there to read it; 499 is what logs have for it since nginx.
        Outcome::ClientGone => (StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST), ""),
    }
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

/// 405, with the methods that would do (RFC 9110, 15.5.6).
pub(super) fn wrong_method(observed: Observation, allow: &[String], close: bool) -> Response<ResponseBody> {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&allow.join(", ")) {
        headers.insert(ALLOW, value);
    }
    problem(observed, Outcome::NoMethod, headers, close)
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
        ResponseBody::of(Vec::new())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn problem(mut observed: Observation, outcome: Outcome, mut headers: HeaderMap, close: bool) -> Response<ResponseBody> {
    let (status, detail) = status_and_detail(outcome);
    observed.answered(status);
    let mut id = [0; 32];
    let body = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or_default(),
        status: status.as_u16(),
        detail,
        code: outcome.as_str(),
        function: observed.function_name(),
        request_id: observed.request_id().encode(&mut id),
    };
    // Strings and numbers cannot fail to become JSON.
    let mut body = serde_json::to_vec(&body).unwrap_or_default();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if close || matches!(outcome, Outcome::BodyTooLarge | Outcome::BodyTimeout) {
        // The rest of an upload that nobody wants is not read either.
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

/// Whether a response to this method has no body, whatever it says (RFC 9110, 9.3.2).
pub(super) fn sends_no_body(method: &Method) -> bool {
    method == Method::HEAD
}

/// A guest's answer.
pub(super) fn answer(
    mut observed: Observation,
    response: Response<GuestBody>,
    bodiless: bool,
    close: bool,
) -> Response<ResponseBody> {
    let (mut parts, mut body) = response.into_parts();
    // A client that does not read its answer must not hold a sandbox that nobody needs.
    observed.guest_ended(&mut body);
    if parts.status.is_informational() {
        // 1xx belong to the connection: the client would go on waiting, or take it for another protocol.
        let error = InvokeError::GuestError(format!("the guest answered with the status {}", parts.status.as_u16()));
        return failure(observed, &error, close);
    }
    strip_host_headers(&mut parts.headers);
    strip_cookie(&mut parts.headers);
    observed.answered(parts.status);
    observed.passage().go_back(&mut parts.headers);
    let encoder = observed.passage().encoder(parts.status, &mut parts.headers, body.size_hint().exact());
    observed.sign(&mut parts.headers);
    if close {
        // HTTP/2 has no such header, and hyper takes it out there.
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let no_body = bodiless || parts.status == StatusCode::NO_CONTENT || parts.status == StatusCode::NOT_MODIFIED;
    if no_body {
        let length = body.size_hint().exact();
        if let (true, Some(length), false) = (bodiless, length, parts.headers.contains_key(CONTENT_LENGTH)) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        observed.finish_without_client(body, Rest::Unread);
        return Response::from_parts(parts, ResponseBody::of(Vec::new()));
    }
    let expected = declared_length(&parts.headers).or_else(|| body.size_hint().exact());
    let body = ObservedBody { reading: Some(Reading { body, encoder, observed }), sent: 0, expected };
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
    fn of(text: Vec<u8>) -> Self {
        Self::Host(Full::new(Bytes::from(text)))
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        match self.get_mut() {
            Self::Host(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Guest(body) => Pin::new(body).poll_frame(cx),
            Self::File(body) => Pin::new(body).poll_frame(cx),
        }
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

/// A guest's body on its way to the client, and the receipt that is written when it ends.
pub(super) struct ObservedBody {
    /// Nothing once it has ended.
    reading: Option<Reading>,
    sent: u64,
    /// How many bytes there are to be, where that is known.
    expected: Option<u64>,
}

struct Reading {
    body: GuestBody,
    /// What makes it smaller, if something does.
    encoder: Option<Encoder>,
    observed: Observation,
}

impl Reading {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        match &mut self.encoder {
            Some(encoder) => {
                encoder.poll_frame(Pin::new(&mut self.body), cx, |error| InvokeError::Host(error.to_string()))
            }
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    /// Whether all of it was read.
    fn has_ended(&self) -> bool {
        self.encoder.as_ref().map_or_else(|| self.body.has_ended(), Encoder::has_ended)
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        match ready!(reading.poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_host_headers(trailers);
                }
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                reading.observed.add_bytes_out(length);
                self.sent += length;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(reading) = self.reading.take() {
                    reading.observed.cut();
                    reading.observed.log_failure(&error);
                    reading.observed.end(error.outcome());
                }
                // The connection is cut, or the stream reset, so that the client can tell.
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if let Some(reading) = self.reading.take() {
                    reading.observed.finish_without_client(reading.body, Rest::Read);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.as_ref().is_none_or(|reading| match &reading.encoder {
            Some(encoder) => encoder.has_ended(),
            None => reading.body.is_end_stream(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reading {
            None => SizeHint::with_exact(0),
            Some(Reading { encoder: Some(_), .. }) => SizeHint::default(),
            Some(reading) => reading.body.size_hint(),
        }
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        let Some(reading) = self.reading.take() else { return };
        // A connection stops reading at the last byte that was announced, and need not ask for the end.
        let is_sent = self.expected.is_some_and(|expected| self.sent >= expected && reading.encoder.is_none());
        let complete = reading.has_ended() || is_sent;
        if complete {
            reading.observed.finish_without_client(reading.body, Rest::Read);
        } else {
            let failure = reading.body.failure();
            // The guest goes with its body; nobody is there for whom it could work.
            drop(reading.body);
            if let Some(error) = &failure {
                reading.observed.log_failure(error);
            }
            match failure {
                Some(error) => reading.observed.end(error.outcome()),
                None => drop(reading.observed),
            }
        }
    }
}
