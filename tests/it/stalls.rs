//! A client that does not go on is let go, at whatever stage it stands still; and one that goes on is not.

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameClient, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, block,
    frame, head,
};
use crate::support::{PATIENCE, RawClient, TestHost, wait_for};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TIMEOUT: Duration = Duration::from_millis(500);
/// How much later than it should a busy machine may close.
const LATE: Duration = Duration::from_secs(8);

/// A host on which `key` alone comes to its end within the hour.
fn host_with(key: &str, guest: &str) -> TestHost {
    let times = ["header-timeout", "idle-timeout", "write-timeout", "body-timeout"]
        .map(|known| format!("{known} = \"{}\"\n", if known == key { "500ms" } else { "1h" }));
    TestHost::with(&format!(
        "name = \"test\"\n[host]\n{}[functions.guest]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nlimits = {{ timeout = \"10m\", cpu = \"5m\" }}\n",
        times.concat()
    ))
}

/// It is closed, and not before its time is over.
#[track_caller]
fn assert_in_time(what: &str, took: Duration) {
    assert!(took + Duration::from_millis(50) >= TIMEOUT && took < TIMEOUT + LATE, "{what}: {took:?}");
}

/// Sends a byte every now and then until the host has closed.
#[track_caller]
fn drip(what: &str, client: &mut RawClient, bytes: impl Iterator<Item = u8>) {
    let began = Instant::now();
    for byte in bytes {
        client.send([byte]);
        if !client.is_open_after(Duration::from_millis(50)) {
            break;
        }
        assert!(began.elapsed() < TIMEOUT + LATE, "{what}: dripping gains time");
    }
    assert_in_time(what, began.elapsed());
}

#[test]
fn a_head_that_is_not_finished_in_time_closes() {
    let host = host_with("header-timeout", "hello");
    let settings = frame(4, 0, 0, b"");
    let half_frame = &frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/"))[..20];
    let half_block = frame(HEADERS, END_STREAM, 1, &head("GET", "/"));
    let stages: &[(&str, &[&[u8]])] = &[
        ("nothing", &[]),
        ("half a word", &[b"GE"]),
        ("half a line", &[b"GET / HT"]),
        ("half a head", &[b"GET / HTTP/1.1\r\nHost: a\r\n"]),
        ("half a preface", &[b"PRI * HTTP/2.0\r\n"]),
        ("a preface", &[PREFACE]),
        ("no request", &[PREFACE, &settings]),
        ("half a frame", &[PREFACE, &settings, half_frame]),
        ("half a block", &[PREFACE, &settings, &half_block]),
    ];
    for (what, parts) in stages {
        let mut client = RawClient::open(host.address());
        client.send(parts.concat());
        assert_in_time(what, client.closed_after());
    }
}

#[test]
fn the_next_head_on_a_connection_has_as_much_time_and_no_more() {
    let host = host_with("header-timeout", "hello");
    let mut client = RawClient::open(host.address());
    client.send(GET).answer();
    // Between requests another time counts.
    assert!(client.is_open_after(TIMEOUT * 2));
    client.send(GET).answer();
    client.send("GET / HTTP/1.1\r\nHo");
    assert_in_time("half a head", client.closed_after());

    let mut client = FrameClient::open(host.address(), &[]);
    client.get(1, "/").body_of(1);
    assert!(client.0.is_open_after(TIMEOUT * 2));
    client.get(3, "/").body_of(3);
    client.0.send(&frame(HEADERS, END_HEADERS | END_STREAM, 5, &head("GET", "/"))[..20]);
    assert_in_time("half a frame", client.0.closed_after());
}

#[test]
fn dripping_gains_no_time() {
    let host = host_with("header-timeout", "hello");
    let endless = b"GET / HTTP/1.1\r\nHost: a\r\n".iter().copied().chain(b"X: y\r\n".iter().copied().cycle());
    drip("a head", &mut RawClient::open(host.address()), endless.clone());
    let mut client = RawClient::open(host.address());
    client.send(GET).answer();
    drip("the next head", &mut client, endless);
    drip("empty lines", &mut RawClient::open(host.address()), b"\r\n".iter().copied().cycle());

    let mut client = FrameClient::open(host.address(), &[]);
    client.get(1, "/").body_of(1);
    client.send(HEADERS, END_STREAM, 3, &head("GET", "/"));
    drip("a block", &mut client.0, frame(CONTINUATION, 0, 3, &block(&[("x", "yyyyyyyyyyyyyyyy")])).into_iter().cycle());
}

#[test]
fn a_connection_on_which_nothing_is_asked_closes() {
    let host = host_with("idle-timeout", "hello");
    // Before the first request another time counts.
    let mut silent = RawClient::open(host.address());
    let mut client = RawClient::open(host.address());
    for _ in 0..3 {
        client.send(GET).answer();
        assert!(client.is_open_after(TIMEOUT / 2), "each request begins the time anew");
    }
    client.send(GET).answer();
    assert_in_time("HTTP/1.1", client.closed_after());
    assert!(silent.is_open_after(Duration::from_millis(50)));

    let mut client = FrameClient::open(host.address(), &[]);
    client.get(1, "/").body_of(1);
    let began = Instant::now();
    // To be there is not to ask for something.
    client.send(PING, 0, 0, b"stillup?");
    let rest = client.rest();
    assert_in_time("HTTP/2", began.elapsed());
    let goodbye = rest.iter().find(|frame| frame.kind == GOAWAY).expect("it is told");
    assert_eq!(goodbye.error(), 0);
}

