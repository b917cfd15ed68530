//! Traces: from whoever asks, through the host and its guests, to whoever they call; told to a real receiver of OTLP.

use crate::support::{Request, TestHost, wait_for_async};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tonic::transport::server::TcpIncoming;

/// A receiver, of the published protos, that remembers all spans.
#[derive(Clone, Default)]
struct Receiver {
    spans: Arc<Mutex<Vec<Span>>>,
    resources: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            self.resources.lock().unwrap().push(format!("{:?}", resource.resource));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// Begins to receive; it ends with the test.
    fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = TraceServiceServer::new(receiver.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (receiver, address)
    }

    /// The spans of a trace, once `count` of them are there.
    async fn spans(&self, trace: &str, count: usize) -> Vec<Span> {
        wait_for_async("the spans come", || {
            let spans = self.spans.lock().unwrap();
            let of_trace: Vec<Span> = spans.iter().filter(|span| hex(&span.trace_id) == trace).cloned().collect();
            (of_trace.len() >= count).then_some(of_trace)
        })
        .await
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    found.map_or(String::new(), |attribute| format!("{:?}", attribute.value))
}

fn traced(otlp: SocketAddr, more: &str) -> TestHost {
    TestHost::with(&format!(
        "name = \"demo\"\n[observe]\notlp = \"http://{otlp}\"\n{more}[functions.hello]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/hello/{{name}}\"]\n\
         [functions.misbehave]\ncomponent = \"{{misbehave.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n\
         [functions.fetch]\ncomponent = \"{{fetch.wasm}}\"\nroutes = [\"/fetch\"]\noutbound = [\"http://127.0.0.1:*\"]\n"
    ))
}

#[tokio::test]
async fn a_request_is_a_span_and_each_phase_is_one_within() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let id = host.get("/hello/you").await.request_id().to_owned();
    // Whoever begins no trace has one by the request's id.
    let spans = receiver.spans(&id, 6).await;
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(root.name, "GET hello");
    for (key, value) in [
        ("http.response.status_code", "200"),
        ("faas.name", "hello"),
        ("fnhost.app", "demo"),
        ("faas.version", "1"),
        ("fnhost.outcome", "ok"),
        ("fnhost.request_id", &id),
    ] {
        assert!(attribute(root, key).contains(value), "{key}: {root:?}");
    }
    let mut phases: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == root.span_id).collect();
    phases.sort_by_key(|span| span.start_time_unix_nano);
    let names: Vec<&str> = phases.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["queue", "store", "instantiate", "handler", "body"]);
    assert_eq!(phases[0].start_time_unix_nano, root.start_time_unix_nano);
    assert_eq!(phases[4].end_time_unix_nano, root.end_time_unix_nano);
    for pair in phases.windows(2) {
        assert_eq!(pair[0].end_time_unix_nano, pair[1].start_time_unix_nano);
    }
    assert_eq!(host.receipt(&id)["trace_id"], id);
    assert!(receiver.resources.lock().unwrap()[0].contains("fnhost"));
}

#[tokio::test]
async fn a_trace_goes_through_the_host_to_whom_its_guests_call() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let url = format!("http://{}/misbehave/request-headers", host.address());
    let answer = host.send(Request::get(&format!("/fetch?url={url}")).header("traceparent", &traceparent)).await;
    let spans = receiver.spans(trace, 12).await;
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (outer, inner) = (named("GET fetch"), named("GET misbehave"));
    assert_eq!(hex(&outer.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(inner.parent_span_id, outer.span_id);
    // The guest that was called was told of its own span.
    let told = format!("traceparent: 00-{trace}-{}-01", hex(&inner.span_id));
    assert!(answer.text().contains(&told), "{}", answer.text());
}

#[tokio::test]
async fn what_fails_is_an_error_in_its_trace() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let answer = host.get("/misbehave/trap").await;
    let id = answer.request_id().to_owned();
    let spans = receiver.spans(&id, 5).await;
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(root.status.as_ref().unwrap().message, "trap");
    assert!(attribute(root, "error.type").contains("trap"));
    let unrouted = host.get("/nowhere").await.request_id().to_owned();
    assert_eq!(receiver.spans(&unrouted, 1).await[0].name, "no function");
}

/// State without a trace belongs to none (W3C Trace Context, 3.3).
#[tokio::test]
async fn the_state_of_a_trace_that_was_not_understood_does_not_go_on() {
    let (_, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (traceparent, goes_on) in [(Some(good), true), (Some("00-nonsense"), false), (None, false)] {
        let request = Request::get("/misbehave/request-headers").header("tracestate", "vendor=1");
        let request = match traceparent {
            Some(traceparent) => request.header("traceparent", traceparent),
            None => request,
        };
        let text = host.send(request).await.text();
        assert_eq!(text.contains("tracestate: vendor=1"), goes_on, "{traceparent:?}: {text}");
    }
}

#[tokio::test]
async fn what_is_not_sampled_is_not_told_and_goes_on_as_such() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "otlp-sample = \"0.0001%\"\n");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let of = |flag: &str| format!("00-{trace}-00f067aa0ba902b7-{flag}");
    // Whoever began the trace has decided.
    let unsampled = host.send(Request::get("/misbehave/request-headers").header("traceparent", &of("00"))).await;
    assert!(unsampled.text().contains(&format!("traceparent: 00-{trace}-")), "{}", unsampled.text());
    assert!(unsampled.text().lines().any(|line| line.starts_with("traceparent") && line.ends_with("-00")));
    host.send(Request::get("/misbehave/request-headers").header("traceparent", &of("01"))).await;
    let spans = receiver.spans(trace, 6).await;
    assert_eq!(spans.iter().filter(|span| span.name == "GET misbehave").count(), 1);
}

#[tokio::test]
async fn without_a_receiver_nothing_is_added_and_nothing_is_waited_for() {
    let host = TestHost::of_guest("misbehave", "");
    let plain = host.get("/misbehave/request-headers").await;
    assert!(!plain.text().contains("traceparent"), "{}", plain.text());
    let told = host.send(Request::get("/misbehave/request-headers").header("traceparent", "whatever it says")).await;
    assert!(told.text().contains("traceparent: whatever it says"), "a client's own header is its own");
    // A receiver that is not there: requests are answered, and the log says so once.
    let host = traced("127.0.0.1:1".parse().unwrap(), "");
    for _ in 0..50 {
        host.get("/hello/you").await.assert_ok("Hello, you!\n");
    }
    host.logged(|line| line["message"] == "spans cannot be exported");
    assert_eq!(host.stop().code, Some(0));
}
