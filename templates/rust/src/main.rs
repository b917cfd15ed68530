//! An async handler by the crate wstd (WASI 0.2).

use wstd::http::{Body, Error, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (status, text) = answer(request.uri().path());
    Ok(Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .body(text.into())?)
}

/// Where its paths begin: a function sees the whole path of a request.
const ROOT: &str = "/template-route";

/// What a path is answered with.
fn answer(path: &str) -> (StatusCode, String) {
    match path.strip_prefix(ROOT).map(|rest| rest.trim_matches('/')) {
        Some("") => (StatusCode::OK, "Hello, world!\n".to_owned()),
        Some(name) if !name.contains('/') => (StatusCode::OK, format!("Hello, {name}!\n")),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_hello() {
        let (status, text) = answer("/template-route");
        assert_eq!((status, text.as_str()), (StatusCode::OK, "Hello, world!\n"));
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        let (_, text) = answer("/template-route/you");
        assert_eq!(text, "Hello, you!\n");
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        let (status, _) = answer("/template-route/you/and/me");
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}