#[test]
fn a_client_that_stops_reading_is_let_go() {
    let host = host_with("write-timeout", "misbehave");
    let mut client = RawClient::open(host.address());
    client.send("GET /misbehave/pour HTTP/1.1\r\nHost: a\r\n\r\n");
    let receipt = host.logged(|line| line["target"] == "receipt");
    assert_eq!(receipt["outcome"], "client_gone");
    let rest = client.rest();
    assert!(rest.starts_with(b"HTTP/1.1 200 ") && !rest.ends_with(b"0\r\n\r\n"));
    // The connection of a client that left no trace of reading is gone, and not its request alone.
    wait_for("no connection is left", || (connections_of(&host) == 0).then_some(()));
}

/// The kernel would take megabytes, of a memory that all connections of the machine share.
#[test]
fn what_a_client_does_not_read_is_not_kept_for_it() {
    let host = host_with("write-timeout", "misbehave");
    let mut client = RawClient::open(host.address());
    client.send("GET /misbehave/pour HTTP/1.1\r\nHost: a\r\n\r\n");
    let receipt = host.logged(|line| line["target"] == "receipt");
    assert_eq!(receipt["outcome"], "client_gone");
    let taken = receipt["bytes_out"].as_u64().expect("a count");
    assert!(taken > 0 && taken < 1 << 20, "{taken} bytes");
}

/// Connections that the host still has, as the kernel counts them.
fn connections_of(host: &TestHost) -> usize {
    let port = format!(":{:04X}", host.address().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_there = |line: &&str| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1).unwrap_or_default(), fields.nth(1).unwrap_or_default());
        // Established, and the ways in which one ends that is still to send something (tcp_states.h).
        local.ends_with(&port) && matches!(state, "01" | "04" | "09" | "0B")
    };
    table.lines().filter(is_there).count()
}

/// The other streams of the connection are none the worse.
#[test]
fn a_stream_that_is_given_no_window_is_reset_alone() {
    let host = host_with("write-timeout", "misbehave");
    // SETTINGS_INITIAL_WINDOW_SIZE: streams may send nothing until they are told.
    let mut client = FrameClient::open(host.address(), &[(4, 0)]);
    let began = Instant::now();
    client.get(1, "/misbehave/pour").get(3, "/misbehave/counter");
    let reset = client.next_of(RST_STREAM);
    assert_in_time("a stream", began.elapsed());
    let mut reset_streams = vec![reset.stream, client.next_of(RST_STREAM).stream];
    reset_streams.sort_unstable();
    assert_eq!(reset_streams, [1, 3]);
    client.get(5, "/misbehave/counter").send(WINDOW_UPDATE, 0, 5, &1000_u32.to_be_bytes());
    assert_eq!(client.body_of(5), "1\n");
}

/// Waiting for a guest is not the client's fault.
#[test]
fn a_guest_that_says_nothing_for_long_does_not_cost_its_client_the_connection() {
    for key in ["idle-timeout", "write-timeout", "header-timeout"] {
        let host = host_with(key, "stream");
        let slow = "/?count=2&interval-ms=1500";
        let mut client = RawClient::open(host.address());
        client.send(format!("GET {slow} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(client.answer().body.contains("event 1"), "{key}");
        let mut client = FrameClient::open(host.address(), &[]);
        assert!(client.get(1, slow).body_of(1).contains("event 1"), "{key}");
    }
}

/// Its guest waits for it, and has not failed.
#[test]
fn an_upload_that_drips_ends_by_the_timeout_and_is_its_client_s_fault() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nbody-timeout = \"500ms\"\n[functions.cgi]\ncomponent = \"{cgi.wasm}\"\nroutes = [\"/cgi/{*rest}\"]\nlimits = { timeout = \"2s\" }\n",
    );
    let began = Instant::now();
    let mut client = RawClient::open(host.address());
    client.send("POST /cgi/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    while client.send("x").is_open_after(Duration::from_millis(200)) {
        assert!(began.elapsed() < TIMEOUT + LATE, "dripping gains time");
    }
    client.answer().assert_problem(408, "body_timeout");
}

#[test]
fn an_upload_that_stops_ends_its_request_and_its_connection() {
    let host = host_with("body-timeout", "cgi");
    for upload in ["Content-Length: 100\r\n\r\nonly this", "Transfer-Encoding: chunked\r\n\r\n9\r\nonly th"] {
        let began = Instant::now();
        let mut client = RawClient::open(host.address());
        client.send(format!("POST /cgi/x HTTP/1.1\r\nHost: a\r\n{upload}"));
        client.answer().assert_problem(408, "body_timeout");
        assert_in_time("HTTP/1.1", began.elapsed());
        client.finish_sending().assert_closed();
    }
    let mut client = FrameClient::open(host.address(), &[]);
    let began = Instant::now();
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/cgi/x")).send(DATA, 0, 1, b"only this");
    assert!(client.body_of(1).contains("\"body_timeout\""));
    assert_in_time("HTTP/2", began.elapsed());
    assert!(began.elapsed() < PATIENCE);
}
