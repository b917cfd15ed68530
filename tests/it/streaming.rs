//! Bodies stream both ways: as they come, with back pressure, trailers and all.

use crate::support::{PATIENCE, Request, TestHost, body_of};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ECHO: &str = "limits = { request-body = \"10 GiB\", timeout = \"none\", cpu = \"5m\" }";

#[tokio::test]
async fn a_large_upload_comes_back_whole_in_flat_memory() {
    let host = TestHost::of_guest("echo", ECHO);
    host.send(Request::post("/", "warm")).await.assert_ok("warm");
    let before = host.resident_bytes();
    let chunk = Bytes::from((0..=255).cycle().take(64 << 10).collect::<Vec<u8>>());
    let frames = std::iter::repeat_n(chunk.clone(), 1024).map(Frame::data);
    let mut connection = host.connect().await;
    let response = connection.begin(Request::post("/", "").body(body_of(frames))).await.unwrap();
    let (mut received, mut body, mut peak) = (0_usize, response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        for (place, byte) in data.iter().enumerate() {
            assert_eq!(*byte, ((received + place) % 256) as u8);
        }
        received += data.len();
        peak = peak.max(host.resident_bytes());
    }
    assert_eq!(received, 64 << 20);
    let grown = peak.saturating_sub(before);
    assert!(grown < 24 << 20, "64 MiB went through, and the host grew by {grown} bytes");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_guest_s_reading() {
    let host = TestHost::of_guest("echo", ECHO);
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let frames = std::iter::repeat(Bytes::from(vec![b'x'; 64 << 10])).inspect(move |chunk| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let mut connection = host.connect().await;
    let response = connection.begin(Request::post("/", "").body(body_of(frames.map(Frame::data)))).await.unwrap();
    // Nothing is read. What is sent fills the buffers on the way and then no more: it stands still.
    let mut last = 0;
    let settled = async {
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = sent.load(Ordering::Relaxed);
            if now == last {
                return now;
            }
            last = now;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settled).await.expect("it stands still");
    assert!(settled < 64 << 20, "{settled} bytes were taken from a client that reads nothing");
    drop(response);
}

#[tokio::test]
async fn events_come_one_by_one() {
    let host = TestHost::of_guest("stream", "");
    let mut connection = host.connect().await;
    let mut response = connection.begin(Request::get("/?count=3&interval-ms=200")).await.unwrap();
    let mut arrived = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        frame.unwrap();
        arrived.push(std::time::Instant::now());
    }
    assert_eq!(arrived.len(), 3);
    assert!(arrived[2] - arrived[0] > Duration::from_millis(300), "they came together");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let host = TestHost::of_guest("echo", "");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    let frames = [Frame::data(Bytes::from_static(b"data")), Frame::trailers(trailers)];
    let request = Request::post("/", "")
        .body(body_of(frames.into_iter()))
        .header("te", "trailers")
        .header("trailer", "x-checksum");
    let answer = host.send(request).await;
    answer.assert_ok("data");
    assert_eq!(answer.trailers.expect("trailers")["x-checksum"], "42");
}

#[tokio::test]
async fn five_hundred_streams_at_once() {
    let limits = "limits = { concurrency = 500, queue-wait = \"50ms\", timeout = \"none\" }";
    let host = TestHost::of_guest("stream", limits);
    let mut streams = Vec::new();
    for _ in 0..500 {
        let mut connection = host.connect().await;
        let mut response = connection.begin(Request::get("/?count=1000000&interval-ms=100")).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
        streams.push((connection, response));
    }
    // All of them have their sandbox: there is none left for one more.
    host.get("/?count=1").await.assert_problem(503, "busy");
    for (_connection, response) in &mut streams {
        let next = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(next.starts_with(b"id: 1\n"), "{next:?}");
    }
}
