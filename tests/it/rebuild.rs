//! The live loop of `fnhost up`: a saved source is built, and live.

use crate::support::{Answer, PATIENCE, Request, TestHost, guest, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with functions whose build is a shell script, `build.sh`, that notes itself in `built` and then does what
/// `source` says.
struct App(Arc<TempDir>);

impl App {
    fn of(functions: &[&str]) -> Self {
        let app = Self(Arc::new(tempfile::tempdir().unwrap()));
        let described = functions.iter().map(|name| {
            format!(
                "[functions.{name}]\ncomponent = \"{name}/it.wasm\"\nbuild = \"sh build.sh\"\nbuild-dir = \"{name}\"\n\
                 routes = [\"/{name}/{{*rest}}\"]\n"
            )
        });
        let toml = format!("name = \"app\"\n{}", described.collect::<String>());
        for name in functions {
            std::fs::create_dir(app.path(name)).unwrap();
            app.write(&format!("{name}/build.sh"), &format!("echo {name} >> ../built\n. ./source\n"));
            app.save(name, &makes("hello"));
        }
        app.write("functions.toml", &toml);
        app
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Saves a source, as an editor does: aside, and renamed.
    fn save(&self, function: &str, text: &str) {
        let aside = self.path(&format!("{function}/source~"));
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, self.path(&format!("{function}/source"))).unwrap();
    }

    fn up(&self) -> TestHost {
        TestHost::run_with(&self.0, Command::new(env!("CARGO_BIN_EXE_fnhost")), &["--watch"])
    }

    /// What was built so far, in its order.
    fn built(&self) -> Vec<String> {
        let built = std::fs::read_to_string(self.path("built")).unwrap_or_default();
        built.lines().map(str::to_owned).collect()
    }
}

/// A source that makes this guest the component.
fn makes(name: &str) -> String {
    format!("cp {} it.wasm\n", guest(name).display())
}

/// A source that no compiler would take.
const BROKEN: &str = "printf '\\033[1m\\033[31merror\\033[0m: <script>no such thing</script> & more\\n' >&2\nexit 7\n";

fn live(host: &TestHost, release: u64) -> Value {
    host.logged(|line| line["message"] == "the change is live" && line["release"] == release)
}

fn reported(host: &TestHost, part: &str) -> Value {
    host.logged(|line| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains(part)))
}

