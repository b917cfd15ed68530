//! Where a server is, and how to speak to it: a URL, or words, as libpq has them.
//!
//! **Invariant:** what is connected to is what was checked: one host, by TCP, whose name the host itself looks up.

use super::PostgresError;
use crate::grants::{OutboundGrants, Scheme, is_host_name};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslNegotiation, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

/// An address that was read.
pub(super) struct Address {
    pub(super) config: Config,
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: MakeRustlsConnect,
    /// Whom to ask before an IP address is connected to; nobody, if the address is the host's own.
    grants: Option<Arc<OutboundGrants>>,
}

impl Address {
    /// Reads one that is the host's own. In a URL of those, `sslmode` may be `verify-full`, which is what `require` means here
    /// anyway, and `sslrootcert` names a file of the only certificates to trust.
    pub(super) fn of_host(text: &str) -> Result<Self, PostgresError> {
        let (text, root_file) = take_root_file(text);
        let roots = match root_file.as_deref() {
            None | Some("system") => usual_roots(),
            Some(file) => {
                let read = std::fs::read(file).map_err(|error| error.to_string()).and_then(|pem| read_roots(&pem));
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(read.map_err(|error| bad(format!("sslrootcert={file}: {error}")))?);
                roots
            }
        };
        Self::new(read(&text)?, roots, None)
    }

    /// Takes one that a guest gave, with those whom it trusts besides the usual ones.
    pub(super) fn of_guest(
        config: Config,
        trusted: &[CertificateDer<'static>],
        grants: &Arc<OutboundGrants>,
    ) -> Result<Self, PostgresError> {
        let mut roots = usual_roots();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let address = Self::new(config, roots, Some(Arc::clone(grants)))?;
        if !grants.allow_host(Scheme::Postgres, &address.host_of_url(), address.port) {
            return Err(PostgresError::Denied);
        }
        Ok(address)
    }

    fn new(
        mut config: Config,
        roots: RootCertStore,
        grants: Option<Arc<OutboundGrants>>,
    ) -> Result<Self, PostgresError> {
        let [Host::Tcp(host)] = config.get_hosts() else {
            return Err(bad("it has one host, which is reached by TCP"));
        };
        if host.parse::<IpAddr>().is_err() && !is_host_name(host.trim_end_matches('.')) {
            return Err(bad("its host is neither a name nor an IP address"));
        }
        if !config.get_hostaddrs().is_empty() || config.get_target_session_attrs() != TargetSessionAttrs::Any {
            return Err(bad("`hostaddr` and `target_session_attrs` are not supported"));
        }
        if config.get_user().is_none() {
            return Err(bad("it names no user"));
        }
        let host = host.clone();
        let port = config.get_ports().first().copied().unwrap_or(5432);
        if config.get_application_name().is_none() {
            config.application_name("fnhost");
        }
        let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if config.get_ssl_negotiation() == SslNegotiation::Direct {
            tls.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        Ok(Self { config, host, port, tls: MakeRustlsConnect::new(tls), grants })
    }

    /// Whether this IP address, which the host was looked up as, may be connected to.
    pub(super) fn allows(&self, address: IpAddr) -> bool {
        self.grants
            .as_ref()
            .is_none_or(|grants| grants.allow_address(Scheme::Postgres, &self.host_of_url(), address, self.port))
    }

    /// The host as a URL writes it.
    fn host_of_url(&self) -> String {
        if self.host.parse::<Ipv6Addr>().is_ok() { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host_of_url(), self.port)
    }
}

/// Reads a text. What the parser says of an unknown word is not passed on: it may be a piece of a password.
pub(super) fn read(text: &str) -> Result<Config, PostgresError> {
    text.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let is_known = cause.starts_with("invalid value for option");
        if is_known { bad(cause) } else { bad("write `postgres://user:password@host:port/database`") }
    })
}

