//! The admin API: who may use it, and what bad input gets.

use crate::support::{Project, Request, ask, ask_openly, bare_host, body_of, guest, hello};
use bytes::Bytes;
use http::Method;
use http_body::Frame;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn put(path: &str, body: impl Into<Bytes>) -> Request {
    Request::of(Method::PUT, path, body)
}

#[tokio::test]
async fn nothing_but_health_and_readiness_is_told_without_the_token() {
    let host = bare_host();
    for path in ["/v1/health", "/v1/ready"] {
        assert_eq!(ask_openly(&host, Request::get(path)).await.json(), json!({ "status": "ok" }), "{path}");
    }
    let described = ask(&host, Request::get("/v1/openapi.json")).await.json();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            if path == "/v1/health" || path == "/v1/ready" {
                continue;
            }
            let request = || Request::new(method.to_uppercase().parse().unwrap(), path);
            for authorization in ["", "Bearer ", "Bearer 0123456789abcdef", "Basic YWRtaW46YWRtaW4="] {
                let answer = ask_openly(&host, request().header("authorization", authorization)).await;
                assert_eq!(answer.status, 401, "{method} {path} with `{authorization}`");
                assert_eq!(answer.header("www-authenticate"), "Bearer");
                if method != "head" {
                    answer.assert_refused(401, "unauthorized");
                }
            }
        }
    }
    // Whoever has no token does not learn either what there is.
    ask_openly(&host, Request::get("/v1/secret")).await.assert_refused(401, "unauthorized");
}

#[tokio::test]
async fn paths_methods_and_names_that_there_are_not_are_problems() {
    let host = bare_host();
    let refused = async |method: Method, path: &str, status: u16, code: &str| {
        ask(&host, Request::new(method, path)).await.assert_refused(status, code);
    };
    refused(Method::GET, "/v1/nothing", 404, "no_route").await;
    refused(Method::GET, "/nothing", 404, "no_route").await;
    refused(Method::GET, "/dashboard/nothing.js", 404, "no_route").await;
    refused(Method::POST, "/v1/status", 405, "no_method").await;
    refused(Method::GET, "/v1/apps/nobody", 404, "no_app").await;
    refused(Method::GET, "/v1/apps/nobody/releases", 404, "no_app").await;
    refused(Method::GET, "/v1/apps/nobody/releases/1", 404, "no_app").await;
    refused(Method::DELETE, "/v1/apps/nobody", 404, "no_app").await;
    refused(Method::POST, "/v1/apps/nobody/promote", 409, "no_canary").await;
    refused(Method::POST, "/v1/apps/nobody/rollback", 404, "no_app").await;
    for name in ["..", "%2e%2e", "..%2f..%2fetc", "A", "a_b", "%00", "%ff", "a%2fb", "-", &"a".repeat(64)] {
        refused(Method::GET, &format!("/v1/apps/{name}"), 400, "bad_name").await;
        refused(Method::POST, &format!("/v1/apps/{name}/releases"), 400, "bad_name").await;
        refused(Method::POST, &format!("/v1/apps/{name}/promote"), 400, "bad_name").await;
        refused(Method::POST, &format!("/v1/apps/{name}/rollback"), 400, "bad_name").await;
        refused(Method::DELETE, &format!("/v1/apps/{name}"), 400, "bad_name").await;
    }
    for digest in ["..%2f..%2fadmin-token", "abc", &"g".repeat(64), &"0".repeat(65), "%ff"] {
        refused(Method::PUT, &format!("/v1/components/{digest}"), 400, "bad_digest").await;
    }
    Project::on(&host).deploy(&hello("app", "Hello"));
    for number in ["x", "-1", "1.5", "99999999999999999999999"] {
        refused(Method::GET, &format!("/v1/apps/app/releases/{number}"), 400, "bad_number").await;
    }
    refused(Method::GET, "/v1/apps/app/releases/2", 404, "no_release").await;
    let head = ask(&host, Request::new(Method::HEAD, &format!("/v1/components/{}", "0".repeat(64)))).await;
    assert_eq!(head.status, 404);
}

