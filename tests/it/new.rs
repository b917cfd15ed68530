//! `fnhost new` and `fnhost add`: what they make is built, tested and served, and what they refuse is left as it was.

use crate::support::{TestHost, fnhost, missing_javascript, missing_python, project, skipped};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

const RUST: [&str; 4] = ["rust", "rust-axum", "rust-p3", "rust-cgi"];

fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

/// A command of the real binary, whose builds go where the folder says.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = fnhost(folder);
    command.args(arguments).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), stderr_of(output));
}

/// An app of that template, called after it, in a folder of its own. What cargo makes of all of them is shared.
fn made(template: &str) -> (Arc<TempDir>, PathBuf) {
    let folder = folder();
    let name = format!("my-{template}");
    succeeded(&run(folder.path(), &["new", &name, "--template", template]));
    let app = folder.path().join(name);
    share_target(&app);
    (folder, app)
}

fn share_target(package: &Path) {
    let shared = project().join("target/test-templates");
    std::fs::create_dir_all(&shared).unwrap();
    std::os::unix::fs::symlink(shared, package.join("target")).unwrap();
}

fn up(app: &Path) -> TestHost {
    let below = Arc::new(tempfile::tempdir_in(app).unwrap());
    TestHost::run_with(&below, command(app, &[]), &["-c", "../functions.toml"])
}

/// A second build with nothing changed leaves the component, which then need not be compiled again; a change does not.
fn is_built_once(app: &Path, component: &str, source: &str) {
    let component = app.join(component);
    let built = || {
        succeeded(&run(app, &["build"]));
        std::fs::metadata(&component).unwrap().modified().unwrap()
    };
    let first = built();
    assert_eq!(built(), first);
    let source = app.join(source);
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("Hello", "Good day")).unwrap();
    assert!(built() > first);
    std::fs::write(&source, text).unwrap();
}

async fn says_hello(host: &TestHost, path: &str) {
    host.get(path).await.assert_ok("Hello, world!\n");
    let below = format!("{}/you", path.trim_end_matches('/'));
    let named = host.get(&below).await;
    assert_eq!(named.status, 200, "{}", named.text());
    assert!(named.text().contains("you"), "{}", named.text());
    assert_eq!(host.get(&format!("{below}/and/me")).await.status, 404);
}

/// Runs the template's own tests, which say in `summary` that three have passed.
fn passes_its_tests(app: &Path, program: &str, arguments: &[&str], summary: &str) {
    let mut tests = Command::new(program);
    tests.args(arguments).current_dir(app).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    // Node's runner reports in another way to one that runs it.
    let ended = tests.env_remove("NODE_TEST_CONTEXT").output().unwrap();
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(ended.status.success() && said.contains(summary), "{said}");
}

#[tokio::test]
async fn a_new_app_in_rust_answers_at_the_root_and_passes_its_own_tests() {
    for template in RUST {
        let (_folder, app) = made(template);
        let host = up(&app);
        says_hello(&host, "/").await;
        host.stop();
        passes_its_tests(&app, "cargo", &["test", "--locked"], "3 passed");
        succeeded(&Command::new("cargo").args(["fmt", "--check"]).current_dir(&app).output().unwrap());
    }
}

