//! `/metrics`: `OpenMetrics`, as somebody else's parser reads it.

use crate::support::{Request, TestHost, ask, ask_openly, project, skipped};
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};
use tokio::task::JoinSet;

/// The samples, as `prometheus-client` of `PyPI` reads them: `[family, type, sample, labels, value]` each. Its parser of
/// `OpenMetrics` refuses what is not in order.
fn parsed(text: &str) -> Option<Vec<Value>> {
    const SCRIPT: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read
for family in read(sys.stdin.read()):
    for sample in family.samples:
        print(json.dumps([family.name, family.type, sample.name, sample.labels, sample.value]))
";
    let python = std::env::var("FNHOST_TEST_PYTHON").unwrap_or("python3".to_owned());
    let has_parser = Command::new(&python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !has_parser.is_ok_and(|status| status.success()) {
        skipped("Python has no prometheus_client (FNHOST_TEST_PYTHON names a Python that has it)");
        return None;
    }
    let mut python = Command::new(python);
    let mut python = python.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "the parser refuses it:\n{text}");
    Some(String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

const TWO: &str = "name = \"demo\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n[functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n";

#[tokio::test]
async fn metrics_are_open_metrics_and_count_what_happened() {
    let host = TestHost::with(TWO);
    for path in ["/hello/a", "/hello/b", "/misbehave/trap", "/nowhere"] {
        host.get_entered(path).await;
    }
    let answer = ask(&host, Request::get("/metrics")).await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    let Some(samples) = parsed(&answer.text()) else { return };
    let value = |name: &str, labels: &[(&str, &str)]| {
        let has = |sample: &&Value| sample[2] == name && labels.iter().all(|(label, value)| sample[3][label] == *value);
        samples.iter().find(has).unwrap_or_else(|| panic!("no {name} {labels:?}"))[4].as_f64().unwrap() as u64
    };
    let hello = [("app", "demo"), ("function", "hello"), ("release", "1")];
    let of = |more: (&'static str, &'static str)| [hello[0], hello[1], hello[2], more];
    assert_eq!(value("fnhost_requests_total", &of(("status", "2xx"))), 2);
    assert_eq!(value("fnhost_outcomes_total", &of(("outcome", "ok"))), 2);
    assert_eq!(value("fnhost_outcomes_total", &[("function", "misbehave"), ("outcome", "trap")]), 1);
    assert_eq!(value("fnhost_unrouted_requests_total", &[("outcome", "no_route")]), 1);
    for histogram in
        ["cold_start_seconds", "cpu_time_seconds", "memory_peak_bytes", "request_body_bytes", "response_body_bytes"]
    {
        assert_eq!(value(&format!("fnhost_{histogram}_count"), &hello), 2, "{histogram}");
    }
    for phase in ["queue", "store", "instantiate", "handler", "body"] {
        assert_eq!(value("fnhost_phase_seconds_count", &of(("phase", phase))), 2);
    }
    assert!(value("fnhost_memory_peak_bytes_sum", &hello) >= 2 << 20);
    assert!(value("fnhost_code_bytes", &[]) > 10_000);
    assert_eq!(value("fnhost_code_components", &[]), 2);
    assert_eq!(value("fnhost_sandboxes_max", &[]), 1000);
    assert!(value("fnhost_pool_slots", &[("engine", "0.2")]) >= 1000);
    assert_eq!(value("fnhost_queue", &hello), 0);
}

/// The first value whose name and labels begin so; -1, if there is none.
fn gauge(text: &str, name: &str) -> i64 {
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1)
}

/// A value of the pool of 0.2.
pub(crate) async fn pool(host: &TestHost, name: &str) -> i64 {
    gauge(&ask(host, Request::get("/metrics")).await.text(), &format!("fnhost_pool_{name}{{engine=\"0.2\""))
}

#[tokio::test]
async fn gauges_show_what_is_going_on() {
    let host = TestHost::of_guest("misbehave", "limits = { concurrency = 1, timeout = \"60s\" }");
    let mut held = host.connect().await;
    let _held = held.begin(Request::get("/misbehave/hang-after-head")).await.unwrap();
    let mut waiting = host.connect().await;
    let waits = tokio::spawn(async move { waiting.send(Request::get("/misbehave/counter")).await.is_ok() });
    loop {
        let text = ask(&host, Request::get("/metrics")).await.text();
        if gauge(&text, "fnhost_queue{") == 1 {
            assert_eq!(gauge(&text, "fnhost_sandboxes "), 1, "{text}");
            assert_eq!(gauge(&text, "fnhost_connections "), 2, "{text}");
            assert!(gauge(&text, "fnhost_pool_slots_used{engine=\"0.2\"") >= 1, "{text}");
            break;
        }
        assert!(!waits.is_finished(), "it was refused before it was seen to wait");
    }
}

#[tokio::test]
async fn requests_make_no_labels() {
    let host = TestHost::with(TWO);
    host.get_entered("/hello/first").await;
    let series = async || ask(&host, Request::get("/metrics")).await.text().lines().count();
    let before = series().await;
    for number in 0..50 {
        host.get_entered(&format!("/hello/{number}")).await.assert_ok(&format!("Hello, {number}!\n"));
        let other = Request::get(&format!("/hello/{number}")).header("host", &format!("h{number}.example"));
        host.receipt(host.send(other).await.request_id());
    }
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn metrics_are_for_those_who_have_the_token_and_can_be_off() {
    let host = TestHost::with(TWO);
    ask_openly(&host, Request::get("/metrics")).await.assert_refused(401, "unauthorized");
    let host = TestHost::with(&format!(
        "{TWO}[observe]\nmetrics = false\nusage = false\nkeep-receipts = 0\nkeep-logs = \"off\"\n"
    ));
    for path in ["/metrics", "/v1/live", "/v1/usage", "/v1/logs", "/v1/logs/tail", "/v1/receipts/tail"] {
        ask(&host, Request::get(path)).await.assert_refused(404, "off");
    }
    let answer = host.get("/hello/a").await;
    let id = answer.request_id().to_owned();
    ask(&host, Request::get(&format!("/v1/receipts/{id}"))).await.assert_refused(404, "no_receipt");
    assert!(!host.folder().path().join(".fnhost/usage.db").exists());
    assert!(!host.folder().path().join(".fnhost/logs").exists());
    // The table on exit is not theirs.
    assert!(host.stop().stdout.contains("hello"));
}

/// Of the releases of a function, those are told apart that were called last.
#[tokio::test]
async fn each_release_has_its_own_series_and_old_ones_go() {
    use crate::support::{Project, bare_host, hello};
    let host = bare_host();
    let project = Project::on(&host);
    for number in 1..=6 {
        project.deploy(&hello("app", &number.to_string()));
        host.get_entered("/app/you").await.assert_ok(&format!("{number}, you!\n"));
    }
    let text = ask(&host, Request::get("/metrics")).await.text();
    let releases: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("fnhost_requests_total"))
        .map(|line| line.split("release=\"").nth(1).unwrap().split('"').next().unwrap())
        .collect();
    assert_eq!(releases, ["3", "4", "5", "6"]);
}

/// Metrics are of what there is, or may be again: a function that no kept release has is gone from them.
#[tokio::test]
async fn what_was_removed_has_no_series_any_more() {
    use crate::support::{Project, bare_host, hello};
    let host = bare_host();
    let (one, other) = (Project::on(&host), Project::on(&host));
    one.deploy(&hello("one", "Hello"));
    other.deploy(&hello("other", "Hello"));
    for path in ["/one/you", "/other/you"] {
        host.get_entered(path).await;
    }
    let lines = async |app: &str| {
        let text = ask(&host, Request::get("/metrics")).await.text();
        text.lines().filter(|line| line.contains(&format!("app=\"{app}\""))).count()
    };
    assert!(lines("one").await > 100);
    one.must(&["remove", "one"]);
    assert_eq!(lines("one").await, 0);
    assert!(lines("other").await > 100);
    // What comes under the name again begins anew.
    one.deploy(&hello("one", "Hello"));
    host.get_entered("/one/you").await;
    let text = ask(&host, Request::get("/metrics")).await.text();
    let counted = text.lines().find(|line| line.starts_with("fnhost_requests_total{app=\"one\"")).unwrap();
    assert!(counted.ends_with(" 1"), "{counted}");
}

/// All figures of one answer are of the same requests, however many come meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_at_once_agrees() {
    let host = TestHost::with(TWO);
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let mut connection = host.connect().await;
        clients.spawn(async move { while connection.send(Request::get("/hello/you")).await.is_ok() {} });
    }
    host.get_entered("/hello/you").await;
    for _ in 0..30 {
        let text = ask(&host, Request::get("/metrics")).await.text();
        let value = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        let requests = value("fnhost_requests_total{");
        assert_eq!(value("fnhost_outcomes_total{"), requests);
        assert_eq!(value("fnhost_cold_start_seconds_count{"), requests);
        assert_eq!(value("fnhost_response_body_bytes_count{"), requests);
    }
}

#[tokio::test]
async fn the_grafana_dashboard_asks_for_metrics_that_there_are() {
    let host = TestHost::with(TWO);
    for path in ["/hello/a", "/misbehave/trap", "/nowhere"] {
        host.get_entered(path).await;
    }
    let text = ask(&host, Request::get("/metrics")).await.text();
    let board = std::fs::read_to_string(project().join("deploy/grafana.json")).unwrap();
    let _: Value = serde_json::from_str(&board).unwrap();
    let asked = board.match_indices("fnhost_").map(|(at, _)| {
        let rest = &board[at..];
        &rest[..rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap()]
    });
    let mut count = 0;
    for name in asked {
        let is_there =
            text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(is_there, "there is no {name}");
        count += 1;
    }
    assert!(count >= 15, "{count}");
}
