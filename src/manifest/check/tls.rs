//! What must also be true of `[host.tls]`. The files are read when the host begins to serve.

use super::super::CertificateFiles;
use super::super::diagnostic::Diagnostic;
use super::super::file::tls::{CertificateFile, TlsFile};
use std::path::Path;

/// The certificates to serve by; none, without TLS.
pub(super) fn check(file: Option<TlsFile>, folder: &Path, errors: &mut Vec<Diagnostic>) -> Vec<CertificateFiles> {
    let Some(TlsFile { certificates, span }) = file else { return Vec::new() };
    if certificates.is_empty() {
        let none = Diagnostic::new(span, "TLS has no certificate");
        errors.push(
            none.help("write `certificates = [{ cert = \"cert.pem\", key = \"key.pem\" }]`, or take [host.tls] away"),
        );
    }
    certificates.into_iter().filter_map(|one| check_certificate(one, folder, errors)).collect()
}

fn check_certificate(file: CertificateFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<CertificateFiles> {
    if let (Some(cert), Some(key)) = (&file.cert, &file.key) {
        return Some(CertificateFiles { cert: folder.join(cert.get_ref()), key: folder.join(key.get_ref()) });
    }
    let half = Diagnostic::new(file.span, "a certificate has a chain and a key, in a file each");
    errors.push(half.help("write `{ cert = \"cert.pem\", key = \"key.pem\" }`"));
    None
}
