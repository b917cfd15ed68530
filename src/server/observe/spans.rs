//! Traces: a span for each request, and one within it for each of its phases.
//!
//! Spans are made of receipts, when their requests have ended: while a request runs, its trace is a name, a flag, and a path.
//! **Invariant:** a span says what the semantic conventions of HTTP have a word for in that word (`OpenTelemetry`, HTTP spans,
//! HTTP server), and names of spans are as few as routes and methods make.

use super::exporter::{BATCH_SPANS_MAX, SpanQueue};
use crate::receipt::{Outcome, Receipt};
use crate::trace;
use http::Method;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::borrow::Cow;
use std::time::Duration;

/// The most bytes of a path that are told.
const PATH_BYTES_MAX: usize = 1024;

/// What is told of a request besides its receipt, if its trace is recorded.
pub(super) struct Traced {
    path: Box<str>,
    /// The path of its route, as functions.toml has it.
    pub(super) route: Option<Box<str>>,
}

/// Spans on their way to the queue.
pub(super) struct Spans {
    scope: InstrumentationScope,
    batch: Vec<SpanData>,
    queue: SpanQueue,
}

impl Traced {
    /// Of a request for `path`. The query is left out: secrets stand there.
    pub(super) fn of_path(path: &str) -> Self {
        let end = (0..=path.len().min(PATH_BYTES_MAX)).rev().find(|at| path.is_char_boundary(*at));
        let path = path.get(..end.unwrap_or_default()).unwrap_or_default();
        Self { path: path.into(), route: None }
    }
}

impl Spans {
    pub(super) fn new(queue: SpanQueue) -> Self {
        let scope = InstrumentationScope::builder("fnhost").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { scope, batch: Vec::new(), queue }
    }

    /// Adds the spans of a request whose trace is recorded.
    pub(super) fn add(&mut self, receipt: &Receipt, traced: &Traced) {
        let Some(context) = receipt.trace else { return };
        let phases = receipt.phases.named().into_iter().filter(|(_, took)| !took.is_zero());
        if !self.queue.reserve(1 + phases.count()) {
            return;
        }
        let trace = TraceId::from(context.trace);
        let root = SpanId::from(context.span);
        let began = receipt.ended - receipt.phases.queue - receipt.phases.since_permit();
        let span = |id: SpanId, parent: SpanId, is_remote, name: Cow<'static, str>, start, end| SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: is_remote,
            span_kind: if id == root { SpanKind::Server } else { SpanKind::Internal },
            name,
            start_time: start,
            end_time: end,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        };
        let parent = context.parent.map_or(SpanId::INVALID, SpanId::from);
        let mut whole = span(root, parent, context.parent.is_some(), name_of(receipt, traced), began, receipt.ended);
        whole.attributes = attributes(receipt, traced);
        whole.status = status_of(receipt);
        self.batch.push(whole);
        let mut start = began;
        for (name, took) in receipt.phases.named() {
            let end = start + took;
            if !took.is_zero() {
                self.batch.push(span(SpanId::from(trace::new_span()), root, false, Cow::Borrowed(name), start, end));
            }
            start = end;
        }
        if self.batch.len() >= BATCH_SPANS_MAX {
            self.send();
        }
    }

    /// Has those sent that there are.
    pub(super) fn send(&mut self) {
        if !self.batch.is_empty() {
            self.queue.send(std::mem::take(&mut self.batch));
        }
    }
}

/// A method, if it is one of those that HTTP has.
fn known(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    known.contains(method).then(|| method.as_str())
}

/// The method and the route, where there is one.
fn name_of(receipt: &Receipt, traced: &Traced) -> Cow<'static, str> {
    let method = known(&receipt.method).unwrap_or("HTTP");
    Cow::Owned(traced.route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}")))
}

/// What a 4xx means is the client's to say, and what a 5xx means, its number does.
fn status_of(receipt: &Receipt) -> Status {
    match (receipt.is_error(), receipt.status) {
        (false, _) => Status::Unset,
        (true, 500..) => Status::error(""),
        (true, _) => Status::error(receipt.outcome.as_str()),
    }
}

/// What is said of a request: by the semantic conventions of HTTP and `FaaS`, where they have a word.
fn attributes(receipt: &Receipt, traced: &Traced) -> Vec<KeyValue> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let method = known(&receipt.method);
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.unwrap_or("_OTHER").to_owned()),
        KeyValue::new("url.scheme", "http"),
        KeyValue::new("url.path", traced.path.to_string()),
        KeyValue::new("faas.trigger", "http"),
        KeyValue::new("fnhost.request_id", receipt.request_id.to_string()),
        KeyValue::new("fnhost.outcome", receipt.outcome.as_str()),
    ];
    if method.is_none() {
        attributes.push(KeyValue::new("http.request.method_original", receipt.method.to_string()));
    }
    if receipt.status != 0 {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(receipt.status)));
    }
    if let Some(route) = &traced.route {
        attributes.push(KeyValue::new("http.route", route.to_string()));
    }
    if let Some((app, function)) = receipt.app.as_ref().zip(receipt.function.as_ref()) {
        attributes.push(KeyValue::new("fnhost.app", app.to_string()));
        attributes.push(KeyValue::new("faas.name", function.to_string()));
        attributes.push(KeyValue::new("faas.version", receipt.release.unwrap_or_default().to_string()));
    }
    if receipt.had_sandbox() {
        attributes.push(KeyValue::new("faas.coldstart", true));
        attributes.push(KeyValue::new("fnhost.cpu_ns", nanos(receipt.cpu)));
        attributes.push(KeyValue::new("fnhost.memory_peak_bytes", whole(receipt.memory_peak_bytes)));
        attributes.push(KeyValue::new("http.request.body.size", whole(receipt.bytes_in)));
        attributes.push(KeyValue::new("http.response.body.size", whole(receipt.bytes_out)));
    }
    if receipt.is_error() {
        let of_status = matches!(receipt.outcome, Outcome::Ok | Outcome::ClientGone | Outcome::Shutdown);
        let error = if of_status { receipt.status.to_string() } else { receipt.outcome.as_str().to_owned() };
        attributes.push(KeyValue::new("error.type", error));
    }
    attributes
}
