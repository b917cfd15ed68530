//! Who connects: how many connections a client has, for how many requests, and who it is behind a proxy.

use crate::support::frames::{DATA, END_STREAM, FrameClient, GOAWAY};
use crate::support::{RawClient, TestHost, fnhost, wait_for};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A host with `settings` of its own, and guests that show what they see.
fn host_with(settings: &str) -> TestHost {
    TestHost::with(&toml(settings))
}

fn toml(settings: &str) -> String {
    format!(
        "name = \"test\"\n[host]\n{settings}\n[functions.hello]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/\"]\n[functions.see]\ncomponent = \"{{misbehave.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n[functions.cgi]\ncomponent = \"{{environment-probe.wasm}}\"\nroutes = [\"/environment\"]\n"
    )
}

/// What a guest sees of a request with these header lines, and what a command does.
fn seen(host: &TestHost, before: &[u8], lines: &str) -> (Vec<String>, Vec<String>) {
    let shown = |path: &str| {
        let mut client = RawClient::open(host.address());
        client.send(before).send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    (shown("/misbehave/request-headers"), shown("/environment"))
}

#[track_caller]
fn assert_seen(host: &TestHost, before: &[u8], lines: &str, client: &str, scheme: &str) {
    let (guest, command) = seen(host, before, lines);
    let node = if client.contains(':') { format!("\"[{client}]\"") } else { client.to_owned() };
    let mut expected = vec![
        format!("forwarded: for={node};proto={scheme}"),
        format!("x-forwarded-for: {client}"),
        format!("x-forwarded-proto: {scheme}"),
    ];
    let mut forwarded: Vec<_> =
        guest.iter().filter(|line| line.contains("forwarded") || line.contains("real-ip")).cloned().collect();
    expected.sort();
    forwarded.sort();
    assert_eq!(forwarded, expected, "{lines:?}");
    let kind = if scheme == "https" { "scheme Some(Scheme::Https)" } else { "scheme Some(Scheme::Http)" };
    assert!(guest.iter().any(|line| line == kind), "{guest:?}");
    assert!(command.contains(&format!("REMOTE_ADDR={client}")), "{command:?}");
    assert!(command.contains(&format!("HTTP_FORWARDED=for={node};proto={scheme}")), "{command:?}");
    assert_eq!(command.contains(&"HTTPS=on".to_owned()), scheme == "https", "{command:?}");
}

const FORGED: &str = "Forwarded: for=6.6.6.6;proto=https\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Anything: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";

#[test]
fn what_a_stranger_says_of_where_it_comes_from_is_taken_out() {
    for settings in ["", "trusted-proxies = [\"10.0.0.0/8\", \"::1\"]"] {
        let host = host_with(settings);
        assert_seen(&host, b"", FORGED, "127.0.0.1", "http");
        assert_seen(&host, b"", "", "127.0.0.1", "http");
    }
}

#[test]
fn a_trusted_proxy_says_whom_it_speaks_for() {
    let host = host_with("trusted-proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]");
    assert_seen(&host, b"", "Forwarded: for=1.2.3.4;proto=https\r\n", "1.2.3.4", "https");
    assert_seen(&host, b"", "Forwarded: for=\"[2001:db8::1]:99\"\r\n", "2001:db8::1", "http");
    assert_seen(&host, b"", "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n", "1.2.3.4", "https");
    // What the client itself had said stands before what the proxies add; the proxies among them are gone back through.
    assert_seen(&host, b"", "X-Forwarded-For: 6.6.6.6, 1.2.3.4, 10.0.0.7\r\n", "1.2.3.4", "http");
    assert_seen(
        &host,
        b"",
        "Forwarded: for=6.6.6.6\r\nForwarded: for=1.2.3.4;proto=https, for=10.0.0.7\r\n",
        "1.2.3.4",
        "https",
    );
    assert_seen(&host, b"", "X-Forwarded-For: 6.6.6.6, unknown\r\n", "127.0.0.1", "http");
    assert_seen(&host, b"", "", "127.0.0.1", "http");
}

#[test]
fn a_proxy_may_say_before_the_first_byte_whom_it_speaks_for() {
    let host = host_with("proxy-protocol = [\"127.0.0.1\"]");
    let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 99 80\r\n";
    assert_seen(&host, line, FORGED, "1.2.3.4", "http");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    binary.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    binary.extend([0; 16]);
    binary.extend([0, 99, 0, 80]);
    assert_seen(&host, &binary, "", "2001:db8::1", "http");
    // A proxy that asks for itself, to see whether anybody is there.
    assert_seen(&host, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", "", "127.0.0.1", "http");
    // It has to say it.
    for beginning in [GET, "PROXY TCP4 nonsense\r\n", "PROXY "] {
        let mut client = RawClient::open(host.address());
        client.send(beginning).send(GET).finish_sending().assert_closed();
    }
    // Others may not: to them it is no HTTP.
    let host = host_with("proxy-protocol = [\"10.0.0.0/8\"]");
    let mut client = RawClient::open(host.address());
    assert_eq!(client.send(line).send(GET).answer().status, 400);
}

#[test]
fn a_proxy_that_does_not_say_it_holds_no_place_for_long() {
    let host = host_with("proxy-protocol = [\"127.0.0.1\"]\nheader-timeout = \"300ms\"");
    let mut client = RawClient::open(host.address());
    client.send("PROXY TCP4 1.2.3.4").assert_closed();
}

#[test]
fn what_begins_otherwise_than_the_proxy_protocol_is_closed_without_a_wait_for_its_end() {
    let host = host_with("proxy-protocol = [\"127.0.0.1\"]\nheader-timeout = \"10m\"");
    for beginning in ["PROXY  a\r\nGET", "GET / HTTP/1.1"] {
        RawClient::open(host.address()).send(beginning).assert_closed();
    }
}

#[test]
fn a_client_has_so_many_connections_at_once() {
    let host = host_with("connections-per-client = 3");
    let mut held: Vec<RawClient> = (0..3).map(|_| RawClient::open(host.address())).collect();
    for client in &mut held {
        assert_eq!(client.send(GET).answer().status, 200);
    }
    RawClient::open(host.address()).send(GET).assert_closed();
    // Another client is none the worse. To the host, addresses of the machine itself are clients like any other.
    let mut other = RawClient::open_from("127.0.0.2", host.address());
    assert_eq!(other.send(GET).answer().status, 200);
    drop(held.pop());
    wait_for("a place comes free", || {
        let text = String::from_utf8(RawClient::open(host.address()).send("GET / HTTP/1.0\r\n\r\n").rest()).unwrap();
        text.starts_with("HTTP/1.0 200").then_some(())
    });
}

/// A proxy is many clients: each is counted by the address that it says.
#[test]
fn the_connections_of_a_proxy_are_counted_by_whom_it_speaks_for() {
    let host = host_with("connections-per-client = 1\nproxy-protocol = [\"127.0.0.1\"]");
    let open = |client: &str| {
        let mut stream = RawClient::open(host.address());
        stream.send(format!("PROXY TCP4 {client} 5.6.7.8 99 80\r\n{GET}"));
        stream
    };
    let mut first = open("1.2.3.4");
    assert_eq!(first.answer().status, 200);
    assert_eq!(open("1.2.3.5").answer().status, 200);
    open("1.2.3.4").assert_closed();
    // One that speaks HTTP of whom it speaks for has connections for many, and is not counted at all.
    let host = host_with("connections-per-client = 1\ntrusted-proxies = [\"127.0.0.1\"]");
    let mut held: Vec<RawClient> = (0..3).map(|_| RawClient::open(host.address())).collect();
    for client in &mut held {
        assert_eq!(client.send(GET).answer().status, 200);
    }
}

#[test]
fn a_connection_has_so_many_requests() {
    let host = host_with("requests-per-connection = 3");
    let mut client = RawClient::open(host.address());
    for _ in 0..2 {
        assert_eq!(client.send(GET).answer().header("connection"), None);
    }
    client.send(GET).send(GET);
    assert_eq!(client.answer().header("connection"), Some("close"));
    client.assert_closed();

    let mut client = FrameClient::open(host.address(), &[]);
    for stream in [1, 3] {
        assert_eq!(client.get(stream, "/").body_of(stream), "Hello, world!\n");
    }
    // The last one is answered, and the connection closes behind it.
    let rest = client.get(5, "/").rest();
    let goodbye = rest.iter().find(|frame| frame.kind == GOAWAY).expect("it is told");
    assert_eq!(goodbye.error(), 0);
    assert!(
        rest.iter().any(|frame| frame.stream == 5 && frame.kind == DATA && frame.flags & END_STREAM != 0),
        "{rest:?}"
    );
}

/// Files may run out for reasons that are not the host's: it waits, and goes on.
#[test]
fn a_host_without_files_to_open_accepts_again_when_there_are_some() {
    let waits = "[functions.hang]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/hang\"]\nlimits = { timeout = \"7s\" }";
    let host = TestHost::with(&format!("{}{waits}\n", toml("")));
    let mut before = RawClient::open(host.address());
    assert_eq!(before.send(GET).answer().status, 200);
    let pid = Pid::from_raw(i32::try_from(host.pid()).unwrap());
    let own = getrlimit(Resource::Nofile).maximum;
    // Fewer than are open by now.
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(4), maximum: own }).unwrap();
    let mut waiting = RawClient::open(host.address());
    waiting.send(GET);
    host.logged(|line| line["message"] == "a connection could not be accepted");
    assert_eq!(before.send(GET).answer().status, 200, "what was open goes on");
    // For longer than the host goes without a look at its machine: it needs no file for that either.
    before.send("GET /misbehave/hang HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(before.answer().status, 504, "what was open goes on");
    // It tries twenty times a second, and says so in one line for ten seconds.
    let said = host.log_lines();
    let said = said.iter().filter(|line| line["message"] == "a connection could not be accepted").count();
    assert!(said <= 3, "{said} lines");
    prlimit(pid, Resource::Nofile, Rlimit { current: own, maximum: own }).unwrap();
    assert_eq!(waiting.answer().status, 200);
}

#[test]
fn connections_are_fitted_to_the_files_that_may_be_open() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("functions.toml"), crate::support::with_guests(&toml(""))).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\"", fnhost(folder.path()).get_program().to_str().unwrap()]);
    let host = TestHost::run_with(&folder, shell, &["--no-build", "-c", "functions.toml"]);
    let said = host.logged(|line| line["connections"] == 64);
    assert_eq!(said["level"], "WARN");
    let held: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(host.address()).unwrap()).collect();
    drop(held);
    let mut client = RawClient::open(host.address());
    assert_eq!(client.send(GET).answer().status, 200);
    assert!(!host.log_lines().iter().any(|line| line["message"] == "a connection could not be accepted"));
}
