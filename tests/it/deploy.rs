//! Deploying, going back, several apps: by the commands, to the real binary.

use crate::support::{Project, TestHost, bare_host, fnhost, hello};
use std::sync::Arc;

#[tokio::test]
async fn a_project_is_deployed_and_served_and_a_second_time_nothing_changes() {
    let host = bare_host();
    let project = Project::on(&host);
    host.get("/app/you").await.assert_problem(404, "no_route");
    let said = project.deploy(&hello("app", "Hello"));
    assert!(said.starts_with("release 1 of app is live (1 of 1 components uploaded"), "{said}");
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    let said = project.must(&["deploy"]);
    assert!(said.starts_with("release 1 of app is live already: nothing has changed"), "{said}");
    let said = project.deploy(&hello("app", "Bye"));
    assert!(said.starts_with("release 2 of app is live (0 of 1 components uploaded"), "{said}");
    host.get("/app/you").await.assert_ok("Bye, you!\n");
}

#[tokio::test]
async fn what_was_deployed_is_served_after_a_restart_without_a_functions_toml() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    Project::on(&host).deploy(&hello("app", "Hello"));
    assert_eq!(host.stop().code, Some(0));
    let host = TestHost::of_state(&folder, &[]);
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    let receipt = host.receipt(host.get("/app/you").await.request_id());
    assert_eq!((&receipt["app"], &receipt["release"]), (&"app".into(), &1.into()));
}

#[tokio::test]
async fn going_back_needs_no_component_and_no_compiler() {
    let host = bare_host();
    let project = Project::on(&host);
    for greeting in ["One", "Two", "Three"] {
        project.deploy(&hello("app", greeting));
    }
    // Nothing could be compiled again.
    std::fs::remove_dir_all(host.folder().path().join("state/components")).unwrap();
    assert_eq!(project.must(&["rollback"]), "release 2 of app is live\n");
    host.get("/app/you").await.assert_ok("Two, you!\n");
    assert_eq!(project.must(&["rollback", "3"]), "release 3 of app is live\n");
    assert_eq!(project.must(&["rollback", "1"]), "release 1 of app is live\n");
    host.get("/app/you").await.assert_ok("One, you!\n");
    for (arguments, code) in [
        (&["rollback"][..], "nothing_before"),
        (&["rollback", "1"], "already_live"),
        (&["rollback", "9"], "no_release"),
    ] {
        let said = project.run(arguments);
        assert!(said.code == Some(1) && said.stderr.contains(code), "{arguments:?}: {}", said.stderr);
    }
    let list = project.must(&["releases"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[1].starts_with("3        old") && lines[3].starts_with("1        live"), "{list}");
    assert!(lines[1].contains("rolled back to release 1"), "{list}");
}

#[tokio::test]
async fn two_apps_live_side_by_side_and_share_no_request() {
    let host = bare_host();
    let (one, other) = (Project::on(&host), Project::on(&host));
    one.deploy(&hello("one", "Hello"));
    other.deploy(&hello("two", "Bye"));
    host.get("/one/you").await.assert_ok("Hello, you!\n");
    host.get("/two/you").await.assert_ok("Bye, you!\n");
    other.write(&hello("two", "Mine").replace("/two/{name}", "/one/{other}"));
    let said = other.run(&["deploy"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("`/one/{other}` of two claims the same requests as a route of one (claimed)"),
        "{}",
        said.stderr
    );
    host.get("/two/you").await.assert_ok("Bye, you!\n");
    assert_eq!(one.must(&["remove", "one"]), "one is removed\n");
    host.get("/one/you").await.assert_problem(404, "no_route");
    other.must(&["deploy"]);
    host.get("/one/you").await.assert_ok("Mine, world!\n");
}

#[tokio::test]
async fn a_bad_deploy_is_reported_in_full_and_changes_nothing() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    std::fs::write(project.folder().join("core.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    project.write(
        "name = \"app\"\n[functions.a]\ncomponent = \"core.wasm\"\nroutes = [\"/app/{name}\"]\n[functions.b]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/b\"]\nlimits = { memory = \"64 KiB\" }\n",
    );
    let said = project.run(&["deploy"]);
    assert_eq!(said.code, Some(1));
    for part in ["core.wasm cannot be a function", "functions.toml:3", "(refused)"] {
        assert!(said.stderr.contains(part), "{part}: {}", said.stderr);
    }
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    assert!(!project.must(&["releases"]).contains("\n2 "));
}

#[tokio::test]
async fn a_deploy_that_builds_on_another_release_is_refused_unless_forced() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "One"));
    project.deploy(&hello("app", "Two"));
    project.write(&hello("app", "Three"));
    let said = project.run(&["deploy", "--base", "1"]);
    assert!(
        said.code == Some(1) && said.stderr.contains("app is at release 2, and not at 1 (moved)"),
        "{}",
        said.stderr
    );
    project.must(&["deploy", "--base", "2"]);
    project.write(&hello("app", "Four"));
    project.must(&["deploy", "--base", "1", "--force", "-m", "it has to be"]);
    host.get("/app/you").await.assert_ok("Four, you!\n");
    assert!(project.must(&["releases"]).contains("it has to be"));
}

#[tokio::test]
async fn only_so_many_releases_are_kept() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("host.toml"), "[host]\nkeep-releases = 3\n").unwrap();
    let host = TestHost::of_state(&folder, &["-c", "host.toml"]);
    let project = Project::on(&host);
    for number in 1..=6 {
        project.deploy(&hello("app", &format!("Hello {number}")));
    }
    let list = project.must(&["releases"]);
    assert_eq!(list.lines().count(), 4, "{list}");
    assert!(project.run(&["rollback", "2"]).stderr.contains("no_release"));
    project.must(&["rollback", "4"]);
    host.get("/app/you").await.assert_ok("Hello 4, you!\n");
}

