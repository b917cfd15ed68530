//! What must also be true of `[host.tls]`. The files are read when the host begins to serve.

use super::super::diagnostic::Diagnostic;
use super::super::file::tls::{CertificateFile, TlsFile};
use super::super::tls::{CertificateFiles, TlsConfig};
use super::address;
use std::net::SocketAddr;
use std::path::Path;
use toml::Spanned;

/// What is served with TLS, where functions are served at `listen`.
pub(super) fn check(
    file: Option<TlsFile>,
    listen: SocketAddr,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> TlsConfig {
    let Some(file) = file else { return TlsConfig::default() };
    if file.certificates.is_none() && file.admin_certificates.is_none() {
        let none = Diagnostic::new(file.span.clone(), "TLS has no certificate");
        errors.push(
            none.help("write `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`, or take [host.tls] away"),
        );
    }
    if let Some(written) = &file.redirect_http
        && file.certificates.is_none()
    {
        let nowhere = Diagnostic::new(written.span(), "`redirect-http` leads to HTTPS, which is not spoken");
        errors.push(nowhere.help("add `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`"));
    }
    let mut files = |key, written: Option<Spanned<Vec<CertificateFile>>>| {
        written.map(|written| check_certificates(key, written, folder, errors)).unwrap_or_default()
    };
    TlsConfig {
        certificates: files("certificates", file.certificates),
        admin_certificates: files("admin-certificates", file.admin_certificates),
        redirect_http: file.redirect_http.and_then(|written| check_redirect(&written, listen, errors)),
    }
}

fn check_certificates(
    key: &str,
    written: Spanned<Vec<CertificateFile>>,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Vec<CertificateFiles> {
    if written.get_ref().is_empty() {
        let none = Diagnostic::new(written.span(), format!("`{key}` has no certificate"));
        errors.push(
            none.help(format!("write `{key} = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]`, or take it away")),
        );
    }
    written.into_inner().into_iter().filter_map(|one| check_certificate(one, folder, errors)).collect()
}

fn check_certificate(file: CertificateFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<CertificateFiles> {
    if let (Some(cert), Some(key)) = (&file.cert, &file.key) {
        return Some(CertificateFiles { cert: folder.join(cert.get_ref()), key: folder.join(key.get_ref()) });
    }
    let half = Diagnostic::new(file.span, "a certificate has a chain and a key, in a file each");
    errors.push(half.help("write `{ cert = \"cert.pem\", key = \"key.pem\" }`"));
    None
}

fn check_redirect(written: &Spanned<String>, listen: SocketAddr, errors: &mut Vec<Diagnostic>) -> Option<SocketAddr> {
    let redirect = address(written, "", errors)?;
    if redirect == listen && listen.port() != 0 {
        let same = Diagnostic::new(written.span(), "`redirect-http` is where HTTPS is spoken");
        errors.push(same.help("clients without TLS need another port than `listen`: 80, most often"));
    }
    Some(redirect)
}
