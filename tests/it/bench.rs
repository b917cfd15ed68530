//! `fnhost bench` says what a function costs, by phase.

use crate::support::{fnhost, guest};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn app(folder: &Path) {
    let toml = format!(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{}\"\nroutes = [\"GET /hello/{{name}}\"]\n\
         [functions.misbehave]\ncomponent = \"{}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n\
         [functions.echo]\ncomponent = \"{}\"\nroutes = [\"POST /echo\"]\n",
        guest("hello").display(),
        guest("misbehave").display(),
        guest("echo").display(),
    );
    std::fs::write(folder.join("functions.toml"), toml).unwrap();
}

fn bench(folder: &Path, arguments: &[&str]) -> Output {
    fnhost(folder).arg("bench").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout.into_owned()
}

#[test]
fn a_table_has_a_line_for_each_phase_and_a_histogram() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    let text = stdout(&bench(folder.path(), &["hello", "-n", "200"]));
    assert!(text.starts_with("hello: 200 requests, 1 at once, a fresh sandbox each, in "), "{text}");
    for phase in ["queue", "store", "instantiate", "handler", "body", "teardown", "cold start", "total", "CPU"] {
        let line = text.lines().find(|line| line.starts_with(phase)).unwrap_or_else(|| panic!("no {phase} in {text}"));
        assert!(line.ends_with('s'), "{line}");
    }
    let counted: u64 = text
        .lines()
        .filter(|line| line.trim_start().starts_with('<'))
        .map(|line| line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 200, "{text}");
}

#[test]
fn json_has_nanoseconds_of_every_request() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    let report: Value =
        serde_json::from_str(&stdout(&bench(folder.path(), &["hello", "-n", "150", "-c", "4", "--json"]))).unwrap();
    assert_eq!((&report["requests"], &report["at_once"], &report["failures"]), (&150.into(), &4.into(), &0.into()));
    let phases = &report["nanoseconds"];
    let cold = phases["cold_start"]["p50"].as_u64().unwrap();
    assert!(cold > 0 && cold <= phases["total"]["p50"].as_u64().unwrap(), "{report}");
    assert!(report["memory_peak_bytes"].as_u64().unwrap() >= 1 << 20, "{report}");
}

#[test]
fn a_request_can_be_written_out() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    std::fs::write(folder.path().join("upload"), vec![b'x'; 100_000]).unwrap();
    let asked = ["echo", "-n", "10", "--body", "upload", "--header", "content-type: text/plain", "--json"];
    let report: Value = serde_json::from_str(&stdout(&bench(folder.path(), &asked))).unwrap();
    assert_eq!((&report["requests"], &report["other_status"]), (&10.into(), &0.into()));
}

#[test]
fn a_drawing_is_svg() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    stdout(&bench(folder.path(), &["hello", "-n", "50", "--svg", "hello.svg"]));
    let svg = std::fs::read_to_string(folder.path().join("hello.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains(">instantiate</text>"), "{svg}");
}

#[test]
fn a_function_that_fails_is_one_line_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    let ended = bench(folder.path(), &["misbehave", "-n", "10", "--path", "/misbehave/panic"]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("the guest trapped"), "{ended:?}");
}

#[test]
fn the_compiled_code_of_other_functions_stays() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    assert!(fnhost(folder.path()).arg("check").status().unwrap().success());
    let compiled = || {
        let files = std::fs::read_dir(folder.path().join(".fnhost/compiled")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = compiled();
    assert_eq!(before.len(), 6);
    // Old enough to be removed, were they nobody's.
    let past = std::time::SystemTime::now() - std::time::Duration::from_hours(24 * 30);
    for file in &before {
        let times = std::fs::FileTimes::new().set_modified(past);
        std::fs::File::options().write(true).open(file).unwrap().set_times(times).unwrap();
    }
    stdout(&bench(folder.path(), &["hello", "-n", "10"]));
    assert_eq!(compiled(), before);
}

#[test]
fn a_function_that_is_not_there_is_one_line_with_those_that_are() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    let ended = bench(folder.path(), &["helo"]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(stderr, "error: there is no function `helo`; there are hello, misbehave, echo\n");
}

#[test]
fn a_route_with_a_host_is_asked_at_that_host() {
    let folder = tempfile::tempdir().unwrap();
    let toml = format!(
        "name = \"test\"\n[functions.hello]\ncomponent = \"{}\"\nroutes = [\"GET *.example.com/hello\"]\n",
        guest("hello").display()
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    assert!(stdout(&bench(folder.path(), &["hello", "-n", "10"])).starts_with("hello: 10 requests"));
}

#[test]
fn a_path_of_another_function_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    app(folder.path());
    let ended = bench(folder.path(), &["hello", "--path", "/echo"]);
    assert_eq!(ended.status.code(), Some(1));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(stderr, "error: the function has no route for GET /echo\n");
}