#[tokio::test]
async fn what_is_no_component_is_not_taken_in() {
    let host = bare_host();
    let digest = |bytes: &[u8]| format!("/v1/components/{}", sha256(bytes));
    ask(&host, put(&digest(b""), "")).await.assert_refused(422, "not_wasm");
    ask(&host, put(&digest(b"#!/bin/sh"), "#!/bin/sh")).await.assert_refused(422, "not_wasm");
    ask(&host, put(&digest(b"other"), "\0asm and more")).await.assert_refused(422, "other_digest");
    // Nothing of it is left.
    let folder = host.folder().path().join("state/components");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    // What has the first bytes of WebAssembly and nothing else is found out when it is deployed.
    let junk = b"\0asm and more";
    assert_eq!(ask(&host, put(&digest(junk), &junk[..])).await.status, 201);
    let manifest = "name = \"app\"\n[functions.a]\ncomponent = \"a.wasm\"\nroutes = [\"/a\"]\n";
    let deploy = json!({ "manifest": manifest, "components": { "a": sha256(junk) } }).to_string();
    ask(&host, Request::post("/v1/apps/app/releases", deploy)).await.assert_refused(422, "refused");
}

#[tokio::test]
async fn a_component_over_the_bound_is_refused_whether_it_says_its_length_or_not() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("host.toml"), "[host]\nmax-component = \"64 KiB\"\n").unwrap();
    let host = crate::support::TestHost::of_state(&folder, &["-c", "host.toml"]);
    let large = [b"\0asm".as_slice(), &vec![0; 70_000]].concat();
    let path = format!("/v1/components/{}", sha256(&large));
    ask(&host, put(&path, large.clone())).await.assert_refused(413, "too_large");
    let frames = large.chunks(1000).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk))).collect::<Vec<_>>();
    let streamed = Request::new(Method::PUT, &path).body(body_of(frames.into_iter()));
    ask(&host, streamed).await.assert_refused(413, "too_large");
    assert_eq!(std::fs::read_dir(folder.path().join("state/components")).unwrap().count(), 0);
    // And by the command, in words.
    let project = Project::on(&host);
    project.write(&hello("app", "Hello"));
    let said = project.run(&["deploy"]);
    assert!(said.code == Some(1) && said.stderr.contains("65536 bytes at the most. (too_large)"), "{}", said.stderr);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let host = bare_host();
    let component = std::fs::read(guest("hello")).unwrap();
    let path = format!("/v1/components/{}", sha256(&component));
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = put(&path, "").body(crate::support::body_of_channel(receiver));
    let token = format!("Bearer {}", crate::support::token_of(&host));
    let mut connection = crate::support::Connection::open(host.admin()).await.unwrap();
    let folder = host.folder().path().join("state/components");
    let count = || std::fs::read_dir(&folder).unwrap().count();
    let begun = connection.begin(request.header("authorization", &token));
    let broken = async {
        sender.send(Bytes::copy_from_slice(&component[..1000])).await.unwrap();
        crate::support::wait_for_async("the upload begins", || (count() == 1).then_some(())).await;
    };
    tokio::select! {
        answered = begun => panic!("it was answered: {:?}", answered.map(|answer| answer.status())),
        () = broken => {}
    }
    connection.leave().await;
    crate::support::wait_for_async("nothing is left", || (count() == 0).then_some(())).await;
    assert_eq!(ask(&host, put(&path, component)).await.status, 201);
}

#[tokio::test]
async fn an_upload_that_stops_in_its_middle_is_given_up() {
    let host = bare_host();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(Bytes::from_static(b"\0asm")).await.unwrap();
    let stalled =
        put(&format!("/v1/components/{}", "0".repeat(64)), "").body(crate::support::body_of_channel(receiver));
    ask(&host, stalled).await.assert_refused(408, "body_timeout");
    assert_eq!(std::fs::read_dir(host.folder().path().join("state/components")).unwrap().count(), 0);
    drop(sender);
}

