//! `fnhost invoke`: one request without a server.

use crate::support::{fnhost, with_guests};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Output, Stdio};
use tempfile::TempDir;

fn app() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let toml = "name = \"test\"\n[stores.default]\n[databases.notes]\nmigrations = \"migrations\"\n\
         [functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"GET /hello/{name}\", \"GET /hello\"]\nenv = { GREETING = \"Salve\" }\n\
         [functions.echo]\ncomponent = \"{echo.wasm}\"\nroutes = [\"/echo\"]\nlimits = { request-body = \"1 MiB\" }\n\
         [functions.router]\ncomponent = \"{router.wasm}\"\nroutes = [\"/router/{*rest}\"]\n\
         [functions.counter]\ncomponent = \"{counter.wasm}\"\nroutes = [\"/counter\"]\nstores = [\"default\"]\n\
         [functions.notes]\ncomponent = \"{notes.wasm}\"\nroutes = [\"/notes/{*rest}\"]\ndatabases = [\"notes\"]\n\
         [functions.stream]\ncomponent = \"{stream.wasm}\"\nroutes = [\"/stream\"]\nlimits = { timeout = \"none\" }\n\
         [functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n";
    std::fs::write(folder.path().join("functions.toml"), with_guests(toml)).unwrap();
    let migrations = folder.path().join("migrations");
    std::fs::create_dir(&migrations).unwrap();
    let notes = crate::support::project().join("guest-examples/notes/migrations");
    for file in std::fs::read_dir(notes).unwrap().map(|file| file.unwrap()) {
        std::fs::copy(file.path(), migrations.join(file.file_name())).unwrap();
    }
    folder
}

fn invoke(folder: &Path, arguments: &[&str]) -> Output {
    fnhost(folder).arg("invoke").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_body_is_on_stdout_and_the_receipt_on_stderr() {
    let folder = app();
    let ended = invoke(folder.path(), &["hello", "--path", "/hello/you?a=b"]);
    assert_eq!((ended.status.code(), stdout(&ended).as_str()), (Some(0), "Salve, you!\n"), "{}", stderr(&ended));
    let told = stderr(&ended);
    let receipt = told.lines().last().unwrap();
    assert!(receipt.contains(" 200 GET     test/hello "), "{told}");
    for phase in [" queue ", " store ", " instantiate ", " handler ", " body ", " cpu ", " mem ", " out 12 "] {
        assert!(receipt.contains(phase), "{receipt}");
    }
}

#[test]
fn the_status_and_the_headers_come_before_the_body_when_asked_for() {
    let folder = app();
    let ended = invoke(folder.path(), &["echo", "-i", "-d", "one\ntwo", "-H", "content-type: text/x-own"]);
    let text = stdout(&ended);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body, "one\ntwo");
    assert!(stderr(&ended).contains(" 200 POST "), "a body is posted: {}", stderr(&ended));
}

#[test]
fn bodies_are_bytes_from_a_file_or_stdin_and_to_stdout() {
    let folder = app();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    std::fs::write(folder.path().join("upload"), &bytes).unwrap();
    let of_file = invoke(folder.path(), &["echo", "-X", "PUT", "-d", "@upload"]);
    assert!(of_file.stdout == bytes, "{}", stderr(&of_file));
    let mut command = fnhost(folder.path());
    command.args(["invoke", "echo", "-d", "@-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let of_stdin = child.wait_with_output().unwrap();
    assert!(of_stdin.stdout == bytes, "{}", stderr(&of_stdin));
}

#[test]
fn the_exit_code_says_how_it_ended() {
    let folder = app();
    let code = |arguments: &[&str]| invoke(folder.path(), arguments).status.code();
    assert_eq!(code(&["router", "--path", "/router/nowhere"]), Some(4));
    let trapped = invoke(folder.path(), &["misbehave", "--path", "/misbehave/panic"]);
    assert_eq!(trapped.status.code(), Some(5), "{}", stderr(&trapped));
    assert!(stderr(&trapped).contains("error: the guest trapped"), "{}", stderr(&trapped));
    assert!(stderr(&trapped).contains(" 502 GET     test/misbehave ") && stderr(&trapped).contains(" trap\n"));
    assert_eq!(code(&["nobody"]), Some(1));
    assert_eq!(code(&["hello", "--path", "/elsewhere"]), Some(1));
    assert_eq!(code(&["hello", "--path", "no-slash"]), Some(2));
    assert_eq!(code(&["hello", "-X", "NO METHOD"]), Some(2));
    std::fs::write(folder.path().join("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    assert_eq!(code(&["echo", "-d", "@large"]), Some(4));
}

#[test]
fn without_a_path_it_is_the_first_route_that_has_no_parameter() {
    let folder = app();
    // Its second route.
    let ended = invoke(folder.path(), &["hello"]);
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    // The rest of a path may be nothing.
    assert_eq!(invoke(folder.path(), &["router"]).status.code().map(|code| code != 1), Some(true));
    let toml = std::fs::read_to_string(folder.path().join("functions.toml")).unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml.replace(", \"GET /hello\"", "")).unwrap();
    let refused = invoke(folder.path(), &["hello"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(stderr(&refused), "error: `GET /hello/{name}` has a parameter; say what to ask for with --path\n");
}

#[test]
fn grants_and_data_are_those_of_the_function() {
    let folder = app();
    let count = |expected: &str| {
        let ended = invoke(folder.path(), &["counter", "-X", "POST"]);
        assert!(stdout(&ended).contains(expected), "{}{}", stdout(&ended), stderr(&ended));
    };
    // It is kept from one to the next.
    count("1");
    count("2");
    let notes = invoke(folder.path(), &["notes", "--path", "/notes"]);
    assert_eq!(notes.status.code(), Some(0), "the migrations were done: {}{}", stdout(&notes), stderr(&notes));
}

#[test]
fn whoever_has_read_enough_ends_it_quietly() {
    let folder = app();
    let mut command = fnhost(folder.path());
    command.args(["invoke", "stream", "--path", "/stream?count=1000000&interval-ms=1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // As it comes: the stream would take a quarter of an hour.
    let mut first = [0; 16];
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", stderr(&ended));
    assert!(!stderr(&ended).contains("error"), "{}", stderr(&ended));
}
