//! HTTP: the only floor that names axum.
//!
//! Owns the listener, the connections and their end. What happens to a request is in `ingress`.

mod ingress;
mod observe;
mod respond;
pub mod summary;
mod tasks;

use crate::manifest::HostConfig;
use crate::release::Release;
use crate::release::live::Live;
use axum::body::Body;
use axum::handler::Handler as _;
use http::{Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use observe::Observer;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use summary::Summary;
use tasks::Tasks;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service;

/// Connections that the kernel holds ready for the host to accept.
const BACKLOG: u32 = 1024;
/// How long the host waits after an accept failed, most often for want of file descriptors, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an idle HTTP/1.1 connection stays open once the host is stopping. A client that sends a request at that very
/// moment still gets its answer, with `Connection: close`; without such a pause it would get a reset.
const DRAIN_LINGER: Duration = Duration::from_millis(500);
/// Bytes of one request's head, and streams of one HTTP/2 connection.
const HEAD_BYTES_MAX: u32 = 64 << 10;
const STREAMS_MAX: u32 = 256;
/// How much of an upload, and of all uploads of a connection, HTTP/2 lets a client send ahead.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// A host that serves one live release.
pub struct Host {
    live: Live,
    observer: Observer,
    settings: HostConfig,
    tasks: Tasks,
    draining: AtomicBool,
}

impl Host {
    /// A host for `release`.
    pub fn new(release: Release, settings: HostConfig) -> Arc<Self> {
        let names = release.functions.iter().map(|function| function.name.clone());
        let observer = Observer::new(Summary::new(names), settings.server_timing);
        let live = Live::new(release);
        Arc::new(Self { live, observer, settings, tasks: Tasks::default(), draining: AtomicBool::new(false) })
    }

    /// What its functions have done so far.
    pub fn summary(&self) -> &Summary {
        &self.observer.summary
    }
}

/// Takes `address`, without answering there yet. Fails if somebody else answers.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the last run that are in TIME_WAIT must not keep the next one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Begins to listen. From here on clients connect, and wait to be served.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Serves until `stop` completes, then lets requests finish for `shutdown-grace`. Says how many it had to cut off.
pub async fn serve(host: Arc<Host>, listener: TcpListener, stop: impl Future<Output = ()>) -> usize {
    let (drain, draining) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(host.settings.connections as usize));
    let local = listener.local_addr().unwrap_or(host.settings.listen);
    let mut stop = pin!(stop);
    loop {
        // A place first, then a connection: what is over the bound waits in the kernel's queue.
        let place = tokio::select! {
            biased;
            () = &mut stop => break,
            place = Arc::clone(&connections).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve_connection(Arc::clone(&host), stream, Ends { peer, local }, draining.clone());
                host.tasks.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    host.draining.store(true, Ordering::Release);
    // Whoever the kernel has let in already has been promised an answer.
    while let Ok(Ok((stream, peer))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        host.tasks.spawn(serve_connection(Arc::clone(&host), stream, Ends { peer, local }, draining.clone()));
    }
    drop(listener);
    let _ = drain.send(true);
    host.tasks.finish_within(host.settings.shutdown_grace).await
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

/// What is known of a connection besides its bytes. Rides along with each of its requests. Cheap to clone.
#[derive(Debug, Clone)]
struct Peer {
    ends: Ends,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    /// Requests whose answer is not whole yet.
    answering: AtomicUsize,
    http2: AtomicBool,
}

/// A request that is being answered. Counts for its connection until it is dropped.
struct Answering(Arc<Seen>);

impl Peer {
    fn answering(&self) -> Answering {
        self.seen.answering.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(&self.seen))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve_connection(host: Arc<Host>, stream: TcpStream, ends: Ends, mut draining: watch::Receiver<bool>) {
    // Small frames must not wait for the acknowledgement of the one before: some 40 ms each on Linux (Nagle).
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let header_timeout = host.settings.header_timeout;
    let builder = connection_builder(header_timeout);
    let peer = Peer { ends, seen: Arc::default() };
    let service = ConnectionService { handler: ingress::handle.with_state(host), peer: peer.clone() };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    // hyper bounds the head of each request of HTTP/1.1, but neither the bytes from which it tells the protocol nor the
    // first request of HTTP/2.
    let mut first_request = pin!(tokio::time::sleep(header_timeout));
    let mut first_is_due = true;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return log_end(ended),
            () = first_request.as_mut(), if first_is_due => {
                if peer.seen.requests.load(Ordering::Relaxed) == 0 {
                    return;
                }
                first_is_due = false;
            }
            _ = draining.wait_for(|draining| *draining) => break,
        }
    }
    // HTTP/2 can say which requests it will still answer. HTTP/1.1 cannot, so it is closed once it has been idle for a
    // while; until then, each answer says that it is the last.
    let mut answered = None;
    while !peer.seen.http2.load(Ordering::Relaxed) {
        let requests = peer.seen.requests.load(Ordering::Relaxed);
        if answered == Some(requests) && peer.seen.answering.load(Ordering::Relaxed) == 0 {
            break;
        }
        answered = Some(requests);
        if let Ok(ended) = tokio::time::timeout(DRAIN_LINGER, connection.as_mut()).await {
            return log_end(ended);
        }
    }
    connection.as_mut().graceful_shutdown();
    log_end(connection.await);
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        // Clients go away all the time.
        tracing::debug!(error = %error, "a connection ended early");
    }
}

fn connection_builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEAD_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

/// The service of one connection: tells the handler whose it is.
#[derive(Clone)]
struct ConnectionService<H> {
    handler: H,
    peer: Peer,
}

impl<H> Service<Request<hyper::body::Incoming>> for ConnectionService<H>
where
    H: Service<Request<Body>, Error = Infallible>,
{
    type Response = H::Response;
    type Error = Infallible;
    type Future = H::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> H::Future {
        self.peer.seen.requests.fetch_add(1, Ordering::Relaxed);
        if request.version() == Version::HTTP_2 {
            self.peer.seen.http2.store(true, Ordering::Relaxed);
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        self.handler.call(request)
    }
}
