//! HTTP, on hyper.
//!
//! Owns the listener, and the end of what it has let in. A connection is in `connection`, what happens to a request in `ingress`.

pub mod admin;
mod build_page;
mod client_body;
mod connection;
mod forwarded;
mod frames;
mod framing;
#[cfg(fuzzing)]
pub mod fuzzing;
mod ingress;
mod observe;
mod places;
mod progress;
mod proxy;
mod respond;
mod socket;
mod stream;
mod streams;
pub mod summary;
mod target;
mod tasks;
pub mod tls;

use crate::manifest::HostConfig;
use crate::receipt::{Outcome, Receipt};
use crate::release::deploy::Deployments;
use crate::runtime::residents::Residents;
use crate::storage::logs::LogStore;
use crate::trickle::{LeftOut, Trickle};
use arc_swap::ArcSwapOption;
pub use build_page::BuildFailure;
use connection::{Ends, Peer, serve_connection};
use http::StatusCode;
pub use observe::ObserveError;
use observe::Observer;
use places::Places;
use socket::Turns;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use summary::Summary;
use tasks::Tasks;
use tls::Tls;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Connections that the kernel holds ready for the host to accept: as many as Linux lets a process have by itself
/// (`net.core.somaxconn`). A client that finds no room tries again after a second.
const BACKLOG: u32 = 4096;
/// How long the host waits after an accept failed, most often for want of file descriptors, before it tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often bodies that nobody reads are held against their deadlines.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// How often the machine is asked whether it can swap now. Looked at again and again, because the way in which sandboxes
/// are cleared was chosen at the start, and cannot be changed.
const SWAP_INTERVAL: Duration = Duration::from_secs(5);
/// How often canaries are held against their bounds.
const VERDICT_INTERVAL: Duration = Duration::from_millis(250);

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
    places: Arc<Places>,
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
            places: Places::new(settings.connections_per_client),
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

/// What clients find where they connect.
#[derive(Clone)]
pub enum Door {
    /// Functions, by plain HTTP.
    Http,
    /// Functions, by HTTPS.
    Https(Arc<Tls>),
    /// The way to those.
    Redirect {
        /// Where they are, on the same host.
        https_port: u16,
    },
}

impl Door {
    fn tls(&self) -> Option<&Tls> {
        match self {
            Self::Https(tls) => Some(tls),
            Self::Http | Self::Redirect { .. } => None,
        }
    }

    fn leads_to(&self) -> Option<u16> {
        match self {
            Self::Redirect { https_port } => Some(*https_port),
            Self::Http | Self::Https(_) => None,
        }
    }
}

/// Where clients connect, and what they find there.
pub struct Entrance {
    /// The socket.
    listener: TcpListener,
    /// Where that is.
    pub address: SocketAddr,
    door: Door,
}

impl Entrance {
    /// At `listener`.
    pub fn new(listener: TcpListener, door: Door) -> io::Result<Self> {
        Ok(Self { address: listener.local_addr()?, listener, door })
    }
}

impl AsFd for Entrance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Serves at all `entrances` until `stop` completes, or until it would be unsafe to go on; then lets requests finish for
/// `shutdown-grace`.
pub async fn serve(host: Arc<Host>, entrances: Vec<Entrance>, stop: impl Future<Output = ()>) -> Served {
    // A set stops what is in it when it is dropped, at the end of this function.
    let mut sweeper = JoinSet::new();
    sweeper.spawn(sweep(Arc::clone(&host)));
    sweeper.spawn(judge(Arc::clone(&host.deployments)));
    let (drain, draining) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(host.settings.connections as usize));
    let serve = |door: &Door, stream, ends, counted| {
        host.tasks.spawn(serve_connection(Arc::clone(&host), door.clone(), stream, ends, draining.clone(), counted));
    };
    let mut turns = 0;
    let refusals = Trickle::seldom();
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
            accepted = poll_fn(|cx| poll_accept(&entrances, &mut turns, cx)) => accepted,
        };
        match accepted {
            Ok((entrance, stream, peer)) => {
                serve(&entrance.door, stream, Ends { peer, local: entrance.address }, place.ok());
            }
            Err(error) => {
                if let Some(LeftOut(left_out)) = refusals.admit() {
                    tracing::warn!(%error, left_out, "a connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    host.draining.store(true, Ordering::Release);
    for Entrance { listener, address: local, door } in entrances {
        for (stream, peer) in accept_the_rest(listener) {
            serve(&door, stream, Ends { peer, local }, None);
        }
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

/// The next connection. Another entrance is asked first each time, so that none waits for as long as one is busy.
fn poll_accept<'e>(
    entrances: &'e [Entrance],
    turns: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(&'e Entrance, TcpStream, SocketAddr)>> {
    *turns = turns.wrapping_add(1);
    for entrance in entrances.iter().cycle().skip(*turns % entrances.len().max(1)).take(entrances.len()) {
        if let Poll::Ready(accepted) = entrance.listener.poll_accept(cx) {
            return Poll::Ready(accepted.map(|(stream, peer)| (entrance, stream, peer)));
        }
    }
    Poll::Pending
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

/// Ends bodies that are over their time and that nobody reads, lets go of what ended, has memory given back, and looks whether
/// the host may go on, for as long as it is polled.
async fn sweep(host: Arc<Host>) {
    let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
    let mut looks = tokio::time::interval(SWAP_INTERVAL);
    loop {
        tokio::select! {
            _ = sweeps.tick() => {
                let mut guests_compute = false;
                let all = host.deployments.installer().residents();
                for residents in &all {
                    let engines = residents.engines();
                    engines.sweep();
                    guests_compute |= engines.take_computed();
                }
                tend(&all);
                host.tasks.let_go();
                host.turns.guests_compute.store(guests_compute, Ordering::Relaxed);
            }
            _ = looks.tick() => if host.deployments.installer().engines().iter().any(|engines| engines.clearing_is_unsafe()) {
                host.unsafe_to_go_on.notify_one();
            },
        }
    }
}

/// Has memory given back that a burst of requests left, with one set of engines more at a time.
fn tend(all: &[Arc<Residents>]) {
    let mappings = all.iter().flat_map(|residents| residents.all_engines()).map(|engines| engines.mappings()).sum();
    let mut may_renew = !all.iter().any(|residents| residents.is_renewing());
    for residents in all {
        if let Some(work) = residents.tend(Instant::now(), may_renew, mappings) {
            may_renew = false;
            tokio::task::spawn_blocking(work);
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
