//! HTTP/1.1 and cleartext HTTP/2 on one port, and what a guest sees of the request.

use crate::support::frames::{END_HEADERS, END_STREAM, FrameClient, HEADERS, SETTINGS, frame, head};
use crate::support::{PATIENCE, RawClient, Request, TestHost};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n[functions.echo]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n",
    );
    let stream = tokio::net::TcpStream::connect(host.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    for path in ["/hello/you", "/misbehave/request-headers"] {
        let uri = format!("http://two.example:81{path}");
        let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if path == "/hello/you" {
            assert_eq!(text, "Hello, you!\n");
        } else {
            assert!(
                text.contains("authority two.example:81\n") && text.contains("scheme Some(Scheme::Http)\n"),
                "{text}"
            );
        }
    }
}

/// A connection says by its first 24 bytes which of the two it speaks, and they may come one by one.
#[test]
fn what_is_spoken_is_known_however_its_beginning_is_cut() {
    let host = TestHost::of_guest("hello", "");
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (request, status) in [
        ("PRI / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 200),
        ("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (&preface.replace("SM", "SN"), 400),
    ] {
        for piece in [1, 23, 24, 25, 1000] {
            let mut client = RawClient::open(host.address());
            request.as_bytes().chunks(piece).for_each(|piece| _ = client.send(piece));
            assert_eq!(client.answer().status, status, "{request:?} by {piece} bytes");
        }
    }
    let ask = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/hello"));
    let said = [preface.as_bytes(), &frame(SETTINGS, 0, 0, &[]), &ask].concat();
    for piece in [1, 23, 24, 25, 1000] {
        let mut client = FrameClient(RawClient::open(host.address()));
        said.chunks(piece).for_each(|piece| _ = client.0.send(piece));
        assert_eq!(client.body_of(1), "Hello, world!\n", "by {piece} bytes");
    }
}

/// Over HTTP/2 a body that breaks off is a reset stream, and a reset stream is a client that went away.
#[tokio::test]
async fn http_2_streams_are_cut_and_left_alone() {
    for guest in ["misbehave", "misbehave-p3"] {
        let limits = "limits = { concurrency = 1, queue-wait = \"30s\", timeout = \"60s\", cpu = \"60s\" }";
        let host = TestHost::of_guest(guest, limits);
        let stream = tokio::net::TcpStream::connect(host.address()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn(connection);
        let mut ask = async |path: &str| {
            let uri = format!("http://two.example/{guest}/{path}");
            sender.send_request(http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
        };
        let broken = ask("panic-in-mid-stream").await;
        assert_eq!(broken.status(), 200);
        assert!(broken.into_body().collect().await.is_err(), "the body ended as if it were whole");
        let left = ask("spin-after-head").await;
        let id = left.headers()["x-request-id"].to_str().unwrap().to_owned();
        drop(left);
        // The only permit is free again, and the connection serves on.
        let counted = ask("counter").await.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(counted, "1\n");
        assert_eq!(host.receipt(&id)["outcome"], "client_gone");
    }
}

/// A client that gives its streams no window reads not a byte. Its guests have ended all the same.
#[tokio::test]
async fn a_client_that_does_not_read_holds_no_sandbox_of_a_guest_that_has_ended() {
    let host = TestHost::of_guest("hello", "limits = { concurrency = 1, queue-wait = \"30s\" }");
    let stream = tokio::net::TcpStream::connect(host.address()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::task::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..3 {
        let request = http::Request::get("http://two.example/x").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        unread.push(response.into_body());
    }
    host.get("/x").await.assert_ok("Hello, world!\n");
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_their_order() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n",
    );
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let requests = (0..50).map(|n| format!("GET /hello/{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect::<Vec<_>>().concat();
    let last = "GET /hello/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{requests}{last}").as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let said: Vec<&str> = answers.lines().filter(|line| line.starts_with("Hello, ")).collect();
    let expected: Vec<String> =
        (0..50).map(|n| n.to_string()).chain(["last".to_owned()]).map(|name| format!("Hello, {name}!")).collect();
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_guest_sees_the_request_as_it_was_asked() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.it]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\", \"/a/{b}\"]\n",
    );
    let request = Request::get("/misbehave/request-headers?q=%20x")
        .header("host", "one.example:8080")
        .header("fnhost-route", "forged")
        .header("fnhost-param-rest", "forged")
        .header("Fnhost-Anything", "forged")
        .header("x-own", "kept");
    let text = host.send(request).await.text();
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "scheme Some(Scheme::Http)",
        "authority one.example:8080",
        "path /misbehave/request-headers?q=%20x",
        "fnhost-route: /misbehave/{*rest}",
        "fnhost-param-rest: request-headers",
        "x-own: kept",
    ] {
        assert!(lines.contains(&line), "{line} in\n{text}");
    }
    assert!(!text.contains("forged") && !text.contains("\nhost:"), "{text}");
}

#[tokio::test]
async fn what_a_guest_says_in_the_host_s_headers_does_not_get_out() {
    let host = TestHost::of_guest("misbehave", "");
    let answer = host.get("/misbehave/host-headers").await;
    let releases: Vec<_> = answer.headers.get_all("fnhost-release").iter().collect();
    assert_eq!(releases, ["1"], "the host's own");
    assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
    assert_ne!(answer.request_id(), "forged");
    assert_eq!(answer.header("x-own"), "kept");
    let timings: Vec<_> = answer.headers.get_all("server-timing").iter().collect();
    assert_eq!(timings.len(), 2, "its own and the host's: {timings:?}");
}

#[tokio::test]
async fn head_is_answered_by_get_without_a_body() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"GET /hello/{name}\"]\n",
    );
    let answer = host.send(Request::new(Method::HEAD, "/hello/you")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    // The length is told where the guest was done with its head.
    assert!(["", "12"].contains(&answer.header("content-length")), "{:?}", answer.headers);
    assert_eq!(host.receipt(answer.request_id())["outcome"], "ok");
}

#[tokio::test]
async fn head_of_a_stream_runs_it_to_its_end() {
    let host = TestHost::of_guest("stream", "");
    let answer = host.send(Request::new(Method::HEAD, "/?count=3&interval-ms=10")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    let receipt = host.receipt(answer.request_id());
    assert_eq!(receipt["outcome"], "ok");
    assert!(receipt["body_ns"].as_f64().unwrap() > 15_000_000.0, "{receipt}");
}

#[test]
fn http_1_0_without_a_host_is_answered() {
    let host = TestHost::of_guest("misbehave", "");
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.write_all(b"GET /misbehave/request-headers HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains(&format!("authority {}\n", host.address())), "{text}");
}

#[test]
fn an_absolute_target_wins_over_host() {
    let host = TestHost::of_guest("misbehave", "");
    let mut stream = TcpStream::connect(host.address()).unwrap();
    let request = "GET http://target.example/misbehave/request-headers HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("authority target.example\n"), "{text}");
}

/// A connection that says nothing, half a line, half a head, or half the preface of HTTP/2.
#[test]
fn a_head_that_does_not_come_to_its_end_closes_the_connection() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nheader-timeout = \"300ms\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/\"]\n",
    );
    for beginning in
        [&b""[..], b"GE", b"GET / HTTP/1.1\r\nHost: x\r\n", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let began = Instant::now();
        let mut stream = TcpStream::connect(host.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(beginning).unwrap();
        // The host may say why, and then closes.
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(250) && took < PATIENCE, "{beginning:?}: {took:?}");
    }
}

#[test]
fn connections_over_the_bound_wait_for_a_place() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nconnections = 2\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/{*rest}\"]\n",
    );
    let ask =
        |stream: &mut TcpStream| stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(host.address()).unwrap()).collect();
    let mut third = TcpStream::connect(host.address()).unwrap();
    ask(&mut third);
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "it was served beyond the bound");
    drop(held.pop());
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    third.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
