//! Whom a function may call: the entries of `outbound`, and which addresses a name may lead to.
//!
//! Owns the reading and matching of grants; connecting is done in `runtime::capability::outbound`. **Invariant:** a
//! name never leads to an address of this machine or of a private network unless a grant names that address (by
//! itself or by its network), so that DNS, which a guest's author may control, opens no way inside.

use crate::network::in_network;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One entry of `outbound`, such as `https://api.example.com`, `https://*.example.com:*` or `http://10.0.0.0/8:8080`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundGrant {
    scheme: Scheme,
    host: HostPattern,
    /// `None` is every port.
    port: Option<u16>,
}

/// The scheme of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
    /// `postgres`: a database server, by the host's own client.
    Postgres,
    /// `tcp`: a stream of the guest's own.
    Tcp,
    /// `udp`: datagrams of the guest's own.
    Udp,
}

impl Scheme {
    const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Postgres, Self::Tcp, Self::Udp];

    /// The port that a URL of this scheme means when it writes none; nothing where it has to write one.
    pub fn default_port(self) -> Option<u16> {
        match self {
            Self::Http => Some(80),
            Self::Https => Some(443),
            Self::Postgres => Some(5432),
            Self::Tcp | Self::Udp => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Postgres => "postgres",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// Every public host.
    Any,
    /// This name alone, in lower case.
    Name(String),
    /// Names that end with `.suffix`.
    Below(String),
    /// Addresses whose first `bits` bits are those of the address.
    Network(IpAddr, u8),
}

/// Why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// None of the schemes before it.
    #[error("a grant begins with `http://`, `https://`, `postgres://`, `tcp://` or `udp://`")]
    NoScheme,
    /// No port, where none is the usual one.
    #[error("a grant for {0} has a port, or `*` for every port")]
    NoPort(&'static str),
    /// A path, a query or user information: a grant is to a host, whole.
    #[error("a grant ends with the host or its port; `{0}` is too much")]
    TooMuch(String),
    /// No host, or one that can be no name, address or network.
    #[error("`{0}` is no host: write a name, `*.` and a name, an address, a network such as 10.0.0.0/8, or `*`")]
    BadHost(String),
    /// Neither a number from 1 to 65535 nor `*`.
    #[error("`{0}` is no port: write a number from 1 to 65535, or `*` for every port")]
    BadPort(String),
}

impl OutboundGrant {
    /// Reads `scheme://host[:port]`; without a port, the scheme's own.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let (scheme, rest) = text.split_once("://").ok_or(GrantError::NoScheme)?;
        let scheme = Scheme::ALL.into_iter().find(|known| known.as_str() == scheme).ok_or(GrantError::NoScheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest);
        let host = HostPattern::parse(host)?;
        let port = match port {
            None => Some(scheme.default_port().ok_or(GrantError::NoPort(scheme.as_str()))?),
            Some("*") => None,
            Some(digits) => match digits.parse::<u16>() {
                Ok(number) if number > 0 => Some(number),
                _ => return Err(GrantError::BadPort(digits.to_owned())),
            },
        };
        Ok(Self { scheme, host, port })
    }

    /// The name that it is for, if it is one name.
    fn name(&self) -> Option<&str> {
        match &self.host {
            HostPattern::Name(name) => Some(name),
            HostPattern::Any | HostPattern::Below(_) | HostPattern::Network(..) => None,
        }
    }

    fn covers(&self, scheme: Scheme, port: u16) -> bool {
        self.scheme == scheme && self.port.is_none_or(|granted| granted == port)
    }
}

impl HostPattern {
    fn parse(host: &str) -> Result<Self, GrantError> {
        let bad = || GrantError::BadHost(host.to_owned());
        if host == "*" {
            return Ok(Self::Any);
        }
        if let Some((address, bits)) = host.split_once('/') {
            let Some(address) = parse_address(address) else { return Err(GrantError::TooMuch(format!("/{bits}"))) };
            let bits: u8 = bits.parse().map_err(|_| bad())?;
            return if bits <= address_bits(address) { Ok(Self::Network(address, bits)) } else { Err(bad()) };
        }
        if let Some(address) = parse_address(host) {
            return Ok(Self::Network(address, address_bits(address)));
        }
        if host.contains('@') {
            return Err(GrantError::TooMuch(host.to_owned()));
        }
        let (below, name) = host.strip_prefix("*.").map_or((false, host), |suffix| (true, suffix));
        if !is_host_name(name) {
            return Err(bad());
        }
        let name = name.to_ascii_lowercase();
        Ok(if below { Self::Below(name) } else { Self::Name(name) })
    }
}

