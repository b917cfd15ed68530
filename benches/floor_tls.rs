//! What TLS costs without WebAssembly: rustls on ring, tokio and hyper, with the same terms of the handshake as the host.
//!
//! `floor_tls CERT KEY` (PEM) answers every path with the 14 bytes of the benchmark's guests, and with as many headers as the host.
//! When it is told to end it says how many handshakes there were, and of what kind: what a load does not resume, nobody has spared.

#![expect(clippy::disallowed_methods, reason = "what it spawns ends with the process")]

use anyhow::Context as _;
use http::header::HeaderValue;
use http::{HeaderName, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// As many bytes as the host's answer has.
const HEADERS: [(&str, &str); 3] = [
    ("x-request-id", "01a207ad51c411fb5ee2d9ce3369901e"),
    ("fnhost-release", "1"),
    ("server-timing", "queue;dur=0.0005, store;dur=0.0015, instantiate;dur=0.0063, handler;dur=0.0096"),
];

#[derive(Default)]
struct Counts {
    all: AtomicUsize,
    /// Those that resumed no session.
    full: AtomicUsize,
    /// Those of TLS 1.3.
    newest: AtomicUsize,
}

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the address and the counts there")]
fn main() -> anyhow::Result<()> {
    let mut files = std::env::args_os().skip(1);
    let cert = files.next().context("the path of a certificate is missing")?;
    let key = files.next().context("the path of its key is missing")?;
    let acceptor = TlsAcceptor::from(Arc::new(config(Path::new(&cert), Path::new(&key))?));
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        println!("listening on https://{}", listener.local_addr()?);
        let counts = Arc::<Counts>::default();
        let mut terminate = signal(SignalKind::terminate())?;
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                _ = terminate.recv() => break,
            };
            tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&counts)));
        }
        let [all, full, newest] =
            [&counts.all, &counts.full, &counts.newest].map(|count| count.load(Ordering::Relaxed));
        println!("{all} handshakes, {full} of them full, {newest} of TLS 1.3");
        Ok(())
    })
}

/// What `server::tls` has, with one certificate for whatever name.
fn config(cert: &Path, key: &Path) -> anyhow::Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

/// Clients go away all the time, at each of these stages.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream, counts: Arc<Counts>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let (_, tls) = stream.get_ref();
    counts.all.fetch_add(1, Ordering::Relaxed);
    if tls.handshake_kind() != Some(HandshakeKind::Resumed) {
        counts.full.fetch_add(1, Ordering::Relaxed);
    }
    if tls.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        counts.newest.fetch_add(1, Ordering::Relaxed);
    }
    let service = service_fn(async |_| Ok::<_, Infallible>(answer()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn answer() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("Hello, world!\n"));
    for (name, value) in HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
