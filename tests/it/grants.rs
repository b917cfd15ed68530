//! What a function may touch besides stores and databases: variables and secrets, folders, sockets.

use crate::support::{Answer, Project, Request, TestHost, ask, bare_host, fnhost, with_guests};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

fn probe(tables: &str, settings: &str) -> String {
    format!(
        "name = \"test\"\n{tables}\n[functions.probe]\ncomponent = \"{{sql-probe.wasm}}\"\nroutes = [\"/{{*rest}}\"]\n{settings}\n"
    )
}

#[track_caller]
fn assert_denied(answer: &Answer, says: &str) {
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains(says), "{}", answer.text());
}

const SECRET: &str = "s3cr3t-of-nobody-else";

#[tokio::test]
async fn variables_come_from_the_file_the_environment_a_file_and_dotenv() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("mounted"), format!("{SECRET}\n")).unwrap();
    std::fs::write(folder.path().join(".env"), "# for development\nFROM_DOTENV='dot env'\nexport SHADOWED=dotenv\n")
        .unwrap();
    let tables = "[variables]\nregion = \"eu\"\ntoken = { file = \"mounted\", secret = true }\nhome = { env = \"SHADOWED\" }\ndot = { env = \"FROM_DOTENV\" }\nabsent = { env = \"FNHOST_TEST_ABSENT\", default = \"stand-in\" }\nother = \"not granted\"\n";
    let toml = probe(tables, "variables = [\"region\", \"token\", \"home\", \"dot\", \"absent\"]");
    std::fs::write(folder.path().join("functions.toml"), with_guests(&toml)).unwrap();
    let mut command = fnhost(folder.path());
    command.env("SHADOWED", "environment");
    let host = TestHost::run_with(&folder, command, &["--no-build", "-c", "functions.toml"]);
    for (name, value) in
        [("region", "eu"), ("token", SECRET), ("home", "environment"), ("dot", "dot env"), ("absent", "stand-in")]
    {
        host.get(&format!("/variable?{name}")).await.assert_ok(value);
    }
    assert_denied(&host.get("/variable?other").await, "Undefined");
    assert_denied(&host.get("/variable?Not-A-Name").await, "InvalidName");
    // The secret is with the guest, and nowhere that anybody looks.
    let id = host.get("/variable?token").await.request_id().to_owned();
    let mut told = host.receipt(&id).to_string();
    for path in ["/v1/apps/test/releases", "/v1/apps/test/releases/1", "/v1/status", "/v1/functions"] {
        told += &ask(&host, Request::get(path)).await.text();
    }
    told += &String::from_utf8_lossy(&fnhost(folder.path()).args(["routes"]).output().unwrap().stdout);
    for line in host.log_lines() {
        told += &line.to_string();
    }
    assert!(!told.contains(SECRET));
    assert_eq!(host.stop().code, Some(0));
    for entry in files_below(&folder.path().join(".fnhost")) {
        let bytes = std::fs::read(&entry).unwrap();
        let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} has the secret", entry.display());
    }
}

fn files_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files.extend(files_below(&entry));
        } else if entry.is_file() {
            files.push(entry);
        }
    }
    files
}

#[tokio::test]
async fn a_value_that_is_missing_is_refused_where_the_file_asks_for_it() {
    let host = bare_host();
    let project = Project::on(&host);
    let toml = probe(
        "[variables]\nmissing = { env = \"FNHOST_TEST_MISSING\", secret = true }\nlocal = { file = \"beside\" }\n[databases.orders]\nurl = { env = \"FNHOST_TEST_MISSING\" }",
        "variables = [\"missing\"]",
    );
    project.write(&toml);
    std::fs::write(project.folder().join("beside"), "here").unwrap();
    let said = project.run(&["deploy"]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    for part in [
        "functions.toml:3:1: the variable `missing` has no value: the environment variable FNHOST_TEST_MISSING is not set",
        "functions.toml:4:1: the variable `local` has no value: beside is of the machine that the app was deployed from",
        "the database `orders` cannot be opened: the environment variable FNHOST_TEST_MISSING is not set",
    ] {
        assert!(said.stderr.contains(part), "{part}\n{}", said.stderr);
    }
    // Where the file is this machine's, what it names is beside it.
    let said = fnhost(project.folder())
        .args(["check"])
        .env("FNHOST_TEST_MISSING", "postgres://user@127.0.0.1:1/x")
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test]
async fn a_folder_is_seen_where_it_was_granted_and_nothing_beyond_it() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let root = folder.path();
    std::fs::create_dir_all(root.join("static/deep")).unwrap();
    std::fs::create_dir_all(root.join("data")).unwrap();
    std::fs::write(root.join("static/page.html"), "a page").unwrap();
    std::fs::write(root.join("static/deep/leaf"), "a leaf").unwrap();
    std::fs::write(root.join("outside"), "not yours").unwrap();
    std::os::unix::fs::symlink("../outside", root.join("static/out")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("static/passwd")).unwrap();
    std::os::unix::fs::symlink("deep/leaf", root.join("static/within")).unwrap();
    let host = TestHost::within(
        &folder,
        &probe(
            "",
            "files = [{ from = \"static\", to = \"/static\" }, { from = \"data\", to = \"/data\", writable = true }]",
        ),
    );
    host.get("/read?/static/page.html").await.assert_ok("a page");
    host.get("/read?/static/within").await.assert_ok("a leaf");
    host.get("/list?/static").await.assert_ok("deep out page.html passwd within");
    for beyond in
        ["/static/out", "/static/passwd", "/static/../outside", "/etc/passwd", "/static/deep/../../outside", "/"]
    {
        let answer = host.get(&format!("/read?{beyond}")).await;
        assert_eq!(answer.status, 422, "{beyond}: {}", answer.text());
    }
    for (path, written) in
        [("/static/new", false), ("/data/new", true), ("/data/../static/new", false), ("/new", false)]
    {
        let answer = host.send(Request::post(&format!("/write?{path}"), "new")).await;
        assert_eq!(answer.status == 200, written, "{path}: {}", answer.text());
    }
    assert_eq!(std::fs::read_to_string(root.join("data/new")).unwrap(), "new");
    // A guest that makes a link gets no further by it.
    for target in ["/etc/passwd", "../outside", "../../outside"] {
        host.send(Request::post("/link?/data/link", target)).await;
        let answer = host.get("/read?/data/link").await;
        assert_eq!(answer.status, 422, "{target}: {}", answer.text());
        let _ = std::fs::remove_file(root.join("data/link"));
    }
    // One that goes away under the host is told of, and only to who sees it.
    std::fs::remove_dir_all(root.join("data")).unwrap();
    host.get("/read?/static/page.html").await.assert_problem(500, "host");
}

