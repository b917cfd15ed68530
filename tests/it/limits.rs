//! A function at its limits harms nobody else.

use crate::support::{Request, TestHost};
use std::time::Instant;

const SPINNERS_AND_HELLO: &str = "name = \"test\"
[functions.spin]
component = \"{misbehave.wasm}\"
routes = [\"/misbehave/{*rest}\"]
limits = { cpu = \"60s\", timeout = \"60s\" }
[functions.hello]
component = \"{hello.wasm}\"
routes = [\"/hello/{name}\"]
";

#[tokio::test]
async fn four_spinning_guests_do_not_stop_another_function() {
    let host = TestHost::with(SPINNERS_AND_HELLO);
    let mut spinners = Vec::new();
    for _ in 0..4 {
        let mut connection = host.connect().await;
        // The head shows that it runs; behind it, it never stops.
        let response = connection.begin(Request::get("/misbehave/spin-after-head")).await.unwrap();
        spinners.push((connection, response));
    }
    let mut connection = host.connect().await;
    for _ in 0..100 {
        connection.send(Request::get("/hello/you")).await.unwrap().assert_ok("Hello, you!\n");
    }
    for (_, response) in spinners {
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn a_limit_of_one_function_overrides_the_app_s() {
    let host = TestHost::with(
        "name = \"test\"
[limits]
request-body = \"10 B\"
[functions.small]
component = \"{echo.wasm}\"
routes = [\"/small\"]
[functions.large]
component = \"{echo.wasm}\"
routes = [\"/large\"]
[functions.large.limits]
request-body = \"20 B\"
",
    );
    host.send(Request::post("/small", "0123456789a")).await.assert_problem(413, "body_too_large");
    host.send(Request::post("/large", "0123456789a")).await.assert_ok("0123456789a");
}

#[tokio::test]
async fn a_slow_upload_is_not_billed_to_the_guest() {
    let host = TestHost::with(
        "name = \"test\"
[functions.cgi]
component = \"{cgi.wasm}\"
routes = [\"/cgi/{*rest}\"]
limits = { timeout = \"300ms\" }
",
    );
    let began = Instant::now();
    // One chunk each 200 ms: three times its timeout in all, in which the guest can do nothing.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let (parts, body) = slow_upload(5, std::time::Duration::from_millis(200), receiver);
    let answer = host.send(Request::post("/cgi/x", "").body(body)).await;
    drop((sender, parts));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("upload: 5 bytes"), "{}", answer.text());
    assert!(began.elapsed() > std::time::Duration::from_millis(800));
}

/// What a guest has the host keep for it is bounded too.
#[tokio::test]
async fn bodies_that_are_never_sent_take_little_of_the_host() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/counter").await.assert_ok("1\n");
    let before = host.resident_bytes();
    let answer = host.get("/misbehave/hoard-bodies").await;
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "the host grew by {grown} bytes for a guest that {}", answer.status);
}

/// A body of `count` bytes, one each `pause`. The pauses are what is tested here, not a way to wait for something.
fn slow_upload(
    count: usize,
    pause: std::time::Duration,
    stop: std::sync::mpsc::Receiver<()>,
) -> (std::thread::JoinHandle<()>, http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let thread = std::thread::spawn(move || {
        for _ in 0..count {
            if stop.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
                || sender.blocking_send(bytes::Bytes::from_static(b"x")).is_err()
            {
                return;
            }
        }
    });
    (thread, http_body_util::BodyExt::boxed(ChannelBody(std::sync::Mutex::new(receiver))))
}

struct ChannelBody(std::sync::Mutex<tokio::sync::mpsc::Receiver<bytes::Bytes>>);

impl http_body::Body for ChannelBody {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>>> {
        self.0.lock().unwrap().poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}
