//! HTTP/1.1 as RFC 9112 and RFC 9110 have it, byte by byte: what is no request, and where a request ends.

use crate::support::{RawClient, TestHost};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";

/// What is answered on a connection of its own.
fn ask(host: &TestHost, request: &str) -> RawClient {
    let mut client = RawClient::open(host.address());
    client.send(request);
    client
}

/// A request for which there is no one reading is refused, and nothing is read behind it.
#[test]
fn a_host_that_is_missing_repeated_or_malformed_is_400_and_closes() {
    let host = TestHost::of_guest("hello", "");
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n",
        "GET / HTTP/1.1\r\nHost: a:b\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\nConnection: keep-alive\r\n",
        "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n",
        "GET http://a,b/ HTTP/1.1\r\nHost: a\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
        "CONNECT a:443 HTTP/1.1\r\n",
        "CONNECT a:443 HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        "TRACE / HTTP/1.1\r\n",
    ] {
        let mut client = ask(&host, &format!("{head}\r\n{HELLO}"));
        let text = String::from_utf8(client.rest()).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.0 400 "), "{head:?}: {text}");
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{head:?}: {text}");
        assert!(text.contains("\"code\":\"bad_request\""), "{head:?}: {text}");
    }
}

#[test]
fn what_is_no_head_at_all_is_400_and_closes() {
    let host = TestHost::of_guest("hello", "");
    for head in [
        "GET / HTTP/1.1\r\nHost : a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n",
        "GET / HTTP/1.1\r\nHost: a\0b\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n",
        "G\u{e9}T / HTTP/1.1\r\nHost: a\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: a\r\n",
        "nonsense\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n",
    ] {
        let text = String::from_utf8(ask(&host, &format!("{head}\r\n{HELLO}")).rest()).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 ") || text.starts_with("HTTP/1.0 400 "), "{head:?}: {text}");
        assert_eq!(text.matches("HTTP/1.").count(), 1, "{head:?}: {text}");
    }
}

/// Whether it is the first on its connection, which is kept apart until it is whole, or not.
#[test]
fn a_head_may_come_in_pieces() {
    let host = TestHost::of_guest("hello", "");
    let large = HELLO.replace("Host: a\r\n", &format!("Host: a\r\n{}", "Field: abcdefgh\r\n".repeat(90)));
    let larger = HELLO.replace("Host: a\r\n", &format!("Host: a\r\nField: {}\r\n", "a".repeat(10_000)));
    for (head, piece) in [(HELLO, 1), (HELLO, HELLO.len() - 1), (&large, 700), (&large, 7), (&larger, 3000)] {
        let mut client = RawClient::open(host.address());
        for _ in 0..2 {
            for piece in head.as_bytes().chunks(piece) {
                client.send(piece);
            }
            assert_eq!(client.answer().body, "Hello, world!\n");
        }
        // And the next may come with its end.
        client.send(&head[..head.len() - 1]).send(format!("\n{HELLO}"));
        assert_eq!([client.answer().body, client.answer().body], ["Hello, world!\n"; 2]);
    }
}

#[test]
fn a_first_head_is_refused_as_soon_as_it_is_wrong() {
    let host = TestHost::of_guest("hello", "[host]\nheader-timeout = \"10m\"");
    for pieces in [["GET / HTTP/1.1\r\n", "Host : a"], ["GET /", "\u{1}"], ["PRI * HTTP/2.0\r\n\r\n", "SN"]] {
        let mut client = RawClient::open(host.address());
        client.send(pieces[0]).send(pieces[1]);
        assert_eq!(client.answer().status, 400, "{pieces:?}");
    }
}

#[test]
fn a_target_in_absolute_form_wins_over_host() {
    let host = TestHost::of_guest("misbehave", "");
    let request = "GET http://target.example:81/misbehave/request-headers HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let answer = ask(&host, request).answer();
    assert!(answer.body.contains("authority target.example:81\n") && !answer.body.contains("other"), "{answer:?}");
}

