//! Under a service manager: sockets that are handed over, and being told that all is ready.

use crate::support::{Connection, Project, Request, TestHost, ask, bare_host, fnhost, hello};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A host that inherits `listener` as descriptor 3 (`sd_listen_fds(3)`).
fn inheriting(folder: &Arc<tempfile::TempDir>, listener: &TcpListener) -> std::process::Child {
    let mut shell = Command::new("sh");
    let inherited = OwnedFd::from(listener.try_clone().unwrap());
    shell
        .current_dir(folder.path())
        .args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null", env!("CARGO_BIN_EXE_fnhost")])
        .args(["up", "--state", "state", "--admin", "off", "--listen", "127.0.0.1:1"])
        .stdin(Stdio::from(inherited))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    shell.spawn().unwrap()
}

#[tokio::test]
async fn a_socket_that_was_handed_over_is_served_and_its_clients_wait_through_a_restart() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    Project::on(&host).deploy(&hello("app", "Hello"));
    host.stop();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..2 {
        // Nobody serves, and nobody is refused.
        let mut connection = Connection::open(address).await.unwrap();
        let mut child = inheriting(&folder, &listener);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("listening on http://{address}\n"));
        connection.send(Request::get("/app/you")).await.unwrap().assert_ok("Hello, you!\n");
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn the_manager_is_told_when_all_is_ready_and_when_it_ends() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut command = fnhost(folder.path());
    command.env("NOTIFY_SOCKET", &path);
    let host = TestHost::run_with(&folder, command, &["--state", "state"]);
    let told = || {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(told().trim(), "READY=1");
    host.stop();
    assert_eq!(told().trim(), "STOPPING=1");
}

/// Clients on connections that they keep, and on new ones, while one process takes the place of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_takes_the_place_of_the_old_one_and_no_connection_is_refused() {
    let old = Arc::new(bare_host());
    let folder = Arc::clone(old.folder());
    Project::on(&old).deploy(&hello("app", "Hello"));
    let address = old.address();
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..6 {
        let done = Arc::clone(&done);
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                let answer = connection.send(Request::get("/app/you")).await.expect("every request is answered");
                answer.assert_ok("Hello, you!\n");
                answers += 1;
                if client % 2 == 0 || answer.header("connection") == "close" {
                    connection = Connection::open(address).await.expect("no connection is refused");
                }
            }
            answers
        });
    }
    let new = tokio::task::block_in_place(|| TestHost::of_state(&folder, &["--take-over"]));
    assert_eq!(new.address(), address);
    let old = Arc::into_inner(old).unwrap();
    assert_eq!(old.finish().code, Some(0));
    done.store(true, Ordering::Relaxed);
    assert!(clients.join_all().await.into_iter().sum::<u32>() > 20);
    // The new one can be deployed to, at the same place as the old one.
    Project::on(&new).deploy(&hello("app", "Bye"));
    new.get("/app/you").await.assert_ok("Bye, you!\n");
}

#[tokio::test]
async fn while_the_old_process_finishes_its_requests_the_new_one_is_asked_and_told() {
    let old = bare_host();
    let folder = Arc::clone(old.folder());
    let app = hello("app", "Hello") + "[functions.stream]\ncomponent = \"{stream.wasm}\"\nroutes = [\"/stream\"]\n";
    Project::on(&old).deploy(&app);
    let mut connection = old.connect().await;
    let streaming = connection.begin(Request::get("/stream?count=100&interval-ms=20")).await.unwrap();
    let new = tokio::task::spawn_blocking({
        let folder = Arc::clone(&folder);
        move || TestHost::of_state(&folder, &["--take-over"])
    });
    let new = new.await.unwrap();
    old.logged(|line| line["message"] == "another process serves in this one's place");
    let project = Project::on(&new);
    for number in 0..10 {
        project.deploy(&app.replace("Hello", &format!("Hello {number}")));
        assert_eq!(ask(&new, Request::get("/v1/ready")).await.status, 200);
    }
    let body = http_body_util::BodyExt::collect(streaming.into_body()).await.expect("the stream is whole").to_bytes();
    assert_eq!(String::from_utf8_lossy(&body).matches("data:").count(), 100);
    assert_eq!(old.finish().code, Some(0));
}

#[test]
fn an_admin_socket_that_was_handed_over_is_for_this_machine_alone_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let (http, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("0.0.0.0:0").unwrap());
    let done = Command::new("sh")
        .current_dir(folder.path())
        .args(["-c", "LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 4<&1 </dev/null >/dev/null"])
        .args([env!("CARGO_BIN_EXE_fnhost"), "up", "--state", "state"])
        .stdin(Stdio::from(OwnedFd::from(http)))
        .stdout(Stdio::from(OwnedFd::from(admin)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && stderr.contains("--insecure-admin"), "{stderr}");
}

#[tokio::test]
async fn a_successor_that_fails_leaves_the_host_as_it_was() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    std::fs::write(
        host.folder().path().join("bad.toml"),
        "name = \"bad\"\n[functions.a]\ncomponent = \"none.wasm\"\nroutes = [\"/a\"]\n",
    )
    .unwrap();
    let up = ["up", "--state", "state", "--take-over", "-c", "bad.toml"];
    let failed = fnhost(host.folder().path()).args(up).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stderr));
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("ended before it served")));
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    project.deploy(&hello("app", "Bye"));
    host.get("/app/you").await.assert_ok("Bye, you!\n");
}

#[tokio::test]
async fn where_nobody_serves_there_is_nothing_to_take_over() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let host = TestHost::of_state(&folder, &["--take-over"]);
    host.get("/").await.assert_problem(404, "no_route");
}

/// Asks for the place of the host, as a successor does, and never serves.
fn pretend_to_take_over(folder: &std::path::Path) -> UnixStream {
    let mut stream = UnixStream::connect(folder.join("state/handover.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"fnhost1?").unwrap();
    // The sockets come with this byte, and are closed again.
    stream.read_exact(&mut [0]).unwrap();
    stream
}

#[tokio::test]
async fn a_host_that_is_handed_over_takes_no_change_and_then_serves_what_was_recorded_meanwhile() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    let successor = pretend_to_take_over(folder.path());
    ask(&host, Request::post("/v1/apps/app/rollback", "")).await.assert_refused(503, "handing_over");
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    // The successor records a release, and is gone before it serves.
    let other = TestHost::of_state(&folder, &[]);
    Project::on(&other).deploy(&hello("app", "Bye"));
    other.stop();
    drop(successor);
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("ended before it served")));
    host.get("/app/you").await.assert_ok("Bye, you!\n");
    assert_eq!(project.must(&["rollback"]), "release 1 of app is live\n");
}