/// What a person sees, as a browser asks for it.
async fn browse(host: &TestHost) -> Answer {
    let request = Request::get("/one/").header("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    host.send(request.header("sec-fetch-mode", "navigate")).await
}

/// Looks again and again, until that is `wanted`.
async fn browse_until(host: &TestHost, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = browse(host).await;
        if wanted(&page) {
            return page;
        }
        assert!(Instant::now() < deadline, "waited too long: {page:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_saved_source_is_built_and_live() {
    let app = App::of(&["one"]);
    let host = app.up();
    let first = host.get("/one/").await;
    assert_eq!((first.status.as_u16(), first.header("fnhost-release")), (200, "1"));
    let schema = std::fs::read_to_string(app.path(".fnhost/functions.schema.json")).unwrap();
    assert!(schema.contains("json-schema.org"), "editors are told of this version: {schema}");
    app.save("one", &makes("router"));
    let told = live(&host, 2);
    for step in ["build", "compile", "install"] {
        let took = told[step].as_str().unwrap_or_else(|| panic!("no {step} in {told}"));
        assert!(took.ends_with('s') && took.starts_with(|digit: char| digit.is_ascii_digit()), "{told}");
    }
    assert_eq!(host.get("/one/").await.header("fnhost-release"), "2");
    assert_eq!(app.built(), ["one", "one"], "what a build writes beside its sources is no change of them");
}

#[tokio::test]
async fn only_functions_whose_sources_have_changed_are_built() {
    let app = App::of(&["one", "two"]);
    let host = app.up();
    app.save("two", &makes("router"));
    live(&host, 2);
    app.write("one/more", "a new file");
    // What it makes has not changed, and so there is no release.
    wait_for("it is built", || (app.built().len() == 4).then_some(()));
    app.save("two", &makes("echo"));
    live(&host, 3);
    assert_eq!(app.built(), ["one", "two", "two", "one", "two"]);
}

#[tokio::test]
async fn what_gitignore_and_tools_leave_out_is_no_source() {
    let app = App::of(&["one"]);
    app.write("one/.gitignore", "*.log\nmade/\n");
    for folder in ["one/made", "one/node_modules", "one/target"] {
        std::fs::create_dir(app.path(folder)).unwrap();
    }
    let host = app.up();
    for file in ["one/a.log", "one/made/a", "one/node_modules/a", "one/target/a", "one/.source.swp"] {
        app.write(file, "changed");
    }
    std::fs::create_dir_all(app.path("one/new/folder")).unwrap();
    app.write("one/new/folder/file", "a source");
    wait_for("it is built", || (app.built().len() == 2).then_some(()));
    // In a folder that was not there at the start.
    app.write("one/new/folder/file", "another");
    wait_for("it is built again", || (app.built().len() == 3).then_some(()));
    app.save("one", &makes("router"));
    live(&host, 2);
    assert_eq!(app.built().len(), 4);
}

#[tokio::test]
async fn a_build_that_fails_is_a_page_for_people_and_nothing_to_programs() {
    let app = App::of(&["one"]);
    let host = app.up();
    app.save("one", BROKEN);
    let told = reported(&host, "no such thing");
    let message = told["message"].as_str().unwrap();
    assert!(message.starts_with("the change is not served, and what was live still is:\n"), "{message}");
    assert!(message.contains("function `one`: `sh build.sh`") && message.contains("exit status: 7"), "{message}");
    assert!(!message.contains('\u{1b}'), "no colours in a pipe: {message}");
    let page = browse_until(&host, |page| page.status == 503).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("fnhost-release"), "1", "what is still live");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && policy.contains("script-src 'none'"), "{policy}");
    let text = page.text();
    assert!(text.contains("&lt;script&gt;no such thing&lt;/script&gt; &amp; more"), "{text}");
    assert!(!text.contains("<script") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("class=\"fg-red bold\">error<"), "the compiler's colours: {text}");
    let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(text.contains(&format!("<style nonce=\"{nonce}\">")), "{text}");
    let receipt = host.receipt(page.request_id());
    assert_eq!((&receipt["outcome"], &receipt["status"]), (&"not_built".into(), &503.into()));
    // Programs, and what browsers fetch for a page, get the last good release.
    assert_eq!(host.get("/one/").await.status, 200);
    let fetched = Request::get("/one/").header("accept", "text/html").header("sec-fetch-mode", "cors");
    assert_eq!(host.send(fetched).await.status, 200);
    let posted = Request::post("/one/", "x").header("accept", "text/html");
    assert_eq!(host.send(posted).await.status, 200);
    app.save("one", &makes("router"));
    live(&host, 2);
    assert_ne!(browse(&host).await.status, 503);
}

#[tokio::test]
async fn a_bad_functions_toml_is_a_page_as_well() {
    let app = App::of(&["one"]);
    let host = app.up();
    let good = std::fs::read_to_string(app.path("functions.toml")).unwrap();
    app.write("functions.toml", &good.replace("routes", "rotes"));
    reported(&host, "did you mean `routes`?");
    let page = browse_until(&host, |page| page.status == 503).await;
    assert!(page.text().contains("did you mean `routes`?"), "{}", page.text());
    app.write("functions.toml", &good);
    browse_until(&host, |page| page.status == 200).await;
    assert_eq!(host.get("/one/").await.header("fnhost-release"), "1", "it is what it was");
}

#[tokio::test]
async fn a_first_build_that_fails_leaves_the_loop_waiting() {
    let app = App::of(&["one"]);
    app.save("one", BROKEN);
    let host = app.up();
    reported(&host, "the app is not served yet:");
    let page = browse_until(&host, |page| page.header("content-type").starts_with("text/html")).await;
    assert_eq!((page.status.as_u16(), page.header("fnhost-release")), (503, ""));
    let answer = host.get("/one/").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (503, "application/problem+json"));
    assert!(answer.text().contains("\"code\":\"not_built\""), "{}", answer.text());
    app.save("one", &makes("hello"));
    live(&host, 1);
    assert_eq!(host.get("/one/").await.header("fnhost-release"), "1");
    drop(host);
    // What was live before is live again, though it cannot be built now.
    app.save("one", BROKEN);
    let host = app.up();
    assert_eq!(host.get("/one/").await.header("fnhost-release"), "1");
    reported(&host, "the change is not served");
}

