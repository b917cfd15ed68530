//! What the host does with a request before there is a sandbox, and with an answer on its way out: the middleware that is built
//! in.
//!
//! Owns the chain, in the order of functions.toml: each link lets a request pass, or answers it. An answer goes back through the
//! links that its request has passed, whoever gave it. Middleware that is a component is none of this: it is composed with its
//! function (`runtime::compose`). Nor is a status chosen here for what is refused (`server::respond`). **Invariants:** nothing here
//! reads a request's body; a password or a token is kept as its sha256 alone.

mod basic_auth;
mod bearer;
mod compress;
mod cors;
mod headers;
mod rate_limit;
mod redirect;
mod static_files;

pub use basic_auth::BasicAuth;
pub use bearer::{Bearer, KeyFile, KeysError};
pub use compress::{Compress, Encoder};
pub use cors::{Cors, method_asked};
pub use headers::Headers;
pub use rate_limit::RateLimit;
pub use redirect::Redirect;
pub use static_files::{FileBody, StaticFiles};

use crate::receipt::Outcome;
use compress::Encoding;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, VARY, WWW_AUTHENTICATE};
use http::{Method, Request, StatusCode};
use rate_limit::Allowance;
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// In which a guest is told who asks, where middleware has found that out.
const USER_HEADER: HeaderName = HeaderName::from_static("fnhost-user");

/// One of the host's own.
pub enum BuiltIn {
    /// `cors`
    Cors(Cors),
    /// `basic-auth`
    BasicAuth(BasicAuth),
    /// `bearer`
    Bearer(Bearer),
    /// `rate-limit`; releases of an app share it.
    RateLimit(Arc<RateLimit>),
    /// `compress`
    Compress(Compress),
    /// `static`
    Static(StaticFiles),
    /// `redirect`
    Redirect(Redirect),
    /// `headers`
    Headers(Headers),
}

/// What stands before a function, the first to see a request first.
#[derive(Default)]
pub struct Chain(Vec<Arc<BuiltIn>>);

/// What a link may want to know of a request beside itself.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The route that was found.
    pub route: &'a str,
    /// How many bytes of the path belong to the route, before its first parameter.
    pub route_prefix_bytes: usize,
}

/// An answer in place of the function's.
pub struct Answer {
    /// How the request ends.
    pub outcome: Outcome,
    /// A status of its own, where the outcome has several.
    pub status: Option<StatusCode>,
    /// Headers.
    pub headers: HeaderMap,
    /// What is sent, if that is a file.
    pub file: Option<FileBody>,
}

impl Answer {
    fn new(outcome: Outcome) -> Self {
        Self { outcome, status: None, headers: HeaderMap::new(), file: None }
    }

    /// 401, with what would do (RFC 9110, 11.6.1).
    fn unauthorized(challenge: HeaderValue) -> Self {
        let mut answer = Self::new(Outcome::Unauthorized);
        answer.headers.insert(WWW_AUTHENTICATE, challenge);
        answer
    }
}

/// How far a request has come, and what is needed for its answer on the way back.
#[derive(Default)]
pub struct Passage(Option<Box<Passed>>);

impl Passage {
    /// Of a request that has met no middleware.
    pub const NONE: Self = Self(None);
}

struct Passed {
    chain: Arc<Chain>,
    /// So many links it has passed.
    links: usize,
    method: Method,
    origin: Option<HeaderValue>,
    /// What the client takes, should there be something to compress.
    encoding: Option<Encoding>,
    allowances: Vec<Allowance>,
    user: Option<HeaderValue>,
}

impl Chain {
    /// Of these links.
    pub fn new(links: Vec<Arc<BuiltIn>>) -> Self {
        Self(links)
    }

    /// Whether a link answers what a browser asks before it asks another site.
    pub fn answers_preflights(&self) -> bool {
        self.0.iter().any(|link| matches!(**link, BuiltIn::Cors(_)))
    }

