//! Each row of the table of errors: what happens, and what the client gets.

use crate::support::{Request, TestHost, body_of};
use bytes::Bytes;
use http::Method;
use http_body::Frame;
use std::io::{Read as _, Write as _};

#[tokio::test]
async fn no_route_is_404() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"GET /hello/{name}\"]\n",
    );
    host.get("/nowhere").await.assert_problem(404, "no_route");
    let wrong = host.send(Request::new(Method::DELETE, "/hello/x")).await;
    wrong.assert_problem(405, "no_method");
    assert_eq!(wrong.header("allow"), "GET, HEAD");
}

#[tokio::test]
async fn a_wait_that_takes_too_long_is_503_with_the_time_to_try_again() {
    let settings = "limits = { concurrency = 1, queue-wait = \"50ms\", timeout = \"60s\" }";
    let host = TestHost::of_guest("misbehave", settings);
    let mut held = host.connect().await;
    let streaming = held.begin(Request::get("/misbehave/hang-after-head")).await.unwrap();
    let refused = host.get("/misbehave/counter").await;
    refused.assert_problem(503, "busy");
    assert_eq!(refused.header("retry-after"), "1");
    drop(streaming);
    held.leave().await;
    // The stream's sandbox counts until it is gone, and then no more.
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while host.get("/misbehave/counter").await.status != 200 {
        assert!(std::time::Instant::now() < deadline, "the permit never came back");
    }
}

#[tokio::test]
async fn a_full_queue_is_503_at_once() {
    let settings = "limits = { concurrency = 1, queue = 1, queue-wait = \"50s\", timeout = \"60s\" }";
    let host = TestHost::of_guest("misbehave", settings);
    let mut held = host.connect().await;
    let streaming = held.begin(Request::get("/misbehave/hang-after-head")).await.unwrap();
    // Whichever of the two comes first waits, far longer than the other needs to be refused.
    let refused = tokio::select! {
        answer = host.get("/misbehave/counter") => answer,
        answer = host.get("/misbehave/counter") => answer,
    };
    refused.assert_problem(503, "busy");
    drop(streaming);
}

#[tokio::test]
async fn an_upload_that_declares_too_much_is_413_unread() {
    let host = TestHost::of_guest("echo", "limits = { request-body = \"1 KiB\" }");
    host.send(Request::post("/", vec![b'x'; 1024])).await.assert_ok(&"x".repeat(1024));
    let answer = host.send(Request::post("/", vec![b'x'; 1025])).await;
    answer.assert_problem(413, "body_too_large");
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(host.receipt(answer.request_id())["bytes_in"], 0);
}

#[tokio::test]
async fn an_upload_in_chunks_that_grows_too_much_is_413() {
    let host = TestHost::of_guest("cgi", "limits = { request-body = \"64 KiB\" }");
    let endless = std::iter::repeat_n(Bytes::from(vec![b'x'; 16 << 10]), 1000).map(Frame::data);
    let answer = host.send(Request::post("/cgi/x", "").body(body_of(endless))).await;
    answer.assert_problem(413, "body_too_large");
    let read = host.receipt(answer.request_id())["bytes_in"].as_u64().unwrap();
    assert!(read <= 2 * (64 << 10), "{read} bytes were read");
}

#[test]
fn a_client_that_reads_only_behind_its_upload_is_told_that_nobody_wants_it() {
    let host = TestHost::of_guest("echo", "limits = { request-body = \"1 KiB\" }");
    let mut client = std::net::TcpStream::connect(host.address()).unwrap();
    client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    // More than the buffers of both sockets hold.
    let upload = vec![b'x'; 32 << 20];
    write!(client, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", upload.len()).unwrap();
    client.write_all(&upload).expect("the host takes the upload, if only to throw it away");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer, and not a reset");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("body_too_large"), "{answer}");
}

#[test]
fn a_client_that_says_more_than_it_may_reads_its_answer_to_the_end() {
    let host = TestHost::of_guest("hello", "");
    let mut client = std::net::TcpStream::connect(host.address()).unwrap();
    client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut said = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_vec();
    said.resize(64 << 10, b'x');
    client.write_all(&said).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer, and not a reset");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // A connection that is reset throws away what its client has not read; one that is taken to its end can be written to.
    client.write_all(&vec![b'x'; 4 << 20]).expect("the host takes it, if only to throw it away");
}

#[tokio::test]
async fn a_guest_that_traps_panics_or_exits_is_502() {
    let host = TestHost::of_guest("misbehave", "");
    for sin in ["trap", "panic", "exit?status=0", "exit?status=3"] {
        host.get(&format!("/misbehave/{sin}")).await.assert_problem(502, "trap");
    }
    host.get("/misbehave/counter").await.assert_ok("1\n");
}

#[tokio::test]
async fn a_guest_that_gives_no_response_is_502() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/silent").await.assert_problem(502, "no_response");
    host.get("/misbehave/error-code").await.assert_problem(502, "guest_error");
}

#[tokio::test]
async fn a_command_that_fails_is_502() {
    let host =
        TestHost::with("name = \"test\"\n[functions.cgi]\ncomponent = \"{cgi.wasm}\"\nroutes = [\"/cgi/{*rest}\"]\n");
    host.get("/cgi/exit/1").await.assert_problem(502, "trap");
    host.get("/cgi/headless").await.assert_problem(502, "no_response");
    assert_eq!(host.get("/cgi/status/418%20Teapot").await.status, 418);
}