#[tokio::test]
async fn changes_during_a_build_are_one_more_build() {
    let app = App::of(&["one"]);
    let host = app.up();
    let held = "until [ -e ../go ]; do sleep 0.01; done\n";
    app.save("one", &format!("{held}{}", makes("router")));
    wait_for("the build has begun", || (app.built().len() == 2).then_some(()));
    for number in 0..20 {
        app.save("one", &format!("# {number}\n{}", makes("echo")));
    }
    app.write("go", "");
    wait_for("the last is live", || {
        let line = host.log_lines().into_iter().rfind(|line| line["message"] == "the change is live")?;
        (line["release"] == 3).then_some(())
    });
    let body = host.send(Request::post("/one/", "echoed")).await;
    body.assert_ok("echoed");
    assert_eq!(app.built().len(), 3, "a burst is one build");
}

#[tokio::test]
async fn ctrl_c_ends_a_build_with_all_that_it_has_started() {
    let app = App::of(&["one"]);
    let host = app.up();
    app.save("one", "sleep 1000 & echo $! > ../child\nwait\n");
    let child = wait_for("the build has begun", || {
        let text = std::fs::read_to_string(app.path("child")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    host.signal("-INT");
    assert_eq!(host.finish().code, Some(0));
    // Gone, or waiting for whoever inherited it to take notice.
    let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn ctrl_c_ends_the_first_build() {
    let app = App::of(&["one"]);
    app.save("one", "sleep 1000 & echo $! > ../child\nwait\n");
    let mut command = crate::support::fnhost(app.0.path());
    command.args(["up", "--watch", "--listen", "127.0.0.1:0", "--admin", "off"]);
    let mut host = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let child = wait_for("the build has begun", || {
        let text = std::fs::read_to_string(app.path("child")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    assert!(Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap().success());
    let ended = wait_for("the host ends", || host.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

/// A workspace of two programs, of which one uses a package beside it.
fn workspace(folder: &Path) {
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    let package = |name: &str, more: &str| format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n{more}");
    write("app/Cargo.toml", "[workspace]\nmembers = [\"one\", \"two\"]\nresolver = \"3\"\n");
    write("app/one/Cargo.toml", &package("one", "[dependencies]\nshared = { path = \"../../shared\" }\n"));
    write("app/two/Cargo.toml", &package("two", ""));
    write("shared/Cargo.toml", &package("shared", "[workspace]\n"));
    let says = |text: &str| format!("fn main() {{ print!(\"content-type: text/plain\\n\\n{{}}\", {text}); }}\n");
    write("app/one/src/main.rs", &says("shared::TEXT"));
    write("app/two/src/main.rs", &says("\"two\""));
    write("shared/src/lib.rs", "pub const TEXT: &str = \"shared\";\n");
    let function = |name: &str| {
        format!(
            "[functions.{name}]\ncomponent = \"app/target/wasm32-wasip1/release/{name}.wasm\"\n\
             build = \"echo {name} >> ../built; cargo build --offline --release --target wasm32-wasip1 -p {name}\"\n\
             build-dir = \"app\"\nroutes = [\"/{name}\"]\n"
        )
    };
    write("functions.toml", &format!("name = \"app\"\n{}{}", function("one"), function("two")));
}

#[tokio::test]
async fn of_a_workspace_only_what_cargo_says_is_concerned_is_built() {
    let app = App(Arc::new(tempfile::tempdir().unwrap()));
    workspace(app.0.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_fnhost"));
    // What the tests themselves are built with is not for guests.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    let host = TestHost::run_with(&app.0, command, &["--watch"]);
    host.get("/one").await.assert_ok("shared");
    app.write("app/two/src/main.rs", "fn main() { print!(\"content-type: text/plain\\n\\n2\"); }\n");
    live(&host, 2);
    host.get("/two").await.assert_ok("2");
    // Outside of the folder that it is built in.
    app.write("shared/src/lib.rs", "pub const TEXT: &str = \"changed\";\n");
    live(&host, 3);
    host.get("/one").await.assert_ok("changed");
    assert_eq!(app.built(), ["one", "two", "two", "one"]);
    // All packages are built with these.
    app.write(
        "app/Cargo.toml",
        "[workspace]\nmembers = [\"one\", \"two\"]\nresolver = \"3\"\n[profile.release]\nopt-level = 0\n",
    );
    live(&host, 4);
    assert_eq!(app.built().len(), 6);
    // The way out of a mistake of Rust's is the compiler's to say.
    app.write("app/one/src/main.rs", "fn main() { nonsense }\n");
    reported(&host, "cannot find value `nonsense`");
    host.get("/one").await.assert_ok("changed");
}
