//! Says hello: a handler, a path parameter, an environment variable.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    // The host adds `fnhost-param-NAME` for each `{name}` of the route.
    let name = request.headers().get("fnhost-param-name").and_then(|value| value.to_str().ok()).unwrap_or("world");
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    Ok(Response::new(format!("{greeting}, {name}!\n").into()))
}
