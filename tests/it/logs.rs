//! What guests print becomes log lines, and no guest can hurt the host with it.

use crate::support::{Connection, Project, Request, TestHost, ask, component_of_wat, fnhost, guest};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::collections::HashSet;
use std::io::BufRead;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

const TWO: &str = "name = \"demo\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n[functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n";

#[tokio::test]
async fn a_guest_s_lines_carry_its_function_and_the_request() {
    let host = TestHost::of_guest("misbehave", "");
    let answer = host.get("/misbehave/flood?lines=2").await;
    let id = answer.request_id().to_owned();
    let line = host.logged(|line| line["target"] == "guest" && line["request_id"] == id.as_str());
    assert_eq!(line["function"], "guest");
    assert_eq!(line["stream"], "stdout");
    assert_eq!(line["message"], "line 0 of a flood that nobody wants to read to its end");
}

#[tokio::test]
async fn a_flood_is_bounded_and_says_so() {
    let host = TestHost::of_guest("misbehave", "");
    let answer = host.get("/misbehave/flood?lines=100000").await;
    answer.assert_ok("flooded\n");
    let id = answer.request_id().to_owned();
    host.logged(|line| {
        line["request_id"] == id.as_str()
            && line["message"].as_str().is_some_and(|text| text.contains("99000 more lines dropped"))
    });
    let lines = host.log_lines().iter().filter(|line| line["target"] == "guest").count();
    assert!(lines <= 1001, "{lines} lines");
}

#[tokio::test]
async fn a_line_without_an_end_is_cut() {
    let host = TestHost::of_guest("misbehave", "");
    let before = host.resident_bytes();
    let answer = host.get("/misbehave/endless-line?kib=65536").await;
    answer.assert_ok("written\n");
    let id = answer.request_id().to_owned();
    let line = host.logged(|line| line["target"] == "guest" && line["request_id"] == id.as_str());
    assert!(
        line["message"].as_str().unwrap().ends_with(&format!("[{} more bytes cut]", (65536 << 10) - 4096)),
        "{line}"
    );
    let grown = host.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "the host grew by {grown} bytes");
}

#[tokio::test]
async fn what_a_guest_prints_on_stderr_is_logged_too() {
    let host = TestHost::of_guest("misbehave", "");
    let id = host.get("/misbehave/panic").await.request_id().to_owned();
    let line = host.logged(|line| line["stream"] == "stderr" && line["message"] == "on purpose");
    assert_eq!(line["request_id"], id.as_str());
}

