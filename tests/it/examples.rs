//! Every guest example does what README says of it, as functions.toml routes it.

use crate::support::{Request, TestHost, project};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The demo app, as it stands in the project. One host for those tests that run at the same time; the last one ends it.
fn demo() -> Arc<TestHost> {
    static DEMO: Mutex<Weak<TestHost>> = Mutex::new(Weak::new());
    let mut shared = DEMO.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        crate::support::guest("hello");
        let host = Arc::new(TestHost::of_file(&project().join("functions.toml")));
        *shared = Arc::downgrade(&host);
        host
    })
}

#[tokio::test]
async fn hello_greets_whom_the_path_names() {
    let demo = demo();
    demo.get("/hello/you").await.assert_ok("Hello, you!\n");
}

#[tokio::test]
async fn hello_p3_answers_by_wasi_0_3() {
    let demo = demo();
    let answer = demo.get("/hello-p3").await;
    answer.assert_ok("Hello, WASI 0.3!\n");
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!(demo.receipt(answer.request_id())["kind"], "http-0.3");
}

#[tokio::test]
async fn auth_lets_those_pass_who_have_the_token() {
    let demo = demo();
    let ask = async |token: &str| demo.send(Request::get("/auth").header("authorization", token)).await;
    ask("Bearer open-sesame").await.assert_ok("Hello, WASI 0.3!\n");
    for wrong in ["Bearer open-sesam", "Bearer open-sesame2", "Basic open-sesame"] {
        let refused = ask(wrong).await;
        assert_eq!((refused.status.as_u16(), refused.header("www-authenticate")), (401, "Bearer realm=\"auth\""));
    }
    assert_eq!(demo.get("/auth").await.status, 401);
}

