//! Usage: what is billed, what is not, and what survives.

use crate::support::{Connection, Project, Request, TestHost, ask, bare_host, hello, with_guests};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const TARIFF: &str = "[tariff]\nper-million-requests = 1000000.0\nper-cpu-hour = 3600\nper-gb-second = 10\nper-gb-out = 1e3\ncurrency = \"EUR\"\n";

async fn usage(host: &TestHost, query: &str) -> Value {
    ask(host, Request::get(&format!("/v1/usage{query}"))).await.json()
}

#[tokio::test]
async fn usage_is_added_up_and_costs_what_the_tariff_says() {
    let host = TestHost::with(&format!(
        "name = \"demo\"\n{TARIFF}[functions.echo]\ncomponent = \"{{echo.wasm}}\"\nroutes = [\"/echo\"]\nlimits = {{ request-body = \"1 KiB\" }}\n\
         [functions.misbehave]\ncomponent = \"{{misbehave.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n"
    ));
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(host.send(Request::post("/echo", "x".repeat(1000))).await.request_id().to_owned());
    }
    host.send(Request::post("/echo", "x".repeat(2000))).await.assert_problem(413, "body_too_large");
    host.get("/misbehave/trap").await.assert_problem(502, "trap");
    host.get_entered("/nowhere").await.assert_problem(404, "no_route");
    host.logged(|line| line["target"] == "receipt" && line["outcome"] == "no_route");
    let used = usage(&host, "").await;
    let row = |function: &str| {
        used["rows"].as_array().unwrap().iter().find(|row| row["function"] == function).unwrap().clone()
    };
    let echo = row("echo");
    assert_eq!((&echo["requests"], &echo["refused"], &echo["errors"]), (&4.into(), &1.into(), &0.into()), "{echo}");
    assert_eq!((&echo["bytes_in"], &echo["bytes_out"]), (&3000.into(), &3000.into()));
    assert_eq!((&row("misbehave")["requests"], &row("misbehave")["refused"]), (&1.into(), &0.into()));
    let unrouted = row("");
    assert_eq!((&unrouted["requests"], &unrouted["refused"], &unrouted["errors"]), (&1.into(), &1.into(), &0.into()));
    // The sum of the receipts, to the last digit that is told.
    let receipts: Vec<Value> = ids.iter().map(|id| host.receipt(id)).collect();
    let sum = |of: &dyn Fn(&Value) -> f64| receipts.iter().map(of).sum::<f64>();
    let number = |receipt: &Value, field: &str| receipt[field].as_f64().unwrap();
    let near = |found: &Value, wanted: f64| (found.as_f64().unwrap() - wanted).abs() <= wanted * 1e-9;
    let cpu_ns = sum(&|receipt| number(receipt, "cpu_ns"));
    let cold_ns = sum(&|receipt| number(receipt, "store_ns") + number(receipt, "instantiate_ns"));
    let held = |receipt: &Value| {
        ["store_ns", "instantiate_ns", "handler_ns", "body_ns"].iter().map(|phase| number(receipt, phase)).sum::<f64>()
    };
    let gb_seconds = sum(&|receipt| held(receipt) / 1e9 * number(receipt, "memory_peak_bytes") / 1e9);
    assert!(near(&echo["cpu_ms"], cpu_ns / 1e6), "{echo}");
    assert!(near(&echo["cold_start_us"], cold_ns / 1e3), "{echo}");
    assert!(near(&echo["gb_seconds"], gb_seconds), "{echo}");
    let cost = 3.0 + cpu_ns / 1e9 + gb_seconds * 10.0 + 3000.0 / 1e9 * 1e3;
    assert!(near(&echo["cost"], cost), "{echo}, and not {cost}");
    assert_eq!(row("")["cost"], 0.0);
    assert_eq!(used["currency"], "EUR");
    assert_eq!(used["total"]["requests"], 6);
}

/// One definition, wherever errors are counted: the function failed, or the host, or somebody answered 500 or above.
#[tokio::test]
async fn errors_are_the_function_s_or_the_host_s_and_not_the_client_s() {
    let host = TestHost::of_guest("misbehave", "limits = { request-body = \"1 KiB\" }");
    for path in ["trap", "status?code=500", "status?code=503", "status?code=404", "counter"] {
        host.get_entered(&format!("/misbehave/{path}")).await;
    }
    let large = host.send(Request::post("/misbehave/counter", "x".repeat(2000))).await;
    host.receipt(large.request_id());
    let mut connection = host.connect().await;
    let broken = connection.begin(Request::get("/misbehave/panic-in-mid-stream")).await.unwrap();
    let id = broken.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert!(http_body_util::BodyExt::collect(broken.into_body()).await.is_err());
    host.receipt(&id);
    let total = &usage(&host, "").await["total"];
    assert_eq!((&total["requests"], &total["refused"], &total["errors"]), (&7.into(), &1.into(), &4.into()), "{total}");
    // And so it is in the table on exit.
    let table = host.stop().stdout;
    let line = table.lines().find(|line| line.contains("guest ")).unwrap();
    assert_eq!(line.split_whitespace().skip(1).take(2).collect::<Vec<_>>(), ["7", "4"], "{table}");
}

