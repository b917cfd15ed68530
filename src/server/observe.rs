//! What is known of a request: its id, its clock, and at the end its receipt.
//!
//! **Invariant:** every request that was begun ends in exactly one receipt, however it ends: an [`Observation`] that is
//! dropped is one whose client went away.

mod collector;
mod exporter;
pub(super) mod metrics;
mod recent;
mod spans;
mod ticks;

use super::{Host, Peer, ReceiptSink};
use crate::limits::Share;
use crate::manifest::HostConfig;
use crate::middleware::Passage;
use crate::names::{RELEASE_HEADER, RequestId};
use crate::receipt::{Outcome, Phases, Receipt};
use crate::release::Route;
use crate::release::canary::{Canary, Figures, Lot};
use crate::runtime::gate::Refused;
use crate::runtime::guest::InvokeError;
use crate::runtime::invoke::Measure;
use crate::runtime::response::{GuestBody, Rest};
use crate::storage::ledger::{Ledger, LedgerError};
use crate::trace::TraceContext;
use crate::trickle::LeftOut;
use collector::{Collector, Ended};
use exporter::Exporter;
use http::header::{HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use http::{Method, Request, StatusCode, Version};
use spans::{Spans, Traced};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most bytes of a method that are kept. The longest that is registered has 17 (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 32;
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What is done with receipts.
pub(super) struct Observer {
    server_timing: bool,
    /// The part of the traces begun here that is recorded; nothing, if none are told.
    trace_sample: Option<Share>,
    pub(super) collector: Collector,
    exporter: Mutex<Option<Exporter>>,
}

/// Why a host cannot observe.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// What was used cannot be written.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// Spans cannot be sent.
    #[error("spans cannot be sent to {0}: {1}")]
    Spans(http::Uri, String),
    /// There is no thread for receipts.
    #[error("there is no thread for receipts: {0}")]
    Thread(std::io::Error),
}

impl Observer {
    pub(super) fn new(settings: &HostConfig, receipts: Option<ReceiptSink>) -> Result<Self, ObserveError> {
        let observe = &settings.observe;
        let ledger = observe.usage.then(|| Ledger::open(&settings.state, observe.usage_days)).transpose()?;
        let exporting = observe.otlp.as_ref().map(|receiver| {
            exporter::start(receiver).map_err(|error| ObserveError::Spans(receiver.clone(), error.to_string()))
        });
        let (queue, exporter) = exporting.transpose()?.unzip();
        let spans = queue.map(Spans::new);
        Ok(Self {
            server_timing: settings.server_timing,
            trace_sample: spans.is_some().then_some(observe.otlp_sample),
            collector: Collector::start(observe, receipts, ledger, spans).map_err(ObserveError::Thread)?,
            exporter: Mutex::new(exporter),
        })
    }

    /// Has everything told that has ended by now: to the ledger, and to the receiver of spans, which gets no more after
    /// that. It may have to wait for a disk, and a little for the receiver.
    pub(super) async fn conclude(&self) {
        self.collector.settle();
        let requests = self.collector.unwritten();
        if requests > 0 {
            tracing::error!(requests, "the host ends, and usage of these requests is not in the ledger");
        }
        self.collector.close_spans();
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
    }
}

/// One request, from its head to its receipt.
pub(super) struct Observation(Option<Box<Observed>>);

struct Observed {
    host: Arc<Host>,
    request_id: RequestId,
    trace: Option<TraceContext>,
    /// Only if its trace is recorded.
    traced: Option<Box<Traced>>,
    method: Method,
    began: Instant,
    route: Option<Arc<Route>>,
    passage: Passage,
    /// Of its release, where a canary is watched.
    figures: Option<Arc<Figures>>,
    /// By which its client will be known again.
    cookie: Option<HeaderValue>,
    measure: Option<Measure>,
    head_at: Option<Instant>,
    status: u16,
    bytes_out: u64,
    version: Version,
    peer: Arc<Peer>,
}

impl Observation {
    pub(super) fn begin<B>(host: Arc<Host>, peer: Arc<Peer>, request: &Request<B>) -> Self {
        peer.progress.note_answering();
        let request_id = RequestId::new();
        let trace =
            host.observer.trace_sample.map(|sample| TraceContext::of_request(request.headers(), request_id, sample));
        Self(Some(Box::new(Observed {
            host,
            request_id,
            trace,
            traced: trace.filter(|trace| trace.sampled).map(|_| Box::new(Traced::of_path(request.uri().path()))),
            method: bounded(request.method()),
            began: Instant::now(),
            route: None,
            passage: Passage::default(),
            figures: None,
            cookie: None,
            measure: None,
            head_at: None,
            status: 0,
            bytes_out: 0,
            version: request.version(),
            peer,
        })))
    }

    pub(super) fn request_id(&self) -> RequestId {
        self.0.as_ref().map(|observed| observed.request_id).unwrap_or_default()
    }

    pub(super) fn method(&self) -> Option<&Method> {
        self.0.as_ref().map(|observed| &observed.method)
    }

    /// Writes the request's trace, where traces are told, into the headers that the guest will see. Whom it calls are told
    /// what this gives.
    pub(super) fn mark_trace(&self, headers: &mut HeaderMap) -> Option<HeaderValue> {
        self.0.as_ref()?.trace.map(|trace| trace.mark(headers))
    }

    pub(super) fn function_name(&self) -> Option<&str> {
        self.0.as_ref()?.route.as_ref().map(|route| route.function.name.as_str())
    }

    /// There was a canary that could have answered, and a lot was drawn.
    pub(super) fn drew(&mut self, canary: &Canary, lot: Lot) {
        let watch = canary.watch.as_ref();
        let figures = watch.map(|watch| Arc::clone(if lot.canary { &watch.canary } else { &watch.live }));
        self.note(|observed| {
            observed.figures = figures;
            observed.cookie = lot.cookie;
        });
    }

    /// A route was found.
    pub(super) fn found(&mut self, route: &Arc<Route>) {
        self.note(|observed| observed.route = Some(Arc::clone(route)));
    }

    /// It has come so far through the middleware.
    pub(super) fn passed(&mut self, passage: Passage) {
        self.note(|observed| observed.passage = passage);
    }

    /// How far it has come through the middleware.
    pub(super) fn passage(&self) -> &Passage {
        static NONE: Passage = Passage::NONE;
        self.0.as_ref().map_or(&NONE, |observed| &observed.passage)
    }

    /// A permit was had; `measure` counts from now.
    pub(super) fn admitted(&mut self, measure: Measure) {
        self.note(|observed| observed.measure = Some(measure));
    }

    /// There is a response head.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.note(|observed| {
            observed.head_at = Some(Instant::now());
            observed.status = status.as_u16();
        });
    }

    /// The guest has ended, whether its answer was read or not.
    pub(super) fn guest_ended(&self, body: &mut GuestBody) {
        if let Some(observed) = &self.0
            && let Some(remains) = body.take_remains()
        {
            observed.peer.take_apart(remains);
        }
    }

    pub(super) fn add_bytes_out(&mut self, bytes: u64) {
        self.note(|observed| observed.bytes_out += bytes);
    }

    /// Writes the request id, the release that answered and, if wanted, the phases known by now into a response's headers.
    pub(super) fn sign(&self, headers: &mut HeaderMap) {
        let Some(observed) = &self.0 else { return };
        if let Ok(id) = HeaderValue::from_str(observed.request_id.encode(&mut [0; 32])) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(route) = &observed.route {
            headers.insert(RELEASE_HEADER, route.release_label.clone());
        }
        if let Some(cookie) = &observed.cookie {
            headers.append(SET_COOKIE, cookie.clone());
        }
        if observed.host.observer.server_timing
            && observed.measure.is_some()
            && let Ok(timing) = HeaderValue::from_str(&server_timing(&observed.phases(Instant::now())))
        {
            // A guest may have timings of its own.
            headers.append(SERVER_TIMING, timing);
        }
    }

    /// Logs why a guest failed, for the operator: the client gets the code alone.
    pub(super) fn log_failure(&self, error: &InvokeError) {
        let Some(observed) = &self.0 else { return };
        let route = observed.route.as_deref();
        let app = route.map_or("", |route| route.app.as_str());
        let function = route.map_or("", |route| route.function.name.as_str());
        let release = route.map_or(0, |route| route.release);
        let code = error.outcome().as_str();
        tracing::warn!(request_id = %observed.request_id, app, function, release, code, "{error}");
    }

    /// Logs why there was no permit. There may be any number of those that are refused, so not each has a line.
    pub(super) fn log_refusal(&self, refused: Refused) {
        let Some(observed) = &self.0 else { return };
        let Some(route) = &observed.route else { return };
        let Some(LeftOut(left_out)) = route.function.refusals.admit() else { return };
        let (app, function, release) = (route.app.as_str(), route.function.name.as_str(), route.release);
        let code = Outcome::Busy.as_str();
        tracing::info!(request_id = %observed.request_id, app, function, release, code, left_out, "{refused}");
    }

    /// The body breaks off. HTTP/1.1 and later have an end that will be missing; HTTP/1.0 ends a body of unknown length
    /// with the connection, and can tell only by a reset.
    pub(super) fn cut(&self) {
        if let Some(observed) = &self.0
            && observed.version <= Version::HTTP_10
        {
            observed.peer.socket.reset_on_close();
        }
    }

    /// The client needs no more of `body`. If the guest still works, it finishes in a task of the host's, within its
    /// limits, and the receipt is written then.
    pub(super) fn finish_without_client(self, body: GuestBody, rest: Rest) {
        let Some((host, peer)) =
            self.0.as_ref().map(|observed| (Arc::clone(&observed.host), Arc::clone(&observed.peer)))
        else {
            return;
        };
        let tail = match body.into_tail(rest) {
            Ok(tail) => tail,
            Err(remains) => {
                peer.take_apart(remains);
                return peer.finish(Finished { observed: self, ended_at: Instant::now() });
            }
        };
        host.tasks.spawn(async move {
            match tail.finish().await {
                Ok(()) => self.end(Outcome::Ok),
                Err(error) => {
                    self.log_failure(&error);
                    self.end(error.outcome());
                }
            }
        });
    }

    /// Writes the receipt.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.write_receipt(outcome, Instant::now());
    }

    fn write_receipt(&mut self, outcome: Outcome, ended_at: Instant) {
        let Some(observed) = self.0.take() else { return };
        let usage = observed.measure.as_ref().map(Measure::usage).unwrap_or_default();
        let route = observed.route.as_deref();
        let phases = observed.phases(ended_at);
        let receipt = Receipt {
            request_id: observed.request_id,
            ended: SystemTime::now(),
            trace: observed.trace,
            app: route.map(|route| route.app.clone()),
            release: route.map(|route| route.release),
            function: route.map(|route| route.function.name.clone()),
            kind: route.map(|route| route.function.kind()),
            phases,
            outcome,
            status: observed.status,
            cpu: usage.cpu,
            memory_peak_bytes: usage.memory_peak_bytes,
            bytes_in: usage.bytes_in,
            bytes_out: observed.bytes_out,
            method: observed.method,
        };
        if let Some(figures) = &observed.figures {
            figures.add(&receipt);
        }
        let traced = observed.traced.map(|mut traced| {
            traced.route = route.map(|route| route.pattern.path().into());
            traced
        });
        observed.peer.progress.note_answered(ended_at);
        let totals = route.map(|route| Arc::clone(&route.totals));
        observed.host.observer.collector.take(Ended { receipt, totals, traced });
    }

    fn note(&mut self, change: impl FnOnce(&mut Observed)) {
        if let Some(observed) = &mut self.0 {
            change(observed);
        }
    }
}