#[tokio::test]
async fn a_guest_over_its_time_is_504() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"200ms\", cpu = \"60s\" }");
    host.get("/misbehave/hang").await.assert_problem(504, "timeout");
    host.get("/misbehave/spin").await.assert_problem(504, "timeout");
}

#[tokio::test]
async fn a_guest_over_its_cpu_time_is_504() {
    let host = TestHost::of_guest("misbehave", "limits = { cpu = \"100ms\" }");
    let answer = host.get("/misbehave/spin").await;
    answer.assert_problem(504, "cpu_limit");
    let cpu = host.receipt(answer.request_id())["cpu_ns"].as_f64().unwrap();
    assert!((100_000_000.0..1_000_000_000.0).contains(&cpu), "{cpu} ns");
}

#[tokio::test]
async fn a_guest_over_its_memory_is_502_unless_it_answers() {
    let host = TestHost::of_guest("misbehave", "limits = { memory = \"8 MiB\" }");
    let answer = host.get("/misbehave/grow").await;
    answer.assert_problem(502, "memory_limit");
    let peak = host.receipt(answer.request_id())["memory_peak_bytes"].as_u64().unwrap();
    assert!(peak <= 8 << 20, "{peak}");
    let survived = host.get("/misbehave/grow-and-survive").await;
    assert_eq!(survived.status, 200);
    assert!(survived.text().starts_with("refused after "), "{}", survived.text());
}

#[tokio::test]
async fn a_failure_behind_the_head_cuts_the_body() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"500ms\", cpu = \"200ms\" }");
    for (sin, outcome) in
        [("panic-in-mid-stream", "trap"), ("hang-after-head", "timeout"), ("spin-after-head", "cpu_limit")]
    {
        let mut connection = host.connect().await;
        let response = connection.begin(Request::get(&format!("/misbehave/{sin}"))).await.unwrap();
        assert_eq!(response.status(), 200, "{sin}");
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        assert!(body.is_err(), "{sin}: the body ended as if it were whole");
        assert_eq!(host.receipt(&id)["outcome"], outcome, "{sin}");
        host.logged(|line| line["level"] == "WARN" && line["request_id"] == id.as_str());
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_was_promised_is_no_answer() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/short").await.assert_problem(502, "guest_error");
    host.get("/misbehave/unfinished").await.assert_problem(502, "guest_error");
}

#[tokio::test]
async fn a_host_that_is_none_is_400() {
    let host = TestHost::of_guest("hello", "");
    host.send(Request::get("/x").header("host", "user@example.com")).await.assert_problem(400, "bad_request");
    host.send(Request::get("/x").header("host", "a b")).await.assert_problem(400, "bad_request");
}

#[tokio::test]
async fn an_upload_that_stops_in_its_middle_is_408() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nbody-timeout = \"300ms\"\n[functions.cgi]\ncomponent = \"{cgi.wasm}\"\nroutes = [\"/cgi/{*rest}\"]\n",
    );
    let mut stream = tokio::net::TcpStream::connect(host.address()).await.unwrap();
    let beginning = b"POST /cgi/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this";
    tokio::io::AsyncWriteExt::write_all(&mut stream, beginning).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("\"body_timeout\""), "{text}");
}

/// A client that reads the head and then nothing: its guest ends by its timeout all the same.
#[tokio::test]
async fn a_client_that_stops_reading_keeps_no_sandbox() {
    let settings = "limits = { concurrency = 1, timeout = \"500ms\", queue-wait = \"30s\" }";
    for guest in ["misbehave", "misbehave-p3"] {
        let host = TestHost::of_guest(guest, settings);
        let mut connection = host.connect().await;
        let response = connection.begin(Request::get(&format!("/{guest}/pour"))).await.unwrap();
        assert_eq!(response.status(), 200);
        host.get(&format!("/{guest}/counter")).await.assert_ok("1\n");
        drop(response);
    }
}

#[tokio::test]
async fn more_headers_than_a_command_s_environment_holds_is_431() {
    let host = TestHost::of_guest("cgi", "");
    let long = "x".repeat(40 << 10);
    host.send(Request::get("/x").header("x-long", &long)).await.assert_problem(431, "headers_too_large");
}

#[tokio::test]
async fn a_status_that_belongs_to_the_connection_is_no_answer() {
    let host = TestHost::of_guest("misbehave", "");
    for status in [100, 101, 103] {
        host.get(&format!("/misbehave/status?code={status}")).await.assert_problem(502, "guest_error");
    }
    assert_eq!(host.get("/misbehave/status?code=599").await.status, 599);
}

#[tokio::test]
async fn a_body_that_is_left_unfinished_is_no_answer() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/forgotten").await.assert_problem(502, "guest_error");
}

#[test]
fn a_client_of_http_1_0_can_tell_a_body_that_was_cut() {
    let host = TestHost::of_guest("misbehave", "");
    let mut stream = std::net::TcpStream::connect(host.address()).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /misbehave/panic-in-mid-stream HTTP/1.0\r\n\r\n").unwrap();
    let ended = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    assert!(ended.is_err(), "the body ended as if it were whole: {ended:?}");
}

#[tokio::test]
async fn what_a_guest_says_of_its_failure_is_bounded() {
    let host = TestHost::of_guest("misbehave", "");
    let answer = host.get("/misbehave/long-error").await;
    answer.assert_problem(502, "guest_error");
    let id = answer.request_id().to_owned();
    let line = host.logged(|line| line["level"] == "WARN" && line["request_id"] == id.as_str());
    assert!(line["message"].as_str().unwrap().len() < 2048);
}