#[tokio::test]
async fn a_component_of_another_kind_or_need_than_all_before_gets_a_pool_of_its_own() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    let both = hello("app", "Hello") + "[functions.p3]\ncomponent = \"{hello-p3.wasm}\"\nroutes = [\"/p3\"]\n";
    project.deploy(&both);
    host.get("/p3").await.assert_ok("Hello, WASI 0.3!\n");
    host.get("/app/you").await.assert_ok("Hello, you!\n");
}

#[test]
fn status_shows_the_host_and_its_apps() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Hello"));
    let status = project.must(&["status"]);
    assert!(
        status.starts_with(&format!("fnhost {} at http://{}", env!("CARGO_PKG_VERSION"), host.address())),
        "{status}"
    );
    for part in ["sandboxes: 0 of 1000 alive", "app  1     -       1          1"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let json: serde_json::Value = serde_json::from_str(&project.must(&["status", "--json"])).unwrap();
    assert_eq!(json["apps"][0]["live"], 1);
}

#[test]
fn commands_say_plainly_that_there_is_no_host_or_no_token() {
    let host = bare_host();
    let project = Project::on(&host);
    project.write(&hello("app", "Hello"));
    let alone = |arguments: &[&str]| {
        let done = fnhost(project.folder()).args(arguments).env_remove("FNHOST_ADMIN_TOKEN").output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, stderr) = alone(&["status"]);
    assert!(code == Some(1) && stderr.contains("there is no admin token: set FNHOST_ADMIN_TOKEN"), "{stderr}");
    std::fs::write(project.folder().join("token"), "not the right one").unwrap();
    let to = format!("http://{}", host.admin());
    let (code, stderr) = alone(&["status", "--token-file", "token", "--to", &to]);
    assert!(code == Some(1) && stderr.contains("(unauthorized)"), "{stderr}");
    let (code, stderr) = alone(&["status", "--token-file", "token", "--to", "http://127.0.0.1:1"]);
    assert!(code == Some(1) && stderr.contains("no host answers at http://127.0.0.1:1"), "{stderr}");
    let (code, stderr) = alone(&["status", "--token-file", "token", "--to", "127.0.0.1:1"]);
    assert!(code == Some(1) && stderr.contains("is no URL of a host"), "{stderr}");
}

#[test]
fn an_admin_api_that_others_reach_without_tls_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let up = ["up", "--state", "state", "--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"];
    let ended = fnhost(folder.path()).args(up).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && stderr.contains("--insecure-admin"), "{stderr}");
}

#[test]
fn a_file_that_says_only_how_to_host_is_checked_as_well() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("host.toml"), "[host]\nlisten = \"somewhere\"\n").unwrap();
    let ended = fnhost(folder.path()).args(["up", "-c", "host.toml"]).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && stderr.contains("host.toml:2:10: `somewhere` is no address"), "{stderr}");
}

#[test]
fn two_hosts_do_not_share_a_state_folder() {
    let host = bare_host();
    let up = ["up", "--state", "state", "--listen", "127.0.0.1:0", "--admin", "off"];
    let ended = fnhost(host.folder().path()).args(up).output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(
        ended.status.code() == Some(1) && stderr.contains("another fnhost serves from the state folder"),
        "{stderr}"
    );
}

#[tokio::test]
async fn going_back_takes_no_route_from_another_app() {
    let host = bare_host();
    let (one, other) = (Project::on(&host), Project::on(&host));
    one.deploy(&hello("one", "Old").replace("/one/{name}", "/shared"));
    one.deploy(&hello("one", "New"));
    other.deploy(&hello("two", "Mine").replace("/two/{name}", "/shared"));
    let said = one.run(&["rollback"]);
    assert!(said.code == Some(1) && said.stderr.contains("(claimed)"), "{}", said.stderr);
    host.get("/shared").await.assert_ok("Mine, world!\n");
    host.get("/one/you").await.assert_ok("New, you!\n");
}

#[tokio::test]
async fn what_was_rolled_back_stays_so_through_a_restart_until_the_file_changes() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let start = |greeting: &str| TestHost::within(&folder, &hello("app", greeting));
    start("One").stop();
    let host = start("Two");
    host.get("/app/you").await.assert_ok("Two, you!\n");
    Project::on(&host).must(&["rollback", "--app", "app"]);
    host.stop();
    let host = start("Two");
    host.get("/app/you").await.assert_ok("One, you!\n");
    host.stop();
    start("Three").get("/app/you").await.assert_ok("Three, you!\n");
}

#[tokio::test]
async fn an_app_whose_file_names_it_anew_takes_the_place_of_the_old_one() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let toml = |name: &str| hello("app", "Hello").replacen("app", name, 1);
    TestHost::within(&folder, &toml("before")).stop();
    let host = TestHost::within(&folder, &toml("behind"));
    host.get("/app/you").await.assert_ok("Hello, you!\n");
    let status = Project::on(&host).must(&["status"]);
    assert!(status.contains("behind") && !status.contains("before"), "{status}");
}

#[tokio::test]
async fn a_state_folder_with_a_long_path_is_served_from_all_the_same() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let state = "x".repeat(120);
    let host = TestHost::run_with(&folder, fnhost(folder.path()), &["--state", &state]);
    host.get("/").await.assert_problem(404, "no_route");
    host.logged(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot be taken over")));
}
