//! Canaries: a part of the requests, by lot or by client, and an end by themselves.

use crate::support::{Connection, PATIENCE, Project, Request, TestHost, bare_host, hello};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Two releases that greet differently, the second of them with `release` in its functions.toml.
fn deploy_canary(host: &TestHost, share: &str, release: &str) -> Project {
    let project = Project::on(host);
    project.deploy(&hello("app", "Old"));
    project.write(&hello("app", "New").replacen('\n', &format!("\n[release]\n{release}\n"), 1));
    let said = project.must(&["deploy", "--canary", share]);
    assert!(said.starts_with(&format!("release 2 of app answers {share} of the requests")), "{said}");
    project
}

/// How many of `requests` the canary answered.
async fn count_new(host: &TestHost, requests: usize) -> usize {
    const CLIENTS: usize = 4;
    let address = host.address();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            let mut new = 0;
            for _ in 0..requests / CLIENTS {
                let answer = connection.send(Request::get("/app/you")).await.unwrap();
                match answer.text().as_str() {
                    "Old, you!\n" => {}
                    "New, you!\n" => new += 1,
                    other => panic!("{} {other}", answer.status),
                }
            }
            new
        });
    }
    clients.join_all().await.into_iter().sum()
}

/// Does `meanwhile` again and again, ten times for each look, until `done`.
async fn until(done: impl Fn() -> bool, mut meanwhile: impl AsyncFnMut()) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited too long");
        for _ in 0..10 {
            meanwhile().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenth_of_ten_thousand_requests_is_a_tenth() {
    let host = bare_host();
    let project = deploy_canary(&host, "10%", "");
    let new = count_new(&host, 10_000).await;
    assert!((900..=1100).contains(&new), "{new} of 10,000");
    let list = project.must(&["releases"]);
    assert!(list.contains("2        canary 10%") && list.contains("1        live"), "{list}");
    assert_eq!(project.must(&["promote"]), "release 2 of app is live\n");
    assert_eq!(count_new(&host, 100).await, 100);
    assert!(project.run(&["promote"]).stderr.contains("no_canary"));
}

#[tokio::test]
async fn going_back_ends_the_canary_and_leaves_the_live_release() {
    let host = bare_host();
    let project = deploy_canary(&host, "50%", "");
    assert_eq!(project.must(&["rollback"]), "release 1 of app is live\n");
    assert_eq!(count_new(&host, 100).await, 0);
    assert!(project.must(&["releases"]).contains("rolled back to release 1"));
    // Nothing earlier was live: the canary never was.
    assert!(project.run(&["rollback"]).stderr.contains("nothing_before"));
}

#[tokio::test]
async fn a_canary_survives_a_restart() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    deploy_canary(&host, "50%", "");
    host.stop();
    let host = TestHost::of_state(&folder, &[]);
    let new = count_new(&host, 400).await;
    assert!((100..=300).contains(&new), "{new} of 400");
}

#[tokio::test]
async fn a_client_with_a_cookie_sees_one_release_only_also_after_a_restart() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    deploy_canary(&host, "30%", "sticky = \"cookie\"");
    let mut clients = HashMap::new();
    for _ in 0..100 {
        let answer = host.get("/app/you").await;
        let cookie = answer.header("set-cookie").to_owned();
        assert!(cookie.starts_with("fnhost-client=") && cookie.contains("HttpOnly"), "{cookie}");
        clients.insert(cookie.split(';').next().unwrap().to_owned(), answer.text());
    }
    let new = clients.values().filter(|text| text.starts_with("New")).count();
    assert!((10..=55).contains(&new), "{new} of 100 clients");
    let check = async |host: &TestHost| {
        for (cookie, seen) in &clients {
            for _ in 0..3 {
                let answer = host.send(Request::get("/app/you").header("cookie", &format!("a=b; {cookie}"))).await;
                answer.assert_ok(seen);
                assert!(answer.headers.get("set-cookie").is_none());
            }
        }
    };
    check(&host).await;
    host.stop();
    check(&TestHost::of_state(&folder, &[])).await;
}

#[tokio::test]
async fn a_client_is_told_by_a_header_and_without_it_sees_the_live_release() {
    let host = bare_host();
    deploy_canary(&host, "50%", "sticky = \"header:x-customer\"");
    let mut new = 0;
    for customer in 0..60 {
        let ask = || host.send(Request::get("/app/you").header("x-customer", &format!("customer-{customer}")));
        let first = ask().await.text();
        new += usize::from(first.starts_with("New"));
        for _ in 0..3 {
            ask().await.assert_ok(&first);
        }
        host.get("/app/you").await.assert_ok("Old, you!\n");
    }
    assert!((12..=48).contains(&new), "{new} of 60 customers");
}

