//! What stands before functions, as functions.toml describes it: components, and what the host has built in.
//!
//! Middleware belongs to the app; a function names what stands before it, in order. Nothing is opened here, and no password or
//! token is looked up: the file has references to them, and nothing else is accepted.

use super::Build;
use super::data::ValueSpec;
use crate::names::Name;
use http::{HeaderName, HeaderValue, Method};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// `[middleware.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct MiddlewareSpec {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub kind: MiddlewareKind,
    /// Where the file describes it.
    pub span: Range<usize>,
}

/// What middleware is.
#[derive(Debug, Clone, PartialEq)]
pub enum MiddlewareKind {
    /// A component, which is composed with the function behind it.
    Component(MiddlewareComponent),
    /// The host's own, which runs before there is a sandbox.
    BuiltIn(BuiltInSpec),
}

/// Middleware that is a component.
#[derive(Debug, Clone, PartialEq)]
pub struct MiddlewareComponent {
    /// Its file.
    pub path: PathBuf,
    /// Where functions.toml says so.
    pub span: Range<usize>,
    /// How it is built.
    pub build: Option<Build>,
}

/// Middleware that the host has built in.
#[derive(Debug, Clone, PartialEq)]
pub enum BuiltInSpec {
    /// Which other sites may read answers (Fetch, "CORS protocol").
    Cors(CorsSpec),
    /// A user and a password (RFC 7617).
    BasicAuth(BasicAuthSpec),
    /// A token (RFC 6750).
    Bearer(BearerSpec),
    /// Only so many requests.
    RateLimit(RateLimitSpec),
    /// Smaller answers.
    Compress(CompressSpec),
    /// Files of a folder.
    Static(StaticSpec),
    /// Another place.
    Redirect(RedirectSpec),
    /// Headers that are set, and taken out.
    Headers(HeadersSpec),
}

impl BuiltInSpec {
    /// The key by which functions.toml has it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cors(_) => "cors",
            Self::BasicAuth(_) => "basic-auth",
            Self::Bearer(_) => "bearer",
            Self::RateLimit(_) => "rate-limit",
            Self::Compress(_) => "compress",
            Self::Static(_) => "static",
            Self::Redirect(_) => "redirect",
            Self::Headers(_) => "headers",
        }
    }
}

/// `cors`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsSpec {
    /// The sites, as `Origin` has them; nothing for all.
    pub origins: Option<Vec<String>>,
    /// What they may ask with.
    pub methods: Vec<Method>,
    /// Headers that they may send, beside those that any site may; `*` alone is all.
    pub headers: Vec<String>,
    /// Headers of answers that they may read, beside those that any site may; `*` alone is all.
    pub expose: Vec<String>,
    /// Whether cookies and the like may come along.
    pub credentials: bool,
    /// For how long a browser may remember this.
    pub max_age: Option<Duration>,
}

/// `basic-auth`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuthSpec {
    /// What people are told that it is for.
    pub realm: String,
    /// The users, and where their passwords are.
    pub users: Vec<(String, ValueSpec)>,
    /// Whether `Authorization` is taken out once it was checked.
    pub strip: bool,
}

/// `bearer`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BearerSpec {
    /// What people are told that it is for.
    pub realm: String,
    /// What is accepted.
    pub accepts: BearerTokens,
    /// Whether `Authorization` is taken out once it was checked.
    pub strip: bool,
}

/// Which tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BearerTokens {
    /// These, and where they are.
    Fixed(Vec<ValueSpec>),
    /// What was signed by a key of a file (RFC 7519, RFC 7517).
    Signed {
        /// The file of keys.
        jwks: PathBuf,
        /// Who has to have issued a token.
        issuer: Option<String>,
        /// Whom a token has to be for. Without it, one that is for somebody is refused.
        audience: Option<String>,
        /// Of the algorithms that fit a key, those that are allowed; nothing for all.
        algorithms: Option<Vec<String>>,
        /// How far clocks may be apart.
        leeway: Duration,
    },
}

/// `rate-limit`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RateLimitSpec {
    /// So many requests
    pub requests: u32,
    /// in such a time, in the long run,
    pub per: Duration,
    /// and at most so many at once,
    pub burst: u32,
    /// counted for each of these.
    pub by: RateLimitKey,
}

/// For what a limit counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// Each address of clients; of IPv6, each network of 64 bits.
    Client,
    /// Each route.
    Route,
    /// Each value of a header; requests without it are one.
    Header(HeaderName),
}

/// `compress`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompressSpec {
    /// What is smaller is left as it is.
    pub size_bytes_min: u64,
}

/// `static`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticSpec {
    /// The folder on the machine that serves.
    pub from: PathBuf,
    /// The file that stands for a folder.
    pub index: String,
}

/// `redirect`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectSpec {
    /// Where to.
    pub to: Vec<RedirectPart>,
    /// With which status.
    pub status: u16,
}

/// A piece of the place that a redirect leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPart {
    /// This text.
    Text(String),
    /// The path that was asked for.
    Path,
    /// What came behind it, with its `?`; nothing, if there was nothing.
    Query,
}

/// `headers`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadersSpec {
    /// Of the request, before the function sees it.
    pub request: HeaderChanges,
    /// Of every answer, be it the function's or the host's.
    pub response: HeaderChanges,
}

/// What becomes of headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// These have this value, and no other.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// These are taken out.
    pub remove: Vec<HeaderName>,
}
