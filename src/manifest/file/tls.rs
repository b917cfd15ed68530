//! What functions.toml may say of TLS: `[host.tls]`.

use super::Table;
use std::ops::Range;
use toml::Spanned;

/// `[host.tls]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct TlsFile {
    pub(in crate::manifest) certificates: Vec<CertificateFile>,
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
    let tls = TlsFile { certificates: table.certificates("certificates"), span };
    table.finish();
    tls
}

impl Table<'_> {
    fn certificates(&mut self, key: &'static str) -> Vec<CertificateFile> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let wanted = "a list of tables, as in [{ cert = \"cert.pem\", key = \"key.pem\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, wanted);
            return Vec::new();
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
        certificates
    }
}
