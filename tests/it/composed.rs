//! Middleware that is a component: one with the function behind it, in one sandbox. `gate-p3-probe` and `gate-probe` do what the
//! header `x-gate` says; what the first lets through comes back with `x-gated`.

use crate::support::{Project, Request, TestHost, bare_host, body_of_channel, fnhost, guest, skipped, with_guests};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A function of the guest `name` at `/{*rest}`, and before it `gates` middlewares of the component `gate`.
fn gated(gate: &str, gates: usize, name: &str, settings: &str) -> String {
    let names: Vec<String> = (0..gates).map(|number| format!("\"gate{number}\"")).collect();
    let tables = (0..gates).fold(String::new(), |tables, number| {
        tables + &format!("[middleware.gate{number}]\ncomponent = \"{{{gate}.wasm}}\"\n")
    });
    let names = names.join(", ");
    format!(
        "name = \"test\"\n[functions.it]\ncomponent = \"{{{name}.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nmiddleware = [{names}]\n{settings}\n{tables}"
    )
}

fn gate(what: &str) -> Request {
    Request::get("/hello/you").header("x-gate", what)
}

#[tokio::test]
async fn a_chain_of_components_passes_refuses_and_fails_as_one_sandbox() {
    let host = TestHost::with(&gated("gate-p3-probe", 2, "hello-p3", ""));
    let passed = host.get("/hello/you").await;
    passed.assert_ok("Hello, WASI 0.3!\n");
    assert_eq!(passed.headers.get_all("x-gated").iter().count(), 2, "once by each");
    let receipt = host.receipt(passed.request_id());
    assert_eq!((&receipt["kind"], &receipt["outcome"]), (&"http-0.3".into(), &"ok".into()));
    let refused = host.send(gate("refuse")).await;
    assert_eq!((refused.status.as_u16(), refused.text().as_str()), (403, ""));
    assert_eq!(refused.header("x-gated"), "", "the outermost one refused it");
    host.send(gate("error")).await.assert_problem(502, "guest_error");
    host.send(gate("trap")).await.assert_problem(502, "trap");
    // What failed left nothing behind.
    host.get("/hello/you").await.assert_ok("Hello, WASI 0.3!\n");
}

#[tokio::test]
async fn a_streaming_body_passes_through_a_chain_as_it_comes() {
    let host = TestHost::with(&gated("gate-p3-probe", 2, "misbehave-p3", "limits = { request-body = \"1 GiB\" }"));
    let (sender, receiver) = mpsc::channel(1);
    let upload = Request::new(Method::POST, "/misbehave-p3/echo").body(body_of_channel(receiver));
    let mut connection = host.connect().await;
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    let response = connection.begin(upload).await.unwrap();
    assert_eq!(response.headers().get_all("x-gated").iter().count(), 2);
    // What was sent comes back before there is more to send: nobody holds it.
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"first");
    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
    let sending = tokio::task::spawn(async move {
        for _ in 0..256 {
            sender.send(chunk.clone()).await.unwrap();
        }
    });
    let rest = tokio::time::timeout(crate::support::PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    sending.await.unwrap();
    assert_eq!(rest.len(), 256 * (64 << 10));
    assert!(rest.iter().all(|byte| *byte == b'x'));
    // One that fails in its middle is cut, and does not end as if it were whole.
    let broken = host.connect().await.send(Request::get("/misbehave-p3/panic-in-mid-stream")).await;
    assert!(broken.is_err(), "{broken:?}");
}

#[tokio::test]
async fn middleware_of_0_2_hands_on_or_refuses() {
    let host = TestHost::with(&gated("gate-probe", 2, "hello", "env = { GREETING = \"Hello\" }"));
    host.get("/hello/you").await.assert_ok("Hello, world!\n");
    assert_eq!(host.send(gate("refuse")).await.status, 403);
    host.send(gate("error")).await.assert_problem(502, "guest_error");
    let trapped = host.send(gate("trap")).await;
    trapped.assert_problem(502, "trap");
    assert_eq!(host.receipt(trapped.request_id())["kind"], "http-0.2");
}

#[tokio::test]
async fn what_is_built_in_stands_before_a_component() {
    let toml = gated("gate-p3-probe", 1, "hello-p3", "").replace("[\"gate0\"]", "[\"limit\", \"gate0\"]");
    let host = TestHost::with(&format!("{toml}[middleware.limit]\nrate-limit = {{ requests = 1, per = \"1h\" }}\n"));
    assert_eq!(host.get("/").await.header("x-gated"), "yes");
    let refused = host.get("/").await;
    refused.assert_problem(429, "rate_limited");
    assert_eq!(refused.header("x-gated"), "");
}