    /// Takes a request through the chain: what has to be remembered of that, and the answer, if a link gave one.
    pub async fn pass<B>(self: &Arc<Self>, request: &mut Request<B>, asked: Asked<'_>) -> (Passage, Option<Answer>) {
        if self.0.is_empty() {
            return (Passage::default(), None);
        }
        let mut passed = Passed {
            chain: Arc::clone(self),
            links: 0,
            method: request.method().clone(),
            origin: request.headers().get(http::header::ORIGIN).cloned(),
            encoding: None,
            allowances: Vec::new(),
            user: None,
        };
        let preflight = method_asked(request.method(), request.headers()).is_some() && self.answers_preflights();
        for link in &self.0 {
            let answer = match &**link {
                BuiltIn::Cors(cors) if preflight => Some(cors.preflight(passed.origin.as_ref())),
                // Browsers send no credentials with it (Fetch, "CORS-preflight fetch"), and it asks for no file.
                BuiltIn::BasicAuth(_) | BuiltIn::Bearer(_) | BuiltIn::Static(_) if preflight => None,
                BuiltIn::Cors(_) => None,
                BuiltIn::BasicAuth(basic_auth) => passed.know(basic_auth.check(request.headers_mut())),
                BuiltIn::Bearer(bearer) => passed.know(bearer.check(request.headers_mut())),
                BuiltIn::RateLimit(limit) => passed.allow(limit.check(request.headers(), asked)),
                BuiltIn::Compress(_) => {
                    passed.encoding = Encoding::choose(request.headers());
                    None
                }
                BuiltIn::Static(files) => {
                    let path = request.uri().path().to_owned();
                    files.find(request.method(), &path, request.headers(), asked.route_prefix_bytes).await
                }
                BuiltIn::Redirect(redirect) => redirect.answer(request.uri()),
                BuiltIn::Headers(headers) => {
                    headers.request(request.headers_mut());
                    None
                }
            };
            if answer.is_some() {
                return (Passage(Some(Box::new(passed))), answer);
            }
            passed.links += 1;
        }
        (Passage(Some(Box::new(passed))), None)
    }
}

impl Passed {
    /// Whoever asks is known now, or is told what would do.
    fn know(&mut self, checked: Result<Option<HeaderValue>, HeaderValue>) -> Option<Answer> {
        match checked {
            Ok(user) => {
                self.user = user.or(self.user.take());
                None
            }
            Err(challenge) => Some(Answer::unauthorized(challenge)),
        }
    }

    fn allow(&mut self, checked: Result<Allowance, Allowance>) -> Option<Answer> {
        match checked {
            Ok(allowance) => {
                self.allowances.push(allowance);
                None
            }
            Err(allowance) => {
                let mut answer = Answer::new(Outcome::RateLimited);
                allowance.refuse(&mut answer.headers);
                Some(answer)
            }
        }
    }
}

impl Passage {
    /// Tells the guest who asks, if that is known. What the client said of it was taken out before.
    pub fn mark_user(&self, headers: &mut HeaderMap) {
        if let Some(user) = self.0.as_ref().and_then(|passed| passed.user.as_ref()) {
            headers.insert(USER_HEADER, user.clone());
        }
    }

    /// Takes the head of an answer back through the links that its request has passed, the last of them first.
    pub fn go_back(&self, headers: &mut HeaderMap) {
        let Some(passed) = &self.0 else { return };
        for link in passed.chain.0.iter().take(passed.links).rev() {
            match &**link {
                BuiltIn::Cors(cors) => cors.answer(passed.origin.as_ref(), headers),
                BuiltIn::Headers(changes) => changes.response(headers),
                // Nothing of an answer is theirs, or it is told below, or comes last ([`Passage::encoder`]).
                BuiltIn::BasicAuth(_)
                | BuiltIn::Bearer(_)
                | BuiltIn::RateLimit(_)
                | BuiltIn::Compress(_)
                | BuiltIn::Static(_)
                | BuiltIn::Redirect(_) => {}
            }
        }
        for allowance in &passed.allowances {
            allowance.tell(headers);
        }
    }

    /// What makes the body of an answer smaller, if something is to: its `headers` say so then. Wherever it stands in the
    /// chain, it comes last, for it goes by what the others made of the head. `size` is the body's, where that is known.
    pub fn encoder(&self, status: StatusCode, headers: &mut HeaderMap, size: Option<u64>) -> Option<Encoder> {
        let passed = self.0.as_ref()?;
        let compress = passed.chain.0.iter().take(passed.links).find_map(|link| match &**link {
            BuiltIn::Compress(compress) => Some(compress),
            _ => None,
        })?;
        compress.apply(passed.encoding, &passed.method, status, headers, size)
    }
}

/// Adds a name to `Vary`, unless it is there.
fn vary(headers: &mut HeaderMap, name: &'static str) {
    let named = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|part| part.trim() == "*" || part.trim().eq_ignore_ascii_case(name))
    };
    if !headers.get_all(VARY).iter().any(named) {
        headers.append(VARY, HeaderValue::from_static(name));
    }
}

/// What stands behind `scheme` in `Authorization`, if that stands there once (RFC 9110, 11.6.2).
fn credentials<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    let (found, rest) = value.as_bytes().split_at_checked(scheme.len())?;
    let behind = rest.trim_ascii_start();
    (found.eq_ignore_ascii_case(scheme.as_bytes()) && behind.len() < rest.len()).then(|| behind.trim_ascii_end())
}

/// A secret as it is kept. Two of them have the same length, so comparing them takes the same time, whatever they are of.
#[derive(Clone)]
struct Hashed([u8; 32]);

impl Hashed {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    fn is(&self, other: &Self) -> subtle::Choice {
        self.0.ct_eq(&other.0)
    }
}
