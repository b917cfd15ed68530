//! An axum router as a function, by the crate wstd-axum (WASI 0.2).

use axum::extract::Path;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

#[wstd_axum::http_server]
fn main() -> Router {
    router()
}

/// A function sees the whole path of a request.
fn router() -> Router {
    Router::new()
        .route("/template-route", get(async || "Hello, world!\n"))
        .route("/template-route/{name}", get(greet))
}

#[derive(Serialize)]
struct Greeting {
    hello: String,
}

async fn greet(Path(name): Path<String>) -> Json<Greeting> {
    Json(Greeting { hello: name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt;

    fn get(path: &str) -> (StatusCode, String) {
        futures_lite::future::block_on(async {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = router().oneshot(request).await.unwrap();
            let status = answer.status();
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn it_says_hello() {
        let (status, text) = get("/template-route");
        assert_eq!((status, text.as_str()), (StatusCode::OK, "Hello, world!\n"));
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        let (_, text) = get("/template-route/you");
        assert_eq!(text, r#"{"hello":"you"}"#);
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        let (status, _) = get("/template-route/you/and/me");
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}
