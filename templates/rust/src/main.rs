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

/// What a path is answered with; a function sees the whole path of a request.
fn answer(path: &str) -> (StatusCode, String) {
    match path
        .strip_prefix("/template-route")
        .map(|rest| rest.trim_matches('/'))
    {
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
        assert_eq!(
            answer("/template-route"),
            (StatusCode::OK, "Hello, world!\n".to_owned())
        );
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        assert_eq!(
            answer("/template-route/you"),
            (StatusCode::OK, "Hello, you!\n".to_owned())
        );
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        assert_eq!(
            answer("/template-route/you/and/me").0,
            StatusCode::NOT_FOUND
        );
    }
}