/// Whether `name` is made of labels as DNS has them (RFC 1123, 2.1), `_` tolerated.
pub fn is_host_name(name: &str) -> bool {
    let good_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(good_label)
}

/// `host:port`, the host perhaps an IPv6 address in brackets with a network size behind it.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (host.ends_with(']') || !host.contains(':') || host.contains("]/")) =>
        {
            (host, Some(port))
        }
        _ => (text, None),
    }
}

/// An address as a URL writes it: IPv6 in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn address_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The entries of one function's `outbound`. None, and it may call nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboundGrants(Vec<OutboundGrant>);

impl OutboundGrants {
    /// A function's grants.
    pub fn new(grants: Vec<OutboundGrant>) -> Self {
        Self(grants)
    }

    /// Whether there is any grant of this scheme.
    pub fn any(&self, scheme: Scheme) -> bool {
        self.0.iter().any(|grant| grant.scheme == scheme)
    }

    /// The names that are granted one by one for `scheme` and `port`.
    pub fn names(&self, scheme: Scheme, port: u16) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |grant| grant.covers(scheme, port)).filter_map(OutboundGrant::name)
    }

    /// Whether `address` may be connected to, however the guest came by it: it is granted itself, or by its network, or as one
    /// of all public ones.
    pub fn allow_bare_address(&self, scheme: Scheme, address: IpAddr, port: u16) -> bool {
        let text = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        self.allow_address(scheme, &text, address, port)
    }

    /// Whether a call to `host`, as it stands in the URL, is granted as far as can be told before a name is resolved.
    pub fn allow_host(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        if let Some(address) = parse_address(host) {
            return self.allow_address(scheme, host, address, port);
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.0.iter().any(|grant| {
            grant.covers(scheme, port)
                && match &grant.host {
                    HostPattern::Any => true,
                    HostPattern::Name(name) => *name == host,
                    HostPattern::Below(suffix) => {
                        host.strip_suffix(suffix.as_str()).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
                    }
                    HostPattern::Network(..) => false,
                }
        })
    }

    /// Whether `address`, which `host` was resolved to (or is), may be connected to. Public addresses may, if the host
    /// was granted; others only where a grant names them, or for the name `localhost`, which is loopback by RFC 6761.
    pub fn allow_address(&self, scheme: Scheme, host: &str, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        let named = self.0.iter().any(|grant| {
            grant.covers(scheme, port)
                && matches!(grant.host, HostPattern::Network(network, bits) if in_network(address, network, bits))
        });
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let local_name = host == "localhost" || host.ends_with(".localhost");
        let is_literal = parse_address(&host).is_some();
        let by_host = if is_literal {
            is_public(address)
                && self.0.iter().any(|grant| grant.covers(scheme, port) && grant.host == HostPattern::Any)
        } else if local_name {
            address.is_loopback() && self.allow_host_by_name(scheme, &host, port)
        } else {
            is_public(address) && self.allow_host(scheme, &host, port)
        };
        named || by_host
    }

    /// `localhost` must be granted by its name: `*` means public hosts.
    fn allow_host_by_name(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        self.0.iter().any(|grant| grant.covers(scheme, port) && grant.host == HostPattern::Name(host.to_owned()))
    }
}

