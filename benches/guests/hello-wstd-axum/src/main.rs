//! Says hello by an axum router, for whatever path it is asked.

use axum::Router;

#[wstd_axum::http_server]
fn main() -> Router {
    Router::new().fallback(async || "Hello, world!\n")
}
