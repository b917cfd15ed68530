//! Middleware that is built in, as clients meet it. Who is let in is in `identity`, and middleware that is a component in `composed`.

use crate::support::{Answer, Project, Request, TestHost, bare_host, skipped};
use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

/// A host whose one function, that of the guest `name` at `routes`, has `chain` before it.
pub(crate) fn host(folder: &Arc<TempDir>, name: &str, routes: &str, chain: &str, tables: &str) -> TestHost {
    TestHost::within(
        folder,
        &format!(
            "name = \"test\"\n[functions.it]\ncomponent = \"{{{name}.wasm}}\"\nroutes = {routes}\nenv = {{ GREETING = \"Hello\" }}\nmiddleware = {chain}\n{tables}"
        ),
    )
}

pub(crate) fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().unwrap())
}

fn options(path: &str) -> Request {
    Request::new(Method::OPTIONS, path)
}

fn vary(answer: &Answer) -> Vec<&str> {
    let values = answer.headers.get_all("vary").iter();
    values.flat_map(|value| value.to_str().unwrap().split(',').map(str::trim)).collect()
}

const CORS: &str = "[middleware.cors]
cors = { origins = [\"https://app.example\"], methods = [\"GET\", \"PUT\"], headers = [\"content-type\"], expose = [\"x-total\"], credentials = true, max-age = \"10m\" }
";

#[tokio::test]
async fn a_preflight_is_answered_for_a_route_without_options() {
    let host = host(&folder(), "hello", "[\"GET /hello/{name}\"]", "[\"cors\"]", CORS);
    let ask = |origin: &'static str| {
        let asked = options("/hello/you").header("origin", origin).header("access-control-request-method", "GET");
        asked.header("access-control-request-private-network", "true")
    };
    let answer = host.send(ask("https://app.example")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (204, ""));
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(answer.header("access-control-allow-methods"), "GET, PUT");
    assert_eq!(answer.header("access-control-allow-headers"), "content-type");
    assert_eq!(answer.header("access-control-max-age"), "600");
    assert_eq!(answer.header("access-control-allow-private-network"), "");
    assert_eq!(vary(&answer), ["origin", "access-control-request-method", "access-control-request-headers"]);
    let receipt = host.receipt(answer.request_id());
    assert_eq!((&receipt["outcome"], &receipt["function"]), (&json!("preflight"), &json!("it")));

    let other = host.send(ask("https://evil.example")).await;
    assert_eq!((other.status.as_u16(), other.header("access-control-allow-origin")), (204, ""));
    assert!(vary(&other).contains(&"origin"));
    // What is no such question is what it always was.
    host.send(options("/hello/you").header("origin", "https://app.example")).await.assert_problem(405, "no_method");
    let for_post = options("/hello/you").header("origin", "https://app.example");
    host.send(for_post.header("access-control-request-method", "POST")).await.assert_problem(405, "no_method");
}

#[tokio::test]
async fn a_site_that_is_allowed_may_read_answers_and_errors() {
    let host = host(&folder(), "hello", "[\"/hello/{name}\"]", "[\"cors\"]", CORS);
    let answer = host.send(Request::get("/hello/you").header("origin", "https://app.example")).await;
    answer.assert_ok("Hello, you!\n");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-expose-headers"), "x-total");
    assert_eq!(vary(&answer), ["origin"]);
    let other = host.send(Request::get("/hello/you").header("origin", "https://evil.example")).await;
    assert_eq!((other.status.as_u16(), other.header("access-control-allow-origin")), (200, ""));
    assert_eq!(vary(&host.get("/hello/you").await), ["origin"], "a cache must not mix them up");
    // Also what the host itself says of a failure.
    let host =
        TestHost::of_guest("misbehave", "middleware = [\"any\"]\n[middleware.any]\ncors = { origins = [\"*\"] }");
    let failed = host.send(Request::get("/misbehave/trap").header("origin", "https://x.example")).await;
    failed.assert_problem(502, "trap");
    assert_eq!(failed.header("access-control-allow-origin"), "*");
    assert_eq!(failed.header("vary"), "");
}

#[tokio::test]
async fn what_is_over_the_limit_is_told_when_to_come_again() {
    let tables =
        "[middleware.limit]\nrate-limit = { requests = 2, per = \"1h\", burst = 3, by = { header = \"x-api-key\" } }\n";
    let host = host(&folder(), "hello", "[\"/hello/{name}\"]", "[\"limit\"]", tables);
    let ask = async |key: &str| host.send(Request::get("/hello/x").header("x-api-key", key)).await;
    for left in ["2", "1", "0"] {
        let answer = ask("a").await;
        answer.assert_ok("Hello, x!\n");
        assert_eq!(answer.header("ratelimit-policy"), "\"limit\";q=2;w=3600");
        assert!(
            answer.header("ratelimit").starts_with(&format!("\"limit\";r={left};t=")),
            "{}",
            answer.header("ratelimit")
        );
    }
    let refused = ask("a").await;
    refused.assert_problem(429, "rate_limited");
    let seconds: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1700..=1800).contains(&seconds), "{seconds}");
    assert_eq!(refused.header("ratelimit"), format!("\"limit\";r=0;t={seconds}"));
    let receipt = host.receipt(refused.request_id());
    assert_eq!((&receipt["outcome"], &receipt["status"]), (&json!("rate_limited"), &json!(429)));
    // Others are not held up, and those without the header are one.
    ask("b").await.assert_ok("Hello, x!\n");
    for _ in 0..3 {
        host.get("/hello/x").await.assert_ok("Hello, x!\n");
    }
    host.get("/hello/y").await.assert_problem(429, "rate_limited");
}