#[tokio::test]
async fn usage_is_shown_by_function_app_release_and_hour_as_a_table_csv_and_json() {
    let host = bare_host();
    let (one, other) = (Project::on(&host), Project::on(&host));
    one.deploy(&hello("one", "First"));
    host.get_entered("/one/you").await;
    one.deploy(&hello("one", "Second"));
    host.get_entered("/one/you").await;
    other.deploy(&hello("other", "Hello"));
    host.get_entered("/other/you").await;
    host.get_entered("/nowhere").await;
    let table = one.must(&["usage"]);
    assert!(table.starts_with("FUNCTION") && table.contains("one/hello") && table.contains("(no route)"), "{table}");
    let csv = one.must(&["usage", "--by", "release", "--format", "csv"]);
    let rows: Vec<Vec<&str>> = csv.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let counted: Vec<(&str, &str, &str)> = rows.iter().map(|row| (row[1], row[3], row[4])).collect();
    assert_eq!(counted, [("", "0", "1"), ("one", "1", "1"), ("one", "2", "1"), ("other", "1", "1")]);
    let json: Value =
        serde_json::from_str(&one.must(&["usage", "--by", "app", "--format", "json", "--since", "1h"])).unwrap();
    assert_eq!(json["rows"].as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json["total"]["requests"], 4);
    assert!(json["rows"][1].get("cost").is_none(), "there is no tariff");
    let hours: Value = serde_json::from_str(&one.must(&["usage", "--by", "hour", "--format", "json"])).unwrap();
    let counted: u64 = hours["rows"].as_array().unwrap().iter().map(|row| row["requests"].as_u64().unwrap()).sum();
    assert_eq!(counted, 4, "{hours}");
    let later: Value =
        serde_json::from_str(&one.must(&["usage", "--since", "2999-01-01", "--format", "json"])).unwrap();
    assert_eq!(later["total"]["requests"], 0);
    for since in ["720h", "30d", "52w"] {
        assert!(one.must(&["usage", "--since", since]).contains("one/hello"), "{since}");
    }
    assert!(one.run(&["usage", "--since", "yesterday"]).stderr.contains("no time"));
    assert!(one.run(&["usage", "--since", "99999d"]).stderr.contains("too far back"));
    ask(&host, Request::get("/v1/usage?by=colour")).await.assert_refused(400, "bad_request");
    ask(&host, Request::get("/v1/usage?since=yesterday")).await.assert_refused(400, "bad_request");
}

#[tokio::test]
async fn usage_outlives_the_host_and_goes_on() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    Project::on(&host).deploy(&hello("app", "Hello"));
    for _ in 0..5 {
        host.get_entered("/app/you").await;
    }
    // Those of the last moment are written on the way out.
    host.stop();
    let host = TestHost::of_state(&folder, &[]);
    host.get_entered("/app/you").await;
    assert_eq!(usage(&host, "").await["total"]["requests"], 6);
    // A ledger that is damaged is kept aside, and another begun.
    host.stop();
    for name in ["usage.db-wal", "usage.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join("state").join(name));
    }
    std::fs::write(folder.path().join("state/usage.db"), [7; 5000]).unwrap();
    let host = TestHost::of_state(&folder, &[]);
    host.get_entered("/app/you").await.assert_ok("Hello, you!\n");
    assert_eq!(usage(&host, "").await["total"]["requests"], 1);
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("another is begun")));
}

