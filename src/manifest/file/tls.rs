//! What functions.toml may say of TLS: `[host.tls]`.

use super::Table;
use std::ops::Range;
use toml::Spanned;

/// `[host.tls]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct TlsFile {
    pub(in crate::manifest) certificates: Option<Spanned<Vec<CertificateFile>>>,
    pub(in crate::manifest) admin_certificates: Option<Spanned<Vec<CertificateFile>>>,
    pub(in crate::manifest) redirect_http: Option<Spanned<String>>,
    /// Where the table is.
    pub(in crate::manifest) span: Range<usize>,
}

/// One of its certificates.
#[derive(Debug)]
pub(in crate::manifest) struct CertificateFile {
    pub(in crate::manifest) cert: Option<Spanned<String>>,
    pub(in crate::manifest) key: Option<Spanned<String>>,
    pub(in crate::manifest) span: Range<usize>,
}

pub(super) fn read(mut table: Table<'_>, span: Range<usize>) -> TlsFile {
    let tls = TlsFile {
        certificates: table.certificates("certificates"),
        admin_certificates: table.certificates("admin-certificates"),
        redirect_http: table.string("redirect-http"),
        span,
    };
    table.finish();
    tls
}

impl Table<'_> {
    fn certificates(&mut self, key: &'static str) -> Option<Spanned<Vec<CertificateFile>>> {
        let value = self.get(key)?;
        let wanted = "a list of tables, as in [{ cert = \"cert.pem\", key = \"key.pem\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, wanted);
            return None;
        };
        let mut certificates = Vec::with_capacity(array.len());
        for item in array {
            let Some(entries) = item.get_ref().as_table() else {
                self.wrong_type(key, item, wanted);
                continue;
            };
            let mut table = Table::new(format!("`{key}` of {}", self.what), entries, self.errors);
            certificates.push(CertificateFile {
                cert: table.string("cert"),
                key: table.string("key"),
                span: item.span(),
            });
            table.finish();
        }
        Some(Spanned::new(value.span(), certificates))
    }
}