#[tokio::test]
async fn bad_releases_are_refused_each_with_its_code() {
    let host = bare_host();
    let component = std::fs::read(guest("hello")).unwrap();
    let digest = sha256(&component);
    let manifest = "name = \"app\"\n[functions.a]\ncomponent = \"/etc/passwd\"\nroutes = [\"/a\"]\n";
    let send = async |body: &str, status: u16, code: &str| {
        let answer = ask(&host, Request::post("/v1/apps/app/releases", body.to_owned())).await;
        answer.assert_refused(status, code);
        answer.json()
    };
    for broken in
        ["", "{", "[]", "null", "{\"manifest\": 1}", "{\"manifest\": \"\", \"components\": {}, \"x\": 1}", "\u{fffd}"]
    {
        send(broken, 400, "bad_json").await;
    }
    let deploy = |change: serde_json::Value| {
        let mut body = json!({ "manifest": manifest, "components": { "a": digest } });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body.to_string()
    };
    let missing = send(&deploy(json!({})), 409, "missing_components").await;
    assert_eq!(missing["missing"], json!([digest]));
    assert_eq!(ask(&host, put(&format!("/v1/components/{digest}"), component)).await.status, 201);
    let report = send(&deploy(json!({ "manifest": "name = 7" })), 422, "bad_manifest").await;
    assert!(report["detail"].as_str().unwrap().contains("functions.toml:1:8"), "{report}");
    send(&deploy(json!({ "manifest": manifest.replace("app", "other") })), 400, "bad_request").await;
    send(&deploy(json!({ "components": {} })), 400, "bad_request").await;
    send(&deploy(json!({ "components": { "a": digest, "b": digest } })), 400, "bad_request").await;
    send(&deploy(json!({ "components": { "a": "../../x" } })), 400, "bad_digest").await;
    send(&deploy(json!({ "message": "two\nlines" })), 400, "bad_request").await;
    send(&deploy(json!({ "message": "x".repeat(1001) })), 400, "bad_request").await;
    for share in ["0%", "101%", "10", "a tenth", ""] {
        send(&deploy(json!({ "canary": share })), 400, "bad_request").await;
    }
    send(&deploy(json!({ "canary": "10%" })), 409, "no_live").await;
    send(&deploy(json!({ "base": 3 })), 409, "moved").await;
    // Where the manifest says that its component is, is not where the host looks.
    assert_eq!(ask(&host, Request::post("/v1/apps/app/releases", deploy(json!({})))).await.status, 201);
    host.get("/a").await.assert_ok("Hello, world!\n");
    let bad_change = Request::post("/v1/apps/app/promote", "{\"to\": 1}");
    ask(&host, bad_change).await.assert_refused(400, "bad_request");
    ask(&host, Request::post("/v1/apps/app/rollback", "{\"to\": \"1\"}")).await.assert_refused(400, "bad_json");
}

#[tokio::test]
async fn the_second_of_two_deploys_at_once_is_refused_unless_it_knows_what_it_builds_on() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    // Each has to be compiled, which takes its time; as many as fit into that.
    let component = |number: u8| {
        let section = [0, 3, 1, b'n', number];
        [&std::fs::read(guest("router")).unwrap()[..], &section].concat()
    };
    let mut deploys = tokio::task::JoinSet::new();
    for number in 0..4 {
        let bytes = component(number);
        let digest = sha256(&bytes);
        assert_eq!(ask(&host, put(&format!("/v1/components/{digest}"), bytes)).await.status, 201);
        let manifest = "name = \"app\"\n[functions.a]\ncomponent = \"a.wasm\"\nroutes = [\"/a\"]\n";
        let body = json!({ "manifest": manifest, "components": { "a": digest } }).to_string();
        let (admin, token) = (host.admin(), format!("Bearer {}", crate::support::token_of(&host)));
        deploys.spawn(async move {
            let mut connection = crate::support::Connection::open(admin).await.unwrap();
            let request = Request::post("/v1/apps/app/releases", body).header("authorization", &token);
            connection.send(request).await.unwrap()
        });
    }
    let answers = deploys.join_all().await;
    let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 201);
    assert!(!done.is_empty() && !refused.is_empty(), "{answers:?}");
    for answer in refused {
        answer.assert_refused(409, "busy");
    }
}
