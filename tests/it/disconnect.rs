//! A client that goes away stops its guest. The guest's end is seen: its receipt is written, its permit is free.

use crate::support::{RawClient, Request, TestHost, wait_for};

const ONE_AT_A_TIME: &str = "limits = { concurrency = 1, cpu = \"60s\", timeout = \"60s\", queue-wait = \"30s\" }";

/// Asks for `path`, goes away when the guest is at it, and sees the guest end.
async fn goes_away_from(path: &str) {
    let host = TestHost::of_guest("misbehave", ONE_AT_A_TIME);
    let mut connection = host.connect().await;
    let began = tokio::select! {
        answer = connection.begin(Request::get(path)) => panic!("it answered: {answer:?}"),
        line = said_that_it_began(&host) => line,
    };
    connection.leave().await;
    let receipt = host.receipt(began["request_id"].as_str().unwrap());
    assert_eq!(receipt["outcome"], "client_gone");
    // The only permit is free again.
    host.get("/misbehave/counter").await.assert_ok("1\n");
}

/// Looks for the guest's own line without blocking the thread that drives the client.
async fn said_that_it_began(host: &TestHost) -> serde_json::Value {
    loop {
        let line = host.log_lines().into_iter().find(|line| line["target"] == "guest");
        if let Some(line) = line {
            return line;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_guest_that_computes_ends_when_its_client_goes() {
    goes_away_from("/misbehave/spin").await;
}

#[tokio::test]
async fn a_guest_that_waits_ends_when_its_client_goes() {
    goes_away_from("/misbehave/hang").await;
}

#[tokio::test]
async fn a_guest_that_streams_ends_when_its_client_goes() {
    let host = TestHost::of_guest("stream", "limits = { concurrency = 1, timeout = \"none\", queue-wait = \"30s\" }");
    let mut connection = host.connect().await;
    let mut response = connection.begin(Request::get("/?count=1000000000&interval-ms=1")).await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    http_body_util::BodyExt::frame(response.body_mut()).await.unwrap().unwrap();
    connection.leave().await;
    assert_eq!(host.receipt(&id)["outcome"], "client_gone");
    host.get("/?count=1").await.assert_ok("id: 0\ndata: event 0\n\n");
}

#[tokio::test]
async fn a_guest_may_work_on_after_its_answer() {
    let host = TestHost::of_guest("misbehave", "");
    let answer = host.get("/misbehave/work-on?ms=200").await;
    answer.assert_ok("answered\n");
    let id = answer.request_id().to_owned();
    host.logged(|line| {
        line["target"] == "guest" && line["request_id"] == id.as_str() && line["message"] == "worked on for 200 ms"
    });
    let receipt = host.receipt(&id);
    assert_eq!(receipt["outcome"], "ok");
    assert!(receipt["body_ns"].as_f64().unwrap() > 190_000_000.0, "{receipt}");
}

/// A webhook that says 204 and then does its work, or any function that is asked with HEAD.
#[tokio::test]
async fn an_answer_without_a_body_does_not_end_the_work_behind_it() {
    let host = TestHost::of_guest("misbehave", "");
    let without_body = host.get("/misbehave/work-on-without-a-body?ms=1500").await;
    assert_eq!(without_body.status, 204);
    let head = host.send(Request::new(http::Method::HEAD, "/misbehave/work-on?ms=1500")).await;
    assert_eq!(head.status, 200);
    for answer in [without_body, head] {
        let id = answer.request_id().to_owned();
        host.logged(|line| line["request_id"] == id.as_str() && line["message"] == "worked on for 1500 ms");
        assert_eq!(host.receipt(&id)["outcome"], "ok");
    }
}

#[tokio::test]
async fn work_after_the_answer_ends_by_the_timeout() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"300ms\" }");
    let answer = host.get("/misbehave/work-on?ms=60000").await;
    answer.assert_ok("answered\n");
    assert_eq!(host.receipt(answer.request_id())["outcome"], "timeout");
}

/// The connection does not read while the guest takes nothing of its upload, so it does not see the client's end by itself.
#[tokio::test]
async fn a_guest_that_ignores_its_upload_ends_when_its_client_goes() {
    let host = TestHost::of_guest("misbehave", ONE_AT_A_TIME);
    let mut connection = host.connect().await;
    let began = tokio::select! {
        answer = connection.begin(Request::post("/misbehave/spin", vec![b'x'; 100 << 10])) => panic!("it answered: {answer:?}"),
        line = said_that_it_began(&host) => line,
    };
    connection.leave().await;
    let receipt = host.receipt(began["request_id"].as_str().unwrap());
    assert_eq!(receipt["outcome"], "client_gone");
}

/// Some guests trap then, and some take what there is for the whole of it: neither is their fault, nor counts against them.
#[test]
fn a_client_that_goes_in_the_middle_of_its_upload_makes_no_guest_fail() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.echo]\ncomponent = \"{echo.wasm}\"\nroutes = [\"/echo\"]\n[functions.cgi]\ncomponent = \"{cgi.wasm}\"\nroutes = [\"/cgi/{*rest}\"]\n",
    );
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n");
    for _ in 0..10 {
        // Behind the head of the answer, and before it.
        RawClient::open(host.address()).send(head("/echo") + "hello").until("hello\r\n");
        RawClient::open(host.address()).send(head("/echo")).finish_sending().rest();
        RawClient::open(host.address()).send(head("/cgi/x") + "hello").finish_sending().rest();
    }
    let ended = |host: &TestHost| {
        let receipts = host.log_lines().into_iter().filter(|line| line["target"] == "receipt");
        receipts.map(|receipt| receipt["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    wait_for("all have ended", || (ended(&host).len() == 30).then_some(()));
    assert!(ended(&host).iter().all(|outcome| outcome == "client_gone"), "{:?}", ended(&host));
}

#[tokio::test]
async fn head_of_an_endless_stream_keeps_no_sandbox() {
    let host = TestHost::of_guest("stream", "limits = { concurrency = 1, timeout = \"none\", queue-wait = \"30s\" }");
    let answer = host.send(Request::new(http::Method::HEAD, "/?count=1000000000&interval-ms=10")).await;
    assert_eq!(answer.status, 200);
    host.get("/?count=1").await.assert_ok("id: 0\ndata: event 0\n\n");
}
