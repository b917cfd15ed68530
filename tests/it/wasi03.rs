//! WASI 0.3 keeps every promise that 0.2 does, though its guests run in another way.

use crate::support::{Request, TestHost, body_of};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;

fn host(settings: &str) -> TestHost {
    TestHost::of_guest("misbehave-p3", settings)
}

#[tokio::test]
async fn a_guest_sees_scheme_and_authority_and_no_host() {
    let request = Request::get("/misbehave-p3/request?q=1")
        .header("host", "one.example:8080")
        .header("fnhost-route", "forged")
        .header("x-own", "kept");
    let text = host("").send(request).await.text();
    for line in
        ["scheme Some(Scheme::Http)", "authority one.example:8080", "path /misbehave-p3/request?q=1", "x-own: kept"]
    {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("forged") && !text.contains("\nhost:"), "{text}");
}

#[tokio::test]
async fn a_static_counter_is_one_on_each_request() {
    let host = host("");
    let mut connection = host.connect().await;
    for _ in 0..1000 {
        connection.send(Request::get("/misbehave-p3/counter")).await.unwrap().assert_ok("1\n");
    }
}

#[tokio::test]
async fn failures_have_the_same_codes() {
    for (sin, limits, status, code) in [
        ("trap", "", 502, "trap"),
        ("error-code", "", 502, "guest_error"),
        ("hang", "limits = { timeout = \"500ms\" }", 504, "timeout"),
        ("spin", "limits = { cpu = \"100ms\", timeout = \"60s\" }", 504, "cpu_limit"),
        ("grow", "limits = { memory = \"16 MiB\" }", 502, "memory_limit"),
    ] {
        let host = host(limits);
        host.get(&format!("/misbehave-p3/{sin}")).await.assert_problem(status, code);
    }
}

#[tokio::test]
async fn a_failure_behind_the_head_cuts_the_body() {
    for (sin, limits, outcome) in [
        ("panic-in-mid-stream", "", "trap"),
        ("spin-after-head", "limits = { cpu = \"100ms\", timeout = \"60s\" }", "cpu_limit"),
        ("hang-after-head", "limits = { timeout = \"500ms\" }", "timeout"),
    ] {
        let host = host(limits);
        let mut connection = host.connect().await;
        let response = connection.begin(Request::get(&format!("/misbehave-p3/{sin}"))).await.unwrap();
        assert_eq!(response.status(), 200, "{sin}");
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(response.into_body().collect().await.is_err(), "{sin}: the body ended as if it were whole");
        assert_eq!(host.receipt(&id)["outcome"], outcome, "{sin}");
    }
}

#[tokio::test]
async fn bodies_and_trailers_stream_through_the_guest() {
    let host = host("limits = { request-body = \"64 MiB\" }");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    let frames = std::iter::repeat_n(chunk, 256).map(Frame::data).chain([Frame::trailers(trailers)]);
    let upload = Request::post("/misbehave-p3/echo", "").body(body_of(frames));
    let answer = host.send(upload.header("te", "trailers").header("trailer", "x-checksum")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 16 << 20));
    assert_eq!(answer.trailers.expect("trailers")["x-checksum"], "42");
}

#[tokio::test]
async fn an_upload_over_its_limit_is_413_or_cut() {
    let host = host("limits = { request-body = \"64 KiB\" }");
    host.send(Request::post("/misbehave-p3/echo", vec![b'x'; 65_537])).await.assert_problem(413, "body_too_large");
    let frames = std::iter::repeat_n(Bytes::from(vec![b'x'; 16 << 10]), 1000).map(Frame::data);
    let mut connection = host.connect().await;
    // The head may be on its way before the limit is passed; then the body is cut.
    if let Ok(answer) = connection.send(Request::post("/misbehave-p3/echo", "").body(body_of(frames))).await {
        answer.assert_problem(413, "body_too_large");
    }
    let refused = |line: &serde_json::Value| line["outcome"] == "body_too_large" && line["bytes_in"] != 0;
    host.logged(|line| line["target"] == "receipt" && refused(line));
}

#[tokio::test]
async fn calls_out_are_held_to_the_grants() {
    let other = TestHost::of_guest("hello", "");
    let port = other.address().port();
    let host = host(&format!("outbound = [\"http://127.0.0.1:{port}\"]"));
    let fetch = async |authority: &str| host.get(&format!("/misbehave-p3/fetch?url=http://{authority}/x")).await.text();
    assert_eq!(fetch(&format!("127.0.0.1:{port}")).await, "status 200\n");
    for denied in [format!("127.0.0.2:{port}"), format!("localhost:{port}"), "127.0.0.1:1".to_owned()] {
        assert_eq!(fetch(&denied).await, "ErrorCode::HttpRequestDenied\n", "{denied}");
    }
}

#[tokio::test]
async fn a_guest_ends_when_its_client_goes() {
    let host = host("limits = { concurrency = 1, cpu = \"60s\", timeout = \"60s\", queue-wait = \"30s\" }");
    for sin in ["spin-after-head", "hang-after-head"] {
        let mut connection = host.connect().await;
        let response = connection.begin(Request::get(&format!("/misbehave-p3/{sin}"))).await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        connection.leave().await;
        assert_eq!(host.receipt(&id)["outcome"], "client_gone", "{sin}");
        host.get("/misbehave-p3/counter").await.assert_ok("1\n");
    }
}

#[tokio::test]
async fn the_host_s_headers_do_not_get_in_as_trailers() {
    let host = host("");
    let mut trailers = HeaderMap::new();
    trailers.insert("fnhost-route", HeaderValue::from_static("forged"));
    trailers.insert("x-own", HeaderValue::from_static("kept"));
    let frames = [Frame::data(Bytes::from_static(b"data")), Frame::trailers(trailers)];
    let upload = Request::post("/misbehave-p3/echo", "").body(body_of(frames.into_iter()));
    let answer = host.send(upload.header("te", "trailers").header("trailer", "x-own, fnhost-route")).await;
    let trailers = answer.trailers.expect("trailers");
    assert_eq!((trailers.len(), &trailers["x-own"]), (1, &HeaderValue::from_static("kept")));
}

#[tokio::test]
async fn a_guest_may_work_on_after_its_answer() {
    let host = host("");
    let answer = host.get("/misbehave-p3/work-on?ms=200").await;
    answer.assert_ok("answered\n");
    let id = answer.request_id().to_owned();
    host.logged(|line| {
        line["target"] == "guest" && line["request_id"] == id.as_str() && line["message"] == "worked on for 200 ms"
    });
    assert_eq!(host.receipt(&id)["outcome"], "ok");
}
