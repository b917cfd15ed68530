//! Code is compiled once, kept, and never run when it is not what was kept.

use crate::support::{TestHost, fnhost, guest};
use fnhost::storage::artifacts::Digest256;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

const HELLO: &str = "name = \"test\"\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n";

fn compiled_files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join(".fnhost/compiled"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"))
        .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_second_start_compiles_nothing() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestHost::within(&folder, HELLO).stop();
    let first = compiled_files(folder.path());
    assert_eq!(first.len(), 1);
    let host = TestHost::within(&folder, HELLO);
    host.get("/hello/you").await.assert_ok("Hello, you!\n");
    assert_eq!(compiled_files(folder.path()), first);
}

#[tokio::test]
async fn a_damaged_compiled_file_is_compiled_again() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestHost::within(&folder, HELLO).stop();
    let (file, _) = compiled_files(folder.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&whole[..whole.len() / 2], &[], &flipped] {
        std::fs::write(&file, damaged).unwrap();
        let host = TestHost::within(&folder, HELLO);
        host.get("/hello/you").await.assert_ok("Hello, you!\n");
        host.logged(|line| line["message"].as_str().unwrap_or_default().contains("is damaged"));
        host.stop();
        assert_eq!(std::fs::read(&file).unwrap().len(), whole.len());
    }
}

#[tokio::test]
async fn a_file_that_is_no_code_of_ours_is_not_run() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestHost::within(&folder, HELLO).stop();
    let (file, _) = compiled_files(folder.path()).remove(0);
    // Whole by its own note, and still nothing that this host compiled.
    let foreign = b"\x7fELF, but not really".repeat(100);
    std::fs::write(&file, &foreign).unwrap();
    let note = file.with_extension("note");
    let needs = std::fs::read_to_string(&note).unwrap().lines().nth(1).unwrap().to_owned();
    let digest = Digest256::of(&[&foreign[..], needs.as_bytes()].concat());
    std::fs::write(&note, format!("{digest}\n{needs}\n")).unwrap();
    let host = TestHost::within(&folder, HELLO);
    host.get("/hello/you").await.assert_ok("Hello, you!\n");
}

#[tokio::test]
async fn a_component_that_was_replaced_is_seen_at_the_next_start() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let component = folder.path().join("it.wasm");
    let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nroutes = [\"/{*rest}\"]\n";
    std::fs::copy(guest("hello"), &component).unwrap();
    let host = TestHost::within(&folder, toml);
    host.get("/x").await.assert_ok("Hello, world!\n");
    host.stop();
    std::fs::copy(guest("misbehave"), &component).unwrap();
    let host = TestHost::within(&folder, toml);
    host.get("/misbehave/counter").await.assert_ok("1\n");
}

#[test]
fn the_state_folder_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Arc::new(tempfile::tempdir().unwrap());
    TestHost::within(&folder, HELLO).stop();
    let mode = std::fs::metadata(folder.path().join(".fnhost")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_one_line_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("occupied"), "a file").unwrap();
    let toml = format!(
        "name = \"test\"\n[host]\nstate = \"occupied/state\"\n[functions.hello]\ncomponent = \"{}\"\nroutes = [\"/\"]\n",
        guest("hello").display()
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder.path()).args(["up", "--listen", "127.0.0.1:0"]).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(stderr.starts_with("error: the state folder occupied/state cannot be written: "), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
