//! What a deploy must not break: requests under way, and the state folder, whatever happens.

use crate::support::{Connection, Project, Request, TestHost, ask, bare_host, guest, hello};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// An app that says its number twice: by its component, which is another one for each, and by its functions.toml.
fn numbered(project: &Project, number: u32) {
    let component = std::fs::read(guest("hello")).unwrap();
    // The name of the variable that it reads is in its data, and is the number now.
    let (variable, mut at) = (b"GREETING", None);
    for place in 0..component.len() - variable.len() {
        if component[place..].starts_with(variable) {
            at = Some(place);
        }
    }
    let mut component = component;
    let place = at.expect("the name of the variable");
    component[place..place + variable.len()].copy_from_slice(format!("NUM{number:05}").as_bytes());
    std::fs::write(project.folder().join("mine.wasm"), component).unwrap();
    let toml = hello("app", &number.to_string()).replace("{hello.wasm}", "mine.wasm");
    project.write(&toml.replace("GREETING", &format!("NUM{number:05}")));
}

/// What the app answers with, as a number. A component that finds no variable of its name, because functions.toml is of
/// another release, says "Hello".
async fn answered(host: &TestHost) -> u32 {
    let answer = host.get("/app/you").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.text();
    said.split(',').next().unwrap().parse().unwrap_or_else(|_| panic!("code and manifest of two releases: {said}"))
}

/// How often the host is killed. `FNHOST_TEST_KILLS=300` is for those who have the time.
fn kills() -> u32 {
    std::env::var("FNHOST_TEST_KILLS").map_or(15, |text| text.parse().unwrap())
}

#[tokio::test]
async fn a_host_that_is_killed_at_any_moment_of_a_deploy_serves_the_old_release_or_the_new_one() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut host = TestHost::of_state(&folder, &[]);
    let project = Project::on(&host);
    numbered(&project, 0);
    project.must(&["deploy"]);
    let mut live = 0;
    let mut renewed = 0;
    for number in 1..=kills() {
        let project = Project::on(&host);
        numbered(&project, number);
        let deploying = std::thread::spawn(move || {
            let said = project.run(&["deploy"]);
            (project, said)
        });
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..500)));
        host.signal("-KILL");
        let (_, said) = deploying.join().unwrap();
        host.finish();
        host = TestHost::of_state(&folder, &[]);
        let now = answered(&host).await;
        assert!(now == live || now == number, "{now}, and not {live} or {number}");
        // What was told to be live is live.
        assert!(said.code != Some(0) || now == number, "{}", said.stdout);
        let list = ask(&host, Request::get("/v1/apps/app/releases")).await.json();
        let states = list["releases"].as_array().unwrap().iter().filter(|release| release["state"] == "live").count();
        assert_eq!(states, 1, "{list}");
        renewed += u32::from(now == number);
        live = now;
    }
    eprintln!("killed {} times, {renewed} of them behind the change", kills());
    // Of a few, all may fall on one side.
    assert!(kills() < 100 || (renewed > 0 && renewed < kills()), "{renewed}");
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_full_disk_fails_the_deploy_and_nothing_else() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    Project::on(&host).deploy(&hello("app", "Hello"));
    host.stop();
    let mut refused = 0;
    // No file can grow beyond so many blocks (of 512 bytes, in sh): writes fail with EFBIG, as they would with ENOSPC. The
    // component does not fit, or its code, or the record, or all do.
    for (number, blocks) in [(1, 100), (2, 200), (3, 500), (4, 1000), (5, 2000), (6, 100_000)] {
        let mut shell = Command::new("sh");
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_fnhost")]);
        let host = TestHost::run_with(&folder, shell, &["--state", "state"]);
        let before = host.get("/app/you").await.text();
        let kept = files(&folder.path().join("state/components"));
        let project = Project::on(&host);
        numbered(&project, number);
        let said = project.run(&["deploy"]);
        let after = if said.code == Some(0) { format!("{number}, you!\n") } else { before };
        if said.code != Some(0) {
            refused += 1;
            assert!(said.stderr.contains("(state)"), "{}", said.stderr);
            assert!(files(&folder.path().join("state/components")) <= kept + 1);
        }
        host.get("/app/you").await.assert_ok(&after);
        host.stop();
        let host = TestHost::of_state(&folder, &[]);
        host.get("/app/you").await.assert_ok(&after);
        host.stop();
    }
    assert!((1..6).contains(&refused), "{refused} of 6");
}

/// Writes something else into every file of a folder.
fn damage(folder: &Path) {
    for file in std::fs::read_dir(folder).unwrap() {
        std::fs::write(file.unwrap().path(), b"\0asm, and then something else").unwrap();
    }
}

fn restarted(host: TestHost, harm: impl FnOnce(&Path)) -> TestHost {
    let folder: Arc<TempDir> = Arc::clone(host.folder());
    host.stop();
    harm(&folder.path().join("state"));
    TestHost::of_state(&folder, &[])
}