#[tokio::test]
async fn a_limit_by_route_counts_each_route_and_a_deploy_gives_no_fresh_one() {
    let tables = "[middleware.limit]\nrate-limit = { requests = 1, per = \"1h\", by = \"route\" }\n";
    let folder = folder();
    let host = host(&folder, "hello", "[\"/a/{name}\", \"/b/{name}\"]", "[\"limit\"]", tables);
    host.get("/a/1").await.assert_ok("Hello, 1!\n");
    host.get("/b/1").await.assert_ok("Hello, 1!\n");
    host.get("/a/2").await.assert_problem(429, "rate_limited");
    let file = folder.path().join("functions.toml");
    let text = std::fs::read_to_string(&file).unwrap().replace("\"Hello\"", "\"Hi\"");
    std::fs::write(&file, text).unwrap();
    host.signal("-HUP");
    host.logged(|line| line["message"] == "the change is live");
    host.get("/a/2").await.assert_problem(429, "rate_limited");
}

async fn unpacked(answer: &Answer) -> Vec<u8> {
    let mut text = Vec::new();
    let packed = &answer.body[..];
    match answer.header("content-encoding") {
        "gzip" => GzipDecoder::new(packed).read_to_end(&mut text).await.unwrap(),
        "br" => BrotliDecoder::new(packed).read_to_end(&mut text).await.unwrap(),
        "zstd" => ZstdDecoder::new(packed).read_to_end(&mut text).await.unwrap(),
        "" => {
            text.extend(packed);
            packed.len()
        }
        other => panic!("{other}"),
    };
    text
}

const ZIP: &str = "[middleware.zip]\ncompress = { min-size = \"1 KiB\" }\n";

#[tokio::test]
async fn answers_are_compressed_as_the_client_takes_them() {
    let host = host(&folder(), "echo", "[\"/echo\"]", "[\"zip\"]", ZIP);
    let text = "a line of text that comes again\n".repeat(5000);
    let send = async |encodings: &str, kind: &str, body: &str| {
        let request = Request::post("/echo", body.to_owned()).header("content-type", kind);
        host.send(request.header("accept-encoding", encodings)).await
    };
    for (encodings, encoding) in
        [("gzip", "gzip"), ("gzip, br", "br"), ("gzip, br, zstd", "zstd"), ("br;q=0.1, gzip", "gzip")]
    {
        let answer = send(encodings, "text/plain; charset=utf-8", &text).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, encoding));
        assert_eq!(vary(&answer), ["accept-encoding"]);
        assert_eq!(answer.header("content-length"), "");
        assert!(answer.body.len() < text.len() / 20, "{}", answer.body.len());
        assert_eq!(unpacked(&answer).await, text.as_bytes());
        let receipt = host.receipt(answer.request_id());
        assert_eq!((&receipt["outcome"], &receipt["bytes_out"]), (&json!("ok"), &json!(answer.body.len())));
    }
    // Too small; compressed by its kind; not wanted.
    for (encodings, kind, body) in
        [("gzip", "text/plain", "short"), ("gzip", "image/png", &text), ("gzip;q=0", "text/plain", &text)]
    {
        let answer = send(encodings, kind, body).await;
        assert_eq!((answer.header("content-encoding"), answer.text().as_str()), ("", body));
    }
}

