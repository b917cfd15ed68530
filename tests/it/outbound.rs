//! Calls out: to whom a function was granted, and to nobody else.

use crate::support::{TestHost, guest};

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

/// The machine's own name is one that everybody could be granted, and it leads to loopback.
#[tokio::test]
async fn a_name_that_leads_inside_is_denied_unless_the_address_is_granted() {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let loopback = tokio::net::lookup_host((hostname.as_str(), 80))
        .await
        .is_ok_and(|found| found.into_iter().all(|address| address.ip().is_loopback()));
    if !loopback {
        assert!(std::env::var_os("FNHOST_TEST_NO_SKIP").is_none(), "{hostname} does not lead to loopback");
        println!("skipped: the machine's name {hostname} does not lead to a loopback address");
        return;
    }
    let other = TestHost::of_guest("hello", "");
    let port = other.address().port();
    let url = format!("http://{hostname}:{port}/x");
    for grants in [format!("\"http://{hostname}:*\""), "\"http://*:*\"".to_owned()] {
        let answer = fetch(&format!("outbound = [{grants}]"), &url).await;
        assert!(answer.text().contains("HttpRequestDenied"), "{grants}: {}", answer.text());
    }
    let both = format!("outbound = [\"http://{hostname}:*\", \"http://127.0.0.0/8:*\"]");
    fetch(&both, &url).await.assert_ok("Hello, world!\n");
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
async fn who_does_not_answer_is_an_error_and_not_a_trap() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answer = fetch("outbound = [\"http://127.0.0.1:*\"]", &format!("http://{free}/")).await;
    assert!(answer.text().contains("ConnectionRefused"), "{}", answer.text());
    let answer = fetch("outbound = [\"http://*:*\"]", "http://no-such-name.invalid/").await;
    assert!(answer.text().contains("DnsError"), "{}", answer.text());
    guest("fetch");
}
