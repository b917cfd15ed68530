//! What each kind of middleware that is built in may say.

use super::super::super::data::ValueSpec;
use super::super::super::diagnostic::Diagnostic;
use super::super::super::file::data::{ReferenceFile, ValueFile};
use super::super::super::file::middleware::{
    BasicAuthFile, BearerFile, BuiltInFile, CompressFile, CorsFile, KeyFile, RateLimitFile, RedirectFile, StaticFile,
};
use super::super::super::file::place;
use super::super::super::middleware::{
    BasicAuthSpec, BearerSpec, BearerTokens, BuiltInSpec, CompressSpec, CorsSpec, RateLimitKey, RateLimitSpec,
    RedirectPart, RedirectSpec, StaticSpec,
};
use super::super::data::check_value;
use super::super::{count, duration, size};
use crate::limits::{BODY_BYTES_MAX, COUNT_MAX, DURATION_MAX};
use http::{HeaderName, Method};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

mod headers;

/// What is smaller is not compressed: its head is as large.
const COMPRESSED_BYTES_MIN: u64 = 1 << 10;
/// How far the clocks of two machines may be apart.
const LEEWAY: Duration = Duration::from_mins(1);
/// The algorithms of signatures, as tokens name them (RFC 7518, 3.1, and RFC 8037).
const ALGORITHMS: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const SECRET: &str = "write where it is to be had: `{ env = \"NAME\" }` or `{ file = \"path\" }`";

