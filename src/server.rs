//! HTTP, on hyper.
//!
//! Owns the listener, the connections and their end. What happens to a request is in `ingress`.

pub mod admin;
mod build_page;
mod client_body;
mod ingress;
mod observe;
mod respond;
mod socket;
pub mod summary;
mod tasks;

use crate::manifest::HostConfig;
use crate::receipt::{Outcome, Receipt};
use crate::release::deploy::Deployments;
use crate::runtime::response::Remains;
use crate::storage::logs::LogStore;
use arc_swap::ArcSwapOption;
pub use build_page::BuildFailure;
use http::{StatusCode, Version};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
pub use observe::ObserveError;
use observe::{Finished, Observer};
use socket::{Socket, SocketView, Turns};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use summary::Summary;
use tasks::Tasks;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, Sleep};

/// Connections that the kernel holds ready for the host to accept.
const BACKLOG: u32 = 1024;
/// How long the host waits after an accept failed, most often for want of file descriptors, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long an idle HTTP/1.1 connection stays open once the host is stopping. A client that sends a request at that very
/// moment still gets its answer, with `Connection: close`; without such a pause it would get a reset.
const DRAIN_LINGER: Duration = Duration::from_millis(500);
/// How often a client whose answer takes its time is looked at: it may have left without a word.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often bodies that nobody reads are held against their deadlines.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How often the machine is asked whether it can swap now. Looked at again and again, because the way in which sandboxes
/// are cleared was chosen at the start, and cannot be changed.
const SWAP_INTERVAL: Duration = Duration::from_secs(5);
/// How often canaries are held against their bounds.
const VERDICT_INTERVAL: Duration = Duration::from_millis(250);
/// Bytes of one request's head, and streams of one HTTP/2 connection.
const HEAD_BYTES_MAX: u32 = 64 << 10;
const STREAMS_MAX: u32 = 256;
/// How much of an upload, and of all uploads of a connection, HTTP/2 lets a client send ahead.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// A host that serves what is deployed to it.
pub struct Host {
    deployments: Arc<Deployments>,
    observer: Observer,
    settings: HostConfig,
    /// The log that is kept, if it is.
    logs: Option<Arc<LogStore>>,
    /// What browsers are shown in place of an app that could not be built.
    build_failure: ArcSwapOption<BuildFailure>,
    tasks: Tasks,
    began: Instant,
    /// Connections open.
    connections: AtomicUsize,
    draining: AtomicBool,
    grace_is_over: AtomicBool,
    turns: Arc<Turns>,
    /// Told when sandboxes could no longer be cleared safely.
    unsafe_to_go_on: Notify,
}

/// Where each receipt goes besides the host's own books. Called in a thread of its own, soon after the request has ended.
pub type ReceiptSink = Box<dyn Fn(&Receipt) + Send + Sync>;

impl Host {
    /// A host for `deployments`, to be made in a runtime. Receipts also go to `receipts`, and `logs` are what is shown as
    /// its log.
    pub fn new(
        deployments: Arc<Deployments>,
        settings: HostConfig,
        receipts: Option<ReceiptSink>,
        logs: Option<Arc<LogStore>>,
    ) -> Result<Arc<Self>, ObserveError> {
        Ok(Arc::new(Self {
            deployments,
            observer: Observer::new(&settings, receipts)?,
            settings,
            logs,
            build_failure: ArcSwapOption::empty(),
            tasks: Tasks::default(),
            began: Instant::now(),
            connections: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            grace_is_over: AtomicBool::new(false),
            turns: Arc::default(),
            unsafe_to_go_on: Notify::new(),
        }))
    }

    /// Has browsers shown `failure` in place of its app, from now on; with nothing, the app again.
    pub fn show_build_failure(&self, failure: Option<BuildFailure>) {
        self.build_failure.store(failure.map(Arc::new));
    }

