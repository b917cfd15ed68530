//! Plain HTTP beside HTTPS: whoever asks there is told where to ask, and nothing else.

use super::{GET, ask, config, connect_to, folder, is_there, toml};
use crate::support::{PATIENCE, RawClient, TestHost, fnhost, wait_for};
use rustls::version;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A host that speaks HTTPS, and leads there from plain HTTP.
fn host_with(settings: &str) -> TestHost {
    TestHost::within(&folder(), &redirecting(settings))
}

fn redirecting(settings: &str) -> String {
    toml(settings).replace("[host.tls]\n", "[host.tls]\nredirect-http = \"127.0.0.1:0\"\n")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn each_request_is_led_to_the_same_place_over_https() {
    if !is_there() {
        return;
    }
    let host = host_with("");
    let port = host.address().port();
    let asked = [
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", "/"),
        ("GET /b/../c?d=%20e&f HTTP/1.1\r\nHost: a.example:80\r\n\r\n", "a.example", "/b/../c?d=%20e&f"),
        ("GET //evil.example/ HTTP/1.1\r\nHost: A.example\r\n\r\n", "A.example", "//evil.example/"),
        ("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "[::1]", "/"),
        ("GET http://b.example:1/c HTTP/1.1\r\nHost: a.example\r\n\r\n", "b.example", "/c"),
        ("DELETE /x HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example", "/x"),
    ];
    for (request, name, target) in asked {
        let answer = RawClient::open(host.redirect()).send(request).answer();
        assert_eq!(answer.status, 308, "{request:?}");
        assert_eq!(answer.header("location"), Some(&*format!("https://{name}:{port}{target}")), "{request:?}");
        assert_eq!((answer.header("content-length"), &*answer.body), (Some("0"), ""), "{request:?}");
        // For whoever has written functions.toml to decide, in `headers`.
        assert_eq!(answer.header("strict-transport-security"), None);
    }
    let old = text(RawClient::open(host.redirect()).send("GET /b HTTP/1.0\r\nHost: a.example\r\n\r\n").rest());
    assert!(
        old.starts_with("HTTP/1.0 308 ") && old.contains(&format!("location: https://a.example:{port}/b\r\n")),
        "{old}"
    );
    // A connection goes on.
    let mut client = RawClient::open(host.redirect());
    for path in ["/1", "/2"] {
        let answer = client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n")).answer_to("HEAD");
        assert_eq!(answer.header("location"), Some(&*format!("https://a:{port}{path}")));
    }
    // No sandbox was made for it, and it was counted.
    let id = client.send("GET /seen HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    let receipt = host.receipt(id.header("x-request-id").unwrap());
    assert_eq!((&receipt["outcome"], &receipt["status"]), (&"redirected".into(), &308.into()), "{receipt}");
    assert!(receipt["function"].is_null(), "{receipt}");
    assert!(host.stop().stdout.contains("requests that reached no function: 10\n"));
}

#[test]
fn whoever_goes_there_is_answered_and_not_led_on() {
    if !is_there() {
        return;
    }
    let host = host_with("");
    let answer = RawClient::open(host.redirect()).send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").answer();
    let to = answer.header("location").unwrap().strip_prefix("https://").unwrap().strip_suffix('/').unwrap().to_owned();
    let mut client = connect_to(to.parse().unwrap(), &config(&[&version::TLS13], &[]), "one.example").unwrap();
    assert!(ask(&mut client, GET).ends_with("Hello, world!\n"));
    let status = fnhost(host.folder().path()).args(["status", "--to", &format!("http://{}", host.admin())]).output();
    let status = text(status.unwrap().stdout);
    assert!(status.contains(&format!(" at https://{}, ", host.address())), "{status}");
    // Whose proxy has spoken HTTPS with it already, and asks here, would come back for ever.
    let host = host_with("trusted-proxies = [\"127.0.0.1\"]");
    let by_proxy = |said: &str| {
        RawClient::open(host.redirect()).send(format!("GET / HTTP/1.1\r\nHost: a\r\n{said}\r\n\r\n")).answer()
    };
    by_proxy("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https").assert_problem(400, "bad_request");
    assert_eq!(by_proxy("X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: http").status, 308);
}

#[test]
fn what_is_no_request_for_a_place_is_refused_as_elsewhere() {
    if !is_there() {
        return;
    }
    let host = host_with("");
    let refused = [
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a/evil\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, "bad_request"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "no_method"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501, "not_implemented"),
    ];
    for (request, status, code) in refused {
        RawClient::open(host.redirect()).send(request).answer().assert_problem(status, code);
    }
    // Nobody is named, and the address that was connected to does not stand in here.
    let old = text(RawClient::open(host.redirect()).send("GET / HTTP/1.0\r\n\r\n").rest());
    assert!(old.starts_with("HTTP/1.0 400 "), "{old}");
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17 << 10));
    RawClient::open(host.redirect()).send(long).answer().assert_problem(414, "target_too_long");
    // What is no HTTP gets no answer that could be taken for one of TLS.
    let said = RawClient::open(host.redirect()).send(b"\x16\x03\x01\x00\x05hello\r\n\r\n").rest();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{said:?}");
}