/// The head of the file is whole, so that it opens well; what it has of usage is not.
#[tokio::test]
async fn a_ledger_with_a_damaged_page_is_kept_aside_and_another_begun() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let toml = "name = \"test\"\n[functions.guest]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/{*rest}\"]\n";
    let file = folder.path().join(".fnhost/usage.db");
    let damage = || {
        let ledger = rusqlite::Connection::open(&file).unwrap();
        let page: u32 = ledger.pragma_query_value(None, "page_size", |row| row.get(0)).unwrap();
        // What is in the log beside it would be read from there.
        ledger.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let whole = std::fs::File::options().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&whole, &vec![7; page as usize], page.into()).unwrap();
    };
    let asides = || {
        let names = std::fs::read_dir(folder.path().join(".fnhost")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("usage.damaged-") && !name.ends_with("-wal")).count()
    };
    let begun = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("another is begun"));
    // While it is written.
    let host = TestHost::within(&folder, toml);
    host.get_entered("/x").await;
    assert_eq!(usage(&host, "").await["total"]["requests"], 1);
    damage();
    host.get_entered("/x").await;
    host.logged(begun);
    assert_eq!((&usage(&host, "").await["total"]["requests"], asides()), (&1.into(), 1));
    host.stop();
    // While nobody has it.
    damage();
    let host = TestHost::within(&folder, toml);
    host.logged(begun);
    assert_eq!((&usage(&host, "").await["total"]["requests"], asides()), (&0.into(), 2));
    host.get_entered("/x").await;
    host.stop();
    let host = TestHost::within(&folder, toml);
    assert_eq!(usage(&host, "").await["total"]["requests"], 1);
    assert_eq!(ask(&host, Request::get("/v1/status")).await.json()["warnings"].as_array().map_or(0, Vec::len), 0);
}

#[tokio::test]
async fn what_is_not_in_the_ledger_at_the_end_is_told() {
    let host = TestHost::of_guest("hello", "");
    host.get_entered("/x").await;
    assert_eq!(usage(&host, "").await["total"]["requests"], 1);
    let other = rusqlite::Connection::open(host.folder().path().join(".fnhost/usage.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    host.get_entered("/x").await;
    host.get_entered("/x").await;
    host.terminate();
    host.logged(|line| line["level"] == "ERROR" && line["requests"] == 2);
    drop(other);
    assert_eq!(host.finish().code, Some(0));
}

#[tokio::test]
async fn usage_that_cannot_be_written_is_kept_and_told_and_written_later() {
    let host = TestHost::of_guest("hello", "");
    host.get_entered("/x").await;
    assert_eq!(usage(&host, "").await["total"]["requests"], 1);
    let file = host.folder().path().join(".fnhost/usage.db");
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    host.get_entered("/x").await;
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("usage is not written")));
    let status = ask(&host, Request::get("/v1/status")).await.json();
    assert!(status["warnings"][0].as_str().unwrap().contains("usage is not written"), "{status}");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    host.logged(|line| line["message"] == "usage is written again");
    assert_eq!(usage(&host, "").await["total"]["requests"], 2);
}

/// How often the host is killed. `FNHOST_TEST_KILLS=50` is for those who have the time.
fn kills() -> u64 {
    std::env::var("FNHOST_TEST_KILLS").map_or(6, |text| text.parse().unwrap())
}

/// Each time, what is in the ledger is held against what clients had whole: never more, and less by the last second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_under_load_counts_no_request_twice_and_loses_a_second_at_the_most() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let toml = "name = \"test\"\n[functions.guest]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/{*rest}\"]\n";
    std::fs::write(folder.path().join("functions.toml"), with_guests(toml)).unwrap();
    let mut counted_before = 0;
    let mut lost = 0;
    for _ in 0..kills() {
        let host = Arc::new(TestHost::within(&folder, toml));
        let before = usage(&host, "").await["total"]["requests"].as_u64().unwrap();
        assert_eq!(before, counted_before, "a start changes nothing");
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (host, answered) = (Arc::clone(&host), Arc::clone(&answered));
            clients.spawn(async move {
                let Ok(mut connection) = Connection::open(host.address()).await else { return };
                while connection.send(Request::get("/x")).await.is_ok_and(|answer| answer.status == 200) {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let pause = Duration::from_millis(fastrand::u64(600..2500));
        tokio::time::sleep(pause.saturating_sub(Duration::from_secs(1))).await;
        let a_second_ago = answered.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        host.signal("-KILL");
        while clients.join_next().await.is_some() {}
        let answered = answered.load(Ordering::SeqCst);
        Arc::into_inner(host).unwrap().finish();
        let host = TestHost::within(&folder, toml);
        let counted = usage(&host, "").await["total"]["requests"].as_u64().unwrap();
        let new = counted - counted_before;
        // Of each client, one request may have ended whose answer was still on its way.
        assert!(new <= answered + 4, "{new} counted, {answered} answered");
        assert!(new >= a_second_ago, "{new} counted, and {a_second_ago} were answered a second before the end");
        lost += answered.saturating_sub(new);
        counted_before = counted;
        host.stop();
    }
    eprintln!("killed {} times; {lost} requests of the last seconds are not in the ledger", kills());
}