    /// What its functions have done, all of which is in the ledger then, and in the log, and told to whoever receives
    /// traces. It may have to wait for a disk, and a little for that receiver.
    pub async fn conclude(&self) -> Summary {
        self.observer.conclude().await;
        if let Some(logs) = &self.logs {
            logs.settle();
        }
        let unrouted = self.observer.collector.read(|books| books.unrouted.iter().sum());
        Summary { functions: self.deployments.installer().totals(), unrouted }
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

/// The status that a client gets of an outcome, where it is not the guest that chose it.
pub fn status_of(outcome: Outcome) -> StatusCode {
    respond::status_of(outcome)
}

/// How serving came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Connections, and streams of HTTP/2, that had to be cut off.
    pub cut_off: usize,
    /// It ended by itself, because pages could be swapped out and sandboxes not be cleared safely any more.
    pub unsafe_to_go_on: bool,
}

/// Serves until `stop` completes, or until it would be unsafe to go on; then lets requests finish for `shutdown-grace`.
pub async fn serve(host: Arc<Host>, listener: TcpListener, stop: impl Future<Output = ()>) -> Served {
    // A set stops what is in it when it is dropped, at the end of this function.
    let mut sweeper = JoinSet::new();
    sweeper.spawn(sweep(Arc::clone(&host)));
    sweeper.spawn(judge(Arc::clone(&host.deployments)));
    let (drain, draining) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(host.settings.connections as usize));
    let local = listener.local_addr().unwrap_or(host.settings.listen);
    let mut stop = pin!(async {
        tokio::select! {
            () = stop => false,
            () = host.unsafe_to_go_on.notified() => true,
        }
    });
    let unsafe_to_go_on = loop {
        // A place first, then a connection: what is over the bound waits in the kernel's queue.
        let place = tokio::select! {
            biased;
            unsafe_to_go_on = &mut stop => break unsafe_to_go_on,
            place = Arc::clone(&connections).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            unsafe_to_go_on = &mut stop => break unsafe_to_go_on,
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
    };
    host.draining.store(true, Ordering::Release);
    for (stream, peer) in accept_the_rest(listener) {
        host.tasks.spawn(serve_connection(Arc::clone(&host), stream, Ends { peer, local }, draining.clone()));
    }
    let _ = drain.send(true);
    let cut_off = match host.tasks.finish_within(host.settings.shutdown_grace).await {
        None => 0,
        Some(left) => {
            host.grace_is_over.store(true, Ordering::Release);
            left.stop().await
        }
    };
    Served { cut_off, unsafe_to_go_on }
}

/// Whoever the kernel has let in already has been promised an answer. The listener is asked itself, until it has
/// nobody: what the runtime remembers of its readiness may be old.
fn accept_the_rest(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accepted = std::iter::from_fn(|| listener.accept().ok());
    let usable = accepted.filter_map(|(stream, peer)| {
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    });
    usable.collect()
}

/// Ends bodies that are over their time and that nobody reads, and looks whether the host may go on, for as long as it is
/// polled.
async fn sweep(host: Arc<Host>) {
    let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
    let mut looks = tokio::time::interval(SWAP_INTERVAL);
    let engines = || host.deployments.installer().engines();
    loop {
        tokio::select! {
            _ = sweeps.tick() => {
                let mut guests_compute = false;
                for engines in engines() {
                    engines.sweep();
                    guests_compute |= engines.take_computed();
                }
                host.turns.guests_compute.store(guests_compute, Ordering::Relaxed);
            }
            _ = looks.tick() => if engines().iter().any(|engines| engines.clearing_is_unsafe()) {
                host.unsafe_to_go_on.notify_one();
            },
        }
    }
}

/// Ends canaries that do worse than they may, for as long as it is polled. It may have to wait for a disk.
async fn judge(deployments: Arc<Deployments>) {
    let mut verdicts = tokio::time::interval(VERDICT_INTERVAL);
    verdicts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        verdicts.tick().await;
        if deployments.watches() {
            let deployments = Arc::clone(&deployments);
            let _ = tokio::task::spawn_blocking(move || deployments.judge()).await;
        }
    }
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
struct Ends {
    peer: SocketAddr,
    local: SocketAddr,
}

/// What is known of a connection besides its bytes. One for all its requests.
struct Peer {
    ends: Ends,
    socket: SocketView,
    requests: AtomicU64,
    /// Requests whose answer is not whole yet.
    answering: AtomicUsize,
    http2: AtomicBool,
    /// Told of a response that is over its time and that the client does not read.
    stalled: Arc<Notify>,
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
    fn new(socket: SocketView, ends: Ends) -> Self {
        Self {
            ends,
            socket,
            requests: AtomicU64::new(0),
            answering: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            stalled: Arc::default(),
            late: Mutex::default(),
        }
    }