#[tokio::test]
async fn what_must_not_be_changed_is_not_compressed() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("public")).unwrap();
    std::fs::write(folder.path().join("public/a.txt"), "text ".repeat(1000)).unwrap();
    let tables = format!(
        "{ZIP}[middleware.files]\nstatic = {{ from = \"public\" }}\n[middleware.kept]\nheaders = {{ response = {{ set = {{ cache-control = \"No-Transform\" }} }} }}\n"
    );
    let host = TestHost::within(
        &folder,
        &format!(
            "name = \"test\"\n[functions.it]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nmiddleware = [\"zip\", \"files\"]\n[functions.kept]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/kept/{{*rest}}\"]\nmiddleware = [\"zip\", \"kept\", \"files\"]\n{tables}"
        ),
    );
    let get = |path: &str| Request::get(path).header("accept-encoding", "gzip");
    let whole = host.send(get("/a.txt")).await;
    assert_eq!((whole.header("content-encoding"), unpacked(&whole).await.len()), ("gzip", 5000));
    assert_eq!((whole.header("accept-ranges"), whole.header("content-length")), ("", ""));
    let tag = whole.header("etag").to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let again = host.send(get("/a.txt").header("if-none-match", &tag)).await;
    assert_eq!((again.status.as_u16(), again.header("content-encoding")), (304, ""));
    let part = host.send(get("/a.txt").header("range", "bytes=0-2047")).await;
    assert_eq!((part.status.as_u16(), part.header("content-encoding"), part.body.len()), (206, "", 2048));
    let kept = host.send(get("/kept/a.txt")).await;
    assert_eq!((kept.header("content-encoding"), kept.body.len()), ("", 5000));
    let head = host.send(Request::new(Method::HEAD, "/a.txt").header("accept-encoding", "gzip")).await;
    assert_eq!(
        (head.status.as_u16(), head.header("content-encoding"), head.header("content-length")),
        (200, "", "5000")
    );
    assert_eq!(vary(&head), ["accept-encoding"]);
}

#[tokio::test]
async fn events_arrive_though_they_are_compressed() {
    let host =
        host(&folder(), "stream", "[\"/stream\"]", "[\"zip\"]", &format!("{ZIP}\n[limits]\ntimeout = \"none\"\n"));
    let mut connection = host.connect().await;
    let request = Request::get("/stream?count=2&interval-ms=3600000").header("accept-encoding", "gzip");
    let response = connection.begin(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    // The second event is an hour away; what there is of the first is whole.
    let mut body = response.into_body();
    let mut packed = Vec::new();
    let text = loop {
        let frame = tokio::time::timeout(crate::support::PATIENCE, body.frame()).await.expect("it arrives");
        packed.extend(frame.unwrap().unwrap().into_data().unwrap());
        let mut text = [0; 64];
        let mut decoder = GzipDecoder::new(&packed[..]);
        if let Ok(bytes) = decoder.read(&mut text).await
            && bytes > 0
        {
            break String::from_utf8_lossy(&text[..bytes]).into_owned();
        }
    };
    assert!(text.starts_with("id: 0\n"), "{text}");
    connection.leave().await;
}

/// `public` with some files, and one beside it that is nobody's.
fn site() -> Arc<TempDir> {
    let folder = folder();
    let public = folder.path().join("public");
    std::fs::create_dir_all(public.join("docs")).unwrap();
    std::fs::create_dir(public.join(".git")).unwrap();
    for (file, text) in [
        ("public/index.html", "<h1>home</h1>"),
        ("public/a b.css", "a { b: c }"),
        ("public/docs/index.html", "<h1>docs</h1>"),
        ("public/.env", "SECRET=1"),
        ("public/.git/config", "[core]"),
        ("outside.txt", "nobody's"),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    symlink("../outside.txt", public.join("out.txt")).unwrap();
    symlink(folder.path().join("outside.txt"), public.join("absolute.txt")).unwrap();
    symlink("..", public.join("up")).unwrap();
    symlink("index.html", public.join("in.html")).unwrap();
    folder
}

#[tokio::test]
async fn files_are_served_and_the_rest_goes_to_the_function() {
    let tables = "[middleware.files]\nstatic = { from = \"public\" }\n";
    let host = host(&site(), "hello", "[\"/site/{*name}\"]", "[\"files\"]", tables);
    let css = host.get("/site/a%20b.css").await;
    css.assert_ok("a { b: c }");
    assert_eq!((css.header("content-type"), css.header("content-length")), ("text/css", "10"));
    assert_eq!(css.header("accept-ranges"), "bytes");
    assert!(css.header("last-modified").ends_with("GMT"));
    let receipt = host.receipt(css.request_id());
    assert_eq!((&receipt["outcome"], &receipt["bytes_out"]), (&json!("static_file"), &json!(10)), "{receipt}");
    let tag = css.header("etag").to_owned();
    assert!(tag.starts_with('"'), "{tag}");
    let same = host.send(Request::get("/site/a%20b.css").header("if-none-match", &tag)).await;
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    let since = css.header("last-modified").to_owned();
    assert_eq!(host.send(Request::get("/site/a%20b.css").header("if-modified-since", &since)).await.status, 304);
    let changed = Request::get("/site/a%20b.css").header("if-match", "\"other\"");
    assert_eq!(host.send(changed).await.status, 412);
    let part = host.send(Request::get("/site/a%20b.css").header("range", "bytes=4-7")).await;
    assert_eq!((part.status.as_u16(), part.text().as_str()), (206, "b: c"));
    assert_eq!(part.header("content-range"), "bytes 4-7/10");
    let beyond = host.send(Request::get("/site/a%20b.css").header("range", "bytes=10-")).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
    let head = host.send(Request::new(Method::HEAD, "/site/a%20b.css")).await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, "10", 0));
    host.get("/site/").await.assert_ok("<h1>home</h1>");
    host.get("/site").await.assert_ok("<h1>home</h1>");
    host.get("/site/docs/").await.assert_ok("<h1>docs</h1>");
    host.get("/site/in.html").await.assert_ok("<h1>home</h1>");
    // No such file; a folder; another method.
    host.get("/site/nothing").await.assert_ok("Hello, nothing!\n");
    host.get("/site/docs").await.assert_ok("Hello, docs!\n");
    host.send(Request::post("/site/docs/", "x")).await.assert_ok("Hello, docs/!\n");
}

