//! An app with more functions than the host keeps mapped: code is loaded on the first call, and goes when others need room.

use crate::metrics::pool;
use crate::support::{Connection, PATIENCE, RawClient, Request, TestHost, component_of_wat, fnhost, guest};
use http_body_util::BodyExt as _;
use std::path::Path;
use std::sync::Arc;

/// An app of as many functions as there are `names`, each with a component of its own: a custom section makes it another.
fn app(folder: &Path, loaded: u32, names: &[&str]) -> String {
    let hello = std::fs::read(guest("hello")).unwrap();
    let mut toml = format!("name = \"test\"\n[host]\nloaded-functions = {loaded}\n");
    for name in names {
        use std::fmt::Write as _;
        let section = [&[0, name.len() as u8 + 2, 1, b'n'][..], name.as_bytes()].concat();
        std::fs::write(folder.join(format!("{name}.wasm")), [&hello[..], &section[..]].concat()).unwrap();
        writeln!(toml, "[functions.{name}]\ncomponent = \"{name}.wasm\"\nroutes = [\"/{name}\"]").unwrap();
    }
    toml
}

/// Removes all that code could be loaded from.
fn remove_code(folder: &Path, names: &[&str]) {
    for name in names {
        std::fs::remove_file(folder.join(format!("{name}.wasm"))).unwrap();
    }
    std::fs::remove_dir_all(folder.join(".fnhost/compiled")).unwrap();
    std::fs::remove_dir_all(folder.join(".fnhost/components")).unwrap();
}

#[tokio::test]
async fn more_functions_than_are_kept_mapped_all_answer_again_and_again() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let names = ["a", "b", "c", "d"];
    let host = TestHost::within(&folder, &app(folder.path(), 1, &names));
    for name in names.iter().cycle().take(12) {
        host.get(&format!("/{name}")).await.assert_ok("Hello, world!\n");
    }
}

#[tokio::test]
async fn what_was_used_least_recently_makes_room() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let names = ["a", "b", "c"];
    let host = TestHost::within(&folder, &app(folder.path(), 2, &names));
    for name in ["a", "b", "a", "c"] {
        host.get(&format!("/{name}")).await.assert_ok("Hello, world!\n");
    }
    remove_code(folder.path(), &names);
    for name in ["a", "c", "a", "c"] {
        host.get(&format!("/{name}")).await.assert_ok("Hello, world!\n");
    }
    let answer = host.get("/b").await;
    answer.assert_problem(500, "host");
    let id = answer.request_id().to_owned();
    host.logged(|line| {
        line["request_id"] == id.as_str()
            && line["message"].as_str().is_some_and(|text| text.contains("cannot be read"))
    });
}

#[tokio::test]
async fn code_that_is_gone_is_compiled_again_on_the_first_call() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let names = ["a", "b"];
    let host = TestHost::within(&folder, &app(folder.path(), 1, &names));
    for file in std::fs::read_dir(folder.path().join(".fnhost/compiled")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    host.get("/a").await.assert_ok("Hello, world!\n");
}

#[tokio::test]
async fn a_component_that_changed_since_it_was_installed_is_not_run_in_its_place() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let names = ["a", "b"];
    let host = TestHost::within(&folder, &app(folder.path(), 1, &names));
    std::fs::remove_dir_all(folder.path().join(".fnhost/compiled")).unwrap();
    std::fs::copy(guest("misbehave"), folder.path().join("a.wasm")).unwrap();
    host.get("/a").await.assert_problem(500, "host");
}

#[tokio::test]
async fn a_burst_of_first_calls_is_answered() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let host = Arc::new(TestHost::within(&folder, &app(folder.path(), 1, &["a", "b"])));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..32 {
        let host = Arc::clone(&host);
        let path = if number % 2 == 0 { "/a" } else { "/b" };
        calls.spawn(async move { host.get(path).await.assert_ok("Hello, world!\n") });
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}

