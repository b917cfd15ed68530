//! Traces: from whoever asks, through the host and its guests, to whoever they call; told to a real receiver of OTLP.

use crate::support::{Request, TestHost, wait_for, wait_for_async};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::collections::HashSet;
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
    let id = host.get("/hello/you?secret=1").await.request_id().to_owned();
    // Whoever begins no trace has one by the request's id.
    let spans = receiver.spans(&id, 6).await;
    let root = spans.iter().find(|span| span.parent_span_id.is_empty()).unwrap();
    assert_eq!(root.name, "GET /hello/{name}");
    assert_eq!(
        (root.status.as_ref().map_or(0, |status| status.code), attribute(root, "error.type")),
        (0, String::new())
    );
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/hello/{name}"),
        ("url.path", "/hello/you"),
        ("url.scheme", "http"),
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
    assert!(!format!("{spans:?}").contains("secret"), "{spans:?}");
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
    let (outer, inner) = (named("GET /fetch"), named("GET /misbehave/{*rest}"));
    assert_eq!(hex(&outer.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(inner.parent_span_id, outer.span_id);
    // The guest that was called was told of its own span.
    let told = format!("traceparent: 00-{trace}-{}-01", hex(&inner.span_id));
    assert!(answer.text().contains(&told), "{}", answer.text());
}

/// The span of a request itself.
async fn root_of(receiver: &Receiver, trace: &str) -> Span {
    receiver.spans(trace, 1).await.into_iter().find(|span| span.parent_span_id.is_empty()).unwrap()
}

/// Whether a span is an error, what is said of that, and its `error.type`.
fn error_of(span: &Span) -> (bool, String, String) {
    let status = span.status.clone().unwrap_or_default();
    (status.code == StatusCode::Error as i32, status.message, attribute(span, "error.type"))
}

#[tokio::test]
async fn what_fails_is_an_error_in_its_trace_and_what_a_client_did_wrong_is_none() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    for (path, error) in [
        ("/misbehave/trap", Some(("", "trap"))),
        // The guest's own, whole answer.
        ("/misbehave/status?code=500", Some(("", "500"))),
        // Behind the head, which had 200.
        ("/misbehave/panic-in-mid-stream", Some(("trap", "trap"))),
        ("/misbehave/status?code=404", None),
        ("/nowhere", None),
    ] {
        let mut connection = host.connect().await;
        let answer = connection.begin(Request::get(path)).await.unwrap();
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let _ = http_body_util::BodyExt::collect(answer.into_body()).await;
        let root = root_of(&receiver, &id).await;
        let (is_error, description, kind) = error_of(&root);
        assert_eq!(is_error, error.is_some(), "{path}: {root:?}");
        let (said, of_kind) = error.unwrap_or_default();
        assert_eq!(description, said, "{path}");
        assert!(kind.contains(of_kind) && kind.is_empty() == of_kind.is_empty(), "{path}: {kind}");
        let name = if path == "/nowhere" { "GET" } else { "GET /misbehave/{*rest}" };
        assert_eq!(root.name, name);
    }
}

#[tokio::test]
async fn what_is_not_known_of_a_request_is_left_out_and_what_is_too_much_is_cut() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let brewed = host.send(Request::new(http::Method::from_bytes(b"BREW").unwrap(), "/hello/you")).await;
    let root = root_of(&receiver, brewed.request_id()).await;
    assert_eq!(root.name, "HTTP /hello/{name}");
    assert!(attribute(&root, "http.request.method").contains("_OTHER"), "{root:?}");
    assert!(attribute(&root, "http.request.method_original").contains("BREW"), "{root:?}");
    let long = host.get(&format!("/hello/{}", "z".repeat(5000))).await;
    let path = attribute(&root_of(&receiver, long.request_id()).await, "url.path");
    assert_eq!(path.matches('z').count(), 1024 - "/hello/".len());
    // A client that leaves before there is a head has no status.
    let mut connection = host.connect().await;
    let id = tokio::select! {
        answer = connection.begin(Request::get("/misbehave/hang")) => panic!("it answered: {answer:?}"),
        began = wait_for_async("the guest is at work", || {
            host.log_lines().into_iter().find(|line| line["target"] == "guest")
        }) => began["request_id"].as_str().unwrap().to_owned(),
    };
    connection.leave().await;
    let root = root_of(&receiver, &id).await;
    assert_eq!(attribute(&root, "http.response.status_code"), "");
    assert!(!error_of(&root).0, "{root:?}");
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
async fn spans_of_the_last_moment_are_told_before_the_host_ends() {
    let (receiver, otlp) = Receiver::start();
    let host = traced(otlp, "");
    let mut connection = host.connect().await;
    let mut ids = Vec::new();
    for _ in 0..500 {
        ids.push(connection.send(Request::get("/hello/you")).await.unwrap().request_id().to_owned());
    }
    assert_eq!(tokio::task::spawn_blocking(|| host.stop().code).await.unwrap(), Some(0));
    let spans = receiver.spans.lock().unwrap();
    let roots: HashSet<String> =
        spans.iter().filter(|span| span.parent_span_id.is_empty()).map(|span| hex(&span.trace_id)).collect();
    assert_eq!(roots, ids.into_iter().collect());
}

/// How many spans the log says were lost, so far.
fn told_lost(host: &TestHost) -> u64 {
    let lines = host.log_lines();
    let told =
        lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with("spans were lost")));
    told.map(|line| line["spans"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn every_span_that_is_lost_is_counted_and_told() {
    // One that takes connections and never says a word, and one that is not there.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for otlp in [silent.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap()] {
        let host = traced(otlp, "");
        for _ in 0..20 {
            host.get_entered("/hello/you").await.assert_ok("Hello, you!\n");
        }
        host.terminate();
        // Each with its five phases.
        wait_for("what was lost is told", || (told_lost(&host) == 120).then_some(()));
        assert_eq!(host.finish().code, Some(0));
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
    assert_eq!(spans.iter().filter(|span| span.name == "GET /misbehave/{*rest}").count(), 1);
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
