//! What a browser is shown while the app that it asks for could not be built.
//!
//! Only the live loop of `fnhost up` has such a page, and only people get it: programs go on getting the last good release.
//! **Invariant:** what a compiler printed is text on the page; it has no script, and fetches nothing.

use crate::names::Name;
use crate::platform;
use anstyle_svg::{Term, WIN10_CONSOLE};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, REFRESH};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request};
use std::fmt::Write as _;

/// How a browser asks (Fetch Metadata Request Headers): a person goes to a page with `navigate`.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
/// The page asks again by itself, so that the next good build is seen. In seconds.
const REFRESH_SECONDS: HeaderValue = HeaderValue::from_static("2");
/// How it looks; the colours of the text itself come from what was printed.
const STYLE: &str = "body { margin: 2rem; background: #111; color: #ddd; font: 14px/1.5 ui-monospace, monospace; } \
     h1 { font-size: 1.1rem; color: #f66; } .container { overflow-x: auto; }";

/// That an app could not be built, as a page.
pub struct BuildFailure {
    app: Name,
    page: Bytes,
    policy: HeaderValue,
}

impl BuildFailure {
    /// A page for `app`, with what was printed, ANSI escapes included.
    pub fn new(app: Name, printed: &str) -> Self {
        // Without randomness the page has no style, and is still a page.
        let nonce = platform::random_hex().unwrap_or_default();
        let text = Term::new().palette(WIN10_CONSOLE).render_html_fragments(printed);
        let mut page = format!("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{app}</title>\n");
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "<style nonce=\"{nonce}\">{}\n{STYLE}</style>\n<h1>{app} could not be built</h1>\n{}",
            text.style(),
            text.body(),
        );
        page.push_str("<p>The last release that could be built, if there is one, goes on answering programs.</p>\n");
        let style = if nonce.is_empty() { String::new() } else { format!("; style-src 'nonce-{nonce}'") };
        let policy = format!(
            "default-src 'none'{style}; script-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { app, page: page.into(), policy }
    }

    /// The app.
    pub(super) fn app(&self) -> &Name {
        &self.app
    }

    /// Whether `request`, whose route is of the app `found` if it has one, is to be told: a browser that goes to a page.
    pub(super) fn concerns<B>(&self, request: &Request<B>, found: Option<&Name>) -> bool {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let navigates = request.headers().get(SEC_FETCH_MODE).is_none_or(|mode| mode == "navigate");
        let mut accepted = request.headers().get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
        found.is_none_or(|app| *app == self.app)
            && reads
            && navigates
            && accepted.any(|accept| accept.to_ascii_lowercase().contains("text/html"))
    }

    pub(super) fn page(&self) -> Bytes {
        self.page.clone()
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let text = HeaderValue::from_static;
        HeaderMap::from_iter([
            (CONTENT_TYPE, text("text/html; charset=utf-8")),
            (CONTENT_SECURITY_POLICY, self.policy.clone()),
            (X_CONTENT_TYPE_OPTIONS, text("nosniff")),
            (CACHE_CONTROL, text("no-store")),
            (REFRESH, REFRESH_SECONDS),
        ])
    }
}
