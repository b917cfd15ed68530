//! A connection: served from its first byte to its last, and closed if it does not get on.
//!
//! Owns what is known of a connection besides its bytes, and its end. What happens to a request is in `ingress`, how long it may
//! wait in `progress`.

use super::forwarded::{Client, Said};
use super::ingress;
use super::observe::Finished;
use super::places::Place;
use super::progress::{Patience, Progress, Stall, Watch};
use super::proxy;
use super::respond::{self, ResponseBody};
use super::socket::{Socket, SocketView};
use super::stream::Stream;
use super::streams::StreamTasks;
use super::target::{HEAD_BYTES_MAX, HEADERS_MAX};
use super::tls::Tls;
use super::{Door, Host};
use crate::network::Network;
use crate::runtime::response::Remains;
use http::header::CONNECTION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use tokio::time::Sleep;

/// How long an idle HTTP/1.1 connection stays open once the host is stopping. A client that sends a request at that very
/// moment still gets its answer, with `Connection: close`; without such a pause it would get a reset.
const DRAIN_LINGER: Duration = Duration::from_millis(500);
/// How often a client whose answer takes its time is looked at: it may have left without a word.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a connection of HTTP/2 that is to end is given to say so.
const GOODBYE: Duration = Duration::from_secs(1);
/// Streams of one HTTP/2 connection, and those among them that a client may have taken back before they were looked at.
const STREAMS_MAX: u32 = 128;
const PENDING_RESETS_MAX: usize = 20;
/// Streams that were reset because the client broke the protocol on them, before the connection is closed.
const ERROR_RESETS_MAX: usize = 128;
/// The largest frame: what every client can rely on (RFC 9113, 6.5.2).
const FRAME_BYTES_MAX: u32 = 16 << 10;
/// How much of an upload, and of all uploads of a connection, HTTP/2 lets a client send ahead.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// How much of an answer waits in a stream for its client.
const STREAM_SEND_BYTES: usize = 64 << 10;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// What is known of a connection besides its bytes. One for all its requests.
pub(super) struct Peer {
    pub(super) ends: Ends,
    /// Where HTTPS is spoken, if all that is to be had here is the way there.
    pub(super) leads_to: Option<u16>,
    /// Whoever connected, and what guests are told of it: nearly always that is who asks, so it is written once.
    pub(super) client: Client,
    pub(super) said: Said,
    pub(super) socket: SocketView,
    pub(super) progress: Arc<Progress>,
    requests: AtomicU64,
    http2: AtomicBool,
    /// Told of a response that is over its time and that the client does not read.
    pub(super) stalled: Arc<Notify>,
    late: Mutex<Late>,
}

/// What is done when answers are on their way.
#[derive(Default)]
struct Late {
    /// Receipts to be written.
    finished: Vec<Finished>,
    /// Sandboxes to be taken apart.
    remains: Vec<Remains>,
}

impl Peer {
    fn new(socket: SocketView, progress: Arc<Progress>, ends: Ends, scheme: Scheme, leads_to: Option<u16>) -> Self {
        let client = Client::connected(ends.peer.ip(), scheme);
        Self {
            ends,
            leads_to,
            said: client.said(),
            client,
            socket,
            progress,
            requests: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            stalled: Arc::default(),
            late: Mutex::default(),
        }
    }

    /// Whom a request of HTTP/1.0 is for that names nobody. It cannot be led elsewhere.
    pub(super) fn authority(&self) -> Option<SocketAddr> {
        self.leads_to.is_none().then_some(self.ends.local)
    }

