//! The guest examples that are not in Rust, each an app of its own: what README says of them, and that their authors' own
//! runner gives the same answers.

use crate::support::{
    Answer, Connection, PATIENCE, Request, TestHost, fnhost, missing_javascript, missing_python, project, skipped,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Builds the example where it stands, as its functions.toml says.
fn built(name: &str) -> PathBuf {
    let folder = project().join("guest-examples").join(name);
    let ended = fnhost(&folder).arg("build").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    folder
}

#[tokio::test]
async fn hono_is_a_whole_hono_app() {
    if let Some(missing) = missing_javascript() {
        return skipped(&missing);
    }
    let folder = built("hono");
    let host = TestHost::of_file(&folder.join("functions.toml"));
    let answer = host.get("/").await;
    answer.assert_ok("a Hono app in a function\n");
    assert_eq!(host.receipt(answer.request_id())["kind"], "http-0.2");
    host.get("/users/7").await.assert_ok(r#"{"id":7,"name":"user-7"}"#);
    does_what_both_examples_do(&host).await;
    let ended = Command::new("npm").arg("test").current_dir(&folder).env_remove("NODE_TEST_CONTEXT").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));

    let runner = Runner::start(&folder);
    for request in questions() {
        let (ours, theirs) = (host.send(request()).await, runner.send(request()).await);
        assert_eq!(told(&ours), told(&theirs));
    }
}

#[tokio::test]
async fn python_answers_by_the_bindings_of_componentize_py() {
    if let Some(missing) = missing_python() {
        return skipped(&missing);
    }
    let host = TestHost::of_file(&built("python").join("functions.toml"));
    let answer = host.get("/").await;
    answer.assert_ok("Python in a function\n");
    assert_eq!(host.receipt(answer.request_id())["kind"], "http-0.2");
    host.get("/users/7").await.assert_ok(r#"{"id": 7, "name": "user-7"}"#);
    does_what_both_examples_do(&host).await;
}

async fn does_what_both_examples_do(host: &TestHost) {
    let nobody = host.get("/users/0").await;
    assert_eq!((nobody.status.as_u16(), nobody.text().as_str()), (404, "nobody\n"));
    assert_eq!(host.get("/nowhere").await.status, 404);
    let found = host.get("/search?q=a%20b&page=2").await;
    found.assert_ok("page 2 of what is like a b\n");
    assert_eq!(found.header("x-layer"), "stamped");
    host.send(Request::post("/sum", "[1, 2, 39]").header("content-type", "application/json")).await.assert_ok("42");
    let upload = Bytes::from("0123456789abcdef".repeat(40_000));
    let echoed = host.send(Request::post("/echo", upload.clone()).header("content-type", "text/x-own")).await;
    assert_eq!((echoed.status.as_u16(), echoed.header("content-type")), (200, "text/x-own"));
    assert!(echoed.text().as_bytes() == upload, "{} bytes came back", echoed.text().len());
    host.get("/stream?count=3&interval-ms=1").await.assert_ok("line 0\nline 1\nline 2\n");
    assert_eq!(host.get("/stream?count=0").await.text(), "");
}

type Question = fn() -> Request;

/// What both runners are asked.
fn questions() -> [Question; 7] {
    [
        || Request::get("/"),
        || Request::get("/users/7"),
        || Request::get("/users/0"),
        || Request::get("/nowhere"),
        || Request::get("/search?q=a%20b&page=2"),
        || Request::post("/echo", "an upload").header("content-type", "text/x-own"),
        || Request::get("/stream?count=3&interval-ms=1"),
    ]
}

/// What an answer tells a client, whoever sends it.
fn told(answer: &Answer) -> (u16, [String; 2], String) {
    (answer.status.as_u16(), ["content-type", "x-layer"].map(|name| answer.header(name).to_owned()), answer.text())
}

/// `jco serve`, with an instance for each request, as the host has.
struct Runner {
    child: Child,
    address: SocketAddr,
}

impl Runner {
    fn start(folder: &std::path::Path) -> Self {
        // It does not say which port it took, so one that is free a moment before is named.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut jco = Command::new(folder.join("node_modules/.bin/jco"));
        jco.args(["serve", "dist/hono.wasm", "--host", "127.0.0.1", "--port", &free.port().to_string()]);
        jco.args(["--isolate-requests", "instance"]).current_dir(folder);
        let child = jco.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, address: free }
    }

    async fn send(&self, request: Request) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Connection::open(self.address).await {
                Ok(mut connection) => return connection.send(request).await.expect("jco serve answers"),
                Err(error) => assert!(Instant::now() < deadline, "jco serve does not listen: {error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
