//! A whole axum `Router` in one function: paths, queries, JSON, a middleware layer.

use axum::extract::{Path, Query, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

#[wstd_axum::http_server]
fn main() -> Router {
    // A guest sees the request's own path, so the prefix of its route is part of it.
    let routes = Router::new()
        .route("/", get(async || "a router in a function\n"))
        .route("/users/{id}", get(user))
        .route("/search", get(search))
        .route("/sum", post(sum))
        .layer(middleware::from_fn(stamp));
    Router::new().nest("/router", routes)
}

#[derive(Serialize)]
struct User {
    id: u32,
    name: String,
}

async fn user(Path(id): Path<u32>) -> Response {
    if id == 0 {
        return (StatusCode::NOT_FOUND, "nobody\n").into_response();
    }
    Json(User { id, name: format!("user-{id}") }).into_response()
}

#[derive(Deserialize)]
struct Search {
    q: String,
    #[serde(default)]
    page: u32,
}

async fn search(Query(search): Query<Search>) -> String {
    format!("page {} of what is like {}\n", search.page, search.q)
}

async fn sum(Json(numbers): Json<Vec<i64>>) -> Json<i64> {
    Json(numbers.iter().sum())
}

async fn stamp(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert("x-layer", "stamped".parse().unwrap());
    response
}
