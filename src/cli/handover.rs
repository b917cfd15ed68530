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
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
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
/// The sockets of HTTP and of the admin API.
const SOCKETS_MAX: usize = 2;

/// The old process, waiting to be told that the new one serves.
pub(super) struct Predecessor(UnixStream);

/// What the old process listens on: HTTP, and the admin API, if it has one.
pub(super) struct Handed {
    pub(super) http: TcpListener,
    pub(super) admin: Option<TcpListener>,
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
    let mut sockets = receive(&old).context("the host that serves now handed nothing over")?.into_iter();
    let http = sockets.next().context("the host that serves now refused; its log says why")?;
    let handed = Handed { http: TcpListener::from(http), admin: sockets.next().map(TcpListener::from) };
    Ok(Some((Predecessor(old), handed)))
}

impl Predecessor {
    /// Tells it that it is not needed any more.
    pub(super) fn dismiss(mut self) -> io::Result<()> {
        self.0.write_all(READY)
    }
}

fn receive(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0; 1];
    recvmsg(from, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    Ok(rights.flatten().collect())
}

fn send(to: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    let borrowed: Vec<_> = sockets.iter().map(OwnedFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("more sockets than can be handed over"));
    }
    sendmsg(to, &[IoSlice::new(b"1")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// What a host offers to its successor.
pub(super) struct Offer {
    listener: UnixListener,
    deployments: Arc<Deployments>,
    sockets: Arc<Vec<OwnedFd>>,
}

impl Offer {
    /// Offers copies of `sockets`: HTTP, and then the admin API.
    pub(super) fn new<'s>(
        deployments: &Arc<Deployments>,
        sockets: impl Iterator<Item = BorrowedFd<'s>>,
    ) -> anyhow::Result<Self> {
        let sockets = sockets.map(|socket| socket.try_clone_to_owned()).collect::<io::Result<_>>()?;
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

fn hand_over(mut new: UnixStream, deployments: &Deployments, sockets: &[OwnedFd]) -> anyhow::Result<()> {
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
