//! Every request is measured: in its response, in its receipt, and in the table on exit.

use crate::support::{Request, TestHost};

#[tokio::test]
async fn server_timing_has_the_phases_before_the_head() {
    let host = TestHost::of_guest("hello", "");
    let answer = host.get("/x").await;
    let timing = answer.header("server-timing").to_owned();
    let phases: Vec<(&str, f64)> = timing
        .split(", ")
        .map(|entry| {
            let (name, millis) = entry.split_once(";dur=").unwrap();
            assert!(millis.split_once('.').unwrap().1.len() >= 3, "{timing}");
            (name, millis.parse().unwrap())
        })
        .collect();
    let names: Vec<&str> = phases.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["queue", "store", "instantiate", "handler"]);
    assert!(phases[1..].iter().all(|(_, millis)| *millis > 0.0), "{timing}");
}

#[tokio::test]
async fn a_receipt_says_what_a_request_cost() {
    let host = TestHost::of_guest("echo", "");
    let answer = host.send(Request::post("/", "12345")).await;
    let receipt = host.receipt(answer.request_id());
    assert_eq!(receipt["function"], "guest");
    assert_eq!(receipt["kind"], "http-0.2");
    assert_eq!(receipt["outcome"], "ok");
    assert_eq!(receipt["status"], 200);
    assert_eq!((&receipt["bytes_in"], &receipt["bytes_out"]), (&5.into(), &5.into()));
    for phase in ["queue_ns", "store_ns", "instantiate_ns", "handler_ns", "body_ns", "cpu_ns"] {
        assert!(receipt[phase].as_f64().unwrap() >= 0.0, "{receipt}");
    }
    assert!(receipt["cpu_ns"].as_f64().unwrap() > 0.0, "{receipt}");
    // What a Rust guest starts with, at the least.
    assert!(receipt["memory_peak_bytes"].as_u64().unwrap() >= 1 << 20, "{receipt}");
}

#[tokio::test]
async fn waiting_for_a_permit_is_its_own_phase() {
    let host = TestHost::of_guest("misbehave", "limits = { concurrency = 1, queue-wait = \"30s\", cpu = \"60s\" }");
    let mut held = host.connect().await;
    // It holds the only permit until its body is read, and what it does behind its head takes 200 ms.
    held.begin(Request::get("/misbehave/work-on?ms=200")).await.unwrap();
    let answer = host.get("/misbehave/counter").await;
    let receipt = host.receipt(answer.request_id());
    let queued = receipt["queue_ns"].as_f64().unwrap();
    assert!(queued > 50_000_000.0, "{receipt}");
    assert!(receipt["handler_ns"].as_f64().unwrap() < queued, "{receipt}");
}

#[tokio::test]
async fn server_timing_can_be_turned_off() {
    let host = TestHost::with(
        "name = \"test\"\n[host]\nserver-timing = false\n[functions.guest]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/{*rest}\"]\n",
    );
    let answer = host.get("/x").await;
    assert!(!answer.headers.contains_key("server-timing"));
    assert_eq!(answer.request_id().len(), 32);
}

#[tokio::test]
async fn a_request_without_a_route_has_a_receipt_too() {
    let host =
        TestHost::with("name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello\"]\n");
    let answer = host.get("/nowhere").await;
    let receipt = host.receipt(answer.request_id());
    assert_eq!((&receipt["outcome"], &receipt["status"]), (&"no_route".into(), &404.into()));
}

#[tokio::test]
async fn the_table_on_exit_has_percentiles() {
    let host = TestHost::of_guest("misbehave", "");
    host.get("/misbehave/counter").await;
    host.get("/misbehave/trap").await;
    let table = host.stop().stdout;
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells[..3], ["guest", "2", "1"], "{table}");
    assert_eq!(cells[3].split('/').count(), 3, "{table}");
    assert!(!cells[3].starts_with('-') && !cells[3].starts_with("0.00"), "{table}");
    assert!(cells[6].ends_with("MiB"), "{table}");
}
