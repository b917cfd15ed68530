//! TLS: which certificate a client gets, what is spoken on top of it, and certificates that change under load.

mod admin;
mod redirect;

use crate::support::{PATIENCE, RawClient, TestHost, fnhost, skipped, wait_for, with_guests};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme,
    StreamOwned, SupportedProtocolVersion, version,
};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Whether there is an `openssl` to make certificates by.
fn is_there() -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok();
    if !there {
        skipped("there is no openssl (Debian: openssl)");
    }
    there
}

/// Puts a new certificate and its key into `folder`, for these names and days.
fn make(folder: &Path, name: &str, names: &str, days: u32) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=a"])
        .args(["-addext", &format!("subjectAltName={names}"), "-days", &days.to_string()])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn der(folder: &Path, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap()
}

fn toml(host: &str) -> String {
    with_guests(&format!(
        "name = \"test\"\n[host]\n{host}\n[host.tls]\ncertificates = [{{ cert = \"one.pem\", key = \"one.key\" }}, {{ cert = \"two.pem\", key = \"two.key\" }}]\n[functions.hello]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/\"]\n[functions.see]\ncomponent = \"{{misbehave.wasm}}\"\nroutes = [\"/misbehave/{{*rest}}\"]\n"
    ))
}

/// A folder with a certificate for `one.example` and one for what is below `two.example`.
fn folder() -> Arc<TempDir> {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    make(folder.path(), "one", "DNS:one.example", 100);
    make(folder.path(), "two", "DNS:*.two.example", 100);
    folder
}

/// Takes any certificate: which one it got is for the test to see.
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn config(versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous)).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// A connection whose handshake is done.
fn connect(host: &TestHost, config: &Arc<ClientConfig>, name: &str) -> TlsClient {
    connect_to(host.address(), config, name).expect("a handshake")
}

fn connect_to(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<TlsClient> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(tls, socket))
}

fn ask(client: &mut TlsClient, request: &str) -> String {
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the end is told, and not cut off");
    answer
}

fn certificate_of(client: &TlsClient) -> CertificateDer<'static> {
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn a_guest_sees_https_and_a_client_the_certificate_of_the_name_it_asks_for() {
    if !is_there() {
        return;
    }
    let folder = folder();
    let host = TestHost::within(&folder, &toml(""));
    let (one, two) = (der(folder.path(), "one"), der(folder.path(), "two"));
    for (versions, spoken) in
        [(&[&version::TLS13], ProtocolVersion::TLSv1_3), (&[&version::TLS12], ProtocolVersion::TLSv1_2)]
    {
        let config = config(versions, &[]);
        let names = [
            ("one.example", &one),
            ("ONE.example", &one),
            ("a.two.example", &two),
            // A wildcard is for one label. Whoever asks for another gets the first.
            ("two.example", &one),
            ("a.b.two.example", &one),
            ("other.example", &one),
            ("127.0.0.1", &one),
        ];
        for (name, expected) in names {
            let mut client = connect(&host, &config, name);
            assert_eq!(client.conn.protocol_version(), Some(spoken));
            assert_eq!(certificate_of(&client), *expected, "{name}");
            assert!(ask(&mut client, GET).ends_with("\r\n\r\nHello, world!\n"), "{name}");
        }
        let mut client = connect(&host, &config, "one.example");
        let seen = ask(&mut client, &GET.replace("/ ", "/misbehave/request-headers "));
        assert!(seen.contains("scheme Some(Scheme::Https)\n"), "{seen}");
        assert!(seen.contains("forwarded: for=127.0.0.1;proto=https\n"), "{seen}");
        assert!(seen.contains("x-forwarded-proto: https\n"), "{seen}");
    }
}

#[test]
fn http_2_is_agreed_on_and_sessions_are_gone_on_with() {
    if !is_there() {
        return;
    }
    let host = TestHost::within(&folder(), &toml(""));
    for (protocols, agreed) in [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let client = connect(&host, &config(&[&version::TLS13], protocols), "one.example");
        assert_eq!(client.conn.alpn_protocol(), agreed.map(str::as_bytes), "{protocols:?}");
    }
    for version in [&version::TLS13, &version::TLS12] {
        let config = config(&[version], &[]);
        let kinds = [(); 2].map(|()| {
            let mut client = connect(&host, &config, "one.example");
            // Tickets of TLS 1.3 come behind the handshake.
            ask(&mut client, GET);
            client.conn.handshake_kind().unwrap()
        });
        assert_eq!(kinds[1], HandshakeKind::Resumed, "{version:?}");
    }
    // The frames of HTTP/2 come through.
    let mut client = connect(&host, &config(&[&version::TLS13], &["h2"]), "one.example");
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut head = [0; 9];
    client.read_exact(&mut head).unwrap();
    assert_eq!(head[3], crate::support::frames::SETTINGS);
}

