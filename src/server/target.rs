//! Whom and what a request asks for: its target and Host, as RFC 9112 (3.2) and RFC 9110 (4.2, 7.2) have them.
//!
//! Owns what is refused there, because two readers could understand it differently; which function answers is for the routes
//! to say. **Invariant:** a `Target` has the one authority that its request can be meant for: a name or an address, and a port
//! at the most.

use http::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use std::net::{Ipv6Addr, SocketAddr};

/// The most bytes of path and query. RFC 9110 (4.1) has 8,000 for everybody.
const TARGET_BYTES_MAX: usize = 16 << 10;
/// The most bytes of one request's head.
pub(super) const HEAD_BYTES_MAX: u32 = 64 << 10;
/// And the most fields.
pub(super) const HEADERS_MAX: usize = 100;
/// The port of HTTPS that need not be said (RFC 9110, 4.2.2).
const HTTPS_PORT: u16 = 443;
/// The longest name in DNS, as it is written (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Whom and what a request asks for.
pub(super) struct Target {
    pub(super) authority: Authority,
    pub(super) path_and_query: PathAndQuery,
}

/// Why a request is for no function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTarget {
    /// It is no request: its target or Host is missing, repeated, or malformed.
    Malformed,
    /// Its target is longer than is read.
    TooLong,
    /// Its head is larger than is read.
    HeadTooLarge,
    /// It asks for a tunnel: CONNECT.
    Tunnel,
    /// It asks to be sent back (TRACE), or has a transfer coding besides `chunked`.
    NotImplemented,
    /// It asks the server itself what it can do: `OPTIONS *`.
    Server,
}

impl Target {
    /// Reads it from the target and from Host; a target in absolute form wins (RFC 9112, 3.2.2). Without either, as
    /// HTTP/1.0 allows, it is the address that was connected to, if that may stand in.
    pub(super) fn of<B>(request: &Request<B>, local: Option<SocketAddr>) -> Result<Self, NoTarget> {
        let host = host_of(request).ok_or(NoTarget::Malformed)?;
        if !is_chunked_at_most(request.headers()) {
            return Err(NoTarget::NotImplemented);
        }
        match *request.method() {
            Method::CONNECT => return Err(NoTarget::Tunnel),
            Method::TRACE => return Err(NoTarget::NotImplemented),
            _ => {}
        }
        let authority = authority_of(request, host, local).ok_or(NoTarget::Malformed)?;
        let path_and_query = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        if path_and_query.as_str().len() > TARGET_BYTES_MAX {
            return Err(NoTarget::TooLong);
        }
        if head_bytes(request) > HEAD_BYTES_MAX as usize {
            return Err(NoTarget::HeadTooLarge);
        }
        match path_and_query.path() {
            "*" if request.method() == Method::OPTIONS => Err(NoTarget::Server),
            path if path.starts_with('/') => Ok(Self { authority, path_and_query }),
            _ => Err(NoTarget::Malformed),
        }
    }

    /// The same over HTTPS, at a port of the same host.
    pub(super) fn at_https(&self, port: u16) -> Option<HeaderValue> {
        let (host, rest) = (self.authority.host(), self.path_and_query.as_str());
        let location =
            if port == HTTPS_PORT { format!("https://{host}{rest}") } else { format!("https://{host}:{port}{rest}") };
        // What was parsed as a URI has nothing that a header could not carry.
        HeaderValue::try_from(location).ok()
    }

    /// Writes it into a request, whole, so that a guest finds scheme and authority there whatever the protocol was.
    pub(super) fn write<B>(self, scheme: Scheme, request: &mut Request<B>) {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(self.authority);
        parts.path_and_query = Some(self.path_and_query);
        // Three parts that were valid by themselves, with an authority there, make a valid URI.
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// Whether `head` may become that of a request of HTTP/1.1 with what is still to come; not if it is one, or is wrong already.
pub(super) fn is_unfinished(head: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    httparse::Request::new(&mut headers).parse(head).is_ok_and(|status| status.is_partial())
}

/// How large a head is, as HTTP/1.1 writes it but for its first line's method and version, and spaces around values. hyper holds
/// one to its bound while it is not whole yet: what came in few packets can have twice as much.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields =
        request.headers().iter().map(|(name, value)| name.as_str().len() + ": ".len() + value.len() + "\r\n".len());
    target + fields.sum::<usize>()
}

/// What Host says, if it is there; nothing, if it is malformed, repeated, or missing where it must be there, whoever wins.
#[expect(clippy::option_option, reason = "whether it is as it should be, and what it then says")]
fn host_of<B>(request: &Request<B>) -> Option<Option<Authority>> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => (request.version() != Version::HTTP_11).then_some(None),
        (Some(host), None) => parse(host.as_bytes()).map(Some),
        (Some(_), Some(_)) => None,
    }
}

