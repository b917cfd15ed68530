//! Who the client is: whoever connected, or whom a proxy that is trusted says it speaks for (RFC 7239).
//!
//! **Invariant:** `Forwarded`, `X-Forwarded-*` and `X-Real-IP` reach a guest as the host writes them, and say one thing: what
//! strangers put there is taken out, and what a trusted proxy says is read from its end, as far as those who said it are trusted.

use super::connection::Peer;
use crate::network::Network;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// How all of the second kind begin.
const X_FORWARDED: &str = "x-forwarded-";
/// The most proxies that are gone back through.
const HOPS_MAX: usize = 16;

/// A client, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    pub(super) scheme: Scheme,
}

/// What one proxy says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Hop {
    client: Option<IpAddr>,
    scheme: Option<Scheme>,
}

/// The headers that say who a client is.
#[derive(Debug)]
pub(super) struct Said([(HeaderName, HeaderValue); 3]);

impl Client {
    /// Whoever connected.
    pub(super) fn connected(address: IpAddr, scheme: Scheme) -> Self {
        Self { address: address.to_canonical(), scheme }
    }

    /// The client behind a request of `peer`; and has `headers` say that, and no more.
    pub(super) fn of(headers: &mut HeaderMap, peer: &Peer, trusted: &[Network]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
        let mut client = peer.client.clone();
        if !is_trusted(client.address) {
            peer.said.write(headers);
            return client;
        }
        for hop in hops(headers).into_iter().take(HOPS_MAX) {
            // Who hides its client, or does not know it, is as far as can be seen.
            let Some(address) = hop.client else { break };
            client = Self { address, scheme: hop.scheme.unwrap_or(Scheme::HTTP) };
            if !is_trusted(address) {
                break;
            }
        }
        client.said().write(headers);
        client
    }

    /// What guests are told of it.
    pub(super) fn said(&self) -> Said {
        let address = self.address.to_string();
        // An address of IPv6 has colons, for which it is quoted (RFC 7239, 6).
        let node = if self.address.is_ipv6() { format!("\"[{address}]\"") } else { address.clone() };
        // Whatever an address or a scheme is written with, a header can carry.
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        Said([
            (FORWARDED, value(format!("for={node};proto={}", self.scheme))),
            (X_FORWARDED_FOR, value(address)),
            (X_FORWARDED_PROTO, value(self.scheme.to_string())),
        ])
    }
}

impl Said {
    fn write(&self, headers: &mut HeaderMap) {
        let is_said = |name: &&HeaderName| name.as_str().starts_with(X_FORWARDED) || **name == X_REAL_IP;
        while let Some(name) = headers.keys().find(is_said).cloned() {
            headers.remove(name);
        }
        for (name, value) in &self.0 {
            headers.insert(name, value.clone());
        }
    }
}

/// What proxies say, the last first. `Forwarded` goes before the others, which it has come to replace.
fn hops(headers: &HeaderMap) -> Vec<Hop> {
    if headers.contains_key(FORWARDED) {
        let lines = headers.get_all(FORWARDED).iter().rev().map(HeaderValue::to_str);
        let mut hops = Vec::new();
        for line in lines {
            // What cannot be read could say anything.
            let Some(elements) = line.ok().and_then(forwarded) else { break };
            hops.extend(elements.into_iter().rev());
        }
        return hops;
    }
    let last = |name: HeaderName| headers.get_all(name).iter().next_back().and_then(|value| value.to_str().ok());
    // It is said once for all of them, by the last that says it.
    let scheme = last(X_FORWARDED_PROTO).and_then(|schemes| scheme(schemes.rsplit(',').next()?.trim()));
    let addresses = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let addresses = addresses.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','));
    addresses.map(|address| Hop { client: node(address.trim()), scheme: scheme.clone() }).collect()
}

/// The elements of one `Forwarded`; nothing if it is malformed.
fn forwarded(line: &str) -> Option<Vec<Hop>> {
    let mut hops = vec![Hop::default()];
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let (value, behind) = match value.strip_prefix('"') {
            // No address and no scheme has a character that would have to be escaped.
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_at(value.find([',', ';']).unwrap_or(value.len())),
        };
        let hop = hops.last_mut()?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        if name.eq_ignore_ascii_case("for") {
            hop.client = node(value.trim());
        } else if name.eq_ignore_ascii_case("proto") {
            hop.scheme = scheme(value.trim());
        }
        let behind = behind.trim_start();
        rest = match behind.as_bytes().first() {
            None => "",
            Some(b';') => behind.get(1..)?.trim_start(),
            Some(b',') => {
                hops.push(Hop::default());
                behind.get(1..)?.trim_start()
            }
            Some(_) => return None,
        };
    }
    Some(hops)
}

/// The address of `1.2.3.4`, `1.2.3.4:99`, `[::1]`, `[::1]:99` or `::1`; none of `unknown` and of what is hidden.
fn node(text: &str) -> Option<IpAddr> {
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    inner.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn scheme(text: &str) -> Option<Scheme> {
    [Scheme::HTTP, Scheme::HTTPS].into_iter().find(|known| text.eq_ignore_ascii_case(known.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops_of(fields: &[(&'static str, &str)]) -> Vec<(Option<String>, Option<String>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let shown =
            |hop: Hop| (hop.client.map(|address| address.to_string()), hop.scheme.map(|scheme| scheme.to_string()));
        hops(&headers).into_iter().map(shown).collect()
    }

    fn hop(client: &str, scheme: &str) -> (Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (some(client), some(scheme))
    }

    #[test]
    fn what_proxies_say_is_read_from_its_end() {
        let forwarded =
            [("forwarded", "for=1.2.3.4;proto=https, for=\"[2001:db8::1]:99\""), ("forwarded", "FOR=5.6.7.8 ; by=_x")];
        assert_eq!(hops_of(&forwarded), [hop("5.6.7.8", ""), hop("2001:db8::1", ""), hop("1.2.3.4", "https")]);
        let hidden = [("forwarded", "for=1.2.3.4, for=unknown, for=_hidden;proto=http")];
        assert_eq!(hops_of(&hidden), [hop("", "http"), hop("", ""), hop("1.2.3.4", "")]);
        let others = [
            ("x-forwarded-for", "1.2.3.4, ::1"),
            ("x-forwarded-for", "5.6.7.8:99"),
            ("x-forwarded-proto", "http, https"),
        ];
        assert_eq!(hops_of(&others), [hop("5.6.7.8", "https"), hop("::1", "https"), hop("1.2.3.4", "https")]);
        let both = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=5.6.7.8")];
        assert_eq!(hops_of(&both), [hop("5.6.7.8", "")]);
    }

    #[test]
    fn what_cannot_be_read_ends_what_is_known() {
        for bad in ["for", "for=\"1.2.3.4", "for=\"1.2.3.4\"x", "\"for\"=1"] {
            let hops = hops_of(&[("forwarded", "for=1.2.3.4"), ("forwarded", bad), ("forwarded", "for=5.6.7.8")]);
            assert_eq!(hops.first(), Some(&hop("5.6.7.8", "")), "{bad}");
            assert!(!hops.contains(&hop("1.2.3.4", "")), "{bad}: {hops:?}");
        }
    }
}
