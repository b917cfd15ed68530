//! HTTP/2, frame by frame: what a client may have of a connection at once, and what it may not do to it at any rate.

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, FrameClient, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, block,
    frame, head,
};
use crate::support::{RawClient, TestHost};

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

/// Sends so many of these, and sees that the connection ends. Another client notices nothing.
#[track_caller]
fn assert_closed_by(what: &str, host: &TestHost, frames: impl Iterator<Item = Vec<u8>>) {
    let mut client = FrameClient::open(host.address(), &[]);
    client.get(1, "/").body_of(1);
    let mut sent = Vec::new();
    for frame in frames {
        sent.extend(frame);
        if sent.len() > 32 << 10 {
            client.0.send(std::mem::take(&mut sent));
        }
    }
    client.0.send(sent);
    // Were it open still, this would take until it is idle for too long.
    let took = client.0.closed_after();
    assert!(took.as_secs() < 30, "{what}: closed after {took:?}");
    let mut other = RawClient::open(host.address());
    assert_eq!(other.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status, 200);
}

#[test]
fn frames_that_carry_nothing_are_bounded() {
    let host = TestHost::of_guest("hello", "");
    let floods: [(&str, Vec<u8>); 7] = [
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("empty SETTINGS", frame(SETTINGS, 0, 0, b"")),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("of no known kind", frame(200, 0, 0, b"x")),
        ("PING acknowledgements", frame(PING, 1, 0, b"12345678")),
    ];
    for (what, flood) in floods {
        assert_closed_by(what, &host, (0..50_000).map(|_| flood.clone()));
    }
    let began = frame(HEADERS, END_HEADERS, 3, &head("POST", "/"));
    let empty = (0..50_000).map(|_| frame(DATA, 0, 3, b""));
    assert_closed_by("empty DATA", &host, std::iter::once(began).chain(empty));
}

/// CVE-2023-44487: a request that is taken back at once costs its client nothing, and counts against no number of streams.
#[test]
fn requests_that_are_taken_back_at_once_are_bounded() {
    let host = TestHost::of_guest("hello", "");
    let head = head("GET", "/");
    let resets = (0..20_000_u32).map(|number| {
        let stream = 3 + 2 * number;
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &head), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())]
            .concat()
    });
    assert_closed_by("at once", &host, resets);
    let begun = host.log_lines().iter().filter(|line| line["outcome"] == "client_gone").count();
    assert!(begun < 1000, "{begun} of 20000 requests were begun");
}

/// The same by a client that lets each request be begun before it takes it back.
#[test]
fn requests_that_are_taken_back_one_by_one_are_bounded() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"60s\" }");
    let mut client = FrameClient::open(host.address(), &[]);
    let mut resets = 0_u32;
    let is_closed = loop {
        let stream = 1 + 2 * resets;
        client.get(stream, "/misbehave/hang-after-head");
        let began = std::iter::from_fn(|| client.next()).find(|frame| frame.kind == HEADERS || frame.kind == GOAWAY);
        if began.is_none_or(|frame| frame.kind == GOAWAY) {
            break true;
        }
        client.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        resets += 1;
        if resets > 5000 {
            break false;
        }
    };
    assert!(is_closed && resets >= 100, "{resets} resets");
}

#[test]
fn header_blocks_are_bounded() {
    let host = TestHost::of_guest("hello", "");
    // A block that never ends, with fields in it and without.
    for payload in [vec![], block(&[("x", &"y".repeat(8000))])] {
        let began = frame(HEADERS, END_STREAM, 3, &head("GET", "/"));
        let more = (0..50_000).map(|_| frame(CONTINUATION, 0, 3, &payload));
        assert_closed_by("CONTINUATION", &host, std::iter::once(began).chain(more));
    }
    // One that ends, and is too large: its stream alone pays for that.
    let mut client = FrameClient::open(host.address(), &[]);
    let settings = client.next_of(SETTINGS);
    assert_eq!(settings.setting(6), Some(64 << 10), "the most bytes of a list of headers are told");
    client.send(HEADERS, END_STREAM, 1, &head("GET", "/"));
    for _ in 0..5 {
        client.send(CONTINUATION, 0, 1, &block(&[("x", &"y".repeat(15_000))]));
    }
    client.send(CONTINUATION, END_HEADERS, 1, b"");
    let answer = std::iter::from_fn(|| client.next()).find(|frame| frame.stream == 1).expect("an answer");
    assert!(matches!(answer.kind, HEADERS | RST_STREAM), "{answer:?}");
    assert_eq!(client.get(3, "/").body_of(3), "Hello, world!\n");
}

#[test]
fn streams_at_once_are_bounded() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"60s\" }");
    let mut client = FrameClient::open(host.address(), &[]);
    let most = client.next_of(SETTINGS).setting(3).expect("it is told");
    assert_eq!(most, 128);
    // A client that does not heed it.
    for number in 0..=most {
        client.get(1 + 2 * number, "/misbehave/hang");
    }
    let refused = client.next_of(RST_STREAM);
    assert_eq!((refused.stream, refused.error()), (1 + 2 * most, REFUSED_STREAM));
}

/// h2 says why, where it is what closes.
#[test]
fn a_client_that_breaks_the_protocol_is_told() {
    let host = TestHost::of_guest("hello", "");
    let mut client = FrameClient::open(host.address(), &[]);
    // An upload on a stream that was never begun.
    client.send(DATA, 0, 7, b"x");
    let goodbye = client.next_of(GOAWAY);
    assert_ne!(goodbye.error(), 0);
    assert_ne!(goodbye.error(), ENHANCE_YOUR_CALM);
    // Headers that name no one authority.
    let mut client = FrameClient::open(host.address(), &[]);
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/"), ("host", "b")];
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields));
    assert!(client.body_of(1).contains("\"bad_request\""));
    for path in ["*", "no-slash"] {
        let mut client = FrameClient::open(host.address(), &[]);
        client.get(1, path);
        let answer = std::iter::from_fn(|| client.next()).find(|frame| frame.stream == 1).expect("an answer");
        let said = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(answer.kind == RST_STREAM || !said.contains("200"), "{path}: {answer:?}");
    }
}