#[test]
fn methods_that_are_for_no_function_are_answered_by_the_host() {
    let host = TestHost::of_guest("hello", "");
    let mut client = ask(&host, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    // Its connection serves on.
    assert_eq!(client.send(HELLO).answer().body, "Hello, world!\n");

    let mut client = ask(&host, &format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n{HELLO}"));
    let answer = client.answer();
    answer.assert_problem(405, "no_method");
    client.assert_closed();
    assert!(answer.header("allow").is_some_and(|allow| allow.starts_with("GET, ")), "{answer:?}");

    let mut client = ask(&host, &format!("TRACE / HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n{HELLO}"));
    client.answer().assert_problem(501, "not_implemented");
    client.assert_closed();
}

#[test]
fn a_target_that_is_too_long_is_414_and_a_head_that_is_too_large_is_431() {
    let host = TestHost::of_guest("hello", "");
    let fits = format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat((16 << 10) - 2));
    assert_eq!(ask(&host, &fits).answer().status, 200);
    let mut client = ask(&host, &format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n{HELLO}", "x".repeat(17 << 10)));
    client.answer().assert_problem(414, "target_too_long");
    client.assert_closed();

    let of = |bytes| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert_eq!(ask(&host, &of(63 << 10)).answer().status, 200);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    // One that goes on for much longer than anybody listens to it still hears why nobody does.
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(8 << 20));
    // Whatever was read of it at once.
    for request in [of(65 << 10), of(70 << 10), of(100 << 10), of(140 << 10), many, endless] {
        let mut client = ask(&host, &request);
        assert_eq!(client.answer().status, 431);
        client.assert_closed();
    }
}

#[test]
fn broken_chunks_are_the_client_s_fault_and_close() {
    let host = TestHost::with(
        "name = \"test\"\n[functions.echo]\ncomponent = \"{echo.wasm}\"\nroutes = [\"/echo\"]\n[functions.cgi]\ncomponent = \"{cgi.wasm}\"\nroutes = [\"/cgi/{*rest}\"]\n",
    );
    for (path, chunks) in [
        ("/echo", "x\r\n"),
        ("/echo", "FFFFFFFFFFFFFFFFFF\r\n"),
        ("/cgi/x", "x\r\n"),
        ("/cgi/x", "5\r\nhelloX"),
        ("/cgi/x", "5\r\nhello\r\n-1\r\n"),
        ("/cgi/x", "1;\nx\r\n"),
        ("/cgi/x", "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n"),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut client = ask(&host, &format!("{head}{chunks}{HELLO}"));
        let answer = client.answer();
        answer.assert_problem(400, "bad_request");
        assert_eq!(answer.header("connection"), Some("close"));
        client.finish_sending().assert_closed();
        let id = answer.header("x-request-id").unwrap();
        assert_eq!(host.receipt(id)["outcome"], "bad_request", "{path} {chunks:?}");
    }
    // Behind the head, all that can be done is to cut the answer off.
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut client = ask(&host, head);
    let began = client.until("hello\r\n");
    let text = String::from_utf8([began, client.send(format!("x\r\n{HELLO}")).rest()].concat()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && !text.contains("0\r\n\r\n"), "{text}");
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    host.logged(|line| line["target"] == "receipt" && line["status"] == 200 && line["outcome"] == "bad_request");
}

/// Two servers in a row may disagree on which of the two lengths counts; nothing is read behind either.
#[test]
fn what_follows_an_upload_with_two_lengths_is_never_read_as_a_request() {
    let host = TestHost::of_guest("echo", "");
    for lengths in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: nonsense\r\n",
    ] {
        let mut client = ask(&host, &format!("POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n2\r\nhi\r\n0\r\n\r\n{HELLO}"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.as_str()), (200, "hi"), "{lengths:?}");
        client.assert_closed();
    }
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "identity\r\nTransfer-Encoding: chunked",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        let mut client = ask(&host, &format!("{head}2\r\nhi\r\n0\r\n\r\n{HELLO}"));
        client.answer().assert_problem(501, "not_implemented");
        client.assert_closed();
    }
}