/// The certificates of a PEM text.
pub(super) fn read_roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match roots {
        Ok(roots) if roots.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(roots) => Ok(roots),
        Err(error) => Err(error.to_string()),
    }
}

fn usual_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// Takes out of a URL what `tokio-postgres` does not know: `sslrootcert`, and the modes that verify.
fn take_root_file(text: &str) -> (String, Option<String>) {
    let Some((front, query)) = text.split_once('?').filter(|_| text.contains("://")) else {
        return (text.to_owned(), None);
    };
    let mut file = None;
    let mut kept = Vec::new();
    for word in query.split('&') {
        match word.split_once('=') {
            Some(("sslrootcert", path)) => file = Some(path.to_owned()),
            Some(("sslmode", "verify-full" | "verify-ca")) => kept.push("sslmode=require"),
            _ => kept.push(word),
        }
    }
    (format!("{front}?{}", kept.join("&")), file)
}

fn bad(reason: impl Into<String>) -> PostgresError {
    PostgresError::Address(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::OutboundGrant;
    use tokio_postgres::config::SslMode;

    fn of_guest(text: &str, grants: &[&str]) -> Result<Address, PostgresError> {
        let grants = grants.iter().map(|grant| OutboundGrant::parse(grant).unwrap()).collect();
        Address::of_guest(read(text)?, &[], &Arc::new(OutboundGrants::new(grants)))
    }

    #[test]
    fn a_url_and_words_say_the_same() {
        for text in
            ["postgres://u:secret@db.example.com:5433/orders", "host=db.example.com port=5433 user=u password=secret"]
        {
            let address = Address::of_host(text).unwrap();
            assert_eq!(address.to_string(), "db.example.com:5433", "{text}");
            assert_eq!(address.config.get_password(), Some(&b"secret"[..]));
            assert_eq!(address.config.get_ssl_mode(), SslMode::Prefer);
        }
        let address = Address::of_host("postgresql://u@[::1]/d?sslmode=verify-full&sslrootcert=system").unwrap();
        assert_eq!((address.to_string().as_str(), address.config.get_ssl_mode()), ("[::1]:5432", SslMode::Require));
    }

    #[test]
    fn what_is_not_supported_is_refused_and_no_piece_of_a_password_is_told() {
        for text in [
            "postgres://u:se@cret@host/d",
            "host=h user=u password=se cret",
            "host=h user=u pass cret=1",
            "postgres://u:secret@host:cret/d",
            "postgres://u:secret@a,b/d",
            "postgres:///d?host=/run/postgresql&user=u",
            "postgres://u:secret@host/d?hostaddr=127.0.0.1",
            "postgres://u:secret@host/d?target_session_attrs=read-write",
            "postgres://host/d",
            "postgres://u:secret@host/d?sslrootcert=/nowhere",
            "",
        ] {
            let error = Address::of_host(text).map(|address| address.to_string()).unwrap_err().to_string();
            assert!(
                error.starts_with("this is no address") && !error.contains("cret@") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_guest_is_held_to_its_grants() {
        let granted = ["postgres://db.example.com", "postgres://127.0.0.1:5433", "postgres://[::1]:5433"];
        assert!(of_guest("postgres://u@db.example.com/d", &granted).is_ok());
        assert!(of_guest("postgres://u@[::1]:5433/d", &granted).is_ok());
        let local = of_guest("postgres://u@127.0.0.1:5433/d", &granted).unwrap();
        assert!(local.allows("127.0.0.1".parse().unwrap()));
        let named = of_guest("postgres://u@db.example.com/d", &granted).unwrap();
        assert!(!named.allows("10.0.0.1".parse().unwrap()));
        for other in ["postgres://u@db.example.com:1/d", "postgres://u@127.0.0.1/d", "postgres://u@evil.example.com/d"]
        {
            assert_eq!(
                of_guest(other, &granted).map(|address| address.to_string()),
                Err(PostgresError::Denied),
                "{other}"
            );
        }
    }
}