    fn note_request(&self, version: Version) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.progress.note_request();
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
    }

    fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether this request is the last of its connection.
    pub(super) fn is_spent(&self, requests_max: u64) -> bool {
        self.requests() >= requests_max
    }

    /// Ready when there was the last request that is answered.
    fn poll_last(&self, requests_max: u64) -> Poll<u64> {
        if self.socket.has_unclear_end() { Poll::Ready(self.requests()) } else { self.poll_spent(requests_max) }
    }

    fn poll_spent(&self, requests_max: u64) -> Poll<u64> {
        if self.is_spent(requests_max) { Poll::Ready(self.requests()) } else { Poll::Pending }
    }

    /// Where the ends of uploads are noted. Over HTTP/2 an upload that is not wanted is reset, and its connection goes on.
    pub(super) fn upload_socket(&self) -> Option<&SocketView> {
        (!self.is_http2()).then_some(&self.socket)
    }

    /// Writes a receipt when the last bytes of the answer are on their way: nobody should wait for it.
    pub(super) fn finish(&self, finished: Finished) {
        // Over HTTP/1.1 all of a request happens in the task of its connection, which looks here each time it has
        // written. Streams of HTTP/2 have tasks of their own, behind whose end the connection may sleep for long.
        if self.is_http2() {
            return finished.end();
        }
        self.late().finished.push(finished);
    }

    /// Takes a sandbox apart, likewise; never later than that, whether the client reads or not.
    pub(super) fn take_apart(&self, remains: Remains) {
        if !self.is_http2() {
            self.late().remains.push(remains);
        }
    }

    fn end_late(&self) {
        // Not under the lock: taking a sandbox apart takes its time.
        let late = std::mem::take(&mut *self.late());
        late.finished.into_iter().for_each(Finished::end);
        drop(late.remains);
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who connected on `stream`, as those say who may say it. Nothing, if it is not said in time.
async fn introduce(host: &Host, stream: &mut TcpStream, ends: Ends) -> Option<Ends> {
    if !contains(&host.settings.proxy_protocol, ends.peer.ip()) {
        return Some(ends);
    }
    match tokio::time::timeout(host.settings.header_timeout, proxy::read(stream)).await {
        Ok(Ok(said)) => Some(said.unwrap_or(ends)),
        Ok(Err(error)) => {
            tracing::debug!(%error, proxy = %ends.peer, "a proxy did not say for whom it connects");
            None
        }
        Err(_) => None,
    }
}

/// A place for another connection of this client, if it may have one; nothing within, where none is
/// counted, since a proxy asks for many clients.
#[expect(clippy::option_option, reason = "whether it may, and what it then holds")]
fn admit(host: &Host, client: IpAddr) -> Option<Option<Place>> {
    let settings = &host.settings;
    if contains(&settings.trusted_proxies, client) || contains(&settings.proxy_protocol, client) {
        return Some(None);
    }
    let place = host.places.take(client);
    if place.is_none() {
        tracing::debug!(%client, "a client has as many connections as it may have");
    }
    place.map(Some)
}

/// What comes on `stream`, as it is meant. Nothing, if there is no understanding in time; nobody waits for that but this connection.
pub(super) async fn secure(host: &Host, tls: Option<&Tls>, stream: TcpStream) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Plain(stream)) };
    match tokio::time::timeout(host.settings.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no handshake");
            None
        }
        Err(_) => None,
    }
}

fn contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// Serves `stream`, which came by `door` and counts as `counted`, to its end, or until `draining` becomes true and what was asked
/// by then is answered.
pub(super) async fn serve_connection(
    host: Arc<Host>,
    door: Door,
    mut stream: TcpStream,
    ends: Ends,
    draining: watch::Receiver<bool>,
    counted: Option<OwnedSemaphorePermit>,
) {
    let _open = Open::count(&host, counted);
    let Some(ends) = introduce(&host, &mut stream, ends).await else { return };
    let Some(_place) = admit(&host, ends.peer.ip()) else { return };
    let Some(stream) = secure(&host, door.tls(), stream).await else { return };
    // Apart, so that it takes the room of what came before: there are thousands of these at a time.
    answer_all(host, stream, ends, door.leads_to(), draining).await;
}

/// Answers what is asked on `stream`.
async fn answer_all(
    host: Arc<Host>,
    stream: Stream,
    ends: Ends,
    leads_to: Option<u16>,
    mut draining: watch::Receiver<bool>,
) {
    let scheme = if stream.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
    let patience = Patience::of(&host.settings);
    let progress = Arc::new(Progress::begin());
    let mut watch = Watch::over(patience);
    let mut socket = Socket::new(stream, Arc::clone(&host.turns), Arc::clone(&progress), patience.write);
    let Some(version) = opening_of(&mut socket, &progress, &mut watch, &mut draining).await else { return };
    let builder = connection_builder(version, StreamTasks(Arc::clone(&host)));
    let peer = Arc::new(Peer::new(socket.view(), progress, ends, scheme, leads_to));
    let _last = EndsLate(Arc::clone(&peer));
    let service = service_fn(|request| {
        peer.note_request(request.version());
        answer(Arc::clone(&host), Arc::clone(&peer), request)
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let requests_max = u64::from(host.settings.requests_per_connection);
    let mut is_spent = false;
    let mut look = None;
    let stall = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| poll_connection(connection.as_mut(), &peer, cx)) => return log_end(ended),
            stall = poll_fn(|cx| watch.poll(&peer.progress, cx)) => break Some(stall),
            // HTTP/1.1 says so with its last answer, or has no more of them behind an upload whose end is unclear.
            requests = poll_fn(|_| peer.poll_last(requests_max)), if !is_spent => {
                is_spent = true;
                if peer.is_http2() || peer.socket.has_unclear_end() {
                    connection.as_mut().graceful_shutdown();
                }
                tracing::trace!(requests, "a connection has had all its requests");
            }
            // One that heeds no goodbye.
            _ = poll_fn(|_| peer.poll_spent(requests_max + u64::from(STREAMS_MAX))) => return,
            // One stalled stream says nothing of the others on its connection.
            () = peer.stalled.notified(), if !peer.is_http2() => return,
            () = poll_fn(|cx| poll_look(&peer, &mut look, cx)) => {
                if peer.socket.client_left() {
                    return;
                }
            }
            _ = draining.wait_for(|draining| *draining) => break None,
        }
    };
    if let Some(stall) = stall {
        tracing::debug!(?stall, "a connection did not get on");
        if stall == Stall::Idle && peer.is_http2() {
            // It can be told, so that it sends no request into a connection that closes.
            connection.as_mut().graceful_shutdown();
            let goodbye = poll_fn(|cx| poll_connection(connection.as_mut(), &peer, cx));
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        }
        return;
    }
    // HTTP/2 can say which requests it will still answer. HTTP/1.1 cannot, so it is closed once it has been idle for a
    // while; until then, each answer says that it is the last.
    let mut answered = None;
    while !peer.is_http2() {
        let requests = peer.requests();
        if answered == Some(requests) && !peer.progress.is_answering() {
            break;
        }
        answered = Some(requests);
        let served = poll_fn(|cx| poll_connection(connection.as_mut(), &peer, cx));
        if let Ok(ended) = tokio::time::timeout(DRAIN_LINGER, served).await {
            return log_end(ended);
        }
    }
    connection.as_mut().graceful_shutdown();
    log_end(poll_fn(|cx| poll_connection(connection.as_mut(), &peer, cx)).await);
}

