//! A client's socket: what its connection reads and writes, and what can be seen of it besides.

use crate::platform;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection's own socket: closed when this is dropped.
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

/// A look at a socket, which does not keep it open. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SocketView(Weak<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Small frames must not wait for the acknowledgement of the one before: some 40 ms each on Linux (Nagle).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        Self(Arc::new(stream))
    }

    pub(super) fn view(&self) -> SocketView {
        SocketView(Arc::downgrade(&self.0))
    }
}

impl SocketView {
    /// Whether the client has closed its end, though there may be bytes of it that were not read yet: a connection that
    /// waits for its guest to take an upload does not read, and would not notice.
    pub(super) fn client_left(&self) -> bool {
        self.0.upgrade().is_none_or(|socket| platform::peer_closed(&*socket))
    }

    /// Has the client see a reset in place of an end, when this is closed.
    pub(super) fn reset_on_close(&self) {
        if let Some(socket) = self.0.upgrade()
            && let Err(error) = rustix::net::sockopt::set_socket_linger(&*socket, Some(Duration::ZERO))
        {
            tracing::debug!(%error, "no SO_LINGER");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            // Whoever is not there any more needs no end.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
