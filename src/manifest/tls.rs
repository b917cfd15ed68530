//! TLS, as functions.toml has it. What the files hold is read when the host begins to serve (`server::tls`).

use std::net::SocketAddr;
use std::path::PathBuf;

/// `[host.tls]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// What functions are served by; without one, over plain HTTP.
    pub certificates: Vec<CertificateFiles>,
    /// The same for the admin API.
    pub admin_certificates: Vec<CertificateFiles>,
    /// Where plain HTTP is answered with the way to HTTPS, if it is; port 0 takes a free one.
    pub redirect_http: Option<SocketAddr>,
}

/// Where a certificate is, with those that vouch for it, and its key: PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the host's own first.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}