#[tokio::test]
async fn router_is_a_whole_axum_router() {
    let demo = demo();
    demo.get("/router").await.assert_ok("a router in a function\n");
    let user = demo.get("/router/users/7").await;
    user.assert_ok(r#"{"id":7,"name":"user-7"}"#);
    assert_eq!(user.header("x-layer"), "stamped");
    assert_eq!(demo.get("/router/users/0").await.status, 404);
    demo.get("/router/search?q=wasm&page=2").await.assert_ok("page 2 of what is like wasm\n");
    let sum = Request::post("/router/sum", "[1, 2, 39]").header("content-type", "application/json");
    demo.send(sum).await.assert_ok("42");
}

#[tokio::test]
async fn echo_sends_the_upload_back() {
    let demo = demo();
    let upload = Request::post("/echo", "an upload").header("content-type", "text/x-own");
    let answer = demo.send(upload).await;
    answer.assert_ok("an upload");
    assert_eq!(answer.header("content-type"), "text/x-own");
}

#[tokio::test]
async fn stream_sends_server_sent_events() {
    let demo = demo();
    let answer = demo.get("/stream?count=3&interval-ms=1").await;
    answer.assert_ok("id: 0\ndata: event 0\n\nid: 1\ndata: event 1\n\nid: 2\ndata: event 2\n\n");
    assert_eq!(answer.header("content-type"), "text/event-stream");
}

#[tokio::test]
async fn fetch_calls_out() {
    let demo = demo();
    let authority = demo.address().to_string();
    let answer = demo.send(Request::get("/fetch").header("host", &authority)).await;
    answer.assert_ok("Hello, fetch!\n");
    assert_eq!(answer.header("x-fetched"), format!("http://{authority}/hello/fetch"));
}

#[tokio::test]
async fn cgi_is_a_program_that_prints() {
    let demo = demo();
    let request =
        Request::post("/cgi/a/b%20c?q=1", "12345").header("content-type", "text/x-own").header("host", "h.example:81");
    let answer = demo.send(request).await;
    let lines = [
        "POST /a/b c?q=1",
        "rest: a/b%20c",
        "uri: /cgi/a/b%20c?q=1",
        "host: h.example port 81",
        "upload: 5 bytes of text/x-own",
    ];
    answer.assert_ok(&(lines.join("\n") + "\n"));
    assert_eq!(answer.header("x-script"), "/cgi");
    assert_eq!(demo.receipt(answer.request_id())["kind"], "command");
}

/// A program that prints its head, and the rest later.
#[tokio::test]
async fn cgi_streams_what_it_prints() {
    let demo = demo();
    let mut connection = demo.connect().await;
    // It prints the second line when it has read the end of its upload, and that ends when the first was seen.
    let (more, upload) = tokio::sync::mpsc::channel(1);
    let request = Request::post("/cgi/slow", "").body(crate::support::body_of_channel(upload));
    let mut response = connection.begin(request).await.unwrap();
    let mut next = async || {
        http_body_util::BodyExt::frame(response.body_mut()).await.map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "first\n");
    drop(more);
    assert_eq!(next().await.unwrap(), "second\n");
    assert!(next().await.is_none());
}

#[tokio::test]
async fn cgi_is_not_fooled_by_names_with_an_underscore() {
    let demo = demo();
    let answer = demo.send(Request::get("/cgi/x").header("fnhost_param_rest", "forged")).await;
    assert!(answer.text().contains("rest: x\n"), "{}", answer.text());
    let answer = demo.get("/cgi/é").await;
    assert!(answer.text().contains("rest: é\n"), "{}", answer.text());
}

#[tokio::test]
async fn config_shows_its_own_configuration() {
    let demo = demo();
    demo.get("/config/theme").await.assert_ok("rc: dark\ndraft: dark\nall: theme=dark\n");
    demo.get("/config/nothing").await.assert_ok("rc: none\ndraft: none\nall: theme=dark\n");
}

#[tokio::test]
async fn misbehave_p3_is_answered_for() {
    let demo = demo();
    demo.get("/misbehave-p3/trap").await.assert_problem(502, "trap");
    demo.get("/misbehave-p3/counter").await.assert_ok("1\n");
}

#[tokio::test]
async fn misbehave_is_answered_for() {
    let demo = demo();
    demo.get("/misbehave/trap").await.assert_problem(502, "trap");
    demo.get("/misbehave/counter").await.assert_ok("1\n");
}

#[tokio::test]
async fn counter_counts_in_a_store() {
    let demo = demo();
    let before: i64 = demo.get("/counter").await.text().trim().parse().unwrap();
    let counted = demo.send(Request::post("/counter", "")).await.text();
    assert!(counted.trim().parse::<i64>().unwrap() > before, "{counted}");
    assert!(demo.get("/counter").await.text().trim().parse::<i64>().unwrap() > before);
}

#[tokio::test]
async fn notes_is_a_service_with_a_database() {
    let demo = demo();
    let note = |text: &str| {
        Request::post("/notes", format!("{{\"text\":\"{text}\",\"tag\":\"test\"}}"))
            .header("content-type", "application/json")
    };
    let written = demo.send(note("first")).await;
    assert_eq!(written.status, 201, "{}", written.text());
    let id = written.json()["id"].as_i64().unwrap();
    demo.get(&format!("/notes/{id}")).await.assert_ok(&format!("{{\"id\":{id},\"text\":\"first\",\"tag\":\"test\"}}"));
    let listed = demo.get("/notes?tag=test").await.json();
    assert!(listed.as_array().unwrap().iter().any(|note| note["id"] == id), "{listed}");
    assert_eq!(demo.get("/notes?tag=other").await.text(), "[]");
    let gone = Request::new(http::Method::DELETE, &format!("/notes/{id}"));
    assert_eq!(demo.send(gone).await.status, 204);
    assert_eq!(demo.get(&format!("/notes/{id}")).await.status, 404);
}

#[tokio::test]
async fn proxy_streams_what_another_answers() {
    let demo = demo();
    let settings = format!(
        "env = {{ UPSTREAM = \"http://{}\" }}\noutbound = [\"http://127.0.0.1:*\"]\nlimits = {{ request-body = \"64 MiB\" }}\n",
        demo.address()
    );
    let toml =
        "name = \"test\"\n[functions.proxy]\ncomponent = \"{proxy.wasm}\"\nroutes = [\"/proxy/{*rest}\"]\n".to_owned();
    let proxy = TestHost::with(&(toml + &settings));
    proxy.get("/proxy/hello/you").await.assert_ok("Hello, you!\n");
    // More than sockets hold: the answer has to be passed back while the request still comes.
    let large = "x".repeat(32 << 20);
    proxy.send(Request::post("/proxy/echo", large.clone())).await.assert_ok(&large);
    assert_eq!(proxy.get("/proxy/nowhere").await.status, 404);
    // It is passed on as it comes: the first event is there long before the last.
    let mut connection = proxy.connect().await;
    let mut stream = connection.begin(Request::get("/proxy/stream?count=1000&interval-ms=1000")).await.unwrap();
    let first = http_body_util::BodyExt::frame(stream.body_mut()).await.unwrap().unwrap();
    assert!(first.into_data().unwrap().starts_with(b"id: 0\ndata: event 0"));
}

#[tokio::test]
async fn orders_are_taken_and_shown() {
    let Some(database) = crate::postgres::shared().await else { return };
    let host = crate::postgres::host_of("orders", "/{*rest}", "orders", &database, 4, "");
    assert_eq!(host.get("/orders").await.text(), "[]");
    let order = |text: &str| Request::post("/orders", text.to_owned()).header("content-type", "application/json");
    let answer = host.send(order(r#"{"item":"tea","quantity":2}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let made = answer.json();
    assert_eq!((&made["id"], &made["item"], &made["quantity"]), (&1.into(), &"tea".into(), &2.into()));
    assert_eq!(host.get("/orders/1").await.json(), made);
    assert_eq!(host.get("/orders").await.json(), serde_json::json!([made]));
    assert_eq!(host.get("/orders/2").await.status, 404);
    assert_eq!(host.send(order(r#"{"item":"tea","quantity":0}"#)).await.status, 422);
    // What looks like SQL is a value.
    let answer = host.send(order(r#"{"item":"'); DROP TABLE orders; --","quantity":1}"#)).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(database.ask("SELECT count(*) FROM orders").await, "2");
}