#[tokio::test]
async fn nothing_outside_of_the_folder_is_served_and_nothing_hidden() {
    let tables = "[middleware.files]\nstatic = { from = \"public\" }\n";
    let folder = site();
    let host = host(&folder, "hello", "[\"/{*name}\"]", "[\"files\"]", tables);
    for path in [
        "/out.txt",
        "/absolute.txt",
        "/up/outside.txt",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/docs/..%2f..%2foutside.txt",
        "/docs/../../outside.txt",
        "/..%5coutside.txt",
        "//etc/hostname",
        "/%2fetc/hostname",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/a%00b",
        "/index.html/x",
    ] {
        let answer = host.get(path).await;
        assert!(answer.text().starts_with("Hello, "), "{path}: {} {}", answer.status, answer.text());
    }
    // A pipe has no end, and a file that nobody may read is not there.
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("public/pipe")).status();
    if made.is_ok_and(|status| status.success()) {
        host.get("/pipe").await.assert_ok("Hello, pipe!\n");
    } else {
        skipped("mkfifo is not there");
    }
}

#[tokio::test]
async fn an_app_from_elsewhere_names_folders_by_their_whole_path() {
    let host = bare_host();
    let project = Project::on(&host);
    let toml = |from: &str| {
        format!(
            "name = \"test\"\n[functions.it]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nmiddleware = [\"files\"]\n[middleware.files]\nstatic = {{ from = \"{from}\" }}\n"
        )
    };
    std::fs::create_dir(project.folder().join("public")).unwrap();
    std::fs::write(project.folder().join("public/a.txt"), "a file").unwrap();
    project.write(&toml("public"));
    let said = project.run(&["deploy"]);
    assert_ne!(said.code, Some(0));
    let told = "the middleware `files`: public is of the machine that the app was deployed from";
    assert!(said.stderr.contains(told), "{}", said.stderr);
    project.deploy(&toml(&project.folder().join("public").display().to_string()));
    host.get("/a.txt").await.assert_ok("a file");
}

