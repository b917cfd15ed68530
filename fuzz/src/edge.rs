//! The host itself, listening on a port of this machine, and one client at a time.
//!
//! All of it runs in one thread, so that an input goes the same way each time, and so that it can be told when the host has
//! done all it can: a client that gives others their turn again and again, and hears nothing, has heard everything that does
//! not wait for time to pass.

use fnhost::manifest::Manifest;
use fnhost::release::deploy::Deployments;
use fnhost::release::install::Silent;
use fnhost::runtime::engine::Haste;
use fnhost::server::{self, Door, Entrance, Host};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};

/// How long anything may take that is to happen at once: a connection that waits for longer hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the others get their turn before what is heard is taken for all.
const TURNS: u32 = 16;

/// Requests on one connection, so that the last one is met.
pub const REQUESTS_MAX: usize = 20;
/// The most bytes of an upload.
pub const UPLOAD_BYTES_MAX: usize = 2048;

/// A little of everything that can answer.
const MANIFEST: &str = r#"
name = "fuzz"

[host]
listen = "127.0.0.1:0"
state = "state"
concurrency = 8
requests-per-connection = 20
trusted-proxies = ["127.1.0.0/16"]
proxy-protocol = ["127.2.0.0/16"]

[observe]
usage = false
keep-logs = "off"

[middleware]
all = ["own"]
[middleware.own]
headers = { response = { set = { x-own = "yes" } } }
[middleware.moved]
redirect = { to = "https://new.example{path}{query}" }
[middleware.site]
static = { from = "site", index = "index.html" }
[middleware.zip]
compress = { min-size = "1 B" }
[middleware.cors]
cors = { origins = ["https://a.example"], methods = ["GET", "PUT"], headers = ["x-a"], credentials = true }
[middleware.login]
basic-auth = { users = { a = { file = "password" } } }

[functions.echo]
component = "echo.wasm"
routes = ["/e/{*rest}", "*.b.example/{x}/{y}"]
limits = { request-body = "2 KiB" }

[functions.moved]
component = "echo.wasm"
routes = ["GET /moved/{*rest}", "POST /moved"]
middleware = ["moved"]

[functions.site]
component = "echo.wasm"
routes = ["/site/{*rest}"]
middleware = ["zip", "site"]
limits = { request-body = "2 KiB" }

[functions.guarded]
component = "echo.wasm"
routes = ["GET /guarded/{id}", "PUT /guarded/{id}"]
middleware = ["cors", "login"]
limits = { request-body = "2 KiB" }
"#;

/// A command that answers with its environment, an empty line, and its upload.
const ECHO: &str = r#"
(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 4)
  (data (i32.const 64) "x-echo: yes\ncontent-type: text/plain\n\n")
  (func $print (param $from i32) (param $length i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $length)))
        (i32.store (i32.const 0) (local.get $from))
        (i32.store (i32.const 4) (local.get $length))
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then (call $exit (i32.const 1))))
        (local.set $from (i32.add (local.get $from) (i32.load (i32.const 8))))
        (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
        (br $more))))
  (func (export "_start")
    (call $print (i32.const 64) (i32.const 38))
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $environ (i32.const 1024) (i32.const 131072)))
    (call $print (i32.const 131072) (i32.load (i32.const 20)))
    (i32.store (i32.const 128) (i32.const 10))
    (call $print (i32.const 128) (i32.const 1))
    (loop $more
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 4096))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (call $exit (i32.const 2))))
      (if (i32.load (i32.const 8))
        (then
          (call $print (i32.const 65536) (i32.load (i32.const 8)))
          (br $more))))))
"#;

/// A host that serves [`MANIFEST`].
pub struct Edge {
    runtime: Runtime,
    address: SocketAddr,
    clients: AtomicU32,
    _folder: tempfile::TempDir,
}

/// What came, and how it ended.
#[derive(Debug, Default)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// The host ended it, and not because its client did.
    pub ended_first: bool,
    /// It ended by a reset.
    pub was_reset: bool,
}

/// From where a client connects: what it may say of itself depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Anywhere,
    TrustedProxy,
    ProxyProtocol,
}

/// The one edge of this process.
pub fn edge() -> &'static Edge {
    static EDGE: OnceLock<Edge> = OnceLock::new();
    EDGE.get_or_init(Edge::start)
}