fn authority_of<B>(request: &Request<B>, host: Option<Authority>, local: Option<SocketAddr>) -> Option<Authority> {
    let uri = request.uri();
    let named = match (uri.authority(), uri.scheme()) {
        (None, _) => None,
        (Some(authority), Some(scheme)) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {
            Some(parse(authority.as_str().as_bytes())?)
        }
        // Authority form, which is for CONNECT; or a URI of something else.
        (Some(_), _) => return None,
    };
    match request.version() {
        Version::HTTP_09 | Version::HTTP_10 => named.or(host).or_else(|| Authority::try_from(local?.to_string()).ok()),
        Version::HTTP_11 => named.or(host),
        // They are two ways of saying the same (RFC 9113, 8.3.1).
        _ => match (named, host) {
            (Some(named), Some(host)) => (named == host).then_some(named),
            (named, host) => named.or(host),
        },
    }
}

/// `uri-host [ ":" port ]`, and of that what can be the name of a host: `Authority` alone would let through what belongs to other
/// parts of a URI.
fn parse(text: &[u8]) -> Option<Authority> {
    let authority = std::str::from_utf8(text).ok()?;
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (address, port)
        }
        None => authority.find(':').and_then(|colon| authority.split_at_checked(colon)).unwrap_or((authority, "")),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    let good_host = (1..=NAME_BYTES_MAX).contains(&host.len()) && host.bytes().all(is_name);
    let good_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|digits| {
            digits.is_empty() || (digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        });
    if good_host && good_port { Authority::try_from(text).ok() } else { None }
}

/// Whether an upload has no coding besides `chunked`, once: others would reach the guest encoded, and what was coded twice is
/// read differently by different servers.
fn is_chunked_at_most(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    codings.next().is_none() && first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_https_is_the_same_but_for_the_port() {
        let location = |host: &str, target: &str, port| {
            let request = Request::builder().uri(target).header(HOST, host).body(()).unwrap();
            Target::of(&request, None).unwrap().at_https(port).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(location("a", "/b?c=%20d", 443), "https://a/b?c=%20d");
        assert_eq!(location("a:80", "/", 443), "https://a/");
        assert_eq!(location("a:8080", "/", 8443), "https://a:8443/");
        assert_eq!(location("[::1]:80", "//evil.example/..", 443), "https://[::1]//evil.example/..");
        assert_eq!(location("a", "http://b:1/c", 443), "https://b/c");
    }

    #[test]
    fn a_head_is_unfinished_until_it_is_whole_or_wrong() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!((0..whole.len()).all(|length| is_unfinished(&whole[..length])));
        for head in
            [whole, &b"GET / HTTP/1.1\n\nmore"[..], b"GET / HTTP/3", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost :"]
        {
            assert!(!is_unfinished(head), "{}", head.escape_ascii());
        }
        assert!(!is_unfinished(format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(HEADERS_MAX + 1)).as_bytes()));
    }

    #[test]
    fn an_authority_is_a_host_and_a_port_at_the_most() {
        for good in
            ["a", "example.com", "EXAMPLE.com.", "a_b:80", "a:", "127.0.0.1:65535", "[::1]", "[::1]:80", "xn--a"]
        {
            assert_eq!(parse(good.as_bytes()).unwrap().as_str(), good);
        }
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for bad in [
            "", ":80", "user@a", "a/b", "a,b", "a b", "a:65536", "a:+1", "a:8x", "a:1:2", "a?", "a#b", "a\\b", "a%41",
            "[::1", "::1", "[a]", "[::1]x", "[::1]80", "[]", "\u{e9}", "a\t", "(a)", "a;b", "a=b", "'a'", &long,
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
