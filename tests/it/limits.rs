//! A function at its limits harms nobody else.

use crate::support::{Request, TestHost, body_of_channel};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use std::convert::Infallible;
use std::time::{Duration, Instant};

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
async fn spinning_guests_on_every_core_do_not_stop_another_function() {
    let host = TestHost::with(SPINNERS_AND_HELLO);
    let mut spinners = Vec::new();
    // Twice as many as there are cores, and four at the least.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    for _ in 0..(2 * cores).max(4) {
        let mut connection = host.connect().await;
        // The head shows that it runs; behind it, it never stops.
        let response = connection.begin(Request::get("/misbehave/spin-after-head")).await.unwrap();
        spinners.push((connection, response));
    }
    let mut connection = host.connect().await;
    for _ in 0..100 {
        connection.send(Request::get("/hello/you")).await.unwrap().assert_ok("Hello, you!\n");
    }
    // They spin to this moment: the receipt of one that had ended would have been logged before those of `hello`.
    for (_connection, response) in &spinners {
        let id = response.headers()["x-request-id"].to_str().unwrap();
        assert!(!host.log_lines().iter().any(|line| line["target"] == "receipt" && line["request_id"] == id));
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
limits = { timeout = \"500ms\" }
",
    );
    let began = Instant::now();
    // One chunk each 200 ms: three times its timeout in all, in which the guest can do nothing.
    let body = slow_upload(5, Duration::from_millis(200));
    let answer = host.send(Request::post("/cgi/x", "").body(body)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("upload: 5 bytes"), "{}", answer.text());
    assert!(began.elapsed() > Duration::from_millis(800));
}

/// A pool for a thousand sandboxes wants terabytes of address space. Without, each gets its memory from the kernel.
#[tokio::test]
async fn a_small_address_space_is_served_all_the_same_and_the_limits_hold() {
    let host = TestHost::in_address_space(
        64 << 20,
        "name = \"test\"
[functions.guest]
component = \"{misbehave.wasm}\"
routes = [\"/{*rest}\"]
limits = { memory = \"8 MiB\" }
",
    );
    host.logged(|line| line["sandboxes"] == "on-demand");
    host.get("/misbehave/counter").await.assert_ok("1\n");
    host.get("/misbehave/grow").await.assert_problem(502, "memory_limit");
}

/// What a guest has the host keep for it is bounded too.
#[tokio::test]
async fn bodies_that_are_never_sent_take_little_of_the_host() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/counter").await.assert_ok("1\n");
    let before = host.resident_bytes();
    let answer = host.get("/misbehave/hoard-bodies").await;
    answer.assert_ok("hoarded\n");
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "the host grew by {grown} bytes");
}

/// A body of `count` bytes, one each `pause`. The pauses are what is tested here, not a way to wait for something.
fn slow_upload(count: usize, pause: Duration) -> BoxBody<Bytes, Infallible> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for _ in 0..count {
            std::thread::sleep(pause);
            if sender.blocking_send(Bytes::from_static(b"x")).is_err() {
                return;
            }
        }
    });
    body_of_channel(receiver)
}