/// Nobody reads the host's stderr: a pipe holds 64 KiB, and then a writer would wait for ever.
#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody_and_says_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let toml = format!(
        "name = \"test\"\n[functions.it]\ncomponent = \"{}\"\nroutes = [\"/{{*rest}}\"]\n",
        guest("misbehave").display()
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let mut child = fnhost(folder.path())
        .args(["up", "--listen", "127.0.0.1:0", "--log", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    let mut connection = Connection::open(address).await.unwrap();
    // Some 20 MB, of which 8 MiB may wait.
    for _ in 0..100 {
        connection.send(Request::get("/misbehave/flood?lines=1000")).await.unwrap().assert_ok("flooded\n");
    }
    let told = std::io::BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("log lines were dropped"));
    assert!(told.is_some(), "lines were lost, or kept without a bound, and nobody said so");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn the_log_is_found_again_by_request_function_level_time_and_text() {
    let host = TestHost::with(TWO);
    let flood = host.get("/misbehave/flood?lines=5").await.request_id().to_owned();
    let trap = host.get("/misbehave/trap").await.request_id().to_owned();
    let project = Project::on(&host);
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let said = project.must(&[&["logs", "--json"], arguments].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of_flood = lines(&["--request", &flood]);
    assert_eq!(of_flood.len(), 5);
    assert!(of_flood.iter().all(|line| line["app"] == "demo" && line["function"] == "misbehave"), "{of_flood:?}");
    assert_eq!(lines(&["misbehave", "-n", "2"]).len(), 2);
    assert_eq!(lines(&["hello"]).len(), 0);
    assert_eq!(lines(&["--text", "LINE 3 of"]).len(), 1);
    assert_eq!(lines(&["--since", "2999-01-01"]).len(), 0);
    assert!(lines(&["--since", "10m"]).len() >= 6);
    let warnings = lines(&["--level", "warn", "--app", "demo"]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((&warnings[0]["request_id"], &warnings[0]["code"]), (&trap.clone().into(), &"trap".into()));
    let text = project.must(&["logs", "--request", &trap]);
    assert!(text.contains("WARN demo/misbehave") && text.contains(&trap), "{text}");
    assert!(project.run(&["logs", "--since", "yesterday"]).stderr.contains("no time"));
    ask(&host, Request::get("/v1/logs?level=loud")).await.assert_refused(400, "bad_request");
}

/// The names of the guest's own functions are in it, and the request's id is beside it.
#[tokio::test]
async fn a_trap_is_logged_with_the_guest_s_own_backtrace() {
    let host = TestHost::of_guest("misbehave", "");
    let id = host.get("/misbehave/panic").await.request_id().to_owned();
    let line = host.logged(|line| line["request_id"] == id.as_str() && line["code"] == "trap");
    let text = line["message"].as_str().unwrap();
    for name in ["wasm backtrace", "panicking::panic_fmt", "Misbehave", "wasi:http/incoming-handler", "unreachable"] {
        assert!(text.contains(name), "{text}");
    }
}

/// Names in a component are its author's, and may look like a line of the log.
#[tokio::test]
async fn no_guest_writes_lines_of_the_log_s_own() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let forged = "2026-11-24T00:00:00.000000Z ERROR fnhost::server: the host was taken over";
    let text = format!(
        "(component
            (core module $main
                (func $run (@name \"evil\\0a{forged}\\e2\\80\\aetxt\") (export \"run\") (result i32) unreachable))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main \"run\")))
            (instance $exported (export \"run\" (func $run)))
            (export \"wasi:cli/run@0.2.0\" (instance $exported)))"
    );
    component_of_wat(folder.path(), "it", &text);
    let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nroutes = [\"/\"]\n";
    let host = TestHost::within(&folder, toml);
    let id = host.get("/").await.request_id().to_owned();
    let found = Project::on(&host).must(&["logs", "--request", &id]);
    host.stop();
    let shown = std::fs::File::create(folder.path().join("stderr")).unwrap();
    let mut child = fnhost(folder.path())
        .args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "text"])
        .stdout(Stdio::piped())
        .stderr(shown)
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    Connection::open(address).await.unwrap().send(Request::get("/")).await.unwrap().assert_problem(502, "trap");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    child.wait().unwrap();
    let shown = std::fs::read_to_string(folder.path().join("stderr")).unwrap();
    for text in [found, shown] {
        assert!(text.contains(&format!("evil\n    | {forged}\\u{{202e}}txt")), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("2026-11-24T00:00:00.000000Z")), "{text}");
    }
}

#[tokio::test]
async fn the_log_outlives_the_host_and_has_a_bound() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let toml = format!("{TWO}[observe]\nkeep-logs = \"1 MiB\"\n");
    let host = TestHost::within(&folder, &toml);
    let first = host.get("/misbehave/flood?lines=3").await.request_id().to_owned();
    host.stop();
    let host = TestHost::within(&folder, &toml);
    assert_eq!(Project::on(&host).must(&["logs", "--request", &first]).lines().count(), 3);
    for _ in 0..20 {
        host.get("/misbehave/flood?lines=1000").await.assert_ok("flooded\n");
        // What is asked for is what is on disk.
        assert!(!Project::on(&host).must(&["logs", "-n", "1"]).is_empty());
    }
    let kept: u64 = std::fs::read_dir(folder.path().join(".fnhost/logs"))
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!((200_000..=1 << 20).contains(&kept), "{kept} bytes");
    assert_eq!(Project::on(&host).must(&["logs", "--request", &first]).lines().count(), 0);
}

#[tokio::test]
async fn whoever_follows_the_log_sees_lines_as_they_come() {
    let host = TestHost::with(TWO);
    host.get("/misbehave/flood?lines=2").await;
    let project = Project::on(&host);
    let mut follow = project.command(&["logs", "-f", "misbehave"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(follow.stdout.take().unwrap()).lines();
    // What was before comes first.
    assert!(lines.next().unwrap().unwrap().contains("line 0 of"));
    assert!(lines.next().unwrap().unwrap().contains("line 1 of"));
    host.get("/hello/you").await;
    host.get("/misbehave/panic").await;
    let mut next = String::new();
    while !next.contains("on purpose") {
        next = lines.next().unwrap().unwrap();
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[tokio::test]
async fn who_was_refused_finds_why_under_the_request_s_id() {
    let host = TestHost::with(&format!(
        "{TWO}limits = {{ concurrency = 1, queue-wait = \"50ms\", timeout = \"60s\" }}\n[functions.fetch]\ncomponent = \"{{fetch.wasm}}\"\nroutes = [\"/fetch\"]\n"
    ));
    let project = Project::on(&host);
    let denied = host.get("/fetch?url=http://127.0.0.1:1/").await;
    assert!(denied.text().contains("HttpRequestDenied"), "{}", denied.text());
    let said = project.must(&["logs", "fetch", "--request", denied.request_id()]);
    assert!(said.contains("a call out was not granted") && said.contains("host=\"127.0.0.1\" "), "{said}");
    let mut held = host.connect().await;
    let streaming = held.begin(Request::get("/misbehave/hang-after-head")).await.unwrap();
    let refused = host.get("/misbehave/counter").await;
    refused.assert_problem(503, "busy");
    let said = project.must(&["logs", "misbehave", "--request", refused.request_id()]);
    assert!(
        said.contains("INFO demo/misbehave") && said.contains("no sandbox came free in time code=\"busy\""),
        "{said}"
    );
    drop(streaming);
}

/// What was before comes from files, and what is new from memory, and lines are written all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_a_flood_sees_no_line_twice() {
    let host = Arc::new(TestHost::with(TWO));
    let mut floods = JoinSet::new();
    for _ in 0..2 {
        let mut connection = host.connect().await;
        floods.spawn(async move {
            loop {
                connection.send(Request::get("/misbehave/flood?lines=300")).await.unwrap();
            }
        });
    }
    let token = format!("Bearer {}", crate::support::token_of(&host));
    for _ in 0..10 {
        let mut connection = Connection::open(host.admin()).await.unwrap();
        let asked = Request::get("/v1/logs/tail?limit=300&function=misbehave").header("authorization", &token);
        let mut body = connection.begin(asked).await.unwrap().into_body();
        let (mut text, mut seen) = (String::new(), HashSet::new());
        while seen.len() < 1500 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            text.push_str(std::str::from_utf8(&frame).unwrap());
            let whole = text.rfind("\n\n").map_or(0, |end| end + 2);
            for event in text.drain(..whole).collect::<String>().split_terminator("\n\n") {
                let Some(data) = event.strip_prefix("event: line\ndata: ") else { continue };
                let line: Value = serde_json::from_str(data).unwrap();
                assert!(seen.insert(format!("{} {}", line["request_id"], line["message"])), "twice: {line}");
            }
        }
    }
    floods.abort_all();
}

/// Two hosts, of which one takes over, write at the same time.
#[tokio::test]
async fn lines_of_two_hosts_are_found_by_their_times() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let logs = folder.path().join(".fnhost/logs");
    std::fs::create_dir_all(&logs).unwrap();
    let write = |begun: u64, lines: &[(u64, &str)]| {
        let time = |second: u64| format!("2026-01-01T00:00:{second:02}.000000Z");
        let text = lines.iter().fold(String::new(), |text, (second, said)| {
            text + &format!("{{\"time\":\"{}\",\"level\":\"INFO\",\"target\":\"guest\",\"function\":\"hello\",\"message\":\"{said}\"}}\n", time(*second))
        });
        let file = logs.join(format!("{}-0000000{begun}.jsonl", time(begun)));
        std::fs::write(&file, text).unwrap();
        let written = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + lines.last().unwrap().0);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
    };
    write(0, &[(1, "long ago")]);
    write(2, &[(3, "old 3"), (30, "old 30"), (50, "old 50")]);
    write(5, &[(5, "new 5"), (20, "new 20"), (40, "new 40")]);
    let host = TestHost::within(&folder, TWO);
    let said = |arguments: &[&str]| -> Vec<String> {
        let said = Project::on(&host).must(&[&["logs", "hello"], arguments].concat());
        said.lines().map(|line| line.split(": ").last().unwrap().to_owned()).collect()
    };
    assert_eq!(said(&["--since", "2026-01-01T00:00:10Z"]), ["new 20", "old 30", "new 40", "old 50"]);
    assert_eq!(said(&["-n", "3"]), ["old 30", "new 40", "old 50"]);
    assert_eq!(said(&["-n", "5"]), ["new 5", "new 20", "old 30", "new 40", "old 50"]);
    assert_eq!(said(&[]), ["long ago", "old 3", "new 5", "new 20", "old 30", "new 40", "old 50"]);
}
