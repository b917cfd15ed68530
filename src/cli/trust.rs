//! Whom commands take for a host: by which certificates it is known.
//!
//! **Invariant:** whoever is asked over TLS has shown a certificate that counts, and that it has the key of it, before a byte is
//! said to it. There is no way to go without.

use super::client::Unreachable;
use crate::manifest::tls::CertificateFiles;
use anyhow::Context as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// Whose word is taken.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// That of the public authorities (Mozilla's, compiled in).
    Public,
    /// That of those in a file (PEM), and of nobody else. They may be hosts themselves.
    File(PathBuf),
    /// Nobody's: it is this host, whose certificates are at hand.
    Own(Vec<CertificateFiles>),
}

impl Trust {
    /// TLS with those who can be trusted.
    pub(super) fn config(&self) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let known = match self {
            Self::Public => {
                let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                return Ok(builder.with_root_certificates(roots).with_no_client_auth());
            }
            Self::File(file) => {
                let hosts = certificates(file)?;
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(hosts.iter().cloned());
                let vouching =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
                let vouching = vouching.with_context(|| format!("{} has nobody to trust", file.display()))?;
                Known { hosts, vouching: Some(vouching), provider }
            }
            Self::Own(files) => {
                let firsts = files.iter().map(|files| certificates(&files.cert).map(|chain| chain.into_iter().next()));
                let hosts = firsts.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
                Known { hosts, vouching: None, provider }
            }
        };
        // It is called dangerous because a verifier can be written that takes anybody.
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(known)).with_no_client_auth())
    }
}

/// Why the host at `base` is not trusted, if that is what went wrong.
pub(super) fn refusal(base: &str, error: &Unreachable) -> Option<anyhow::Error> {
    let rustls::Error::InvalidCertificate(error) = tls_error(error)? else { return None };
    let why = match error {
        CertificateError::UnknownIssuer => "nobody vouches for its certificate who is trusted".to_owned(),
        // What webpki has no other name for: of an authority in place of a host, for instance, as most are that vouch for
        // themselves.
        CertificateError::Other(why) => format!("nobody vouches for its certificate who is trusted ({why})"),
        CertificateError::ApplicationVerificationFailure => {
            "its certificate is another than the one that functions.toml names".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let presented = if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") };
            format!("its certificate is for {presented}, and not for {}", expected.to_str())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate is over".to_owned(),
        other => other.to_string(),
    };
    Some(anyhow::anyhow!("{base} is not trusted: {why} (--ca FILE names whom to trust)"))
}

/// Whether what was read is neither TLS, where that was asked for, nor else HTTP.
pub(super) fn is_of_other_scheme(error: &Unreachable) -> bool {
    let is_no_tls = matches!(tls_error(error), Some(rustls::Error::InvalidMessage(_)));
    let is_no_http = error.source().and_then(|source| source.downcast_ref()).is_some_and(hyper::Error::is_parse);
    is_no_tls || is_no_http
}

/// `DnsName("a.example")` as `a.example`.
fn bare(name: &str) -> &str {
    name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')').trim_matches('"'))
}

/// What TLS says of an error, if it is one of its own. An `io::Error` that has one within does not give it as its source.
fn tls_error<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    if let Some(error) = error.downcast_ref() {
        return Some(error);
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(within) => tls_error(within),
        None => tls_error(error.source()?),
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let unreadable = || format!("cannot read the certificates of {}", file.display());
    let read = CertificateDer::pem_file_iter(file).with_context(unreadable)?;
    let read: Vec<_> = read.collect::<Result<_, _>>().with_context(unreadable)?;
    anyhow::ensure!(!read.is_empty(), "{} has no certificate (PEM)", file.display());
    Ok(read)
}

/// Certificates that are at hand.
#[derive(Debug)]
struct Known {
    /// Those that a host may show as its own.
    hosts: Vec<CertificateDer<'static>>,
    /// Who vouches for others; nothing, where only those count.
    vouching: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_known = self.hosts.contains(end_entity);
        match &self.vouching {
            // It is this one and no other, whatever it is called by, and for as long as it is in the file: as with
            // DANE-EE (RFC 7671, 5.1).
            None if is_known => Ok(ServerCertVerified::assertion()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
            // Most that vouch for themselves say that they are an authority's, as those that `openssl req -x509` makes.
            // webpki takes none of them for a host's.
            Some(_) if is_known => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                verify_time(end_entity, now)
            }
            Some(vouching) => vouching.verify_server_cert(end_entity, intermediates, name, ocsp_response, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_time(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<ServerCertVerified, rustls::Error> {
    let parsed = Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.tbs_certificate.validity;
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(ServerCertVerified::assertion())
}