/// The blocks that the IANA registries of special-purpose addresses list as not globally reachable (RFC 6890 and the
/// registries as of 2025), with multicast and the reserved class E.
const NOT_PUBLIC_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// Whether `address` is a public one: globally reachable, and no disguise of an IPv4 address that is not.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !NOT_PUBLIC_V4
            .iter()
            .any(|(block, bits)| in_network(address, IpAddr::V4(*block), *bits) || v4.is_unspecified()),
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let embedded = |high: u16, low: u16| {
                is_public(IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))))
            };
            match segments {
                // NAT64 (RFC 6052) and 6to4 (RFC 3056) carry an IPv4 address.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
                // Teredo, ORCHID and their kin (2001::/23), documentation (2001:db8::/32, 3fff::/20).
                [0x2001, second, ..] => second >= 0x200 && second != 0xdb8,
                [0x3fff, second, ..] => second >= 0x1000,
                // Of the rest, only 2000::/3 is given out as global unicast (RFC 4291, 2.4).
                [first, ..] => first & 0xe000 == 0x2000,
            }
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> OutboundGrants {
        OutboundGrants::new(texts.iter().map(|text| OutboundGrant::parse(text).unwrap()).collect())
    }

    #[test]
    fn a_grant_is_a_scheme_a_host_and_a_port() {
        for good in [
            "https://api.example.com",
            "http://127.0.0.1:*",
            "https://*.example.com:8443",
            "http://[::1]:80",
            "http://10.0.0.0/8:8080",
            "http://[fd00::]/8:*",
            "https://*",
            "http://localhost:3000/",
        ] {
            assert!(OutboundGrant::parse(good).is_ok(), "{good}: {:?}", OutboundGrant::parse(good));
        }
        for bad in [
            "api.example.com",
            "ftp://x",
            "https://",
            "https://a b",
            "https://x/path",
            "https://u@x",
            "https://x:0",
            "https://x:99999",
            "https://*.*.com",
            "http://10.0.0.0/33",
            "http://::1",
            "https://-x",
        ] {
            assert!(OutboundGrant::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_ports_match_exactly_or_by_their_pattern() {
        let granted = grants(&["https://api.example.com", "http://*.example.org:*"]);
        assert!(granted.allow_host(Scheme::Https, "API.example.com", 443));
        assert!(granted.allow_host(Scheme::Https, "api.example.com.", 443));
        assert!(!granted.allow_host(Scheme::Http, "api.example.com", 80));
        assert!(!granted.allow_host(Scheme::Https, "api.example.com", 8443));
        assert!(granted.allow_host(Scheme::Http, "a.b.example.org", 1234));
        assert!(!granted.allow_host(Scheme::Http, "example.org", 80));
        assert!(!granted.allow_host(Scheme::Http, "evilexample.org", 80));
        assert!(!granted.allow_host(Scheme::Http, ".example.org", 80));
        assert!(!OutboundGrants::default().allow_host(Scheme::Https, "example.com", 443));
    }

    #[test]
    fn a_public_name_leads_to_no_private_address() {
        let granted = grants(&["http://*:*"]);
        for inside in [
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "192.168.0.1",
            "172.20.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!granted.allow_address(Scheme::Http, "evil.example.com", inside.parse().unwrap(), 80), "{inside}");
        }
        for outside in ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"] {
            assert!(granted.allow_address(Scheme::Http, "example.com", outside.parse().unwrap(), 80), "{outside}");
        }
    }

    #[test]
    fn an_inside_address_is_reached_when_a_grant_names_it() {
        let granted = grants(&["http://orders.internal:8080", "http://10.0.0.0/8:8080"]);
        assert!(granted.allow_host(Scheme::Http, "orders.internal", 8080));
        assert!(granted.allow_address(Scheme::Http, "orders.internal", "10.2.3.4".parse().unwrap(), 8080));
        assert!(!granted.allow_address(Scheme::Http, "orders.internal", "192.168.0.1".parse().unwrap(), 8080));
        assert!(granted.allow_host(Scheme::Http, "10.9.9.9", 8080));
        assert!(!granted.allow_host(Scheme::Http, "10.9.9.9", 80));
    }

    #[test]
    fn localhost_is_granted_by_its_name_only() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(grants(&["http://localhost:*"]).allow_address(Scheme::Http, "localhost", loopback, 3000));
        assert!(!grants(&["http://*:*"]).allow_address(Scheme::Http, "localhost", loopback, 3000));
        assert!(!grants(&["http://*:*"]).allow_host(Scheme::Http, "127.0.0.1", 80));
        assert!(grants(&["http://127.0.0.1:*"]).allow_host(Scheme::Http, "127.0.0.1", 80));
        assert!(grants(&["http://[::1]:*"]).allow_host(Scheme::Http, "[::1]", 80));
    }
}