#[test]
fn what_does_not_link_is_refused_though_it_is_not_mapped() {
    let folder = tempfile::tempdir().unwrap();
    component_of_wat(
        folder.path(),
        "far",
        "(component
            (import \"acme:teleport/beam@1.0.0\" (instance (export \"up\" (func))))
            (core module $main (func (export \"run\") (result i32) i32.const 0))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main \"run\")))
            (instance $exported (export \"run\" (func $run)))
            (export \"wasi:cli/run@0.2.0\" (instance $exported)))",
    );
    let toml = app(folder.path(), 1, &["a", "b"]);
    let far = "[functions.far]\ncomponent = \"far.wasm\"\nroutes = [\"/far\"]\n";
    std::fs::write(folder.path().join("functions.toml"), format!("{toml}{far}")).unwrap();
    // The second time, it is compiled already.
    for _ in 0..2 {
        let ended = fnhost(folder.path()).arg("check").output().unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("acme:teleport/beam@1.0.0"), "{stderr}");
    }
}

/// Guests of both kinds, and one that takes as much memory as it is told to, and waits.
const BURSTING: &str = "name = \"test\"
[functions.hello]
component = \"{hello.wasm}\"
routes = [\"/\"]
[functions.hello-p3]
component = \"{hello_p3.wasm}\"
routes = [\"/p3\"]
[functions.stream]
component = \"{stream.wasm}\"
routes = [\"/stream\"]
limits = { timeout = \"none\" }
[functions.hoard]
component = \"{misbehave.wasm}\"
routes = [\"/misbehave/{*rest}\"]
";

/// Many sandboxes at once, all of which are gone but for `left`. Gives back how many bytes are kept for the next.
async fn burst(host: &TestHost, left: i64) -> i64 {
    let hoard = |_| {
        let mut client = RawClient::open(host.address());
        client.send("GET /misbehave/hoard-and-hang?bytes=400000 HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let mut burst: Vec<RawClient> = (0..200).map(hoard).collect();
    for client in &mut burst {
        client.until("a beginning\n\r\n");
    }
    drop(burst);
    wait_for_pool(host, "slots_used", left).await;
    let kept_bytes = pool(host, "warm_bytes").await;
    assert!(kept_bytes > 16 << 20, "{kept_bytes}");
    kept_bytes
}

/// Waits until a value of the pool is no more than `most`.
async fn wait_for_pool(host: &TestHost, name: &str, most: i64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while pool(host, name).await > most {
        assert!(std::time::Instant::now() < deadline, "{name} stays above {most}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Asks again and again until the host says `message`; all is answered meanwhile.
async fn ask_until(host: &TestHost, message: &str, mut ask: impl AsyncFnMut(&mut Connection)) {
    let said = |line: &serde_json::Value| line["message"].as_str().is_some_and(|said| said.starts_with(message));
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut connection = host.connect().await;
    while !host.log_lines().iter().any(said) {
        ask(&mut connection).await;
        // Some dozen of them a second are enough, and the log stays short.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(std::time::Instant::now() < deadline, "the host does not say: {message}");
    }
    ask(&mut connection).await;
}

async fn ask_both(connection: &mut Connection) {
    connection.send(Request::get("/")).await.unwrap().assert_ok("Hello, world!\n");
    connection.send(Request::get("/p3")).await.unwrap().assert_ok("Hello, WASI 0.3!\n");
}

#[tokio::test]
async fn what_a_burst_left_in_memory_is_given_back_and_requests_go_on_meanwhile() {
    let host = TestHost::with(BURSTING);
    let slots = pool(&host, "slots").await;
    let mut before = host.connect().await;
    let mut stream = before.begin(Request::get("/stream?count=100000&interval-ms=20")).await.unwrap();
    let mut streamed = Vec::new();
    let kept_bytes = burst(&host, 1).await;
    let resident_bytes = host.resident_bytes();
    ask_until(&host, "memory that sandboxes had is given back", async |connection| {
        ask_both(connection).await;
        let frame = stream.body_mut().frame().await.expect("the stream goes on").unwrap();
        streamed.extend_from_slice(&frame.into_data().unwrap());
    })
    .await;
    // A client reads into a buffer, and where that ends an event may be cut: so it is held against all that was to come.
    let events: Vec<String> = (0..100_000).map(|event| format!("id: {event}\ndata: event {event}\n\n")).collect();
    assert!(events.concat().as_bytes().starts_with(&streamed), "{}", String::from_utf8_lossy(&streamed));
    // What was under way goes on, and keeps what it runs on.
    assert_eq!(pool(&host, "slots").await, 2 * slots);
    drop((before, stream));
    wait_for_pool(&host, "slots", slots).await;
    ask_both(&mut host.connect().await).await;
    let now_kept = pool(&host, "warm_bytes").await;
    assert!(now_kept < kept_bytes / 10, "of {kept_bytes} bytes, {now_kept} are kept");
    let now_resident = host.resident_bytes();
    assert!(
        now_resident + u64::try_from(kept_bytes).unwrap() / 2 < resident_bytes,
        "of {resident_bytes} bytes, of which the pool kept {kept_bytes}, {now_resident} are resident"
    );
}

#[tokio::test]
async fn functions_whose_files_are_gone_go_on_and_keep_their_memory() {
    let host = TestHost::with(BURSTING);
    let slots = pool(&host, "slots").await;
    let kept_bytes = burst(&host, 0).await;
    for folder in ["compiled", "components"] {
        std::fs::remove_dir_all(host.folder().path().join(".fnhost").join(folder)).unwrap();
    }
    ask_until(&host, "memory that sandboxes had is kept", async |connection| ask_both(connection).await).await;
    assert_eq!(pool(&host, "slots").await, slots);
    let now_kept = pool(&host, "warm_bytes").await;
    assert!(now_kept > kept_bytes / 2, "of {kept_bytes} bytes, {now_kept} are kept");
}

/// How it is set up is part of how much a burst leaves behind, and is told to its build by `.cargo/config.toml`.
#[test]
fn the_allocator_is_set_up_as_it_was_measured() {
    let output =
        fnhost(Path::new(".")).arg("--version").env("_RJEM_MALLOC_CONF", "confirm_conf:true").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    for (name, value) in [
        ("background_thread", "true"),
        ("slab_sizes", "4096-4096:32|8192-8192:16|14336-14336:28"),
        ("dirty_decay_ms", "1000"),
    ] {
        assert!(said.contains(&format!("-- Set conf value: {name}:{value}\n")), "{name}: {said}");
    }
}
