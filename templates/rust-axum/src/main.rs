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
        assert_eq!(
            get("/template-route"),
            (StatusCode::OK, "Hello, world!\n".to_owned())
        );
    }

    #[test]
    fn it_greets_whom_the_path_names() {
        assert_eq!(
            get("/template-route/you"),
            (StatusCode::OK, r#"{"hello":"you"}"#.to_owned())
        );
    }

    #[test]
    fn what_it_does_not_know_is_not_found() {
        assert_eq!(get("/template-route/you/and/me").0, StatusCode::NOT_FOUND);
    }
}
