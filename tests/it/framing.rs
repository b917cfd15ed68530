//! What a guest may not do to the connection: whatever it answers, the next answer there is read as what it is.

use crate::support::{RawClient, TestHost, frames};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

/// A guest that answers what it is told.
fn host() -> TestHost {
    TestHost::with(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello\"]\n[functions.answer]\ncomponent = \"{answer-probe.wasm}\"\nroutes = [\"/answer\"]\n[functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n",
    )
}

fn telling(method: &str, told: &str) -> String {
    format!("{method} /answer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{told}", told.len())
}

/// The status, and the body; behind it, on the same connection, another answer comes out whole.
#[track_caller]
fn answer_and_next(host: &TestHost, method: &str, told: &str) -> (u16, Vec<(String, String)>, String) {
    let mut client = RawClient::open(host.address());
    let answer = client.send(telling(method, told)).answer_to(method);
    let next = client.send(HELLO).answer();
    assert_eq!((next.status, next.body.as_str()), (200, "Hello, world!\n"), "behind {told:?}");
    (answer.status, answer.headers, answer.body)
}

#[test]
fn fields_of_the_connection_do_not_get_out() {
    let host = host();
    let told = "Connection: close, X-Hop\nKeep-Alive: timeout=1\nTransfer-Encoding: chunked\nUpgrade: h2c\nTE: trailers\nProxy-Connection: close\nHTTP2-Settings: x\nX-Own: kept\n\nbody";
    let (status, headers, body) = answer_and_next(&host, "POST", told);
    assert_eq!((status, body.as_str()), (200, "body"));
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["connection", "keep-alive", "upgrade", "te", "proxy-connection", "http2-settings", "transfer-encoding"]
    {
        assert!(!names.contains(&name), "{name} of {names:?}");
    }
    assert!(names.contains(&"x-own") && names.contains(&"content-length"), "{names:?}");
}

#[test]
fn a_length_that_is_not_true_is_no_answer() {
    let host = host();
    for (length, body) in
        [("5", "1234"), ("3", "1234"), ("0", "1234"), ("5, 5", "12345"), ("+5", "12345"), ("x", "12345")]
    {
        let (status, _, problem) = answer_and_next(&host, "POST", &format!("Content-Length: {length}\n\n{body}"));
        assert_eq!(status, 502, "{length:?} for {body:?}: {problem}");
        assert!(problem.contains("\"guest_error\""), "{problem}");
    }
    let (status, _, _) = answer_and_next(&host, "POST", "Content-Length: 5\nContent-Length: 5\n\n12345");
    assert_eq!(status, 502);
    let (status, _, body) = answer_and_next(&host, "POST", "Content-Length: 5\n\n12345");
    assert_eq!((status, body.as_str()), (200, "12345"));
}

/// Once the head is gone, all that can be done is to cut the answer off: it never has another length, and nothing follows it.
#[test]
fn a_length_that_turns_out_to_be_wrong_cuts_the_answer_off() {
    let host = host();
    for told in
        ["Content-Length: 9\n\n|1234|5", "Content-Length: 4\n\n|12|3456", "Content-Length: 4\n\n1234|HTTP/1.1 200 OK"]
    {
        let mut client = RawClient::open(host.address());
        client.send(telling("POST", told)).send("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let text = String::from_utf8(client.rest()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
        let promised: usize = told["Content-Length: ".len()..][..1].parse().unwrap();
        if let Some(next) = body.get(promised..).filter(|next| !next.is_empty()) {
            assert!(next.starts_with("HTTP/1.1 200 OK\r\n") && next.ends_with("Hello, world!\n"), "{text}");
        } else {
            assert!(body.len() < promised && "12345".starts_with(body), "{text}");
        }
    }
    // Over HTTP/2 nobody else counts.
    for told in ["Content-Length: 9\n\n|1234|5", "Content-Length: 4\n\n|12|3456"] {
        let mut client = frames::FrameClient::open(host.address(), &[]);
        client.send(frames::HEADERS, frames::END_HEADERS, 1, &frames::head("POST", "/answer"));
        client.send(frames::DATA, frames::END_STREAM, 1, told.as_bytes());
        assert_eq!(client.next_of(frames::RST_STREAM).stream, 1, "{told:?}");
        assert_eq!(client.get(3, "/hello").body_of(3), "Hello, world!\n");
    }
}

#[test]
fn answers_that_have_no_body_have_none() {
    let host = host();
    for status in ["204", "205", "304"] {
        for length in ["", "Content-Length: 4\n"] {
            let (answered, headers, body) =
                answer_and_next(&host, "POST", &format!("Status: {status}\n{length}\nHTTP"));
            assert_eq!((answered.to_string().as_str(), body.as_str()), (status, ""));
            let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.as_str());
            assert_eq!(length, (status == "205").then_some("0"), "{status}");
        }
    }
    let (status, headers, body) = answer_and_next(&host, "HEAD", "Content-Length: 4\n\nHTTP");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(headers.contains(&("content-length".to_owned(), "4".to_owned())), "{headers:?}");
    // It says what GET would have had, and may have looked no further.
    let (_, headers, _) = answer_and_next(&host, "HEAD", "Content-Length: 400\n\nHTTP");
    assert!(headers.contains(&("content-length".to_owned(), "400".to_owned())), "{headers:?}");
}

#[test]
fn a_status_that_there_is_not_is_no_answer() {
    let host = host();
    for status in ["100", "101", "103", "199", "600", "999"] {
        let (answered, _, problem) = answer_and_next(&host, "POST", &format!("Status: {status}\n\nbody"));
        assert_eq!(answered, 502, "{status}: {problem}");
        let mut client = RawClient::open(host.address());
        client.send(format!("GET /misbehave/status?code={status} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer().assert_problem(502, "guest_error");
        assert_eq!(client.send(HELLO).answer().body, "Hello, world!\n");
    }
}

#[test]
fn fields_that_are_malformed_or_too_large_are_no_answer() {
    let host = host();
    let large = format!("X: {}\n\nbody", "x".repeat(70 << 10));
    let many = format!("{}\nbody", "X: y\n".repeat(200));
    for told in [
        "X: a\0b\n\nbody",
        "X y\n\nbody",
        "X: a\rSet-Cookie: b\n\nbody",
        "X Y: z\n\nbody",
        ": x\n\nbody",
        &large,
        &many,
    ] {
        let (status, headers, problem) = answer_and_next(&host, "POST", told);
        assert_eq!(status, 502, "{:?}: {problem}", &told[..told.len().min(80)]);
        assert!(!headers.iter().any(|(name, _)| name == "set-cookie" || name == "x"), "{headers:?}");
    }
}

/// It writes 4 KiB at a time. To a client that does not read, each would be a piece of memory, and to all others a chunk.
#[test]
fn what_a_guest_writes_in_small_pieces_goes_out_together() {
    let host = host();
    let mut client = RawClient::open(host.address());
    client.send("GET /misbehave/pour HTTP/1.1\r\nHost: a\r\n\r\n");
    let some = String::from_utf8(client.try_take(256 << 10).expect("it pours")).unwrap();
    let (_, body) = some.split_once("\r\n\r\n").expect("a head");
    // Among the letters there is nothing but the size of each chunk.
    let sizes: Vec<usize> =
        body.split("\r\n").filter_map(|line| usize::from_str_radix(line, 16).ok()).filter(|size| *size > 0).collect();
    // Where the guest had used up its turn, what there was went out.
    assert_eq!(sizes.iter().max(), Some(&(8 << 10)), "{sizes:?}");
}
