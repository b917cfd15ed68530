//! TLS of the admin API, and the commands that ask it: they trust whom they should, and nobody else has a word of them.

use super::{ask, config, connect_to, der, is_there, make};
use crate::support::{RawClient, TestHost, fnhost, token_of, wait_for, with_guests};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, version};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An app whose admin API is at `admin`, and has the certificate `ops.pem`.
fn toml(admin: &str, settings: &str) -> String {
    with_guests(&format!(
        "name = \"test\"\n[host]\nadmin = \"{admin}\"\n{settings}\n[host.tls]\nadmin-certificates = [{{ cert = \"ops.pem\", key = \"ops.key\" }}]\n[functions.hello]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/\"]\n"
    ))
}

/// A host whose admin API has a certificate for `names`, and whose functions.toml says where that is.
fn host_for(names: &str, settings: &str) -> TestHost {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    make(folder.path(), "ops", names, 100);
    let host = TestHost::within(&folder, &toml("127.0.0.1:1", settings));
    std::fs::write(folder.path().join("functions.toml"), toml(&host.admin().to_string(), settings)).unwrap();
    host
}

/// What a command says in `folder`: whether it could, and on which of the two.
fn run(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let ended = fnhost(folder).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if ended.status.success() { Ok(text(&ended.stdout)) } else { Err(text(&ended.stderr)) }
}

/// A command that trusts nobody who is there says so in one line.
#[track_caller]
fn assert_not_trusted(said: &Result<String, String>, why: &str) {
    let said = said.as_ref().expect_err("somebody was trusted");
    assert!(said.starts_with("error: https://") && said.lines().count() == 1, "{said}");
    assert!(said.contains(" is not trusted: ") && said.contains(why), "{said}");
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An authority, `ca.pem`, and a certificate of its for `names` in place of `ops.pem`.
fn make_vouched(folder: &Path, names: &str) {
    make(folder, "ca", "DNS:authority.example", 100);
    std::fs::write(folder.join("ops.cnf"), format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n")).unwrap();
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=ops"];
    openssl(folder, &[&["req", "-new", "-keyout", "ops.key", "-out", "ops.csr"], &new[..]].concat());
    let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "100", "-extfile", "ops.cnf"];
    openssl(folder, &[&["x509", "-req", "-in", "ops.csr", "-out", "ops.pem"], &by[..]].concat());
}

/// A certificate for 127.0.0.1 that was over long ago, in place of `ops.pem`.
fn make_over(folder: &Path) {
    let config = "[ca]\ndefault_ca=a\n[a]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nx509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(folder.join("over.cnf"), config).unwrap();
    std::fs::write(folder.join("index"), "").unwrap();
    let new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=ops"];
    openssl(folder, &[&["req", "-new", "-keyout", "ops.key", "-out", "ops.csr"], &new[..]].concat());
    let time = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"];
    let sign = ["ca", "-batch", "-selfsign", "-config", "over.cnf", "-keyfile", "ops.key", "-in", "ops.csr"];
    openssl(folder, &[&sign[..], &time[..], &["-out", "ops.pem", "-notext"]].concat());
}

#[test]
fn every_command_asks_by_https_where_functions_toml_says_so() {
    if !is_there() {
        return;
    }
    // It is known by the very certificate, whatever that is for.
    let host = host_for("DNS:ops.example", "");
    let folder = host.folder().path();
    let commands: [&[&str]; 6] = [
        &["status"],
        &["releases"],
        &["deploy", "--no-build", "--force"],
        &["logs"],
        &["usage"],
        &["receipt", "01a20bab3f3891a863fe1b45a376369d"],
    ];
    for command in commands {
        match run(folder, command) {
            Ok(_) => {}
            // One of the host's own answers.
            Err(said) => assert!(command[0] == "receipt" && said.contains("(no_receipt)"), "{command:?}: {said}"),
        }
    }
    let here = format!("localhost:{}", host.admin().port());
    run(folder, &["status", "--to", &format!("https://{here}")]).unwrap();
    let said = run(folder, &["status", "--to", &format!("http://{here}")]).unwrap_err();
    assert!(said.contains("(it may speak https://)"), "{said}");
    let said = run(folder, &["status", "--to", &format!("https://{}", host.address())]).unwrap_err();
    assert!(said.contains("(it may speak http://)"), "{said}");
    // Functions are served as before.
    let mut client = RawClient::open(host.address());
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").answer().body, "Hello, world!\n");
    // A new certificate is read on both sides.
    let old = der(folder, "ops");
    make(folder, "ops", "DNS:ops.example", 100);
    wait_for("the new one is served", || (served_by(&host).unwrap() != old).then_some(()));
    run(folder, &["status"]).unwrap();
}

/// The certificate of the admin API.
fn served_by(host: &TestHost) -> Option<CertificateDer<'static>> {
    let client = connect_to(host.admin(), &config(&[&version::TLS13], &[]), "ops.example").unwrap();
    Some(client.conn.peer_certificates()?[0].clone().into_owned())
}

