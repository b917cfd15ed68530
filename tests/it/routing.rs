//! Which function answers, seen from outside. The table itself is tested where it is (`release::routes`).

use crate::support::{Request, TestHost};
use http::Method;

const TOML: &str = "name = \"test\"
[functions.exact]
component = \"{hello.wasm}\"
routes = [\"GET /a/b\"]
env = { GREETING = \"exact\" }
[functions.param]
component = \"{hello.wasm}\"
routes = [\"/a/{name}\"]
env = { GREETING = \"param\" }
[functions.rest]
component = \"{hello.wasm}\"
routes = [\"/a/{*name}\"]
env = { GREETING = \"rest\" }
[functions.host]
component = \"{hello.wasm}\"
routes = [\"example.com/a/{*name}\", \"*.example.com/{*name}\"]
env = { GREETING = \"host\" }
";

#[tokio::test]
async fn the_most_exact_route_answers() {
    let host = TestHost::with(TOML);
    host.get("/a/b").await.assert_ok("exact, world!\n");
    host.send(Request::new(Method::POST, "/a/b")).await.assert_ok("param, b!\n");
    host.get("/a/c%20d?name=x").await.assert_ok("param, c%20d!\n");
    host.get("/a/c/d").await.assert_ok("rest, c/d!\n");
    host.get("/a").await.assert_ok("rest, !\n");
    host.get("/a/").await.assert_ok("rest, !\n");
    host.get("/").await.assert_problem(404, "no_route");
}

#[tokio::test]
async fn a_route_with_a_host_answers_for_it() {
    let host = TestHost::with(TOML);
    let ask = async |path: &str, name: &str| host.send(Request::get(path).header("host", name)).await;
    ask("/a/b", "example.com").await.assert_ok("host, b!\n");
    ask("/a/b", "EXAMPLE.com:8080").await.assert_ok("host, b!\n");
    ask("/q", "www.example.com").await.assert_ok("host, q!\n");
    ask("/q", "example.com").await.assert_problem(404, "no_route");
    ask("/a/b", "other.com").await.assert_ok("exact, world!\n");
}
