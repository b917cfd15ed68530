//! `redirect`: another place.

use super::Answer;
use crate::manifest::middleware::{RedirectPart, RedirectSpec};
use crate::receipt::Outcome;
use http::header::{HeaderValue, LOCATION};
use http::{StatusCode, Uri};

/// Where everything leads that comes here.
pub struct Redirect {
    to: Vec<RedirectPart>,
    status: StatusCode,
}

impl Redirect {
    /// As functions.toml has it.
    pub fn new(spec: RedirectSpec) -> Self {
        let status = StatusCode::from_u16(spec.status).unwrap_or(StatusCode::PERMANENT_REDIRECT);
        Self { to: spec.to, status }
    }

    pub(super) fn answer(&self, uri: &Uri) -> Option<Answer> {
        let location = self.to.iter().fold(String::new(), |location, part| match part {
            RedirectPart::Text(text) => location + text,
            RedirectPart::Path => location + uri.path(),
            RedirectPart::Query => match uri.query() {
                Some(query) => location + "?" + query,
                None => location,
            },
        });
        let mut answer = Answer::new(Outcome::Redirected);
        answer.status = Some(self.status);
        // What was parsed as a URI has nothing that a header could not carry.
        answer.headers.insert(LOCATION, HeaderValue::from_bytes(location.as_bytes()).ok()?);
        Some(answer)
    }
}