/// What `check` says of `toml`, which it refuses.
fn refused(toml: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("functions.toml"), with_guests(toml)).unwrap();
    let ended = fnhost(folder.path()).arg("check").output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8(ended.stderr).unwrap()
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_reason() {
    let said = refused(&gated("gate-p3-probe", 1, "hello", ""));
    assert!(said.contains("functions.toml:8:13: the function `it` cannot be composed: "), "{said}");
    assert!(said.contains("is of kind http-0.3, and what stands behind it of kind http-0.2"), "{said}");
    assert!(said.contains("help: build both for the same version of WASI HTTP"), "{said}");
    let said = refused(&gated("gate-probe", 1, "hello-p3", ""));
    assert!(said.contains("is of kind http-0.2, and what stands behind it of kind http-0.3"), "{said}");
    let said = refused(&gated("gate-p3-probe", 1, "cgi", ""));
    assert!(said.contains("functions.toml:3:13: ") && said.contains("is a command: it is called by CGI"), "{said}");
    let said = refused(&gated("hello-p3", 1, "hello-p3", ""));
    assert!(said.contains("is no middleware: it is of kind http-0.3, and imports no wasi:http/handler@0.3"), "{said}");
    let missing = refused(
        "name = \"test\"\n[functions.it]\ncomponent = \"{hello-p3.wasm}\"\nroutes = [\"/\"]\nmiddleware = [\"gone\"]\n[middleware.gone]\ncomponent = \"nowhere.wasm\"\n",
    );
    assert!(missing.contains("functions.toml:7:13: the component nowhere.wasm cannot be read"), "{missing}");
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[tokio::test]
async fn a_deploy_brings_middleware_along_and_a_rollback_brings_it_back() {
    let host = bare_host();
    let project = Project::on(&host);
    let plain = project.deploy(&gated("gate-p3-probe", 0, "hello-p3", ""));
    assert!(plain.contains("1 of 1 components uploaded"), "{plain}");
    host.get("/").await.assert_ok("Hello, WASI 0.3!\n");
    let gated_app = gated("gate-p3-probe", 2, "hello-p3", "");
    let said = project.deploy(&gated_app);
    assert!(said.contains("release 2 of test is live (1 of 2 components uploaded"), "{said}");
    assert_eq!(host.get("/").await.headers.get_all("x-gated").iter().count(), 2);
    assert!(project.deploy(&gated_app).contains("nothing has changed"));
    project.must(&["rollback"]);
    assert_eq!(host.get("/").await.header("x-gated"), "");
    project.must(&["rollback", "2"]);
    assert_eq!(host.get("/").await.headers.get_all("x-gated").iter().count(), 2);
    let components = host.folder().path().join("state/components");
    assert_eq!(files(&components).len(), 2);

    // What is recorded is served again, from what was compiled.
    let folder = Arc::clone(host.folder());
    let compiled = files(&folder.path().join("state/compiled"));
    host.stop();
    let host = TestHost::of_state(&folder, &[]);
    assert_eq!(host.get("/").await.headers.get_all("x-gated").iter().count(), 2);
    assert_eq!(files(&folder.path().join("state/compiled")).len(), compiled.len(), "nothing was compiled anew");
    // And without that, it is composed and compiled again.
    host.stop();
    std::fs::remove_dir_all(folder.path().join("state/compiled")).unwrap();
    let host = TestHost::of_state(&folder, &[]);
    assert_eq!(host.get("/").await.headers.get_all("x-gated").iter().count(), 2);
}

#[tokio::test]
async fn what_a_release_needs_of_middleware_outlives_the_other_releases() {
    let host = TestHost::of_state(&Arc::new(tempfile::tempdir().unwrap()), &[]);
    let project = Project::on(&host);
    let app = gated("gate-p3-probe", 1, "hello-p3", "");
    project.deploy(&app);
    let components = host.folder().path().join("state/components");
    // As if it had been uploaded long ago: what no release used would go with the next deploy.
    for file in files(&components) {
        let touched =
            std::process::Command::new("touch").args(["-d", "3 days ago"]).arg(components.join(file)).status();
        if !touched.is_ok_and(|status| status.success()) {
            return skipped("touch -d is not there");
        }
    }
    let kept = files(&components).len();
    project.deploy(&app.replace("name = \"test\"", "name = \"test\"\n[limits]\ntimeout = \"20s\""));
    assert_eq!((kept, files(&components).len()), (2, 2));
    assert_eq!(host.get("/").await.header("x-gated"), "yes");
    let listed = crate::support::ask(&host, Request::get("/v1/apps/test/releases")).await.json();
    let middleware = |release: &Value| release["functions"][0]["middleware"].as_array().map(Vec::len);
    assert_eq!(middleware(&listed["releases"][0]), Some(1), "{listed}");
}

#[tokio::test]
async fn up_builds_middleware_and_serves_it_anew_when_it_changes() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::copy(guest("gate-p3-probe"), folder.path().join("source.wasm")).unwrap();
    let toml = with_guests(
        "name = \"test\"\n[functions.it]\ncomponent = \"{hello-p3.wasm}\"\nroutes = [\"/{*rest}\"]\nmiddleware = [\"gate\"]\n[middleware.gate]\ncomponent = \"gate.wasm\"\nbuild = \"cp source.wasm gate.wasm\"\n",
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let host = TestHost::run_with(&folder, fnhost(folder.path()), &["--watch"]);
    assert_eq!(host.get("/").await.header("x-gated"), "yes");
    // Another that fits, put in its place as builds do it.
    std::fs::copy(guest("auth"), folder.path().join("new.wasm")).unwrap();
    std::fs::rename(folder.path().join("new.wasm"), folder.path().join("gate.wasm")).unwrap();
    host.logged(|line| line["message"] == "the change is live");
    assert_eq!(host.get("/").await.status, 401);
}
