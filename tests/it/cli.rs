//! The command line: what it prints, and its exit codes.

use crate::support::{TestHost, fnhost, guest, project};
use std::process::Command;

#[test]
fn routes_lists_what_is_routed_with_kinds_and_limits() {
    guest("hello");
    let ended = fnhost(&project()).args(["routes"]).output().unwrap();
    let table = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success());
    let line = |function: &str| {
        table.lines().find(|line| line.split_whitespace().any(|word| word == function)).unwrap().to_owned()
    };
    assert!(table.starts_with("METHOD  HOST  PATH"), "{table}");
    assert!(line("hello").starts_with("GET     any   /hello/{name}"), "{table}");
    assert!(line("hello").contains("http-0.2") && line("hello").contains("memory 128 MiB"), "{table}");
    assert!(line("hello-p3").contains("http-0.3"), "{table}");
    assert!(line("/auth").contains("auth (component)"), "{table}");
    assert!(line("cgi").contains("command"), "{table}");
    assert!(line("echo").contains("timeout none") && line("echo").contains("body 1 GiB"), "{table}");
}

#[test]
fn check_accepts_what_up_would_serve() {
    guest("hello");
    let ended = fnhost(&project()).args(["check"]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "demo: 15 functions and 15 routes are ready to serve\n");
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), "", "quiet in a pipe");
}

#[test]
fn a_folder_without_functions_toml_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["up", "build", "check", "routes"] {
        let ended = fnhost(folder.path()).arg(command).output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{command}");
        assert!(stderr.starts_with("error: no functions.toml here"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["fly"][..], &["up", "--listen", "nowhere"], &["up", "--log", "smoke"], &[]] {
        assert_eq!(fnhost(folder.path()).args(words).output().unwrap().status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn a_port_in_use_is_one_line_and_exit_code_1() {
    let host = TestHost::of_guest("hello", "");
    let address = host.address().to_string();
    let ended = fnhost(host.folder().path()).args(["up", "--listen", &address]).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(stderr.starts_with(&format!("error: cannot listen on {address}: ")), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_build_that_fails_shows_what_it_printed() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nbuild = \"echo told on stdout; echo told on stderr >&2; exit 7\"\nroutes = [\"/\"]\n";
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder.path()).arg("build").output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stdout.is_empty());
    assert!(stderr.contains("told on stdout\ntold on stderr\n"), "{stderr}");
    assert!(stderr.contains("function `it`: `echo told on stdout;") && stderr.contains("exit status: 7"), "{stderr}");
}

#[test]
fn a_missing_target_is_told_with_the_command_that_adds_it() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nbuild = \"false cargo build --target no-such-target\"\nroutes = [\"/\"]\n";
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder.path()).arg("build").output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("rustup target add no-such-target"), "{stderr}");
}

#[test]
fn a_build_makes_the_component_that_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let source = guest("hello").display().to_string();
    let toml = format!(
        "name = \"test\"\n[functions.it]\ncomponent = \"out/it.wasm\"\nbuild = \"mkdir -p ../out && cp {source} ../out/it.wasm\"\nbuild-dir = \"src\"\nroutes = [\"/\"]\n"
    );
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let missing = fnhost(folder.path()).arg("check").output().unwrap();
    let stderr = String::from_utf8(missing.stderr).unwrap();
    assert!(stderr.contains("functions.toml:3:13: the component out/it.wasm cannot be read"), "{stderr}");
    assert!(stderr.contains("= help: `fnhost build` makes it"), "{stderr}");
    assert!(fnhost(folder.path()).arg("build").status().unwrap().success());
    assert!(fnhost(folder.path()).arg("check").output().unwrap().status.success());
}

#[test]
fn up_builds_what_it_serves() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let source = guest("hello").display().to_string();
    let toml = format!(
        "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nbuild = \"cp {source} it.wasm\"\nroutes = [\"/\"]\n"
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let refused = fnhost(folder.path()).args(["up", "--no-build", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let host = TestHost::building(&folder);
    assert!(folder.path().join("it.wasm").exists());
    assert_eq!(host.stop().code, Some(0));
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let toml =
        format!("name = \"test\"\n[functions.it]\ncomponent = \"{}\"\nroutes = [\"/\"]\n", guest("hello").display());
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended =
        fnhost(folder.path()).args(["up", "--listen", "127.0.0.1:0"]).env("FNHOST_LOG", "what=ever=").output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).starts_with("error: FNHOST_LOG is `what=ever=`"));
}

#[test]
fn each_shell_completes_commands() {
    let folder = tempfile::tempdir().unwrap();
    let script = |shell: &str| {
        let ended = fnhost(folder.path()).args(["completions", shell]).output().unwrap();
        assert!(ended.status.success(), "{shell}");
        String::from_utf8(ended.stdout).unwrap()
    };
    assert!(script("zsh").starts_with("#compdef fnhost"));
    assert!(script("fish").contains("complete -c fnhost"));
    let bash = script("bash");
    std::fs::write(folder.path().join("script"), bash).unwrap();
    assert_eq!(fnhost(folder.path()).args(["completions", "csh"]).output().unwrap().status.code(), Some(2));
    let asked = "source ./script && complete -p fnhost && COMP_WORDS=(fnhost inv) COMP_CWORD=1 && _fnhost fnhost inv fnhost \
                 && echo \"${COMPREPLY[@]}\"";
    let Ok(ended) = Command::new("bash").args(["-c", asked]).current_dir(folder.path()).output() else {
        return crate::support::skipped("there is no bash");
    };
    let told = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(
        told.starts_with("complete ") && told.contains(" -F _fnhost fnhost\n") && told.ends_with("\ninvoke\n"),
        "{told}"
    );
}
