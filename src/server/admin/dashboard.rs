//! The dashboard: one page, its script and its style, compiled in.
//!
//! The files know nothing, so they are for everybody; what they show, they ask the admin API for, with the token that
//! whoever looks types in. **Invariant:** nothing that is shown is run: the content security policy allows this host's own
//! script and style alone, and the script puts names and log lines into the page as text.

use super::Admin;
use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use std::sync::Arc;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
const ICON: &str = include_str!("dashboard/icon.svg");
/// The script is written in parts, and sent as the modules that they are.
const SCRIPTS: [(&str, &str); 4] = [
    ("/dashboard/main.js", include_str!("dashboard/main.js")),
    ("/dashboard/api.js", include_str!("dashboard/api.js")),
    ("/dashboard/charts.js", include_str!("dashboard/charts.js")),
    ("/dashboard/views.js", include_str!("dashboard/views.js")),
];

pub(super) fn router() -> Router<Arc<Admin>> {
    let router = Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", PAGE)))
        .route("/dashboard/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/dashboard/icon.svg", get(async || file("image/svg+xml", ICON)));
    SCRIPTS.into_iter().fold(router, |router, (path, script)| {
        router.route(path, get(async move || file("text/javascript; charset=utf-8", script)))
    })
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // A new version of the host has new ones.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}