impl Edge {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("echo.wasm"), wat::parse_str(ECHO).expect("a module")).expect("a file");
        std::fs::write(folder.path().join("password"), "b").expect("a file");
        let site = folder.path().join("site");
        std::fs::create_dir(&site).expect("a folder");
        std::fs::write(site.join("index.html"), "<p>".repeat(1000)).expect("a file");
        std::fs::write(site.join("a.txt"), "0123456789").expect("a file");
        let manifest = Manifest::parse(&folder.path().join("functions.toml"), MANIFEST.to_owned());
        let manifest = manifest.unwrap_or_else(|error| panic!("{error}"));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = runtime.block_on(serve(&manifest, folder.path()));
        Self { runtime, address, clients: AtomicU32::new(0), _folder: folder }
    }

    /// Sends `pieces`, one by one, and hears what comes, until `is_enough` of it came or nothing more is due; then ends its
    /// half, and hears the rest.
    ///
    /// # Panics
    /// If that takes longer than what is to happen at once.
    pub fn exchange<'a>(
        &self,
        from: From,
        pieces: impl Iterator<Item = &'a [u8]>,
        is_enough: impl Fn(&[u8], bool) -> bool,
    ) -> Heard {
        self.runtime.block_on(async {
            let mut client = Client::connect(self.address, self.source(from)).await;
            for piece in pieces {
                client.send(piece).await;
            }
            let began = Instant::now();
            loop {
                client.settle().await;
                if client.has_ended || is_enough(&client.heard.bytes, client.has_ended) {
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "no answer: {}", client.heard.bytes.escape_ascii());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client.heard.ended_first = client.has_ended;
            client.finish().await;
            client.heard
        })
    }

    /// An address of its own for each, so that a port that is still waiting to be free is in nobody's way.
    fn source(&self, from: From) -> Ipv4Addr {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let [_, _, high, low] = number.to_be_bytes();
        let low = low.clamp(1, 254);
        match from {
            From::Anywhere => Ipv4Addr::new(127, 3, high, low),
            From::TrustedProxy => Ipv4Addr::new(127, 1, high, low),
            From::ProxyProtocol => Ipv4Addr::new(127, 2, high, low),
        }
    }
}

async fn serve(manifest: &Manifest, folder: &Path) -> SocketAddr {
    let settings = manifest.host.clone();
    assert!(settings.state.starts_with(folder), "{}", settings.state.display());
    let deployments = Arc::new(Deployments::open(&settings, Haste::SomebodyWaits).expect("a state folder"));
    deployments.deploy_file(manifest, &Silent).unwrap_or_else(|error| panic!("{error}"));
    let listener = server::listen(server::bind(settings.listen).expect("a port")).expect("a listener");
    let host = Host::new(deployments, settings, None, None).expect("a host");
    let entrance = Entrance::new(listener, Door::Http).expect("an address");
    let address = entrance.address;
    #[expect(clippy::disallowed_methods, reason = "it serves until the process ends")]
    tokio::spawn(server::serve(host, vec![entrance], std::future::pending()));
    address
}

struct Client {
    stream: TcpStream,
    heard: Heard,
    /// Nothing more will come.
    has_ended: bool,
}

impl Client {
    async fn connect(address: SocketAddr, source: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Closed by a reset, so that no port waits to be free.
        socket.set_zero_linger().expect("a socket of TCP");
        socket.set_nodelay(true).expect("a socket of TCP");
        socket.bind(SocketAddr::from((source, 0))).expect("a port");
        let stream = socket.connect(address).await.expect("the host listens");
        Self { stream, heard: Heard::default(), has_ended: false }
    }

    /// Reads what is there, and says whether that was something.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        if self.has_ended {
            return false;
        }
        match self.stream.try_read(&mut buffer) {
            Ok(0) => self.has_ended = true,
            Ok(length) => self.heard.bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => {
                self.has_ended = true;
                self.heard.was_reset = error.kind() == ErrorKind::ConnectionReset;
            }
        }
        true
    }

    async fn send(&mut self, mut piece: &[u8]) {
        let began = Instant::now();
        while !piece.is_empty() {
            match self.stream.try_write(piece) {
                Ok(length) => piece = &piece[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(began.elapsed() < PATIENCE, "nobody reads: {}", self.heard.bytes.escape_ascii());
                }
                // The host has closed; what it said before that is still to be heard.
                Err(_) => return,
            }
            self.hear();
            tokio::task::yield_now().await;
        }
    }

    /// Hears everything that comes without time passing.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < TURNS && !self.has_ended {
            tokio::task::yield_now().await;
            quiet = if self.hear() { 0 } else { quiet + 1 };
        }
    }

    /// Ends this half, and hears what comes until the host has ended the other.
    async fn finish(&mut self) {
        use tokio::io::AsyncWriteExt as _;
        let _ = self.stream.shutdown().await;
        let began = Instant::now();
        loop {
            self.settle().await;
            if self.has_ended {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end: {}", self.heard.bytes.escape_ascii());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Cuts an input: as a whole, or in pieces whose lengths `number` says.
pub fn pieces(bytes: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = number;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = match number % 4 {
            0 | 1 => rest.len(),
            2 => 1 + usize::try_from((state >> 33) % 64).unwrap_or(0),
            _ => 1 + usize::try_from((state >> 33) % 3).unwrap_or(0),
        };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        Some(piece)
    })
}
