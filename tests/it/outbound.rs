//! Calls out: to whom a function was granted, and to nobody else.

use crate::support::{TestHost, skipped};

/// What `fetch` gets from `url`, granted `grants`.
async fn fetch(grants: &str, url: &str) -> crate::support::Answer {
    let host = TestHost::of_guest("fetch", grants);
    host.get(&format!("/?url={url}")).await
}

#[tokio::test]
async fn a_function_without_grants_calls_nobody() {
    let answer = fetch("", "http://127.0.0.1:1/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("HttpRequestDenied"), "{}", answer.text());
}

#[tokio::test]
async fn a_grant_is_for_its_scheme_host_and_port() {
    let other = TestHost::of_guest("hello", "");
    let port = other.address().port();
    let granted = format!("outbound = [\"http://127.0.0.1:{port}\"]");
    fetch(&granted, &format!("http://127.0.0.1:{port}/x")).await.assert_ok("Hello, world!\n");
    for url in [
        format!("http://127.0.0.2:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        "http://127.0.0.1:1/".to_owned(),
        format!("http://localhost:{port}/"),
    ] {
        let answer = fetch(&granted, &url).await;
        assert!(answer.text().contains("HttpRequestDenied"), "{url}: {}", answer.text());
    }
}

/// The machine's own name is one that anybody could be granted, and it leads inside: to loopback, or to a private address.
#[tokio::test]
async fn a_name_that_leads_inside_is_denied_unless_the_address_is_granted() {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let found: Vec<_> = match tokio::net::lookup_host((hostname.as_str(), 80)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => {
            skipped(&format!("the machine's own name {hostname} does not resolve ({error})"));
            return;
        }
    };
    // Nobody answers there, which is told apart from nobody being asked.
    let url = format!("http://{hostname}:1/x");
    for grants in [format!("\"http://{hostname}:*\""), "\"http://*:*\"".to_owned()] {
        let answer = fetch(&format!("outbound = [{grants}]"), &url).await;
        assert!(answer.text().contains("HttpRequestDenied"), "{grants}: {}", answer.text());
    }
    let addresses: Vec<String> =
        found
            .iter()
            .map(|address| {
                if address.is_ipv6() { format!("\"http://[{address}]:*\"") } else { format!("\"http://{address}:*\"") }
            })
            .collect();
    let both = format!("outbound = [\"http://{hostname}:*\", {}]", addresses.join(", "));
    let answer = fetch(&both, &url).await;
    assert!(answer.text().contains("ConnectionRefused"), "{}", answer.text());
}

/// A server that speaks TLS and is signed by nobody.
#[tokio::test]
async fn a_certificate_that_nobody_signed_is_an_error() {
    let certificate = include_bytes!("certificates/self-signed.der").to_vec().into();
    let key = include_bytes!("certificates/self-signed.key.der").to_vec();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(config.into()).unwrap();
        // The client hangs up when it has seen the certificate.
        while tls.complete_io(&mut stream).is_ok_and(|(read, written)| read + written > 0) {}
    });
    let answer =
        fetch(&format!("outbound = [\"https://localhost:{port}\"]"), &format!("https://localhost:{port}/")).await;
    assert!(answer.text().contains("TlsCertificateError"), "{}", answer.text());
    server.join().unwrap();
}

#[tokio::test]
async fn a_request_makes_a_bounded_number_of_calls() {
    let other = TestHost::of_guest("hello", "");
    let url = format!("http://{}/x", other.address());
    let host = TestHost::of_guest("fetch", "outbound = [\"http://127.0.0.1:*\"]\nlimits = { outbound-requests = 3 }");
    host.get(&format!("/?url={url}&calls=3")).await.assert_ok("Hello, world!\n");
    let answer = host.get(&format!("/?url={url}&calls=4")).await;
    assert!(answer.text().contains("ConnectionLimitReached"), "{}", answer.text());
}

#[tokio::test]
async fn a_function_has_a_bounded_number_of_connections() {
    let (one, other) = (TestHost::of_guest("hello", ""), TestHost::of_guest("hello", ""));
    let url = |host: &TestHost| format!("/?url=http://{}/x", host.address());
    let settings = "outbound = [\"http://127.0.0.1:*\"]\nlimits = { outbound-connections = 1 }";
    let host = TestHost::of_guest("fetch", settings);
    // The first call's connection is kept, and used again; there may be no second.
    host.get(&url(&one)).await.assert_ok("Hello, world!\n");
    let answer = host.get(&url(&other)).await;
    assert!(answer.text().contains("ConnectionLimitReached"), "{}", answer.text());
    host.get(&url(&one)).await.assert_ok("Hello, world!\n");
}

#[tokio::test]
async fn who_does_not_answer_is_an_error_and_not_a_trap() {
    // A port that is taken, so that nobody else gets it, and not listened on.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = taken.local_addr().unwrap();
    let answer = fetch("outbound = [\"http://127.0.0.1:*\"]", &format!("http://{free}/")).await;
    assert!(answer.text().contains("ConnectionRefused"), "{}", answer.text());
    let answer = fetch("outbound = [\"http://*:*\"]", "http://no-such-name.invalid/").await;
    assert!(answer.text().contains("DnsError"), "{}", answer.text());
}