#[tokio::test]
async fn a_new_app_in_javascript_answers_at_the_root_and_passes_its_own_tests() {
    if let Some(missing) = missing_javascript() {
        return skipped(&missing);
    }
    let (_folder, app) = made("javascript");
    let host = up(&app);
    says_hello(&host, "/").await;
    assert_eq!(host.get("/you").await.text(), r#"{"hello":"you"}"#);
    host.stop();
    is_built_once(&app, "dist/my-javascript.wasm", "src/app.js");
    passes_its_tests(&app, "npm", &["test"], "pass 3");
    // What was locked is what is there, and nobody changed that.
    let locked = std::fs::read_to_string(app.join("package-lock.json")).unwrap();
    let ours = std::fs::read_to_string(project().join("templates/javascript/package-lock.json")).unwrap();
    assert_eq!(locked, ours.replace("template-name", "my-javascript"));
}

#[tokio::test]
async fn a_new_app_in_python_answers_at_the_root_and_passes_its_own_tests() {
    if let Some(missing) = missing_python() {
        return skipped(&missing);
    }
    let (_folder, app) = made("python");
    let host = up(&app);
    says_hello(&host, "/").await;
    assert_eq!(host.get("/you?x=1").await.text(), r#"{"hello": "you"}"#);
    host.stop();
    is_built_once(&app, "dist/my-python.wasm", "routes.py");
    passes_its_tests(&app, "python3", &["-m", "unittest"], "Ran 3 tests");
}

#[tokio::test]
async fn a_new_middleware_answers_at_the_root_with_what_it_wraps_and_passes_its_own_tests() {
    let (_folder, app) = made("middleware");
    let host = up(&app);
    let answer = host.get("/you").await;
    answer.assert_ok("Hello, world!\n");
    assert_eq!(answer.header("x-my-middleware"), "seen");
    host.logged(|line| line["message"] == "/you was answered with 200");
    host.stop();
    passes_its_tests(&app, "cargo", &["test", "--locked", "--lib"], "1 passed");
    succeeded(&Command::new("cargo").args(["fmt", "--check"]).current_dir(&app).output().unwrap());
}

#[test]
fn every_file_of_the_templates_is_written_and_no_placeholder_is_left() {
    for entry in std::fs::read_dir(project().join("templates")).unwrap() {
        let template = entry.unwrap();
        let name = template.file_name().into_string().unwrap();
        let folder = folder();
        succeeded(&run(folder.path(), &["new", "x", "--template", &name]));
        let sources: BTreeSet<String> = files(&template.path()).into_iter().map(|file| put(&file)).collect();
        let mut written: BTreeSet<String> = files(&folder.path().join("x")).into_iter().collect();
        // For editors, and no part of what is kept of the app.
        let schema = ".fnhost/functions.schema.json";
        assert!(written.remove(schema));
        assert_eq!(written, sources, "{name}");
        let manifest = std::fs::read_to_string(folder.path().join("x/functions.toml")).unwrap();
        assert_eq!(manifest.lines().next().and_then(|line| line.strip_prefix("#:schema ")), Some(schema), "{name}");
        let printed = run(folder.path(), &["schema"]).stdout;
        assert!(std::fs::read(folder.path().join("x").join(schema)).unwrap() == printed, "{name}");
        for file in written {
            let text = std::fs::read_to_string(folder.path().join("x").join(&file)).unwrap();
            let left = ["template-name", "template_name", "template-route"].map(|word| text.contains(word));
            assert_eq!(left, [false; 3], "{name}: {file}");
        }
    }
}

/// Where a file of a template is put.
fn put(file: &str) -> String {
    if file == "gitignore" { ".gitignore".to_owned() } else { file.trim_end_matches(".template").to_owned() }
}

/// The files below a folder, by their paths from there.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn new_says_what_comes_next() {
    let folder = folder();
    let ended = run(folder.path(), &["new", "sub/greet", "-t", "rust-cgi"]);
    succeeded(&ended);
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "made sub/greet\nnext: cd sub/greet && fnhost up\n");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let ended = run(&empty, &["new", ".", "-t", "rust-cgi"]);
    succeeded(&ended);
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), "made .\nnext: fnhost up\n");
    assert!(std::fs::read_to_string(empty.join("functions.toml")).unwrap().contains("[functions.empty]"));
}

#[test]
fn new_without_a_terminal_names_the_flag_and_the_templates() {
    let folder = folder();
    let ended = run(folder.path(), &["new", "x"]);
    let stderr = stderr_of(&ended);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        stderr.contains("--template") && stderr.contains("rust, rust-axum, rust-p3, rust-cgi, javascript"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(files(folder.path()), Vec::<String>::new());
    assert_eq!(run(folder.path(), &["new", "x", "--template", "cobol"]).status.code(), Some(2));
}

#[test]
fn new_on_a_terminal_asks() {
    for (typed, wanted) in [("rust-cgi\n", "CGI"), ("nonsense\n4\n", "CGI"), ("\n", "wstd")] {
        let folder = folder();
        // script(1) gives the command a terminal.
        let line = format!("{} new x", env!("CARGO_BIN_EXE_fnhost"));
        let mut asked = Command::new("script");
        asked.args(["-qec", &line, "/dev/null"]).current_dir(folder.path());
        let mut child = asked.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), typed.as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success() && said.contains("6  python"), "{said}");
        let source = std::fs::read_to_string(folder.path().join("x/src/main.rs")).unwrap();
        assert!(source.contains(wanted), "{typed:?}: {source}");
    }
}

#[test]
fn names_that_are_none_are_refused_and_nothing_is_made() {
    let folder = folder();
    for (name, template, reason) in [
        ("My_App", "rust", "`My_App` cannot be a name"),
        ("..", "rust", "does not end with a name"),
        ("async", "rust", "`async` cannot be the name of a package"),
        ("wasip3", "rust-p3", "`wasip3` cannot be the name of a package"),
        ("hono", "javascript", "`hono` cannot be the name of a package"),
    ] {
        let ended = run(folder.path(), &["new", name, "--template", template]);
        assert_eq!(ended.status.code(), Some(1), "{name}");
        assert!(stderr_of(&ended).contains(reason), "{}", stderr_of(&ended));
    }
    assert!(stderr_of(&run(folder.path(), &["new", "My_App", "-t", "rust"])).contains("`my-app` could"));
    assert_eq!(files(folder.path()), Vec::<String>::new());
}

