//! SIGTERM: no request is lost, and the host ends with 0.

use crate::support::{Connection, RawClient, Request, TestHost, wait_for};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const HELLO_AND_STREAM: &str = "name = \"test\"
[functions.hello]
component = \"{hello.wasm}\"
routes = [\"/hello/{name}\"]
[functions.stream]
component = \"{stream.wasm}\"
routes = [\"/stream\"]
";

/// Clients that keep their connections and ask without a pause, until the host says that it closes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_no_request() {
    let host = TestHost::with(HELLO_AND_STREAM);
    let answered = AtomicUsize::new(0);
    let address = host.address();
    let client = async |path: &'static str| {
        let mut connection = Connection::open(address).await.unwrap();
        loop {
            let answer = connection.send(Request::get(path)).await.expect("every request is answered whole");
            assert_eq!(answer.status, 200);
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.header("connection") == "close" {
                return;
            }
        }
    };
    let stop = async {
        while answered.load(Ordering::Relaxed) < 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        host.terminate();
    };
    let hello = "/hello/you";
    // Two of them are in the middle of a stream when the signal comes.
    let stream = "/stream?count=20&interval-ms=10";
    tokio::join!(client(hello), client(hello), client(hello), client(hello), client(stream), client(stream), stop);
    let finished = host.finish();
    assert_eq!(finished.code, Some(0));
    assert!(finished.stdout.contains("hello "), "{}", finished.stdout);
}

#[tokio::test]
async fn requests_that_outlast_the_grace_are_cut() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nshutdown-grace = \"300ms\"\n[functions.stream]\ncomponent = \"{stream.wasm}\"\nroutes = [\"/stream\"]\nlimits = { timeout = \"none\" }\n",
    );
    let mut connection = host.connect().await;
    let response = connection.begin(Request::get("/stream?count=1000000&interval-ms=10")).await.unwrap();
    let began = Instant::now();
    host.terminate();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body = http_body_util::BodyExt::collect(response.into_body()).await;
    assert!(body.is_err(), "a cut stream ended as if it were whole");
    assert_eq!(host.receipt(&id)["outcome"], "shutdown");
    let finished = host.finish();
    assert_eq!(finished.code, Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < Duration::from_secs(20));
}

/// Streams of HTTP/2 are waited for as connections are: nothing was cut off, so nothing is said to have been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_client_that_leaves_while_the_host_ends_are_not_the_host_s_doing() {
    const STREAMS: usize = 100;
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"60s\" }");
    let stream = tokio::net::TcpStream::connect(host.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        let request = http::Request::get("http://a/misbehave/hang-after-head").body(Empty::<Bytes>::new()).unwrap();
        answers.push(sender.send_request(request).await.unwrap());
    }
    host.terminate();
    // Nobody new is let in: it is on its way out.
    wait_for("the port is closed", || std::net::TcpStream::connect(host.address()).is_err().then_some(()));
    connection.abort();
    let _ = connection.await;
    drop(answers);
    let receipts = || host.log_lines().into_iter().filter(|line| line["target"] == "receipt").collect::<Vec<_>>();
    wait_for("all have their receipts", || (receipts().len() == STREAMS).then_some(()));
    for receipt in receipts() {
        assert_eq!(receipt["outcome"], "client_gone", "{receipt}");
    }
    assert!(!host.log_lines().iter().any(|line| line["message"].to_string().contains("the grace was over")));
    assert_eq!(host.finish().code, Some(0));
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_the_host() {
    let host = TestHost::with(HELLO_AND_STREAM);
    let mut connection = host.connect().await;
    connection.send(Request::get("/hello/you")).await.unwrap().assert_ok("Hello, you!\n");
    // Nor do those that have not said what they speak.
    let _silent = RawClient::open(host.address());
    let mut half = RawClient::open(host.address());
    half.send("PRI * HTTP/2.0\r\n");
    let began = Instant::now();
    assert_eq!(host.stop().code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn ctrl_c_ends_the_host_as_well() {
    let host = TestHost::with(HELLO_AND_STREAM);
    host.get("/hello/you").await.assert_ok("Hello, you!\n");
    host.signal("-INT");
    let finished = host.finish();
    assert_eq!(finished.code, Some(0));
    assert!(finished.stdout.contains("hello "), "{}", finished.stdout);
}