pub(super) fn check(
    name: &Spanned<String>,
    file: BuiltInFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<BuiltInSpec> {
    Some(match file {
        BuiltInFile::Cors(file) => BuiltInSpec::Cors(cors(name, file, errors)?),
        BuiltInFile::BasicAuth(file) => BuiltInSpec::BasicAuth(basic_auth(name, file, folder, errors)),
        BuiltInFile::Bearer(file) => BuiltInSpec::Bearer(bearer(name, file, folder, errors)?),
        BuiltInFile::RateLimit(file) => BuiltInSpec::RateLimit(rate_limit(name, file, errors)?),
        BuiltInFile::Compress(file) => BuiltInSpec::Compress(compress(&file, errors)),
        BuiltInFile::Static(file) => BuiltInSpec::Static(static_files(name, file, folder, errors)?),
        BuiltInFile::Redirect(file) => BuiltInSpec::Redirect(redirect(name, &file, errors)?),
        BuiltInFile::Headers(file) => BuiltInSpec::Headers(headers::check(name, file, errors)),
    })
}

fn missing(name: &Spanned<String>, what: &str, help: &str) -> Diagnostic {
    Diagnostic::new(name.span(), format!("the middleware `{}` {what}", name.get_ref())).help(help)
}

type List = Option<Spanned<Vec<Spanned<String>>>>;

fn cors(name: &Spanned<String>, file: CorsFile, errors: &mut Vec<Diagnostic>) -> Option<CorsSpec> {
    let credentials = file.credentials.is_some_and(Spanned::into_inner);
    if credentials {
        // To a browser that sends credentials, `*` is a name like any other (Fetch, "CORS protocol and credentials").
        let lists = [&file.origins, &file.methods, &file.headers, &file.expose];
        for star in lists.into_iter().flatten().flat_map(Spanned::get_ref).filter(|entry| entry.get_ref() == "*") {
            let told = Diagnostic::new(star.span(), "with `credentials`, `*` allows nobody anything");
            errors.push(told.help("name each, or take `credentials` out"));
        }
    }
    let written = file.origins.map(Spanned::into_inner).unwrap_or_default();
    if written.is_empty() {
        let help = "write `origins = [\"https://app.example.com\"]`, or `[\"*\"]` for all";
        errors.push(missing(name, "names no site that it allows anything", help));
        return None;
    }
    let any = written.iter().any(|origin| origin.get_ref() == "*");
    let mut origins = Vec::with_capacity(written.len());
    for origin in written.into_iter().filter(|origin| origin.get_ref() != "*") {
        if let Some(text) = origin_of(origin.get_ref()) {
            origins.push(text);
        } else {
            let told = Diagnostic::new(origin.span(), format!("`{}` is no origin", origin.get_ref()));
            errors.push(told.help("write it as browsers do: `https://app.example.com` or `http://localhost:5173`"));
        }
    }
    let methods = file.methods.map_or_else(
        || vec![Method::GET, Method::HEAD, Method::POST],
        |methods| methods.into_inner().iter().filter_map(|method| method_of(method, errors)).collect(),
    );
    Some(CorsSpec {
        origins: (!any).then_some(origins),
        methods,
        headers: header_names(file.headers, errors),
        expose: header_names(file.expose, errors),
        credentials,
        max_age: file.max_age.as_ref().map(|written| duration(Some(written), DURATION_MAX, errors)),
    })
}

/// Scheme, host and perhaps a port, as a browser writes them (Fetch, "`Origin` header"): in lower case, without a path and
/// without the scheme's own port.
fn origin_of(text: &str) -> Option<String> {
    let (scheme, authority) = text.split_once("://")?;
    let parsed: http::uri::Authority = authority.parse().ok()?;
    let good_scheme = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let default_port = matches!((scheme, parsed.port_u16()), ("http", Some(80)) | ("https", Some(443)));
    let good = good_scheme && !default_port && !authority.contains(['@', '*', '/']);
    (good && *authority == authority.to_ascii_lowercase()).then(|| text.to_owned())
}

fn method_of(written: &Spanned<String>, errors: &mut Vec<Diagnostic>) -> Option<Method> {
    let text = written.get_ref();
    let good = !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    // `*` is a token, and so a method to the crate; browsers take it for all of them.
    let method = (good || text == "*").then(|| Method::from_bytes(text.as_bytes()).ok()).flatten();
    if method.is_none() {
        errors.push(Diagnostic::new(written.span(), format!("`{text}` is no method")).help("such as `GET` or `PUT`"));
    }
    method
}

fn header_names(written: List, errors: &mut Vec<Diagnostic>) -> Vec<String> {
    let mut names = Vec::new();
    for entry in written.map(Spanned::into_inner).unwrap_or_default() {
        match entry.get_ref().parse::<HeaderName>() {
            Ok(name) => names.push(name.to_string()),
            Err(_) => {
                errors.push(Diagnostic::new(entry.span(), format!("`{}` is no name of a header", entry.get_ref())));
            }
        }
    }
    names
}

fn realm(name: &Spanned<String>, written: Option<Spanned<String>>, errors: &mut Vec<Diagnostic>) -> String {
    let Some(written) = written else { return name.get_ref().clone() };
    if written.get_ref().chars().any(|c| !(c == ' ' || c.is_ascii_graphic()) || matches!(c, '"' | '\\')) {
        errors.push(Diagnostic::new(written.span(), "a realm is plain ASCII, without quotes"));
    }
    written.into_inner()
}

/// A password or a token: never in the file itself, and never something that stands in for it.
fn secret(file: ValueFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<ValueSpec> {
    match &file {
        ValueFile::Plain(written) => {
            errors.push(Diagnostic::new(written.span(), "a secret does not stand in the file").help(SECRET));
            None
        }
        ValueFile::Reference(ReferenceFile { default: Some(default), .. }, _) => {
            let told = Diagnostic::new(default.span(), "a secret does not stand in the file");
            errors.push(told.help("take `default` out: a missing secret is refused when the app is installed"));
            None
        }
        ValueFile::Reference(..) => check_value(file, folder, errors),
    }
}

fn basic_auth(
    name: &Spanned<String>,
    file: BasicAuthFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> BasicAuthSpec {
    if file.users.is_empty() {
        errors.push(missing(name, "lets nobody in", "write `users = { ada = { env = \"ADA_PASSWORD\" } }`"));
    }
    let mut users = Vec::with_capacity(file.users.len());
    for (user, password) in file.users {
        // RFC 7617, 2: the first colon ends the name.
        if user.get_ref().is_empty() || user.get_ref().contains(|c: char| c == ':' || c.is_control()) {
            errors.push(Diagnostic::new(user.span(), "a user has a name, and no `:` in it"));
        }
        users.extend(secret(password, folder, errors).map(|password| (user.into_inner(), password)));
    }
    BasicAuthSpec { realm: realm(name, file.realm, errors), users, strip: file.strip.is_some_and(Spanned::into_inner) }
}

fn bearer(name: &Spanned<String>, file: BearerFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<BearerSpec> {
    let signed_only = [
        file.issuer.as_ref().map(Spanned::span),
        file.audience.as_ref().map(Spanned::span),
        file.algorithms.as_ref().map(Spanned::span),
        file.leeway.as_ref().map(Spanned::span),
    ];
    let realm = realm(name, file.realm, errors);
    let accepts = match (file.tokens, file.jwks) {
        (Some(tokens), None) => {
            for span in signed_only.into_iter().flatten() {
                let told = Diagnostic::new(span, "this is for tokens that are signed, and these are fixed");
                errors.push(told.help("take it out, or write `jwks` in place of `tokens`"));
            }
            if tokens.get_ref().is_empty() {
                errors.push(Diagnostic::new(tokens.span(), "no token is accepted").help(SECRET));
            }
            let values = tokens.into_inner().into_iter();
            BearerTokens::Fixed(values.filter_map(|value| secret(value, folder, errors)).collect())
        }
        (None, Some(jwks)) => BearerTokens::Signed {
            jwks: folder.join(jwks.get_ref()),
            issuer: file.issuer.map(Spanned::into_inner),
            audience: file.audience.map(Spanned::into_inner),
            algorithms: file.algorithms.map(|written| algorithms(written, errors)),
            leeway: duration(file.leeway.as_ref(), LEEWAY, errors),
        },
        (None, None) => {
            let help = "write `tokens = [{ env = \"NAME\" }]`, or `jwks = \"keys.json\"` for tokens that are signed";
            errors.push(missing(name, "says of no token that it is accepted", help));
            return None;
        }
        (Some(_), Some(jwks)) => {
            let told = Diagnostic::new(jwks.span(), "tokens are fixed, or signed, and not both");
            errors.push(told.help("take `jwks` out, or `tokens`"));
            return None;
        }
    };
    Some(BearerSpec { realm, accepts, strip: file.strip.is_some_and(Spanned::into_inner) })
}

fn algorithms(written: Spanned<Vec<Spanned<String>>>, errors: &mut Vec<Diagnostic>) -> Vec<String> {
    if written.get_ref().is_empty() {
        errors.push(Diagnostic::new(written.span(), "no algorithm is allowed").help(ALGORITHMS.join(", ")));
    }
    for entry in written.get_ref().iter().filter(|entry| !ALGORITHMS.contains(&entry.get_ref().as_str())) {
        let told = Diagnostic::new(entry.span(), format!("`{}` is no algorithm of signatures", entry.get_ref()));
        errors.push(told.help(format!("there are {}", ALGORITHMS.join(", "))));
    }
    written.into_inner().into_iter().map(Spanned::into_inner).collect()
}

fn rate_limit(name: &Spanned<String>, file: RateLimitFile, errors: &mut Vec<Diagnostic>) -> Option<RateLimitSpec> {
    const HELP: &str = "write `{ requests = 100, per = \"1s\" }`";
    let (Some(requests), Some(per)) = (&file.requests, &file.per) else {
        errors.push(missing(name, "does not say how many requests there may be in which time", HELP));
        return None;
    };
    let requests = count(Some(requests), 1, "requests", errors);
    let by = match file.by {
        None => RateLimitKey::Client,
        Some(KeyFile::Word(word)) if word.get_ref() == "client" => RateLimitKey::Client,
        Some(KeyFile::Word(word)) if word.get_ref() == "route" => RateLimitKey::Route,
        Some(key) => header_key(key, errors)?,
    };
    let period = duration(Some(per), Duration::from_secs(1), errors);
    if period.as_nanos() < u128::from(requests) {
        let told = Diagnostic::new(per.span(), format!("{requests} requests in {} are no limit", per.get_ref()));
        errors.push(told.help(format!("write a longer time; counts go up to {COUNT_MAX}")));
    }
    Some(RateLimitSpec { requests, per: period, burst: count(file.burst.as_ref(), requests, "burst", errors), by })
}

fn header_key(key: KeyFile, errors: &mut Vec<Diagnostic>) -> Option<RateLimitKey> {
    let (text, span): (String, Range<usize>) = match key {
        KeyFile::Word(word) => (word.get_ref().clone(), word.span()),
        KeyFile::Header(None, span) => (String::new(), span),
        KeyFile::Header(Some(name), _) => match name.get_ref().parse::<HeaderName>() {
            Ok(header) => return Some(RateLimitKey::Header(header)),
            Err(_) => (name.get_ref().clone(), name.span()),
        },
    };
    let told = Diagnostic::new(span, format!("`{text}` is nothing that requests are counted by"));
    errors.push(told.help("write `client`, `route`, or `{ header = \"x-api-key\" }`"));
    None
}

fn compress(file: &CompressFile, errors: &mut Vec<Diagnostic>) -> CompressSpec {
    CompressSpec { size_bytes_min: size(file.min_size.as_ref(), COMPRESSED_BYTES_MIN, BODY_BYTES_MAX, errors) }
}

fn static_files(
    name: &Spanned<String>,
    file: StaticFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<StaticSpec> {
    let Some(from) = file.from else {
        errors.push(missing(name, "has no folder", "write `static = { from = \"public\" }`"));
        return None;
    };
    let index = file.index.as_ref().map_or("index.html", |index| index.get_ref().as_str()).to_owned();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if index.is_empty() || index.starts_with('.') || !index.bytes().all(good) {
        let told =
            Diagnostic::new(place(file.index.as_ref(), name.span()), format!("`{index}` is no file of a folder"));
        errors.push(told.help("write its name, such as `index.html`"));
    }
    Some(StaticSpec { from: folder.join(from.get_ref()), index })
}

fn redirect(name: &Spanned<String>, file: &RedirectFile, errors: &mut Vec<Diagnostic>) -> Option<RedirectSpec> {
    const HELP: &str = "write `https://new.example.com{path}{query}` or `/new{path}`";
    let Some(to) = &file.to else {
        errors.push(missing(name, "leads nowhere", HELP));
        return None;
    };
    let written = file.status.as_ref().map(|status| u16::try_from(*status.get_ref()).unwrap_or(0));
    let status = written.unwrap_or(308);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let number = file.status.as_ref().map_or(0, |status| *status.get_ref());
        let told = Diagnostic::new(place(file.status.as_ref(), to.span()), format!("{number} redirects nobody"));
        errors.push(told.help("write 301, 302, 303, 307 or 308"));
    }
    let refuse = |what: &str| Diagnostic::new(to.span(), format!("`{}` {what}", to.get_ref())).help(HELP);
    let Some(parts) = redirect_parts(to.get_ref()) else {
        errors.push(refuse("has a piece in braces that is not `{path}` or `{query}`"));
        return None;
    };
    // The text before the first piece is the whole of scheme and host, or one slash and more than that: `//x` would be a host
    // that the client chose.
    let leads = match parts.first() {
        Some(RedirectPart::Text(text)) => match text.split_once("://") {
            Some((scheme, rest)) => {
                let authority = rest.split(['/', '?']).next().unwrap_or_default();
                matches!(scheme, "http" | "https") && authority.parse::<http::uri::Authority>().is_ok()
            }
            None => text.starts_with('/') && !text.starts_with("//") && (text.len() > 1 || parts.len() == 1),
        },
        _ => false,
    };
    if !leads || !to.get_ref().bytes().all(|byte| byte.is_ascii_graphic()) {
        errors.push(refuse("leads nowhere"));
        return None;
    }
    Some(RedirectSpec { to: parts, status })
}

fn redirect_parts(text: &str) -> Option<Vec<RedirectPart>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let open = rest.find('{').unwrap_or(rest.len());
        let (plain, behind) = rest.split_at(open);
        if plain.contains('}') {
            return None;
        }
        if !plain.is_empty() {
            parts.push(RedirectPart::Text(plain.to_owned()));
        }
        let Some(inner) = behind.strip_prefix('{') else { break };
        let (name, behind) = inner.split_once('}')?;
        parts.push(match name {
            "path" => RedirectPart::Path,
            "query" => RedirectPart::Query,
            _ => return None,
        });
        rest = behind;
    }
    Some(parts)
}
