//! `cors`: which other sites may read answers, as browsers ask for it (Fetch, "CORS protocol").
//!
//! A browser asks beforehand (a preflight) with a method of its own, so which route that is for is found by the method that it is
//! about ([`method_asked`]). Whether a site may reach into a private network is another question, and is left unanswered.

use super::{Answer, vary};
use crate::manifest::middleware::CorsSpec;
use crate::receipt::Outcome;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use http::{Method, StatusCode};

/// What a browser is told. A guest's own word on it does not count.
const SPOKEN: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The method that a browser asks for beforehand, if this is such a question (Fetch, "CORS-preflight request").
pub fn method_asked(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

/// Which other sites may read answers.
pub struct Cors {
    /// Nothing for all.
    origins: Option<Vec<HeaderValue>>,
    credentials: bool,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

impl Cors {
    /// As functions.toml has it.
    pub fn new(spec: &CorsSpec) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        let list = |names: &[String]| (!names.is_empty()).then(|| value(&names.join(", "))).flatten();
        let methods: Vec<String> = spec.methods.iter().map(ToString::to_string).collect();
        let origins = spec.origins.as_ref();
        Self {
            origins: origins.map(|origins| origins.iter().filter_map(|origin| value(origin)).collect()),
            credentials: spec.credentials,
            methods: list(&methods),
            headers: list(&spec.headers),
            expose: list(&spec.expose),
            max_age: spec.max_age.map(|age| HeaderValue::from(age.as_secs())),
        }
    }

    /// What is allowed to whom, before it is asked for. Whoever is allowed nothing gets no more than that this was heard.
    pub(super) fn preflight(&self, origin: Option<&HeaderValue>) -> Answer {
        let mut answer = Answer::new(Outcome::Preflight);
        answer.status = Some(StatusCode::NO_CONTENT);
        let headers = &mut answer.headers;
        if self.allow(origin, headers) {
            let told = [
                (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
                (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
                (ACCESS_CONTROL_MAX_AGE, &self.max_age),
            ];
            for (name, value) in told {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            }
        }
        vary(headers, "access-control-request-method");
        vary(headers, "access-control-request-headers");
        answer
    }

    /// Tells a browser whether its site may read this answer.
    pub(super) fn answer(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in SPOKEN {
            headers.remove(name);
        }
        if self.allow(origin, headers)
            && let Some(expose) = &self.expose
        {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn allow(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        let allowed = match &self.origins {
            // Whoever asks: then a cache may keep one answer for all.
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => {
                // Also where there is none: a cache must not give that answer to a site.
                vary(headers, "origin");
                origin.filter(|origin| origins.contains(origin)).cloned()
            }
        };
        let Some(allowed) = allowed else { return false };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}
