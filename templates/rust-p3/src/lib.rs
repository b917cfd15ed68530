//! An async handler by the crate wasip3 (WASI 0.3).

use http::{Response, StatusCode};
use wasip3::http::types::{self, ErrorCode};
use wasip3::http_compat::{http_from_wasi_request, http_into_wasi_response};

wasip3::http::service::export!(Handler);

struct Handler;

impl wasip3::exports::http::handler::Guest for Handler {
    async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
        let request = http_from_wasi_request(request)?;
        http_into_wasi_response(answer(request.uri().path()))
    }
}

/// Where its paths begin: a function sees the whole path of a request.
const ROOT: &str = "/template-route";

/// What a path is answered with.
fn answer(path: &str) -> Response<String> {
    let (status, text) = match path.strip_prefix(ROOT).map(|rest| rest.trim_matches('/')) {
        Some("") => (StatusCode::OK, "Hello, world!\n".to_owned()),
        Some(name) if !name.contains('/') => (StatusCode::OK, format!("Hello, {name}!\n")),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_hello() {
        let response = answer("/template-route");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.body(), "Hello, world!\n");
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        let response = answer("/template-route/you");
        assert_eq!(response.body(), "Hello, you!\n");
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        let response = answer("/template-route/you/and/me");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
}
