//! `[middleware]`, as editors want it described.

use super::{Count, HeaderName, Name, Reference, Size, Time};
use schemars::JsonSchema;
use std::collections::BTreeMap;

/// What stands before functions.
#[derive(JsonSchema)]
pub(super) struct Middleware {
    /// What stands before every function, the first to see a request first.
    all: Option<Vec<Name>>,
    #[schemars(flatten)]
    links: BTreeMap<Name, Link>,
}

/// A component, or one of what the host has built in.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("dependencies" = { "build": ["component"], "build-dir": ["build"] }),
    extend("oneOf" = [
        { "required": ["component"] },
        { "required": ["cors"] },
        { "required": ["basic-auth"] },
        { "required": ["bearer"] },
        { "required": ["rate-limit"] },
        { "required": ["compress"] },
        { "required": ["static"] },
        { "required": ["redirect"] },
        { "required": ["headers"] }
    ])
)]
struct Link {
    /// The `.wasm` file, relative to this one: a component that imports what it exports.
    component: Option<String>,
    /// The command that makes it, for the shell.
    build: Option<String>,
    /// The folder that the command runs in, and whose files are its sources.
    build_dir: Option<String>,
    /// Which other sites may read answers.
    cors: Option<Cors>,
    /// A user and a password.
    basic_auth: Option<BasicAuth>,
    /// A token, fixed or signed.
    bearer: Option<Bearer>,
    /// Only so many requests.
    rate_limit: Option<RateLimit>,
    /// Smaller answers, for clients that take them.
    compress: Option<Compress>,
    /// Files of a folder; what there is no file for goes on to the function.
    r#static: Option<Static>,
    /// Another place to ask.
    redirect: Option<Redirect>,
    /// Headers that are set or taken out.
    headers: Option<Headers>,
}

/// Which other sites may read answers.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Cors {
    /// The sites, as browsers write them, such as `https://app.example.com`; or `*` for all.
    #[schemars(length(min = 1))]
    origins: Vec<String>,
    /// The methods; GET, HEAD and POST when absent.
    methods: Option<Vec<String>>,
    /// Headers that a request may have.
    headers: Option<Vec<HeaderName>>,
    /// Headers of answers that may be read.
    expose: Option<Vec<HeaderName>>,
    /// Whether requests may carry cookies and the like.
    credentials: Option<bool>,
    /// For how long a browser need not ask again.
    max_age: Option<Time>,
}

/// A user and a password.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct BasicAuth {
    /// What people are told that they log in to.
    realm: Option<String>,
    /// Who may come in, and where each one's password is to be had.
    #[schemars(extend("minProperties" = 1))]
    users: BTreeMap<String, Reference>,
    /// Whether the guest gets the request without `Authorization`.
    strip: Option<bool>,
}

/// A token, fixed or signed.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("oneOf" = [{ "required": ["tokens"] }, { "required": ["jwks"] }])
)]
struct Bearer {
    /// What clients are told that they ask for.
    realm: Option<String>,
    /// Where the tokens are to be had that are accepted.
    #[schemars(length(min = 1))]
    tokens: Option<Vec<Reference>>,
    /// A file of keys (RFC 7517): tokens that one of them has signed are accepted.
    jwks: Option<String>,
    /// Who must have signed them.
    issuer: Option<String>,
    /// For whom they must be.
    audience: Option<String>,
    /// The algorithms that are allowed, such as `RS256`; those of the keys when absent.
    #[schemars(length(min = 1))]
    algorithms: Option<Vec<String>>,
    /// By how much clocks may differ.
    leeway: Option<Time>,
    /// Whether the guest gets the request without `Authorization`.
    strip: Option<bool>,
}

/// Only so many requests.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct RateLimit {
    /// How many.
    requests: Count,
    /// In which time.
    per: Time,
    /// How many may come at once; as many as `requests` when absent.
    burst: Option<Count>,
    /// By what they are counted; by the client's address when absent.
    by: Option<RateLimitKey>,
}

/// By what requests are counted.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum RateLimitKey {
    /// By the client's address, or by the route.
    Word(RateLimitWord),
    /// By the value of a header.
    Header(RateLimitHeader),
}

/// By the client's address, or by the route.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum RateLimitWord {
    Client,
    Route,
}

/// By the value of a header.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct RateLimitHeader {
    /// Its name.
    header: HeaderName,
}

/// Smaller answers.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Compress {
    /// Answers that are smaller than this stay as they are.
    min_size: Option<Size>,
}

/// Files of a folder.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Static {
    /// The folder, relative to this file.
    from: String,
    /// The file that stands for a folder; `index.html` when absent.
    index: Option<String>,
}

/// Another place to ask.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Redirect {
    /// Where: an address or a path, in which `{path}` and `{query}` stand for the request's.
    to: String,
    /// 301, 302, 303, 307 or 308, which it is when absent.
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    status: Option<u16>,
}

/// Headers that are set or taken out.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Headers {
    /// Of requests, before the guest sees them.
    request: Option<Changes>,
    /// Of answers, before the client sees them.
    response: Option<Changes>,
}

/// What is changed of headers.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Changes {
    /// Those that are set, in place of what there was.
    set: Option<BTreeMap<HeaderName, String>>,
    /// Those that are taken out.
    remove: Option<Vec<HeaderName>>,
}
