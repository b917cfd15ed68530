//! Changes of functions.toml and of components, served without a restart.

use crate::support::{TestHost, bare_host, fnhost, guest, wait_for_async, with_guests};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

fn toml(greeting: &str) -> String {
    format!(
        "name = \"app\"\n[functions.hello]\ncomponent = \"mine.wasm\"\nroutes = [\"/{{name}}\"]\nenv = {{ GREETING = \"{greeting}\" }}\n"
    )
}

/// As an editor does: aside, and renamed.
fn replace(file: &Path, bytes: impl AsRef<[u8]>) {
    let aside = file.with_extension("new");
    std::fs::write(&aside, bytes).unwrap();
    std::fs::rename(aside, file).unwrap();
}

fn project(greeting: &str) -> Arc<TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(guest("hello"), folder.path().join("mine.wasm")).unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml(greeting)).unwrap();
    folder
}

fn watching(folder: &Arc<TempDir>) -> TestHost {
    TestHost::run_with(folder, Command::new(env!("CARGO_BIN_EXE_fnhost")), &["--no-build", "--watch"])
}

/// Asks until the answer is `wanted`.
async fn answers(host: &TestHost, wanted: &str) {
    for _ in 0..2000 {
        let answer = host.get("/you").await;
        if answer.text() == wanted {
            return;
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it never answered {wanted}");
}

#[tokio::test]
async fn a_change_of_functions_toml_or_of_a_component_is_live_without_a_restart() {
    let folder = project("One");
    let host = watching(&folder);
    host.get("/you").await.assert_ok("One, you!\n");
    replace(&folder.path().join("functions.toml"), toml("Two"));
    answers(&host, "Two, you!\n").await;
    // Written in place, piece by piece, as some linkers do.
    std::fs::copy(guest("router"), folder.path().join("mine.wasm")).unwrap();
    host.logged(|line| line["message"] == "the change is live" && line["release"] == 3);
    std::fs::copy(guest("hello"), folder.path().join("mine.wasm")).unwrap();
    host.logged(|line| line["message"] == "the change is live" && line["release"] == 4);
    answers(&host, "Two, you!\n").await;
}

#[tokio::test]
async fn a_bad_change_is_reported_in_full_and_leaves_what_is_live() {
    let folder = project("One");
    let host = watching(&folder);
    let reported = |part: &'static str| {
        host.logged(|line| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("the change is not served") && text.contains(part))
        })
    };
    replace(&folder.path().join("functions.toml"), toml("Two").replace("routes", "rotes"));
    reported("did you mean `routes`?");
    host.get("/you").await.assert_ok("One, you!\n");
    replace(&folder.path().join("functions.toml"), toml("Three"));
    answers(&host, "Three, you!\n").await;
    replace(&folder.path().join("mine.wasm"), "no component");
    reported("mine.wasm cannot be a function");
    host.get("/you").await.assert_ok("Three, you!\n");
    std::fs::remove_file(folder.path().join("functions.toml")).unwrap();
    reported("cannot read");
    host.get("/you").await.assert_ok("Three, you!\n");
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_watched_again() {
    let folder = project("One");
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::copy(guest("router"), out.join("mine.wasm")).unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml("One").replace("mine.wasm", "out/mine.wasm")).unwrap();
    let host = watching(&folder);
    for _ in 0..2 {
        let served = host.log_lines().iter().filter(|line| line["message"] == "the change is live").count();
        std::fs::remove_dir_all(&out).unwrap();
        host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("out/mine.wasm cannot be read")));
        std::fs::create_dir(&out).unwrap();
        let component = if served == 0 { "hello" } else { "echo" };
        std::fs::copy(guest(component), out.join("mine.wasm")).unwrap();
        wait_for_async("it is live", || {
            let live = host.log_lines().iter().filter(|line| line["message"] == "the change is live").count();
            (live > served).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn sighup_without_a_functions_toml_changes_nothing() {
    let host = bare_host();
    host.signal("-HUP");
    host.logged(|line| line["message"] == "there is no functions.toml to be read again");
    host.get("/").await.assert_problem(404, "no_route");
}

#[tokio::test]
async fn sighup_has_the_file_read_again_and_says_what_waits_for_a_restart() {
    let folder = project("One");
    let host = TestHost::run_with(&folder, Command::new(env!("CARGO_BIN_EXE_fnhost")), &["--no-build"]);
    let file = folder.path().join("functions.toml");
    replace(&file, toml("Two").replacen('\n', "\n[host]\nconcurrency = 7\n", 1));
    host.signal("-HUP");
    answers(&host, "Two, you!\n").await;
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("holds from the next start on")));
    // Nothing is watched that was not asked for: it is a pipe that the log goes to, and no terminal.
    replace(&file, toml("Three"));
    wait_for_async("time passes", || {
        (file.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_millis() > 500).then_some(())
    })
    .await;
    host.get("/you").await.assert_ok("Two, you!\n");
}

#[tokio::test]
async fn an_app_that_has_not_changed_keeps_its_number() {
    let folder = project("One");
    let number = async |host: &TestHost| {
        let answer = host.get("/you").await;
        host.receipt(answer.request_id())["release"].as_u64().unwrap()
    };
    let start = || TestHost::run_with(&folder, fnhost(folder.path()), &["--no-build"]);
    let host = start();
    assert_eq!(number(&host).await, 1);
    host.stop();
    let host = start();
    assert_eq!(number(&host).await, 1);
    host.stop();
    std::fs::write(folder.path().join("functions.toml"), with_guests(&toml("Two"))).unwrap();
    assert_eq!(number(&start()).await, 2);
}