#[tokio::test]
async fn a_redirect_leads_on_with_path_and_query() {
    let tables = "[middleware.moved]\nredirect = { to = \"https://new.example{path}{query}\", status = 301 }\n[middleware.kept]\nredirect = { to = \"/new{path}\" }\n";
    let host = TestHost::with(&format!(
        "name = \"test\"\n[functions.it]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/old/{{*name}}\"]\nmiddleware = [\"moved\"]\n[functions.other]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/other/{{*name}}\"]\nmiddleware = [\"kept\"]\n{tables}"
    ));
    let answer = host.get("/old/a%20b?x=1&y=%0d%0a").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (301, ""));
    assert_eq!(answer.header("location"), "https://new.example/old/a%20b?x=1&y=%0d%0a");
    assert_eq!(host.receipt(answer.request_id())["outcome"], "redirected");
    assert_eq!(host.get("/old//evil.example/x").await.header("location"), "https://new.example/old//evil.example/x");
    let answer = host.send(Request::post("/other/x?q", "upload")).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, "/new/other/x"));
}

#[tokio::test]
async fn headers_are_set_and_taken_out_both_ways() {
    let tables = "[middleware]\nall = [\"security\"]
[middleware.security.headers.response]
set = { x-frame-options = \"DENY\", content-type = \"text/x-own\" }
remove = [\"server-timing\", \"x-own\"]
[middleware.security.headers.request]
set = { x-from = \"the host\" }
remove = [\"cookie\"]\n";
    let host = host(&folder(), "misbehave-p3", "[\"/misbehave-p3/{*rest}\"]", "[]", tables);
    let request = Request::get("/misbehave-p3/request").header("x-from", "a client").header("cookie", "a=b");
    let answer = host.send(request).await;
    let seen = answer.text();
    assert!(seen.contains("x-from: the host\n") && !seen.contains("a client") && !seen.contains("cookie"), "{seen}");
    assert_eq!((answer.header("x-frame-options"), answer.header("content-type")), ("DENY", "text/x-own"));
    let failed = host.get("/misbehave-p3/trap").await;
    assert_eq!((failed.status.as_u16(), failed.header("x-frame-options")), (502, "DENY"));
}

#[tokio::test]
async fn an_answer_goes_back_through_what_its_request_has_passed() {
    let folder = folder();
    std::fs::write(folder.path().join("token"), "t0ken").unwrap();
    let tables = format!(
        "{CORS}[middleware.outer]\nheaders = {{ response = {{ set = {{ x-outer = \"yes\" }} }} }}\n[middleware.token]\nbearer = {{ tokens = [{{ file = \"token\" }}] }}\n[middleware.inner]\nheaders = {{ response = {{ set = {{ x-inner = \"yes\" }} }} }}\n"
    );
    let host =
        host(&folder, "hello", "[\"GET /hello/{name}\"]", "[\"outer\", \"token\", \"cors\", \"inner\"]", &tables);
    let refused = host.send(Request::get("/hello/x").header("origin", "https://app.example")).await;
    refused.assert_problem(401, "unauthorized");
    assert_eq!((refused.header("x-outer"), refused.header("x-inner")), ("yes", ""));
    assert_eq!(refused.header("access-control-allow-origin"), "", "it did not come as far");
    let passed =
        Request::get("/hello/x").header("origin", "https://app.example").header("authorization", "Bearer t0ken");
    let passed = host.send(passed).await;
    assert_eq!((passed.header("x-outer"), passed.header("x-inner")), ("yes", "yes"));
    assert_eq!(passed.header("access-control-allow-origin"), "https://app.example");
    // A browser sends no credentials with its question, so they are not asked for.
    let asked =
        options("/hello/x").header("origin", "https://app.example").header("access-control-request-method", "GET");
    let asked = host.send(asked).await;
    assert_eq!((asked.status.as_u16(), asked.header("x-outer"), asked.header("x-inner")), (204, "yes", ""));
}

#[tokio::test]
async fn what_is_refused_costs_nothing_and_is_counted() {
    let tables = "[middleware.limit]\nrate-limit = { requests = 1, per = \"1h\" }\n";
    let host = host(&folder(), "hello", "[\"/hello/{name}\"]", "[\"limit\"]", tables);
    host.get_entered("/hello/x").await.assert_ok("Hello, x!\n");
    host.get_entered("/hello/x").await.assert_problem(429, "rate_limited");
    let metrics = crate::support::ask(&host, Request::get("/metrics")).await;
    assert!(metrics.text().contains("outcome=\"rate_limited\"} 1"), "{}", metrics.text());
}