#[test]
fn a_folder_that_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let toml = probe("", "files = [{ from = \"nowhere\", to = \"/static\" }]");
    std::fs::write(folder.path().join("functions.toml"), with_guests(&toml)).unwrap();
    let said = fnhost(folder.path()).args(["check"]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("functions.toml:6:10: the folder nowhere cannot be seen by a function"), "{said}");
}

/// Answers each connection with what it sent, backwards; says how many there were.
fn backwards() -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            let answer: String = text.chars().rev().collect();
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, serving)
}

#[tokio::test]
async fn a_socket_connects_to_whom_it_was_granted_and_to_nobody_else() {
    let (port, _serving) = backwards();
    let (other, _other_serving) = backwards();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    let outbound = format!("outbound = [\"tcp://127.0.0.1:{port}\", \"udp://127.0.0.1:{udp_port}\", \"tcp://*:*\"]");
    let host = TestHost::with(&probe("", &outbound));
    host.send(Request::post(&format!("/tcp?127.0.0.1:{port}"), "abc")).await.assert_ok("cba");
    host.send(Request::post(&format!("/udp?127.0.0.1:{udp_port}"), "ping")).await.assert_ok("ping");
    // `*` is every public address, and no other of this machine.
    for address in [format!("127.0.0.1:{other}"), format!("[::1]:{port}"), format!("localhost:{other}")] {
        let answer = host.send(Request::post(&format!("/tcp?{address}"), "abc")).await;
        assert_eq!(answer.status, 422, "{address}: {}", answer.text());
    }
    assert_denied(&host.get("/listen?127.0.0.1:0").await, "");
    assert_denied(&host.get("/listen?0.0.0.0:0").await, "");
    // By name: the host looks it up as well, and `localhost` is granted by its name only.
    let host = TestHost::with(&probe("", &format!("outbound = [\"tcp://localhost:{port}\"]")));
    host.send(Request::post(&format!("/tcp?127.0.0.1:{port}"), "abc")).await.assert_ok("cba");
    // Without a grant nothing is reached, and no name is looked up.
    let host = TestHost::with(&probe("", "outbound = [\"https://example.com\"]"));
    for address in [format!("127.0.0.1:{port}"), format!("localhost:{port}")] {
        assert_denied(&host.send(Request::post(&format!("/tcp?{address}"), "abc")).await, "");
    }
}

#[tokio::test]
async fn a_request_has_a_bounded_number_of_connections() {
    let (port, _serving) = backwards();
    let settings = format!("outbound = [\"tcp://127.0.0.1:{port}\"]\nlimits = {{ outbound-requests = 1 }}");
    let host = TestHost::with(&probe("", &settings));
    for _ in 0..3 {
        host.send(Request::post(&format!("/tcp?127.0.0.1:{port}"), "abc")).await.assert_ok("cba");
    }
    let twice = host.send(Request::post(&format!("/tcp?127.0.0.1:{port},127.0.0.1:{port}"), "abc")).await;
    assert_eq!(twice.status, 422, "{}", twice.text());
}

#[tokio::test]
async fn a_function_has_a_bounded_number_of_connections_by_sockets() {
    let (port, _serving) = backwards();
    let settings = format!("outbound = [\"tcp://127.0.0.1:{port}\"]\nlimits = {{ outbound-connections = 1 }}");
    let host = TestHost::with(&probe("", &settings));
    let ask = async |addresses: String| host.send(Request::post(&format!("/tcp?{addresses}"), "abc")).await;
    ask(format!("127.0.0.1:{port}")).await.assert_ok("cba");
    let twice = ask(format!("127.0.0.1:{port},127.0.0.1:{port}")).await;
    assert_eq!(twice.status, 422, "{}", twice.text());
    // They are given back with their sandboxes, which is after the answer.
    let mut tries = 0;
    while ask(format!("127.0.0.1:{port}")).await.status != 200 {
        tries += 1;
        assert!(tries < 1000, "the connection was never given back");
    }
}
