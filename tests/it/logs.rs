//! What guests print becomes log lines, and no guest can hurt the host with it.

use crate::support::{Request, TestHost, fnhost, guest};
use std::io::BufRead;
use std::process::Stdio;

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
    let mut connection = crate::support::Connection::open(address).await.unwrap();
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
