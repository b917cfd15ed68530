//! Traces, told to a receiver of OTLP: a span for each request, and one within it for each of its phases.
//!
//! Spans are made of receipts, when their requests have ended: while a request runs, its trace is a name and a flag.
//! **Invariant:** nobody waits for the receiver; what it does not take in time is dropped, and counted.

use crate::receipt::{Outcome, Receipt};
use crate::trace;
use http::Method;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use std::borrow::Cow;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Spans of one export, or a few more.
const EXPORT_SPANS: usize = 2048;
/// How many batches, each of some milliseconds, wait for the receiver.
const BATCHES_MAX: usize = 256;
/// The most spans of a batch.
const BATCH_SPANS_MAX: usize = 8192;
/// How long the receiver may take over one.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often what was dropped is told.
const TROUBLE_INTERVAL: Duration = Duration::from_mins(1);
/// How long spans wait for others to be sent with them.
const LINGER_TIME: Duration = Duration::from_millis(200);

/// Spans on their way to the receiver.
pub(super) struct Spans {
    scope: InstrumentationScope,
    batch: Vec<SpanData>,
    sender: mpsc::Sender<Vec<SpanData>>,
    dropped: u64,
    told: Option<SystemTime>,
    /// The task that sends; it stops with this.
    _task: JoinSet<()>,
}

impl Spans {
    /// Begins to send to `receiver`, from a task of the runtime that this is called in. Headers, if it wants some, are told
    /// by `OTEL_EXPORTER_OTLP_HEADERS`, and attributes of the host by `OTEL_RESOURCE_ATTRIBUTES`.
    pub(super) fn start(receiver: &http::Uri) -> Result<Self, ExporterBuildError> {
        let builder =
            SpanExporter::builder().with_tonic().with_endpoint(receiver.to_string()).with_timeout(EXPORT_TIMEOUT);
        let mut exporter = builder.build()?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("fnhost");
        }
        exporter.set_resource(&resource.build());
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let mut task = JoinSet::new();
        task.spawn(export(exporter, receiver));
        let scope = InstrumentationScope::builder("fnhost").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { scope, batch: Vec::new(), sender, dropped: 0, told: None, _task: task })
    }

    /// Adds the spans of a request, if its trace is recorded.
    pub(super) fn add(&mut self, receipt: &Receipt) {
        let Some(context) = receipt.trace.filter(|context| context.sampled) else { return };
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
        let name = receipt.function.as_ref().map_or_else(
            || Cow::Borrowed("no function"),
            |function| Cow::Owned(format!("{} {function}", known(&receipt.method))),
        );
        let mut whole = span(root, parent, context.parent.is_some(), name, began, receipt.ended);
        whole.attributes = attributes(receipt);
        // Of a server, errors are those of 500 and above (semantic conventions of HTTP).
        if receipt.is_error() {
            whole.status = Status::error(receipt.outcome.as_str());
        }
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
            self.hand_over();
        }
    }

    /// Has those sent that there are.
    pub(super) fn send(&mut self) {
        self.hand_over();
        let silent = self.told.and_then(|told| told.elapsed().ok()).is_none_or(|silent| silent > TROUBLE_INTERVAL);
        if self.dropped > 0 && silent {
            tracing::warn!(spans = self.dropped, "spans were dropped: their receiver is too slow, or gone");
            self.dropped = 0;
            self.told = Some(SystemTime::now());
        }
    }

    fn hand_over(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let spans = batch.len() as u64;
        if spans > 0 && self.sender.try_send(batch).is_err() {
            self.dropped += spans;
        }
    }
}

async fn export(exporter: SpanExporter, mut batches: mpsc::Receiver<Vec<SpanData>>) {
    let mut well = true;
    while let Some(mut batch) = batches.recv().await {
        tokio::time::sleep(LINGER_TIME).await;
        while batch.len() < EXPORT_SPANS
            && let Ok(more) = batches.try_recv()
        {
            batch.extend(more);
        }
        let spans = batch.len();
        match exporter.export(batch).await {
            Ok(()) if well => {}
            Ok(()) => {
                well = true;
                tracing::info!("spans are exported again");
            }
            // Told once, until it is otherwise.
            Err(error) if well => {
                well = false;
                tracing::warn!(%error, spans, "spans cannot be exported");
            }
            Err(_) => {}
        }
    }
}

/// A method, if it is one of those that HTTP has; names of spans are to be few (semantic conventions of HTTP).
fn known(method: &Method) -> &str {
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
    if known.contains(method) { method.as_str() } else { "_OTHER" }
}

/// What is said of a request: by the semantic conventions of HTTP and `FaaS`, where they have a word.
fn attributes(receipt: &Receipt) -> Vec<KeyValue> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("http.request.method", known(&receipt.method).to_owned()),
        KeyValue::new("http.response.status_code", i64::from(receipt.status)),
        KeyValue::new("faas.trigger", "http"),
        KeyValue::new("fnhost.request_id", receipt.request_id.to_string()),
        KeyValue::new("fnhost.outcome", receipt.outcome.as_str()),
    ];
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
    if receipt.outcome != Outcome::Ok {
        attributes.push(KeyValue::new("error.type", receipt.outcome.as_str()));
    }
    attributes
}