#[test]
fn a_file_says_whom_to_trust_and_for_which_names() {
    if !is_there() {
        return;
    }
    let host = host_for("DNS:localhost,DNS:ops.example", "");
    let folder = host.folder().path();
    let other = tempfile::tempdir().unwrap();
    let token = folder.join(".fnhost/admin-token").to_str().unwrap().to_owned();
    let (by_name, by_address) =
        (format!("https://localhost:{}", host.admin().port()), format!("https://{}", host.admin()));
    let status =
        |to: &str, ca: &[&str]| run(other.path(), &[&["status", "--token-file", &token, "--to", to], ca].concat());
    let itself = folder.join("ops.pem").to_str().unwrap().to_owned();
    status(&by_name, &["--ca", &itself]).unwrap();
    assert_not_trusted(
        &status(&by_address, &["--ca", &itself]),
        "its certificate is for localhost, ops.example, and not for 127.0.0.1",
    );
    // Nobody else vouches for it.
    assert_not_trusted(&status(&by_name, &[]), "nobody vouches");
    make(other.path(), "other", "DNS:localhost", 100);
    assert_not_trusted(&status(&by_name, &["--ca", "other.pem"]), "nobody vouches");
    std::fs::write(other.path().join("none.pem"), "no certificate").unwrap();
    for (file, why) in [("none.pem", "none.pem has no certificate"), ("absent.pem", "cannot read the certificates")] {
        let said = status(&by_name, &["--ca", file]).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    // An authority vouches for those that it has signed, and for their names.
    make_vouched(folder, "DNS:localhost,IP:127.0.0.1");
    let vouched = der(folder, "ops");
    wait_for("the new one is served", || (served_by(&host).unwrap() == vouched).then_some(()));
    let authority = folder.join("ca.pem").to_str().unwrap().to_owned();
    for to in [&by_name, &by_address] {
        status(to, &["--ca", &authority]).unwrap();
    }
    assert_not_trusted(&status(&by_name, &[]), "nobody vouches");
    // And so it does for itself, but for no longer than it says.
    make_over(folder);
    let over = der(folder, "ops");
    wait_for("the one that is over is served", || (served_by(&host).unwrap() == over).then_some(()));
    let itself = folder.join("ops.pem").to_str().unwrap().to_owned();
    assert_not_trusted(&status(&by_address, &["--ca", &itself]), "its certificate is over");
    host.logged(|line| {
        line["message"] == "a certificate is over" && line["file"].as_str().unwrap().contains("ops.pem")
    });
}

/// Waits for one client with a certificate of `folder`, and gives what it was told over TLS; nothing, if there was no
/// understanding.
fn impostor(folder: &Path, name: &str) -> (SocketAddr, std::thread::JoinHandle<Option<Vec<u8>>>) {
    let chain = vec![der(folder, name)];
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = ServerConnection::new(config).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).ok()?;
        }
        // Whoever takes it for the host begins to speak now.
        let mut heard = vec![0; 1 << 10];
        let count = rustls::Stream::new(&mut tls, &mut socket).read(&mut heard).unwrap_or(0);
        heard.truncate(count);
        Some(heard)
    });
    (address, heard)
}