#[test]
fn what_is_there_already_is_not_touched() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/mine.txt"), "mine").unwrap();
    std::fs::write(folder.path().join("file"), "mine too").unwrap();
    for name in ["full", "file", "file/below"] {
        let ended = run(folder.path(), &["new", name, "--template", "rust"]);
        assert_eq!(ended.status.code(), Some(1), "{name}");
        assert_eq!(stderr_of(&ended).lines().count(), 1, "{}", stderr_of(&ended));
    }
    let mut left = files(folder.path());
    left.sort();
    assert_eq!(left, ["file", "full/mine.txt"]);
}

#[test]
fn a_template_that_cannot_be_written_leaves_nothing() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for name in ["sub/x", "empty"] {
        // package-lock.json is larger than files may be here (ulimit, sh(1)).
        let line = "trap '' XFSZ; ulimit -f 8; exec \"$0\" new \"$1\" --template javascript";
        let mut shell = Command::new("sh");
        shell.args(["-c", line, env!("CARGO_BIN_EXE_fnhost"), name]).current_dir(folder.path());
        let ended = shell.output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        assert!(stderr_of(&ended).contains("package-lock.json: File too large"), "{}", stderr_of(&ended));
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["empty"]);
    assert_eq!(files(folder.path()), Vec::<String>::new());
}

const COMMENTED: &str = "# Ours.\nname = \"shop\"   # what it is called\n\n[host]\nserver-timing = false\n\n\
    [functions.first]\nroutes = [\"/first\",   # in a row\n  \"/1st\"]\ncomponent = \"first.wasm\"";

#[tokio::test]
async fn add_keeps_the_file_to_the_byte_and_what_it_adds_is_served() {
    let (_folder, app) = made("rust-cgi");
    let file = app.join("functions.toml");
    let before = std::fs::read_to_string(&file).unwrap().replace("name = ", "# Mine.\nname  = ");
    std::fs::write(&file, before.trim_end()).unwrap();
    let ended = run(&app, &["add", "second", "--template", "rust-cgi"]);
    succeeded(&ended);
    assert!(String::from_utf8(ended.stdout).unwrap().contains("/second"));
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(before.trim_end()));
    assert!(!app.join("second/functions.toml").exists());
    share_target(&app.join("second"));
    let host = up(&app);
    says_hello(&host, "/").await;
    says_hello(&host, "/second").await;
    host.stop();
    passes_its_tests(&app.join("second"), "cargo", &["test", "--locked"], "3 passed");
}

#[test]
fn templates_are_added_to_a_file_with_comments() {
    let folder = folder();
    let file = folder.path().join("functions.toml");
    std::fs::write(&file, COMMENTED).unwrap();
    for (template, component) in [
        ("rust", "my-rust/target/wasm32-wasip2/release/my-rust.wasm"),
        ("rust-p3", "my-rust-p3/target/wasm32-wasip2/release/my_rust_p3.wasm"),
        ("javascript", "my-javascript/dist/my-javascript.wasm"),
        ("python", "my-python/dist/my-python.wasm"),
    ] {
        let name = format!("my-{template}");
        succeeded(&run(folder.path(), &["add", &name, "--template", template]));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(COMMENTED), "{text}");
        assert!(text.contains(&format!("\n[functions.{name}]\ncomponent = \"{component}\"\n")), "{text}");
        assert!(text.contains(&format!("build-dir = \"{name}\"\nroutes = [\"/{name}/{{*rest}}\"]\n")), "{text}");
    }
    let routes = String::from_utf8(run(folder.path(), &["routes"]).stdout).unwrap();
    assert!(routes.contains("/my-python/{*rest}"), "{routes}");
    // Where middleware is to stand is for people to say, and until then the file says nothing of it.
    succeeded(&run(folder.path(), &["add", "my-middleware", "--template", "middleware"]));
    let text = std::fs::read_to_string(&file).unwrap();
    let component = "my-middleware/target/wasm32-wasip2/release/my_middleware.wasm";
    assert!(text.contains(&format!("\n[middleware.my-middleware]\ncomponent = \"{component}\"\n")), "{text}");
    assert!(stderr_of(&run(folder.path(), &["routes"])).contains("no function has the middleware `my-middleware`"));
    let listed = text.replacen("routes = ", "middleware = [\"my-middleware\"]\nroutes = ", 1);
    std::fs::write(&file, listed).unwrap();
    let routes = run(folder.path(), &["routes"]);
    assert!(String::from_utf8_lossy(&routes.stdout).contains("my-middleware"), "{}", stderr_of(&routes));
    assert!(stderr_of(&run(folder.path(), &["add", "my-middleware", "--template", "middleware"])).contains("already"));
}