    fn note_request(&self, version: Version) {
        self.requests.fetch_add(1, Ordering::Relaxed);
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

    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    /// Where the ends of uploads are noted. Over HTTP/2 an upload that is not wanted is reset, and its connection goes on.
    fn upload_socket(&self) -> Option<&SocketView> {
        (!self.is_http2()).then_some(&self.socket)
    }

    /// Writes a receipt when the last bytes of the answer are on their way: nobody should wait for it.
    fn finish(&self, finished: Finished) {
        // Over HTTP/1.1 all of a request happens in the task of its connection, which looks here each time it has
        // written. Streams of HTTP/2 have tasks of their own, behind whose end the connection may sleep for long.
        if self.is_http2() {
            return finished.end();
        }
        self.late().finished.push(finished);
    }

    /// Takes a sandbox apart, likewise; never later than that, whether the client reads or not.
    fn take_apart(&self, remains: Remains) {
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

async fn serve_connection(host: Arc<Host>, stream: TcpStream, ends: Ends, mut draining: watch::Receiver<bool>) {
    let _open = Open::count(&host);
    let header_timeout = host.settings.header_timeout;
    let builder = connection_builder(StreamTasks(Arc::clone(&host)), header_timeout);
    let socket = Socket::new(stream, Arc::clone(&host.turns));
    let peer = Arc::new(Peer::new(socket.view(), ends));
    let _last = EndsLate(Arc::clone(&peer));
    let service = service_fn(|request| {
        peer.note_request(request.version());
        let (host, peer) = (Arc::clone(&host), Arc::clone(&peer));
        async move { Ok::<_, Infallible>(ingress::handle(host, peer, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    // hyper bounds the head of each request of HTTP/1.1, but neither the bytes from which it tells the protocol nor the
    // first request of HTTP/2.
    let mut first_request = pin!(tokio::time::sleep(header_timeout));
    let mut first_is_due = true;
    let mut look = None;
    loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| poll_connection(connection.as_mut(), &peer, cx)) => return log_end(ended),
            () = first_request.as_mut(), if first_is_due => {
                if peer.requests() == 0 {
                    return;
                }
                first_is_due = false;
            }
            // One stalled stream says nothing of the others on its connection.
            () = peer.stalled.notified(), if !peer.is_http2() => return,
            () = poll_fn(|cx| poll_look(&peer, &mut look, cx)) => {
                if peer.socket.client_left() {
                    return;
                }
            }
            _ = draining.wait_for(|draining| *draining) => break,
        }
    }
    // HTTP/2 can say which requests it will still answer. HTTP/1.1 cannot, so it is closed once it has been idle for a
    // while; until then, each answer says that it is the last.
    let mut answered = None;
    while !peer.is_http2() {
        let requests = peer.requests();
        if answered == Some(requests) && !peer.is_answering() {
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

/// A connection, while it is open.
struct Open(Arc<Host>);

impl Open {
    fn count(host: &Arc<Host>) -> Self {
        host.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(host))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
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
    if !peer.is_answering() || peer.socket.answer_waits_alone() {
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

/// Where hyper has the streams of HTTP/2 answered: each is a task, which the host waits for at its end as for any other.
#[derive(Clone)]
struct StreamTasks(Arc<Host>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        self.0.tasks.spawn(stream);
    }
}

fn connection_builder(streams: StreamTasks, header_timeout: Duration) -> auto::Builder<StreamTasks> {
    let mut builder = auto::Builder::new(streams);
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