#[test]
fn whoever_is_not_the_host_gets_no_word_and_no_token() {
    if !is_there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["ops", "impostor"] {
        make(folder, name, "IP:127.0.0.1,DNS:localhost", 100);
    }
    std::fs::write(folder.join("token"), "0123456789abcdef0123456789abcdef").unwrap();
    // Of the certificate that functions.toml names, of one that a file has, and of one that an authority signs.
    let ways: [(&[&str], &str); 3] = [
        (&[], "its certificate is another than the one that functions.toml names"),
        (&["--ca", "ops.pem"], "nobody vouches"),
        (&["-c", "none.toml"], "nobody vouches"),
    ];
    for (way, why) in ways {
        let (address, heard) = impostor(folder, "impostor");
        std::fs::write(folder.join("functions.toml"), toml(&address.to_string(), "")).unwrap();
        let to = format!("https://{address}");
        let said = run(folder, &[&["status", "--token-file", "token", "--to", &to], way].concat());
        assert_not_trusted(&said, why);
        let heard = heard.join().unwrap();
        assert!(heard.is_none_or(|heard| heard.is_empty()), "{way:?}");
    }
    // The same is heard where it is trusted: the test would see it.
    let (address, heard) = impostor(folder, "impostor");
    let to = format!("https://{address}");
    run(folder, &["status", "--token-file", "token", "--to", &to, "--ca", "impostor.pem"]).unwrap_err();
    let heard = String::from_utf8(heard.join().unwrap().unwrap()).unwrap();
    assert!(heard.to_lowercase().contains("authorization: bearer 0123456789abcdef"), "{heard}");
}

#[test]
fn a_token_goes_to_another_machine_by_tls_or_when_told_to() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "0123456789abcdef0123456789abcdef").unwrap();
    let status =
        |more: &[&str]| run(folder.path(), &[&["status", "--token-file", "token"], more].concat()).unwrap_err();
    // Nobody has that address (RFC 5737), and nobody is asked.
    let said = status(&["--to", "http://192.0.2.1:3001"]);
    assert!(said.contains("is not sent to http://192.0.2.1:3001") && said.contains("--insecure-admin"), "{said}");
    let said = status(&["--to", "http://ops.invalid:3001", "--insecure-admin"]);
    assert!(said.contains("no host answers at http://ops.invalid:3001"), "{said}");
    let said = status(&["--to", "http://127.0.0.1:1", "--ca", "token"]);
    assert!(said.contains("--ca says whom to trust over TLS"), "{said}");
}

#[test]
fn it_speaks_http_1_1_over_tls_and_nothing_without() {
    if !is_there() {
        return;
    }
    let host = host_for("DNS:ops.example", "");
    let token = token_of(&host);
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
    for version in [&version::TLS13, &version::TLS12] {
        for protocols in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
            let config = config(&[version], protocols);
            let mut client = connect_to(host.admin(), &config, "ops.example").unwrap();
            assert!(client.conn.alpn_protocol().is_none_or(|agreed| agreed == b"http/1.1"), "{protocols:?}");
            let refused = ask(&mut client, &get("/v1/status", ""));
            assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
            let mut client = connect_to(host.admin(), &config, "ops.example").unwrap();
            let answered = ask(&mut client, &get("/v1/status", &format!("Authorization: Bearer {token}\r\n")));
            assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
        }
    }
    let mut client = connect_to(host.admin(), &config(&[&version::TLS13], &[]), "ops.example").unwrap();
    let page = ask(&mut client, &get("/", ""));
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<title>"), "{page}");
    // Whoever speaks nothing that is spoken here.
    assert!(connect_to(host.admin(), &config(&[&version::TLS13], &["h2"]), "ops.example").is_err());
    let said = RawClient::open(host.admin()).send(get("/v1/health", "")).rest();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
}