/// Larger ones would each leave something behind with the allocator (benches/README.md, *The edge*).
#[test]
fn records_of_a_large_answer_are_of_14_kib() {
    if !is_there() {
        return;
    }
    let host = TestHost::within(&folder(), &toml(""));
    for version in [&version::TLS13, &version::TLS12] {
        let mut client = connect(&host, &config(&[version], &[]), "one.example");
        client.write_all(GET.replace("/ ", "/misbehave/pour ").as_bytes()).unwrap();
        client.flush().unwrap();
        let mut bytes = vec![0; 1 << 20];
        client.sock.read_exact(&mut bytes).unwrap();
        let mut lengths = Vec::new();
        let mut rest = &bytes[..];
        // Each says how long it is (RFC 8446, 5.1). The last is cut.
        while let Some((&[_, _, _, high, low], behind)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            lengths.push(5 + length);
            rest = behind.get(length..).unwrap_or_default();
        }
        let largest = lengths.iter().max().unwrap();
        assert!((14 * 1024 - 24..=14 * 1024).contains(largest), "{version:?}: {lengths:?}");
        let mut rest = &bytes[..];
        while client.conn.process_new_packets().unwrap().plaintext_bytes_to_read() == 0 {
            assert_ne!(client.conn.read_tls(&mut rest).unwrap(), 0, "{version:?}: nothing of it can be read");
        }
    }
}

#[test]
fn certificates_change_without_a_connection_dropped_and_broken_ones_do_not_count() {
    if !is_there() {
        return;
    }
    let folder = folder();
    let host = TestHost::within(&folder, &toml(""));
    let config = config(&[&version::TLS13], &[]);
    let before = der(folder.path(), "one");
    let mut old = connect(&host, &config, "one.example");
    std::fs::write(folder.path().join("one.pem"), "nothing of a certificate").unwrap();
    let said =
        host.logged(|line| line["message"].as_str().is_some_and(|text| text.starts_with("the new certificates")));
    assert_eq!(said["level"], "ERROR");
    assert!(said["message"].as_str().unwrap().contains("one.pem"), "{said}");
    let fresh = || connect(&host, &self::config(&[&version::TLS13], &[]), "one.example");
    assert_eq!(certificate_of(&fresh()), before);
    make(folder.path(), "one", "DNS:one.example", 100);
    let after = der(folder.path(), "one");
    wait_for("the new one is served", || (certificate_of(&fresh()) == after).then_some(()));
    // A key that is another's does not count either.
    std::fs::copy(folder.path().join("two.key"), folder.path().join("one.key")).unwrap();
    host.logged(|line| {
        line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains("one.key"))
    });
    assert_eq!(certificate_of(&fresh()), after);
    // What was there before all of it is there still.
    assert!(ask(&mut old, GET).ends_with("Hello, world!\n"));
}

#[test]
fn a_certificate_that_is_over_soon_is_warned_of() {
    if !is_there() {
        return;
    }
    let folder = folder();
    make(folder.path(), "two", "DNS:*.two.example", 5);
    let host = TestHost::within(&folder, &toml(""));
    let warned = host.logged(|line| line["message"] == "a certificate is over soon");
    assert!(warned["file"].as_str().unwrap().ends_with("two.pem"), "{warned}");
    assert_eq!((warned["level"].as_str(), warned["days"].as_u64()), (Some("WARN"), Some(4)));
    assert!(!host.log_lines().iter().any(|line| line["file"].as_str().is_some_and(|file| file.ends_with("one.pem"))));
}

/// The handshake is each connection's own.
#[test]
fn clients_that_connect_and_say_nothing_delay_nobody_and_are_let_go() {
    if !is_there() {
        return;
    }
    let host = TestHost::within(&folder(), &toml("header-timeout = \"2s\""));
    let mut silent: Vec<RawClient> = (0..500).map(|_| RawClient::open(host.address())).collect();
    // Half a record of a handshake.
    silent[0].send(b"\x16\x03\x01\x02\x00\x01");
    let began = Instant::now();
    let mut client = connect(&host, &config(&[&version::TLS13], &[]), "one.example");
    assert!(ask(&mut client, GET).ends_with("Hello, world!\n"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    for client in &mut silent {
        client.assert_closed();
    }
    // And so is one that speaks something else, with no word of HTTP to it.
    let mut plain = RawClient::open(host.address());
    let said = plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
}

#[test]
fn a_host_whose_certificates_cannot_be_read_does_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml("")).unwrap();
    let up = || {
        fnhost(folder.path()).args(["up", "--no-build", "--listen", "127.0.0.1:0", "--admin", "off"]).output().unwrap()
    };
    let ended = up();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("the `certificates` of [host.tls] cannot be used") && said.contains("one.pem"), "{said}");
}