#[test]
fn what_cannot_be_added_leaves_the_file_and_the_folder_as_they_were() {
    let folder = folder();
    let file = folder.path().join("functions.toml");
    let refused = |text: &str, name: &str, reason: &str| {
        std::fs::write(&file, text).unwrap();
        let ended = run(folder.path(), &["add", name, "--template", "rust"]);
        assert_eq!(ended.status.code(), Some(1), "{name}");
        assert!(stderr_of(&ended).contains(reason), "{}", stderr_of(&ended));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        assert!(!folder.path().join(name).join("Cargo.toml").exists());
    };
    refused(COMMENTED, "first", "functions.toml has a function `first` already");
    refused(COMMENTED, "No", "`No` cannot be a name");
    refused(&COMMENTED.replace("/1st", "/new/{*rest}"), "new", "functions.toml would not do with `new` added");
    refused(&COMMENTED.replace("routes", "rotes"), "new", "did you mean `routes`?");
    refused("name = \"x\"\nfunctions = {}\n", "new", "functions.toml");
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/mine.txt"), "mine").unwrap();
    refused(COMMENTED, "full", "full is there already");
    std::fs::remove_file(&file).unwrap();
    let ended = run(folder.path(), &["add", "new", "--template", "rust"]);
    assert!(stderr_of(&ended).starts_with("error: no functions.toml here"), "{}", stderr_of(&ended));
}

/// A folder for PATH, with nothing but a shell and what `scripts` say.
fn path_of(scripts: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("sh")).unwrap();
    for (name, script) in scripts {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    folder
}

#[test]
fn a_missing_tool_is_one_line_that_says_what_to_install() {
    let bare = path_of(&[]);
    let half = path_of(&[("python3", "exit 1"), ("cargo", "exit 1"), ("rustc", "true")]);
    for (template, path, reason) in [
        ("rust", &bare, "Rust is not installed: https://rustup.rs says how to"),
        ("rust", &half, "the Rust target wasm32-wasip2 is not installed; add it with: rustup target add wasm32-wasip2"),
        ("javascript", &bare, "npm is not installed, which comes with Node.js"),
        ("python", &bare, "Python is not installed"),
        ("python", &half, "Python's module venv is not installed; install it with: apt install python3-venv"),
    ] {
        let folder = folder();
        let made = command(folder.path(), &["new", "x", "-t", template]).env("PATH", path.path()).output().unwrap();
        succeeded(&made);
        assert!(stderr_of(&made).starts_with(&format!("warning: {reason}")), "{}", stderr_of(&made));
        assert_eq!(stderr_of(&made).lines().count(), 1, "{}", stderr_of(&made));
        for verb in [&["build"][..], &["up", "--listen", "127.0.0.1:0", "--admin", "off"]] {
            let ended = command(&folder.path().join("x"), verb).env("PATH", path.path()).output().unwrap();
            assert_eq!(ended.status.code(), Some(1), "{template}");
            assert!(stderr_of(&ended).starts_with(&format!("error: function `x`: {reason}")), "{}", stderr_of(&ended));
            assert_eq!(stderr_of(&ended).lines().count(), 1, "{}", stderr_of(&ended));
        }
    }
}

#[test]
fn a_build_that_has_another_way_is_not_refused_for_a_missing_tool() {
    let path = path_of(&[("cp", "exec /bin/cp \"$@\"")]);
    let folder = folder();
    std::fs::write(folder.path().join("it"), "").unwrap();
    let toml = |build: &str| {
        format!("name = \"x\"\n[functions.x]\ncomponent = \"x.wasm\"\nbuild = \"{build}\"\nroutes = [\"/\"]\n")
    };
    let built = |build: &str| {
        std::fs::write(folder.path().join("functions.toml"), toml(build)).unwrap();
        command(folder.path(), &["build"]).env("PATH", path.path()).output().unwrap()
    };
    succeeded(&built("npm ci || cp it x.wasm"));
    let failed = stderr_of(&built("cp it x.wasm && node x.mjs"));
    assert!(failed.contains("exit status: 127") && failed.contains("Node.js is not installed"), "{failed}");
}