#[test]
fn an_upload_is_not_read_and_what_follows_it_is_no_request() {
    if !is_there() {
        return;
    }
    let host = host_with("");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [format!("Content-Length: {}", 1 << 20), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = RawClient::open(host.redirect());
        let answer = client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).answer();
        assert_eq!((answer.status, answer.header("connection")), (308, Some("close")), "{framing}");
        client.send(hidden).finish_sending().assert_closed();
    }
}

#[test]
fn its_connections_have_the_bounds_of_all_others() {
    if !is_there() {
        return;
    }
    let host = host_with("header-timeout = \"500ms\"\nidle-timeout = \"500ms\"\nconnections-per-client = 3");
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (what, said) in [("nothing", ""), ("half a head", "GET / HTTP/1.1\r\nHost"), ("no second request", ask)] {
        let mut client = RawClient::open(host.redirect());
        let took = client.send(said).closed_after();
        assert!(took < PATIENCE / 2, "{what}: {took:?}");
    }
    // So many of one client, at both together.
    let host = host_with("connections-per-client = 3");
    let mut held: Vec<RawClient> = (0..3).map(|_| RawClient::open(host.redirect())).collect();
    for client in &mut held {
        assert_eq!(client.send(ask).answer().status, 308);
    }
    RawClient::open(host.address()).assert_closed();
    drop(held);
    wait_for("a place is free again", || {
        let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        (RawClient::open(host.redirect()).send(last).rest().starts_with(b"HTTP/1.1 308")).then_some(())
    });
}

#[test]
fn a_host_of_one_connection_at_once_serves_both() {
    if !is_there() {
        return;
    }
    let host = host_with("connections = 1");
    let ask_there = || RawClient::open(host.redirect()).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status;
    for _ in 0..3 {
        assert_eq!(ask_there(), 308);
        let mut client = connect_to(host.address(), &config(&[&version::TLS13], &[]), "one.example").unwrap();
        assert!(ask(&mut client, GET).ends_with("Hello, world!\n"));
    }
}

#[test]
fn it_ends_with_the_host_and_is_handed_over_with_it() {
    if !is_there() {
        return;
    }
    let folder = folder();
    let old = TestHost::within(&folder, &redirecting(""));
    let (address, redirect) = (old.address(), old.redirect());
    let mut idle = RawClient::open(redirect);
    assert_eq!(idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().status, 308);
    let new = TestHost::run_with(
        &folder,
        Command::new(env!("CARGO_BIN_EXE_fnhost")),
        &["--no-build", "-c", "functions.toml", "--take-over"],
    );
    assert_eq!((new.address(), new.redirect()), (address, redirect));
    idle.assert_closed();
    assert_eq!(old.finish().code, Some(0));
    let answer = RawClient::open(redirect).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer();
    assert_eq!(answer.header("location"), Some(&*format!("https://a:{}/", address.port())));
    assert_eq!(new.stop().code, Some(0));
    assert!(std::net::TcpStream::connect_timeout(&redirect, Duration::from_secs(5)).is_err());
}

/// Descriptors 3, 4 and 5, as a service manager hands them over (`sd_listen_fds(3)`).
#[test]
fn a_service_manager_hands_its_socket_over_as_the_third() {
    if !is_there() {
        return;
    }
    let folder = folder();
    std::fs::write(folder.path().join("functions.toml"), redirecting("")).unwrap();
    let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [http, admin, redirect] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let [third, fourth, fifth] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket)));
    let script = "LISTEN_FDS=3 LISTEN_PID=$$ exec \"$0\" up --no-build 3<&0 4<&1 5<&2 </dev/null >out 2>err";
    let mut child = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", script, env!("CARGO_BIN_EXE_fnhost")])
        .stdin(third)
        .stdout(fourth)
        .stderr(fifth)
        .spawn()
        .unwrap();
    let said = wait_for("the host says where it is", || {
        let said = std::fs::read_to_string(folder.path().join("out")).unwrap_or_default();
        (said.lines().count() == 3).then_some(said)
    });
    assert_eq!(
        said,
        format!("listening on https://{http}\nadmin on http://{admin}\nredirecting on http://{redirect}\n")
    );
    let answer = RawClient::open(redirect).send("GET /a HTTP/1.1\r\nHost: b\r\n\r\n").answer();
    assert_eq!(answer.header("location"), Some(&*format!("https://b:{}/a", http.port())));
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    if !is_there() {
        return;
    }
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = redirecting("").replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string());
    std::fs::write(folder.path().join("functions.toml"), text).unwrap();
    let up = ["up", "--no-build", "--listen", "127.0.0.1:0", "--admin", "off"];
    let ended = fnhost(folder.path()).args(up).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("(`redirect-http` in [host.tls])"), "{said}");
}