impl Drop for Observation {
    /// Nobody ended it: its client went away, or the host did.
    fn drop(&mut self) {
        let cut_off = self.0.as_ref().is_some_and(|observed| observed.host.grace_is_over.load(Ordering::Acquire));
        self.write_receipt(if cut_off { Outcome::Shutdown } else { Outcome::ClientGone }, Instant::now());
    }
}

/// A request that was answered well, before its receipt is written.
pub(super) struct Finished {
    observed: Observation,
    ended_at: Instant,
}

impl Finished {
    pub(super) fn end(mut self) {
        self.observed.write_receipt(Outcome::Ok, self.ended_at);
    }
}

impl Observed {
    /// The phases as they stand at `now`.
    fn phases(&self, now: Instant) -> Phases {
        let Some(measure) = &self.measure else {
            let until = self.head_at.unwrap_or(now);
            return Phases { queue: until.saturating_duration_since(self.began), ..Phases::default() };
        };
        let (store, instantiate) = (measure.store(), measure.instantiate());
        let head_at = self.head_at.unwrap_or(now);
        let since_permit = head_at.saturating_duration_since(measure.began());
        Phases {
            queue: measure.began().saturating_duration_since(self.began),
            store,
            instantiate,
            handler: since_permit.saturating_sub(store + instantiate),
            body: now.saturating_duration_since(head_at),
        }
    }
}

/// A method as it is kept. Clients may make up what they like (RFC 9110, 16.1), and many receipts are kept.
fn bounded(method: &Method) -> Method {
    let name = method.as_str().as_bytes();
    // The beginning of a token is one.
    name.get(..METHOD_BYTES_MAX).and_then(|name| Method::from_bytes(name).ok()).unwrap_or_else(|| method.clone())
}

/// The phases before the head, as `Server-Timing` has them: milliseconds (W3C Server Timing).
fn server_timing(phases: &Phases) -> String {
    let mut text = String::with_capacity(96);
    let named = [
        ("queue;dur=", phases.queue),
        (", store;dur=", phases.store),
        (", instantiate;dur=", phases.instantiate),
        (", handler;dur=", phases.handler),
    ];
    let mut digits = itoa::Buffer::new();
    for (name, duration) in named {
        text.push_str(name);
        text.push_str(digits.format(duration.as_millis()));
        text.push('.');
        // With a digit in front that is cut off, so that zeros behind the point stay.
        let ten_thousandths = 10_000 + duration.subsec_nanos() / 100 % 10_000;
        text.push_str(digits.format(ten_thousandths).get(1..).unwrap_or_default());
    }
    text
}