/// A line that ends without CR ends an upload for some and not for others, who take what follows it for trailers as well.
#[test]
fn what_follows_an_upload_with_trailers_is_never_read_as_a_request() {
    let host = TestHost::of_guest("echo", "");
    for trailers in ["x: y\r\n\r\n", "x: y\n\r\n", "\n\r\n", "x: y\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
        let mut client = ask(&host, &format!("{head}{trailers}{HELLO}{HELLO}"));
        let text = String::from_utf8(client.rest()).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 ").count(), 1, "{trailers:?}: {text}");
        assert!(text.matches("HTTP/1.1 ").count() <= 2 && !text.contains("Hello"), "{trailers:?}: {text}");
    }
}

/// Of chunks that nobody reads, hyper takes the rest by itself, and tells nobody how they ended.
#[test]
fn what_follows_chunks_that_nobody_wanted_is_never_read_as_a_request() {
    let host = TestHost::with("name = \"test\"\n[functions.it]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/x\"]\n");
    for (path, begins) in [("/nowhere", "HTTP/1.1 404 "), ("/x", "HTTP/1.1 200 ")] {
        for end in ["\r\n", "x: y\r\n\r\n", "x: y\n\r\n"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut client = ask(&host, &format!("{head}2\r\nhi\r\n0\r\n{end}GET /x HTTP/1.1\r\nHost: a\r\n\r\n"));
            let text = String::from_utf8(client.rest()).unwrap();
            assert!(text.starts_with(begins), "{path} {end:?}: {text}");
            // If it is read at all, it is refused.
            let answered = text.matches("HTTP/1.1 ").count() - text.matches("HTTP/1.1 400 ").count();
            assert_eq!(answered, 1, "{path} {end:?}: {text}");
            assert!(path == "/x" || text.contains("\r\nconnection: close\r\n"), "{path} {end:?}: {text}");
        }
    }
}

/// An answer may wait to be written while its upload, which nobody wanted, comes to its end: then what follows that is read.
#[test]
fn what_is_no_request_is_refused_behind_the_answer_before() {
    let host = TestHost::with("name = \"test\"\n[functions.it]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/x\"]\n");
    let upload = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let mut client = ask(&host, &format!("{upload}nonsense\r\n\r\n"));
    client.answer().assert_problem(404, "no_route");
    assert_eq!(client.answer().status, 400);
    client.assert_closed();
}

/// A client of HTTP/1.0 asks for what others need not ask for; it is not told two things.
#[test]
fn a_client_of_http_1_0_is_told_whether_its_connection_goes_on() {
    let host = TestHost::of_guest("hello", "");
    let keeps = "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let mut client = ask(&host, keeps);
    for _ in 0..2 {
        let text = String::from_utf8(client.until("Hello, world!\n")).unwrap();
        assert!(text.starts_with("HTTP/1.0 200 ") && text.contains("\r\nconnection: keep-alive\r\n"), "{text}");
        client.send(keeps);
    }
    let mut client = ask(&host, "GET a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let text = String::from_utf8(client.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.0 400 ") && text.contains("\r\nconnection: close\r\n"), "{text}");
}

/// As nginx does. A client that is still there says so by keeping its half open.
#[test]
fn a_client_that_ends_its_half_is_gone() {
    let host = TestHost::of_guest("misbehave", "limits = { timeout = \"60s\" }");
    let mut client = ask(&host, "GET /misbehave/hang HTTP/1.1\r\nHost: a\r\n\r\n");
    let began = host.logged(|line| line["target"] == "guest" && line["message"] == "hanging");
    client.finish_sending().assert_closed();
    assert_eq!(host.receipt(began["request_id"].as_str().unwrap())["outcome"], "client_gone");
}