/// Which HTTP is spoken on `socket`, once there is something to answer. Nothing, if it ends before that, takes too long, or the
/// host ends.
async fn opening_of(
    socket: &mut Socket,
    progress: &Progress,
    watch: &mut Watch,
    draining: &mut watch::Receiver<bool>,
) -> Option<Version> {
    let lingered = async {
        let _ = draining.wait_for(|draining| *draining).await;
        tokio::time::sleep(DRAIN_LINGER).await;
    };
    tokio::select! {
        biased;
        version = poll_fn(|cx| socket.poll_opening(cx)) => version
            .inspect_err(|error| tracing::debug!(%error, "a connection ended before it asked for anything"))
            .ok(),
        stall = poll_fn(|cx| watch.poll(progress, cx)) => {
            tracing::debug!(?stall, "a connection did not get on");
            None
        }
        () = lingered => None,
    }
}

async fn answer(
    host: Arc<Host>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let version = request.version();
    let mut response = ingress::handle(host, Arc::clone(&peer), request).await;
    if peer.socket.has_unclear_end() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    respond::fit_version(&mut response, version);
    Ok(response)
}

/// A connection, while it is open.
struct Open {
    host: Arc<Host>,
    /// Its place among those that the host may have.
    _counted: Option<OwnedSemaphorePermit>,
}

impl Open {
    fn count(host: &Arc<Host>, counted: Option<OwnedSemaphorePermit>) -> Self {
        host.connections.fetch_add(1, Ordering::Relaxed);
        Self { host: Arc::clone(host), _counted: counted }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.host.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends what was answered, however its connection ends.
struct EndsLate(Arc<Peer>);

impl Drop for EndsLate {
    fn drop(&mut self) {
        self.0.end_late();
    }
}

/// Serves, and ends what it has answered. A client that is alone should not wait for a sandbox to be taken apart, so that
/// comes behind the writing; among many it comes first, for then more answers go out together.
fn poll_connection<C: Future>(connection: Pin<&mut C>, peer: &Peer, cx: &mut Context<'_>) -> Poll<C::Output> {
    let polled = connection.poll(cx);
    if !peer.socket.answer_waits_alone() || polled.is_ready() {
        peer.end_late();
    }
    if peer.socket.take_refused() {
        cx.waker().wake_by_ref();
    }
    polled
}

/// Ready when it is time to look at a client that waits for an answer; its timer is set when one first has to wait.
fn poll_look(peer: &Peer, look: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    // An answer that is about to be written needs no timer.
    if !peer.progress.is_answering() || peer.socket.answer_waits_alone() {
        *look = None;
        return Poll::Pending;
    }
    let sleep = look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_INTERVAL)));
    std::task::ready!(sleep.as_mut().poll(cx));
    *look = None;
    Poll::Ready(())
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        // Clients go away all the time.
        tracing::debug!(error = %error, "a connection ended early");
    }
}

fn connection_builder(version: Version, streams: StreamTasks) -> auto::Builder<StreamTasks> {
    let builder = auto::Builder::new(streams);
    let mut builder = if version == Version::HTTP_2 { builder.http2_only() } else { builder.http1_only() };
    // How long a head may take is for `progress` to say.
    builder.http1().header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX as usize).max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}
