//! New TLS connections, as fast as one thread makes them: each with a full handshake of TLS 1.3, so many requests, and its end.
//!
//! `handshakes PORT CONNECTIONS SECONDS REQUESTS` says by a line of JSON what became of them; requests are one or none. `wrk` resumes its sessions, and what OpenSSL's
//! clients take for a handshake is three times what the server does; this one trusts whatever certificate it is shown, unread, so
//! that a core of it can keep a core of a server busy.

use anyhow::{Context as _, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Trusts everybody.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[derive(Default)]
struct Counts {
    answered: AtomicUsize,
    failed: AtomicUsize,
}

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the counts there")]
fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u16>());
    let mut next = || anyhow::Ok(numbers.next().context("a port, connections, seconds and requests are wanted")??);
    let (port, connections, seconds, requests) = (next()?, next()?, next()?, next()?);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let began = Instant::now();
        let ends = began + Duration::from_secs(seconds.into());
        let counts = Arc::<Counts>::default();
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            clients.spawn(connect_until(ends, connector.clone(), address, requests > 0, Arc::clone(&counts)));
        }
        clients.join_all().await;
        let [answered, failed] = [&counts.answered, &counts.failed].map(|count| count.load(Ordering::Relaxed));
        println!(
            "{{\"seconds\": {:.3}, \"answered\": {answered}, \"failed\": {failed}}}",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    })
}

async fn connect_until(ends: Instant, connector: TlsConnector, address: SocketAddr, asks: bool, counts: Arc<Counts>) {
    while Instant::now() < ends {
        let connected = tokio::time::timeout(PATIENCE, connect(&connector, address, asks)).await;
        let count = if matches!(connected, Ok(Ok(()))) { &counts.answered } else { &counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection; the end of an answer is told by TLS, or it is a failure.
async fn connect(connector: &TlsConnector, address: SocketAddr, asks: bool) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::IpAddress(address.ip().into()), stream).await?;
    let mut answer = Vec::with_capacity(512);
    if !asks {
        stream.shutdown().await?;
        // That the server ends too says that it had taken the handshake to its end.
        stream.get_mut().0.read_to_end(&mut answer).await?;
        return Ok(());
    }
    stream.write_all(REQUEST).await?;
    stream.read_to_end(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"Hello, world!\n"), "another answer");
    Ok(())
}