#[test]
fn its_certificates_change_and_broken_ones_do_not_count() {
    if !is_there() {
        return;
    }
    let host = host_for("DNS:ops.example", "");
    let folder = host.folder().path();
    let before = der(folder, "ops");
    std::fs::write(folder.join("ops.pem"), "nothing of a certificate").unwrap();
    let said = host.logged(|line| line["level"] == "ERROR" && line["listener"] == "admin");
    assert!(said["message"].as_str().unwrap().contains("ops.pem"), "{said}");
    assert_eq!(served_by(&host), Some(before));
    make(folder, "ops", "DNS:ops.example", 5);
    host.logged(|line| line["message"] == "new certificates are served" && line["listener"] == "admin");
    assert_eq!(served_by(&host), Some(der(folder, "ops")));
    let warned = host.logged(|line| line["message"] == "a certificate is over soon");
    assert_eq!((warned["level"].as_str(), warned["days"].as_u64()), (Some("WARN"), Some(4)));
}

#[test]
fn clients_that_say_nothing_keep_no_operator_out() {
    if !is_there() {
        return;
    }
    let host = host_for("DNS:ops.example", "header-timeout = \"3s\"");
    let mut silent: Vec<RawClient> = (0..100).map(|_| RawClient::open(host.admin())).collect();
    silent[0].send(b"\x16\x03\x01\x02\x00\x01");
    let began = Instant::now();
    run(host.folder().path(), &["status"]).unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    for client in &mut silent {
        client.assert_closed();
    }
    // One address has half of the places, and no more.
    let host = host_for("DNS:ops.example", "header-timeout = \"1h\"");
    let mut held: Vec<RawClient> = (0..128).map(|_| RawClient::open(host.admin())).collect();
    RawClient::open(host.admin()).assert_closed();
    let mut other = RawClient::open_from("127.0.0.2", host.admin());
    assert!(other.is_open_after(Duration::from_millis(300)));
    held.pop();
    wait_for("a place is free again", || {
        connect_to(host.admin(), &config(&[&version::TLS13], &[]), "ops.example").ok().map(drop)
    });
}

/// Ends it with the test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn with_a_certificate_it_may_listen_where_others_reach_it() {
    if !is_there() {
        return;
    }
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let write = |admin: &str| std::fs::write(folder.path().join("functions.toml"), toml(admin, "")).unwrap();
    make(folder.path(), "ops", "DNS:ops.example", 100);
    write("0.0.0.0:0");
    let mut command = fnhost(folder.path());
    command.args(["up", "--no-build", "--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut host = Ends(command.spawn().unwrap());
    let lines = BufReader::new(host.0.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take(2).collect();
    let port = said[1].strip_prefix("admin on https://0.0.0.0:").unwrap();
    // Everywhere is here as well.
    write(&format!("0.0.0.0:{port}"));
    run(folder.path(), &["status"]).unwrap();
    // By an address that need not be this machine's, plain HTTP is not spoken.
    let token = folder.path().join(".fnhost/admin-token").to_str().unwrap().to_owned();
    let to = format!("http://0.0.0.0:{port}");
    let said = run(folder.path(), &["status", "--token-file", &token, "--to", &to]).unwrap_err();
    assert!(said.contains("--insecure-admin"), "{said}");
}

#[test]
fn a_certificate_that_cannot_be_read_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml("127.0.0.1:0", "")).unwrap();
    let said = run(folder.path(), &["up", "--no-build", "--listen", "127.0.0.1:0"]).unwrap_err();
    assert!(
        said.contains("the `admin-certificates` of [host.tls] cannot be used") && said.contains("ops.pem"),
        "{said}"
    );
    // And so by the commands.
    std::fs::create_dir(folder.path().join(".fnhost")).unwrap();
    std::fs::write(folder.path().join(".fnhost/admin-token"), "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::write(folder.path().join("functions.toml"), toml("127.0.0.1:1", "")).unwrap();
    let said = run(folder.path(), &["status"]).unwrap_err();
    assert!(said.contains("cannot read the certificates of ") && said.contains("ops.pem"), "{said}");
}
