//! Receipts: found by the request's id, and followed as requests end.

use crate::support::{Project, Request, TestHost, ask};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

#[tokio::test]
async fn a_receipt_is_found_by_the_id_of_the_response() {
    let host = TestHost::of_guest("echo", "");
    let answer = host.send(Request::post("/", "12345")).await;
    let id = answer.request_id().to_owned();
    let logged = host.receipt(&id);
    let project = Project::on(&host);
    let receipt: Value = serde_json::from_str(&project.must(&["receipt", &id, "--json"])).unwrap();
    assert_eq!((&receipt["function"], &receipt["outcome"]), (&"guest".into(), &"ok".into()));
    assert_eq!((&receipt["bytes_in"], &receipt["bytes_out"], &receipt["release"]), (&5.into(), &5.into(), &1.into()));
    // The same as in the log.
    for field in ["queue_ns", "store_ns", "instantiate_ns", "handler_ns", "body_ns", "cpu_ns", "memory_peak_bytes"] {
        assert_eq!(receipt[field], logged[field], "{field}");
    }
    let text = project.must(&["receipt", &id]);
    for word in ["instantiate", "cold start", "5 in, 5 out", "POST 200, ok", &id] {
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_receipt_that_is_not_there_is_an_error_that_says_so() {
    let host = TestHost::of_guest("hello", "");
    let project = Project::on(&host);
    let said = project.run(&["receipt", &"0".repeat(32)]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("(no_receipt)"), "{}", said.stderr);
    let said = project.run(&["receipt", "../../apps"]);
    assert!(said.code == Some(2) && said.stderr.contains("no request id"), "{}", said.stderr);
    ask(&host, Request::get("/v1/receipts/xyz")).await.assert_refused(400, "bad_request_id");
    ask(&host, Request::get("/v1/receipts?colour=red")).await.assert_refused(400, "bad_request");
    ask(&host, Request::get("/v1/receipts?outcome=bogus")).await.assert_refused(400, "bad_request");
    ask(&host, Request::get("/v1/receipts/tail?outcome=bogus")).await.assert_refused(400, "bad_request");
}

#[tokio::test]
async fn only_the_latest_receipts_are_kept() {
    let host = TestHost::with(
        "name = \"test\"\n[observe]\nkeep-receipts = 3\n[functions.guest]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/{*rest}\"]\n",
    );
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(host.get_entered("/x").await.request_id().to_owned());
    }
    let list = ask(&host, Request::get("/v1/receipts")).await.json();
    let kept: Vec<&str> =
        list["receipts"].as_array().unwrap().iter().map(|one| one["request_id"].as_str().unwrap()).collect();
    assert_eq!(kept, ids[2..]);
}

#[tokio::test]
async fn a_failure_that_is_told_without_a_body_has_sent_no_bytes() {
    let host = TestHost::of_guest("misbehave", "");
    for path in ["/misbehave/trap", "/misbehave/silent"] {
        let whole = host.get(path).await;
        let head = host.send(Request::new(http::Method::HEAD, path)).await;
        assert_eq!((head.status, head.body.len()), (whole.status, 0));
        assert_eq!(head.header("content-length"), whole.body.len().to_string());
        assert_eq!(host.receipt(head.request_id())["bytes_out"], 0);
        assert_eq!(host.receipt(whole.request_id())["bytes_out"], whole.body.len());
    }
}

/// A method is a token of the client's own making, and receipts are kept by the thousand.
#[tokio::test]
async fn a_made_up_method_is_kept_in_part() {
    let host = TestHost::of_guest("hello", "");
    let method = http::Method::from_bytes("M".repeat(20_000).as_bytes()).unwrap();
    let answer = host.send(Request::new(method, "/x")).await;
    let receipt = host.receipt(answer.request_id());
    assert_eq!(receipt["method"], "M".repeat(32));
}

#[tokio::test]
async fn tail_has_a_line_for_each_request_as_it_ends() {
    let host = TestHost::with(
        "name = \"demo\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n[functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n",
    );
    let project = Project::on(&host);
    let mut all = project.command(&["tail"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut traps =
        project.command(&["tail", "misbehave", "--outcome", "trap", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut all_lines, mut trap_lines) =
        (BufReader::new(all.stdout.take().unwrap()).lines(), BufReader::new(traps.stdout.take().unwrap()).lines());
    // Both follow once a line of theirs has come.
    let (mut next, mut trapped) = (String::new(), String::new());
    let asking = tokio::spawn(async move {
        loop {
            host.get("/hello/you").await;
            host.get("/misbehave/trap").await;
        }
    });
    tokio::task::spawn_blocking(move || {
        while !next.contains("demo/hello r1") {
            next = all_lines.next().unwrap().unwrap();
        }
        for word in [" 200 GET ", "store", "instantiate", "cpu", "mem"] {
            assert!(next.contains(word), "{next}");
        }
        while trapped.is_empty() {
            trapped = trap_lines.next().unwrap().unwrap();
        }
        let receipt: Value = serde_json::from_str(&trapped).unwrap();
        assert_eq!((&receipt["outcome"], &receipt["function"]), (&"trap".into(), &"misbehave".into()));
    })
    .await
    .unwrap();
    asking.abort();
    for mut command in [all, traps] {
        command.kill().unwrap();
        command.wait().unwrap();
    }
}

/// What cannot be meant is refused, with what could be; what is not there may come.
#[tokio::test]
async fn a_question_that_nothing_could_answer_is_told() {
    let host = TestHost::of_guest("hello", "");
    let project = Project::on(&host);
    let refused = [
        (&["tail", "--outcome", "bogus"][..], "no_route"),
        (&["tail", "No_Name"], "a name is made of"),
        (&["logs", "--request", "xyz"], "32 hex digits"),
        (&["logs", "-n", "10001"], "1..=10000"),
    ];
    for (words, would_do) in refused {
        let said = project.run(words);
        assert!(said.code == Some(2) && said.stderr.contains(would_do), "{words:?}: {}", said.stderr);
    }
    let warned = [
        (&["logs", "nosuch"][..], "warning: no function `nosuch` is live on the host\n"),
        (&["logs", "guest", "--app", "nosuch"], "warning: no app `nosuch` is live on the host\n"),
        (&["logs", "guest", "--app", "test"], ""),
    ];
    for (words, warning) in warned {
        let said = project.run(words);
        assert_eq!((said.code, said.stderr.as_str()), (Some(0), warning), "{words:?}");
    }
    let mut tail = project.command(&["tail", "nosuch"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(tail.stderr.take().unwrap()).read_line(&mut told).unwrap();
    assert_eq!(told, "warning: no function `nosuch` is live on the host\n");
    tail.kill().unwrap();
    tail.wait().unwrap();
}

/// Of many, those that are asked for are found, however long ago they were.
#[tokio::test]
async fn receipts_are_looked_for_among_all_that_are_kept() {
    let host = TestHost::of_guest("hello", "");
    let mut connection = host.connect().await;
    let first = connection.send(Request::new(http::Method::PUT, "/x")).await.unwrap().request_id().to_owned();
    let mut last = String::new();
    for _ in 0..2500 {
        last = connection.send(Request::get("/x")).await.unwrap().request_id().to_owned();
    }
    host.receipt(&last);
    let found = ask(&host, Request::get("/v1/receipts?text=PUT")).await.json();
    assert_eq!((found["receipts"].as_array().unwrap().len(), &found["receipts"][0]["request_id"]), (1, &first.into()));
    let found = ask(&host, Request::get("/v1/receipts?limit=2200")).await.json();
    let ids: Vec<&str> =
        found["receipts"].as_array().unwrap().iter().map(|one| one["request_id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), ids[2199]), (2200, last.as_str()));
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 2200);
}

/// `tail | head -1` ends well, and so does a tail whose host ends.
#[tokio::test]
async fn tail_ends_with_its_reader_or_its_host() {
    let host = TestHost::of_guest("hello", "");
    let project = Project::on(&host);
    let tail = project.command(&["tail"]).stdout(Stdio::piped()).spawn().unwrap();
    let following = tokio::task::spawn_blocking(move || tail.wait_with_output().unwrap());
    // Wait until it is connected: only then has the host something to end.
    crate::support::wait_for_async("the tail is open", || {
        let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", host.pid())).unwrap();
        let port = format!(":{:04X} ", host.admin().port());
        tcp.lines().any(|line| line.contains(&port) && line.contains(" 01 ")).then_some(())
    })
    .await;
    host.stop();
    let ended = following.await.unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}
