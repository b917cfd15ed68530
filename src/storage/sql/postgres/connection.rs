//! One connection to a server: made, driven, cancelled, cleaned, closed.
//!
//! [`Connected`] is the half that statements go through, [`Driver`] the half that moves bytes, in a task of the pool's.
//! **Invariants:** the driver's task ends when the server has closed the connection, or was given up on; a statement that nobody
//! waits for any more is cancelled on the server before that.

use super::address::Address;
use super::statement::Statements;
use super::wire::{Seen, Watched, WatchedTls};
use super::{CONNECT_TIMEOUT, PostgresError};
use futures_core::Stream as _;
use rustix::net::sockopt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, SimpleQueryStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a server may take to end a statement that it was told to cancel, and to close a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it is before the server is told again; each time twice as long.
const CANCEL_PAUSE: Duration = Duration::from_millis(50);
/// After so much silence the kernel asks the server's whether it is there, and how often if it does not answer.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long that, and whatever else was sent, may be without an acknowledgement.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 20_000;

/// What `DISCARD ALL` does, less what a cache of statements cannot do without. In a transaction of its own, so that where any of
/// it fails, nothing else can be done with the connection.
macro_rules! cleaning {
    ($first:literal) => {
        concat!(
            $first,
            "BEGIN ISOLATION LEVEL READ COMMITTED; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
             SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; COMMIT"
        )
    };
}

/// After a session that has no transaction open: `ROLLBACK` would have the server log a warning.
const CLEAN: &str = cleaning!("");
const ROLL_BACK_AND_CLEAN: &str = cleaning!("ROLLBACK; ");

type Socket = Watched<TcpStream>;
type Tls = Watched<<MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// A server connection.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) statements: Statements,
    pub(super) seen: Arc<Seen>,
    cleaning: Option<Cleaning>,
    /// Told when a statement is at work that nobody waits for.
    cancel: oneshot::Sender<()>,
    pub(super) idle_since: Instant,
}

/// What was sent to take a session's traces away, and is perhaps not answered yet.
pub(super) struct Cleaning {
    answers: Pin<Box<SimpleQueryStream>>,
    /// Whether the next statement may be sent behind it at once.
    pub(super) may_follow: bool,
}

/// What moves the bytes of a connection.
pub(super) struct Driver {
    connection: tokio_postgres::Connection<Socket, Tls>,
    cancelled: oneshot::Receiver<()>,
    token: CancelToken,
    /// The same socket, to see its end.
    socket: OwnedFd,
    server: SocketAddr,
}

/// A new connection, within [`CONNECT_TIMEOUT`].
pub(super) async fn connect(address: &Address) -> Result<(Connected, Driver), PostgresError> {
    timeout(CONNECT_TIMEOUT, greet(address)).await.unwrap_or_else(|_| Err(PostgresError::timed_out()))
}

async fn greet(address: &Address) -> Result<(Connected, Driver), PostgresError> {
    let stream = dial(address).await?;
    let server = stream.peer_addr().map_err(|error| PostgresError::of_io(&error))?;
    let socket = stream.as_fd().try_clone_to_owned().map_err(|error| PostgresError::of_io(&error))?;
    let seen = Arc::new(Seen::default());
    let Ok(tls) = MakeTlsConnect::<Socket>::make_tls_connect(&mut address.tls.clone(), &address.host);
    let tls = WatchedTls { tls, seen: Arc::clone(&seen) };
    let greeted = address.config.connect_raw(Watched::socket(stream, &address.config, &seen), tls).await;
    let (client, connection) = greeted.map_err(|error| PostgresError::of_connect(&error))?;
    let token = client.cancel_token();
    let (cancel, cancelled) = oneshot::channel();
    let connected = Connected {
        client,
        statements: Statements::default(),
        seen,
        cleaning: None,
        cancel,
        idle_since: Instant::now(),
    };
    Ok((connected, Driver { connection, cancelled, token, socket, server }))
}

/// A socket to the first of the host's IP addresses that takes it.
async fn dial(address: &Address) -> Result<TcpStream, PostgresError> {
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
    let found = found.map_err(|error| PostgresError::of_io(&error))?;
    let mut failure = PostgresError::Denied;
    for server in found.filter(|server| address.allows(server.ip())) {
        match TcpStream::connect(server).await.and_then(prepare_socket) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = PostgresError::of_io(&error),
        }
    }
    Err(failure)
}

fn prepare_socket(stream: TcpStream) -> std::io::Result<TcpStream> {
    // A statement must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS_MAX)?;
    Ok(stream)
}

impl Connected {
    /// Sends what takes a session's traces away, and does not wait for the answer. Whether it could be sent.
    pub(super) fn clean(&mut self, may_follow: bool) -> bool {
        let text = if self.seen.in_transaction() { ROLL_BACK_AND_CLEAN } else { CLEAN };
        // It is queued when it is first polled; the answers come to whoever has the connection next.
        let mut sending = pin!(self.client.simple_query_raw(text));
        match sending.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(answers)) => {
                self.cleaning = Some(Cleaning { answers: Box::pin(answers), may_follow });
                true
            }
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    /// The cleaning after the last session, which whoever has the connection has to see the end of.
    pub(super) fn take_cleaning(&mut self) -> Option<Cleaning> {
        self.cleaning.take()
    }

    /// Has the server stop what it does, and closes the connection when it did.
    pub(super) fn give_up(self) {
        // The driver may be gone, and the server with it.
        let _ = self.cancel.send(());
    }
}

impl Cleaning {
    /// Whether everything was taken away. If not, then no statement that was sent behind it was done, either: the connection
    /// is closed, or in a transaction that failed.
    pub(super) async fn succeeded(mut self) -> bool {
        loop {
            match poll_fn(|cx| self.answers.as_mut().poll_next(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }
}

impl Driver {
    /// Works until the connection is closed: because its [`Connected`] was dropped, or by the server.
    pub(super) async fn run(self, address: &Address) {
        let Self { connection, mut cancelled, token, socket, server } = self;
        {
            let mut connection = pin!(connection);
            tokio::select! {
                _ = &mut connection => {}
                Ok(()) = &mut cancelled => {
                    let cancelling = timeout(CLOSE_TIMEOUT, cancel(&token, server, address));
                    // The answers must be read, or the server does not come to its end.
                    tokio::select! {
                        _ = &mut connection => {}
                        _ = cancelling => {}
                    }
                }
            }
        }
        let _ = timeout(CLOSE_TIMEOUT, see_closed(socket)).await;
    }
}

/// Asks the server, on connections of their own as the protocol has it, to stop what this one does; again and again, for it
/// does nothing when it comes before the statement is at work.
async fn cancel(token: &CancelToken, server: SocketAddr, address: &Address) {
    let mut pause = CANCEL_PAUSE;
    loop {
        if let Ok(stream) = TcpStream::connect(server).await {
            let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut address.tls.clone(), &address.host);
            // There is no answer to it but that the server closes.
            let _ = token.cancel_query_raw(stream, tls).await;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Waits until the server has closed its end, too: only then has it a place for another.
async fn see_closed(socket: OwnedFd) -> std::io::Result<()> {
    let mut stream = TcpStream::from_std(socket.into())?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