#[tokio::test]
async fn damaged_code_is_compiled_again_from_the_component() {
    let host = bare_host();
    Project::on(&host).deploy(&hello("app", "Hello"));
    let host = restarted(host, |state| damage(&state.join("compiled")));
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    // The component is not needed while its code is there.
    let host = restarted(host, |state| damage(&state.join("components")));
    host.get("/app/you").await.assert_ok("Hello, you!\n");
}

#[tokio::test]
async fn an_app_that_is_lost_is_warned_of_and_the_others_are_served_and_a_deploy_mends_it() {
    let host = bare_host();
    let (one, other) = (Project::on(&host), Project::on(&host));
    numbered(&one, 1);
    one.must(&["deploy"]);
    other.deploy(&hello("other", "Hello"));
    let lost = ask(&host, Request::get("/v1/apps/app/releases/1")).await.json();
    let digest = lost["functions"][0]["component"].as_str().unwrap().to_owned();
    let host = restarted(host, |state| {
        for folder in ["compiled", "components"] {
            for file in std::fs::read_dir(state.join(folder)).unwrap().map(|file| file.unwrap().path()) {
                if file.file_name().unwrap().to_str().unwrap().starts_with(&digest) {
                    std::fs::write(file, b"damaged").unwrap();
                }
            }
        }
    });
    host.get("/other/you").await.assert_ok("Hello, you!\n");
    host.get("/app/you").await.assert_problem(404, "no_route");
    let status = ask(&host, Request::get("/v1/status")).await.json();
    assert!(status["warnings"][0].as_str().unwrap().starts_with("app: it cannot be served"), "{status}");
    let again = Project::on(&host);
    numbered(&again, 1);
    again.must(&["deploy"]);
    assert_eq!(answered(&host).await, 1);
    assert_eq!(ask(&host, Request::get("/v1/status")).await.json()["warnings"], json!([]));
}

#[tokio::test]
async fn a_damaged_record_is_restored() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "One"));
    project.deploy(&hello("app", "Two"));
    let host = restarted(host, |state| {
        let _ = std::fs::remove_file(state.join("fnhost.db-wal"));
        std::fs::write(state.join("fnhost.db"), [7; 5000]).unwrap();
    });
    host.get("/app/you").await.assert_ok("Two, you!\n");
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("taking the copy")));
    let project = Project::on(&host);
    project.write(&hello("app", "Two"));
    project.must(&["rollback"]);
    host.get("/app/you").await.assert_ok("One, you!\n");
}

/// Clients that ask without a pause, on connections that they keep and on new ones, and streams, while releases come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_under_load_fail_no_request_and_mix_no_answer() {
    const DEPLOYS: u32 = 12;
    let host = Arc::new(bare_host());
    let project = Project::on(&host);
    let write = |number: u32| {
        numbered(&project, number);
        let toml = std::fs::read_to_string(project.folder().join("functions.toml")).unwrap();
        let stream =
            format!("[functions.stream]\ncomponent = \"{}\"\nroutes = [\"/stream\"]\n", guest("stream").display());
        std::fs::write(project.folder().join("functions.toml"), toml + &stream).unwrap();
    };
    write(0);
    project.must(&["deploy"]);
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..6 {
        let (host, done) = (Arc::clone(&host), Arc::clone(&done));
        clients.spawn(async move {
            let mut kept = host.connect().await;
            let mut answers: Vec<(String, String)> = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let path = if client == 0 { "/stream?count=10&interval-ms=10" } else { "/app/you" };
                if client % 2 == 1 {
                    kept = Connection::open(host.address()).await.expect("a connection is accepted");
                }
                let answer = kept.send(Request::get(path)).await.expect("every request is answered whole");
                assert_eq!(answer.status, 200, "{}", answer.text());
                if client == 0 {
                    assert_eq!(answer.text().matches("data:").count(), 10, "{}", answer.text());
                } else {
                    answers.push((answer.request_id().to_owned(), answer.text()));
                }
            }
            answers
        });
    }
    for number in 1..=DEPLOYS {
        write(number);
        let done = tokio::task::block_in_place(|| project.run(&["deploy"]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }
    done.store(true, Ordering::Relaxed);
    let answers: Vec<(String, String)> = clients.join_all().await.into_iter().flatten().collect();
    let host = Arc::into_inner(host).unwrap();
    let (last, _) = answers.last().unwrap();
    host.receipt(last);
    let lines = host.log_lines();
    let releases: HashMap<&str, &Value> =
        lines.iter().filter_map(|line| Some((line["request_id"].as_str()?, line.get("release")?))).collect();
    let mut seen: Vec<u64> = Vec::new();
    for (id, text) in &answers {
        let Some(release) = releases.get(id.as_str()).and_then(|release| release.as_u64()) else { continue };
        // Release 1 has number 0, and so on.
        assert_eq!(*text, format!("{}, you!\n", release - 1));
        seen.push(release);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 3, "answers of {seen:?} alone");
}
