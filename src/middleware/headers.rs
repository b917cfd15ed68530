//! `headers`: set, and taken out.

use crate::manifest::middleware::{HeaderChanges, HeadersSpec};
use http::HeaderMap;

/// Headers that are set, and taken out, of requests and of answers.
pub struct Headers(HeadersSpec);

impl Headers {
    /// As functions.toml has it.
    pub fn new(spec: HeadersSpec) -> Self {
        Self(spec)
    }

    pub(super) fn request(&self, headers: &mut HeaderMap) {
        apply(&self.0.request, headers);
    }

    pub(super) fn response(&self, headers: &mut HeaderMap) {
        apply(&self.0.response, headers);
    }
}

fn apply(changes: &HeaderChanges, headers: &mut HeaderMap) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for (name, value) in &changes.set {
        headers.insert(name.clone(), value.clone());
    }
}