#[tokio::test]
async fn a_larger_share_takes_clients_from_the_live_release_only_and_the_whole_promotes() {
    let host = bare_host();
    let project = deploy_canary(&host, "20%", "sticky = \"header:x-customer\"");
    let ask = async |customer: u32| {
        host.send(Request::get("/app/you").header("x-customer", &customer.to_string())).await.text()
    };
    let mut met = Vec::new();
    for customer in 0..60 {
        if ask(customer).await.starts_with("New") {
            met.push(customer);
        }
    }
    let said = project.must(&["deploy", "--canary", "60%"]);
    assert!(said.starts_with("release 2 of app answers 60% of the requests"), "{said}");
    let mut now = 0;
    for customer in 0..60 {
        let new = ask(customer).await.starts_with("New");
        assert!(new || !met.contains(&customer), "{customer} was sent back");
        now += usize::from(new);
    }
    assert!(now > met.len(), "{now} and before {}", met.len());
    let said = project.must(&["deploy"]);
    assert!(said.starts_with("release 2 of app is live"), "{said}");
    assert_eq!(count_new(&host, 40).await, 40);
}

#[tokio::test]
async fn routes_that_only_the_canary_has_answer_only_those_who_meet_it() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "Old"));
    let more = hello("app", "New").replace("routes = [", "routes = [\"/new\", ");
    project.write(&more.replacen('\n', "\n[release]\nsticky = \"header:x-customer\"\n", 1));
    project.must(&["deploy", "--canary", "50%"]);
    let mut met = 0;
    for customer in 0..40 {
        let ask = |path| host.send(Request::get(path).header("x-customer", &customer.to_string()));
        if ask("/app/you").await.text().starts_with("New") {
            met += 1;
            ask("/new").await.assert_ok("New, world!\n");
        } else {
            ask("/new").await.assert_problem(404, "no_route");
        }
    }
    assert!((5..=35).contains(&met), "{met} of 40");
    host.get("/new").await.assert_problem(404, "no_route");
}

#[tokio::test]
async fn a_canary_that_errs_ends_by_itself_and_leaves_the_live_release_alone() {
    let host = bare_host();
    let project = Project::on(&host);
    let app = |guest: &str, release: &str| {
        format!(
            "name = \"app\"\n{release}\n[functions.work]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n"
        )
    };
    project.deploy(&app("hello", ""));
    project.write(&app("misbehave", "[release]\nrollback-when = { errors = \"2%\", window = \"20s\", requests = 10 }"));
    project.must(&["deploy", "--canary", "50%"]);
    let mut failed = 0;
    until(
        || project.must(&["releases"]).contains("2        old"),
        async || {
            failed += usize::from(host.get("/misbehave/trap").await.status == 502);
        },
    )
    .await;
    assert!(failed >= 10, "{failed}");
    for _ in 0..50 {
        host.get("/misbehave/trap").await.assert_ok("Hello, world!\n");
    }
    let list = project.must(&["releases"]);
    assert!(list.contains("ended by itself: 100.0% of ") && list.contains("1        live"), "{list}");
    host.logged(|line| line["message"] == "the canary has ended" && line["release"] == 2);
}

#[tokio::test]
async fn a_canary_that_is_slow_ends_by_itself() {
    let host = bare_host();
    let project = Project::on(&host);
    // The live release answers at once; its canary computes until it is stopped.
    let app = |guest: &str, release: &str| {
        format!(
            "name = \"app\"\n{release}\n[functions.work]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\nlimits = {{ cpu = \"50ms\" }}\n"
        )
    };
    project.deploy(&app("hello", ""));
    project.write(&app(
        "misbehave",
        "[release]\nrollback-when = { handler-p99 = \"20ms\", window = \"20s\", requests = 5 }",
    ));
    project.must(&["deploy", "--canary", "50%"]);
    until(|| project.must(&["releases"]).contains("2        old"), async || drop(host.get("/misbehave/spin").await))
        .await;
    let list = project.must(&["releases"]);
    assert!(list.contains("ended by itself: the handler's p99 of "), "{list}");
}
