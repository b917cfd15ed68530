//! One host takes the place of another: the same ports, the same state folder, and no connection refused.
//!
//! The new process asks the old one by a Unix socket in the state folder, which is closed to other users. It gets the
//! listening sockets themselves (`SCM_RIGHTS`, unix(7)), so what waits in their queues is lost to nobody, whoever closes
//! first. **Invariant:** one process at a time may change the record: the old one lets go of the state folder before it
//! hands anything over, and takes it back if the new one ends before it is ready.

use crate::release::deploy::Deployments;
use anyhow::{Context as _, bail, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// The socket's name in the state folder.
const SOCKET: &str = "handover.sock";
/// What the new process says first, and what it says when it serves.
const ASK: &[u8; 8] = b"fnhost1?";
const READY: &[u8; 8] = b"fnhost1!";
/// How long either waits for the other's next word, but for the new one's start.
const WORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new process may take until it serves: it may have to compile everything.
const START_TIMEOUT: Duration = Duration::from_mins(30);
/// What is said with the sockets: which they are, in their order.
const HTTP: u8 = b'h';
const ADMIN: u8 = b'a';
const REDIRECT: u8 = b'r';
const SOCKETS_MAX: usize = 3;
/// What a host says that knows no others than HTTP and the admin API.
const TWO_AT_THE_MOST: &[u8] = b"1";

/// The old process, waiting to be told that the new one serves.
pub(super) struct Predecessor(UnixStream);

/// What the old process listens on: where functions are served, and what else it has.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) http: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
    /// Where plain HTTP leads to HTTPS.
    pub(super) redirect: Option<TcpListener>,
}

impl Handed {
    /// What it is, if it is any of `sockets`, and which. Of each there is one.
    fn of(word: &[u8], sockets: Vec<OwnedFd>) -> Self {
        let word = if word == TWO_AT_THE_MOST { &[HTTP, ADMIN] } else { word };
        let mut handed = Self::default();
        for (which, socket) in word.iter().zip(sockets) {
            let place = match *which {
                HTTP => &mut handed.http,
                ADMIN => &mut handed.admin,
                REDIRECT => &mut handed.redirect,
                // A newer host's. Nobody listens there any more.
                _ => continue,
            };
            *place = Some(TcpListener::from(socket));
        }
        handed
    }
}

/// Asks whoever serves from `state` for its place. Nothing if nobody does.
pub(super) fn take_over(state: &Path) -> anyhow::Result<Option<(Predecessor, Handed)>> {
    let mut old = match UnixStream::connect(state.join(SOCKET)) {
        Ok(old) => old,
        // Nobody is there, or one that was killed left its socket behind.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error).context("the host that serves now cannot be reached"),
    };
    old.set_read_timeout(Some(START_TIMEOUT))?;
    old.write_all(ASK)?;
    let handed = receive(&old).context("the host that serves now handed nothing over")?;
    ensure!(handed.http.is_some(), "the host that serves now refused; its log says why");
    Ok(Some((Predecessor(old), handed)))
}

impl Predecessor {
    /// Tells it that it is not needed any more.
    pub(super) fn dismiss(mut self) -> io::Result<()> {
        self.0.write_all(READY)
    }
}

fn receive(from: &UnixStream) -> io::Result<Handed> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; SOCKETS_MAX];
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(Handed::of(word.get(..received.bytes).unwrap_or_default(), rights.flatten().collect()))
}

fn send(to: &UnixStream, sockets: &[(u8, OwnedFd)]) -> io::Result<()> {
    let word: Vec<u8> = sockets.iter().map(|(which, _)| *which).collect();
    let borrowed: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("more sockets than can be handed over"));
    }
    sendmsg(to, &[IoSlice::new(&word)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// What a host offers to its successor.
pub(super) struct Offer {
    listener: UnixListener,
    deployments: Arc<Deployments>,
    sockets: Arc<Vec<(u8, OwnedFd)>>,
}

impl Offer {
    /// Offers copies of these sockets.
    pub(super) fn new(
        deployments: &Arc<Deployments>,
        http: &impl AsFd,
        admin: Option<&impl AsFd>,
        redirect: Option<&impl AsFd>,
    ) -> anyhow::Result<Self> {
        let (admin, redirect) = (admin.map(AsFd::as_fd), redirect.map(AsFd::as_fd));
        let there = [(HTTP, Some(http.as_fd())), (ADMIN, admin), (REDIRECT, redirect)];
        let sockets = there.into_iter().filter_map(|(which, socket)| Some((which, socket?.try_clone_to_owned())));
        let sockets = sockets.map(|(which, socket)| Ok((which, socket?))).collect::<io::Result<_>>()?;
        Ok(Self { listener: listen(deployments)?, deployments: Arc::clone(deployments), sockets: Arc::new(sockets) })
    }

    /// Completes when another process serves in this one's place.
    pub(super) async fn taken(self) {
        let Self { mut listener, deployments, sockets } = self;
        loop {
            let Ok((stream, _)) = listener.accept().await else { return std::future::pending().await };
            let (offered, sockets) = (Arc::clone(&deployments), Arc::clone(&sockets));
            let handed = tokio::task::spawn_blocking(move || hand_over(stream.into_std()?, &offered, &sockets));
            match handed.await.map_err(anyhow::Error::from).flatten() {
                Ok(()) => {
                    tracing::info!("another process serves in this one's place");
                    return;
                }
                Err(error) => tracing::warn!("the host was not handed over: {error:#}"),
            }
            // The successor may have put its own socket there before it ended.
            match listen(&deployments) {
                Ok(again) => listener = again,
                Err(error) => tracing::warn!("this host cannot be taken over any more: {error:#}"),
            }
        }
    }
}

/// The folder is this process's alone: what is there is of one that was killed, or that has handed over.
fn listen(deployments: &Deployments) -> anyhow::Result<UnixListener> {
    let path = deployments.state().join(SOCKET);
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| format!("cannot make the socket {}", path.display()))
}

fn hand_over(mut new: UnixStream, deployments: &Deployments, sockets: &[(u8, OwnedFd)]) -> anyhow::Result<()> {
    new.set_nonblocking(false)?;
    new.set_read_timeout(Some(WORD_TIMEOUT))?;
    let mut word = [0; ASK.len()];
    new.read_exact(&mut word).context("nothing was asked")?;
    ensure!(word == *ASK, "what was asked is not understood");
    tracing::info!("another process asks for this one's place");
    deployments.suspend()?;
    let succeeded = (|| {
        send(&new, sockets)?;
        new.set_read_timeout(Some(START_TIMEOUT))?;
        new.read_exact(&mut word)
    })();
    match succeeded {
        Ok(()) if word == *READY => return Ok(()),
        Ok(()) => {}
        Err(error) => tracing::debug!(%error, "the successor has gone"),
    }
    deployments.resume().context("the state folder cannot be taken back: nothing can be deployed until a restart")?;
    bail!("the other process ended before it served")
}
