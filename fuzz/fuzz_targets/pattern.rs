//! Routes against requests: the host's table and a slow reader of the same routes find the same.
//!
//! Held: which route wins, with which parameters; which methods there are where none has the right one; that a route, shown and
//! read again, is the same; and that two routes share a claim only if they cannot be told apart.

#![no_main]

use fnhost::manifest::RoutePattern;
use fnhost::release::routes::{RouteError, RouteTable};
use fnhost_fuzz::routes::{Found, find};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// Few words, so that routes meet.
#[derive(Debug, Arbitrary)]
struct Input {
    routes: Vec<Written>,
    requests: Vec<Request>,
}

#[derive(Debug, Arbitrary)]
enum Written {
    Parts { method: Option<Method>, host: Option<Host>, segments: Vec<Piece>, slash: bool },
    Text(String),
}

#[derive(Debug, Arbitrary)]
struct Request {
    method: Method,
    host: Host,
    segments: Vec<Piece>,
    more: Option<String>,
}

#[derive(Debug, Arbitrary)]
enum Method {
    Get,
    Head,
    Post,
    Purge,
}

#[derive(Debug, Arbitrary)]
enum Host {
    A,
    B,
    AofB,
    AnyOfB,
    AnyOfAofB,
    BDot,
    BLarge,
    Address,
    Empty,
    Text(String),
}

#[derive(Debug, Arbitrary)]
enum Piece {
    A,
    B,
    Ab,
    Cafe,
    CafeEncoded,
    Empty,
    X,
    Y,
    Rest,
    Star,
    Text(String),
}

impl Method {
    fn text(&self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Purge => "PURGE",
        }
    }
}

impl Host {
    fn text(&self) -> &str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::AofB => "a.b",
            Self::AnyOfB => "*.b",
            Self::AnyOfAofB => "*.a.b",
            Self::BDot => "b.",
            Self::BLarge => "A.B",
            Self::Address => "[::1]",
            Self::Empty => "",
            Self::Text(text) => text,
        }
    }
}

impl Piece {
    fn text(&self) -> &str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Ab => "ab",
            Self::Cafe => "caf\u{e9}",
            Self::CafeEncoded => "caf%C3%A9",
            Self::Empty => "",
            Self::X => "{x}",
            Self::Y => "{y}",
            Self::Rest => "{*rest}",
            Self::Star => "*",
            Self::Text(text) => text,
        }
    }
}

fn path_of(segments: &[Piece], slash: bool) -> String {
    let path: String = segments.iter().map(|piece| format!("/{}", piece.text())).collect();
    if path.is_empty() || slash { path + "/" } else { path }
}

impl Written {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts { method, host, segments, slash } => {
                let method = method.as_ref().map(|method| format!("{} ", method.text())).unwrap_or_default();
                let host = host.as_ref().map(Host::text).unwrap_or_default();
                format!("{method}{host}{}", path_of(segments, *slash))
            }
        }
    }
}

fuzz_target!(|input: Input| {
    let mut table = RouteTable::default();
    let (mut texts, mut claims) = (Vec::new(), Vec::new());
    for written in &input.routes {
        let text = written.text();
        let Ok(pattern) = RoutePattern::parse(&text) else { continue };
        let shown = pattern.to_string();
        let again =
            RoutePattern::parse(&shown).unwrap_or_else(|error| panic!("{text:?} is shown as {shown:?}: {error}"));
        assert_eq!((&again, again.claim()), (&pattern, pattern.claim()), "{text:?} is shown as {shown:?}");
        // functions.toml with both is refused.
        if claims.contains(&pattern.claim()) {
            continue;
        }
        claims.push(pattern.claim());
        table.insert(&pattern, texts.len());
        texts.push(text);
    }
    let routes: Vec<&str> = texts.iter().map(String::as_str).collect();
    for request in &input.requests {
        let path = match &request.more {
            Some(more) => path_of(&request.segments, false) + more,
            None => path_of(&request.segments, false),
        };
        let (host, method) = (request.host.text(), request.method.text());
        let asked = http::Method::from_bytes(method.as_bytes()).expect("a method");
        let found = match table.find(host, &asked, &path) {
            Ok(found) => Found::Route(*found.route, found.params),
            Err(RouteError::NoMethod { allow }) => Found::OtherMethods(allow),
            Err(RouteError::NoRoute) => Found::Nothing,
        };
        assert_eq!(found, find(&routes, host, method, &path), "{method} {host:?} {path:?} in {routes:?}");
    }
});
