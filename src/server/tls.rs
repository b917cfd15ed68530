//! TLS, as clients meet it: certificates, which of them a client gets, and when they are read again. By rustls, on ring.
//!
//! Owns what is read of the files, and the handshake's terms; when the files are looked at again is for `cli` to say.
//! **Invariant:** there is always a whole set of certificates to serve by: new files take the place of the old ones all
//! together, or not at all, and connections that are there keep what they began with.

use crate::manifest::tls::CertificateFiles;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// How long before its end a certificate is warned of.
const WARNING_TIME: Duration = Duration::from_hours(14 * 24);
/// What is spoken on top, the best first (RFC 7301).
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];
/// And with the admin API.
const ADMIN_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];
/// The most bytes of a record that is sent, but for what encryption adds: 17 with TLS 1.3, 24 with 1.2. With that it fits the largest
/// piece that jemalloc has slabs for; each record of 16 KiB, the most that is allowed (RFC 8446, 5.1), would be apart, and leave a note
/// behind. Records of half as much cost clients more.
const RECORD_BYTES_MAX: usize = (14 << 10) - 24;
/// How much waits for a client in records that are made; what has no room among them waits as it is.
const SEALED_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// TLS on one listener.
pub struct Tls {
    acceptor: TlsAcceptor,
    certificates: Arc<Certificates>,
}

/// Why there is no TLS, or no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it is to be.
    #[error("{}: {cause}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// rustls will not have it.
    #[error("TLS cannot be spoken: {0}")]
    Rustls(#[from] rustls::Error),
}

impl Tls {
    /// TLS by the certificates in `files`, of which there is one at the least, where functions are served.
    pub fn open(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        Self::speaking(PROTOCOLS, files)
    }

    /// The same where the admin API is.
    pub fn open_admin(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        Self::speaking(ADMIN_PROTOCOLS, files)
    }

    fn speaking(protocols: &[&[u8]], files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let certificates = Arc::new(Certificates::open(files.to_vec())?);
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Certificates>::clone(&certificates));
        config.max_fragment_size = Some(RECORD_BYTES_MAX);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // By keys that change every few hours, and are in memory alone.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificates })
    }

    /// The files that it was read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.certificates.files.iter().flat_map(|files| [files.cert.as_path(), files.key.as_path()])
    }

    /// Reads them again, and serves by what is there now; or else by what was. Whether any is another than before.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = Loaded::read(&self.certificates.files)?;
        let before = self.certificates.live.swap(Arc::new(read));
        let chains = |loaded: &Loaded| loaded.entries.iter().map(|entry| entry.key.cert.clone()).collect::<Vec<_>>();
        Ok(chains(&before) != chains(&self.certificates.live.load()))
    }

    /// Warns of each certificate that comes to its end soon, or has.
    pub fn warn_of_ends(&self) {
        for entry in &self.certificates.live.load().entries {
            let file = entry.file.display();
            match entry.ends.duration_since(SystemTime::now()) {
                Err(_) => tracing::warn!(%file, "a certificate is over"),
                Ok(left) if left < WARNING_TIME => {
                    tracing::warn!(%file, days = left.as_secs() / 86_400, "a certificate is over soon");
                }
                Ok(_) => {}
            }
        }
    }

    /// The handshake with a client. It may take as long as that likes.
    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut stream = self.acceptor.accept(stream).await?;
        stream.get_mut().1.set_buffer_limit(Some(SEALED_BYTES_MAX));
        Ok(stream)
    }
}

/// The certificates, as they are now.
#[derive(Debug)]
struct Certificates {
    files: Vec<CertificateFiles>,
    live: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    entries: Vec<Entry>,
    /// Which are for a name, or for those below one (`*.example.com`), in the order of the file.
    by_name: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
struct Entry {
    file: PathBuf,
    key: Arc<CertifiedKey>,
    ends: SystemTime,
}

impl Certificates {
    fn open(files: Vec<CertificateFiles>) -> Result<Self, TlsError> {
        let live = ArcSwap::from_pointee(Loaded::read(&files)?);
        Ok(Self { files, live })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let live = self.live.load();
        let named = hello.server_name().and_then(|name| live.named(&name.to_ascii_lowercase()));
        let suits = |entry: &&Entry| entry.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let among_named = named.into_iter().flatten().filter_map(|at| live.entries.get(*at)).find(suits);
        // Whoever names nobody, or somebody else, gets the first: what it thinks of that is for it to say.
        among_named.or_else(|| live.entries.iter().find(suits)).map(|entry| Arc::clone(&entry.key))
    }
}

impl Loaded {
    fn read(files: &[CertificateFiles]) -> Result<Self, TlsError> {
        let provider = ring::default_provider();
        let mut loaded = Self { entries: Vec::with_capacity(files.len()), by_name: HashMap::new() };
        for (at, files) in files.iter().enumerate() {
            let (entry, names) = Entry::read(files, &provider)?;
            loaded.entries.push(entry);
            for name in names {
                loaded.by_name.entry(name).or_default().push(at);
            }
        }
        Ok(loaded)
    }

    /// A wildcard is for one label (RFC 9525, 6.3).
    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        let below = || name.split_once('.').and_then(|(_, rest)| self.by_name.get(&format!("*.{rest}")));
        self.by_name.get(name).or_else(below)
    }
}

impl Entry {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<(Self, Vec<String>), TlsError> {
        let bad = |file: &Path, cause: String| TlsError::File { file: file.to_owned(), cause };
        let read = |error: pem::Error, file: &Path| bad(file, error.to_string());
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(&files.cert).map_err(|error| read(error, &files.cert))?.collect();
        let chain = chain.map_err(|error| read(error, &files.cert))?;
        let first = chain.first().ok_or_else(|| bad(&files.cert, "it has no certificate".to_owned()))?;
        let certificate = Certificate::from_der(first)
            .map_err(|error| bad(&files.cert, format!("its certificate is damaged: {error}")))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| read(error, &files.key))?;
        let ends = certificate.tbs_certificate.validity.not_after.to_system_time();
        let names = names_of(&certificate);
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| bad(&files.key, error.to_string()))?;
        Ok((Self { file: files.cert.clone(), key: Arc::new(key), ends }, names))
    }
}

/// The names in DNS that a certificate is for. Those of its subject do not count (RFC 9525, 1.4).
fn names_of(certificate: &Certificate) -> Vec<String> {
    let alternatives = certificate.tbs_certificate.get::<SubjectAltName>().ok().flatten();
    let names = alternatives.map(|(_, SubjectAltName(names))| names).unwrap_or_default();
    let names = names.into_iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}
