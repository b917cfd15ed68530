//! The connections out that a function has, over all its requests and for all its ways out.
//!
//! **Invariant:** what was counted in is counted out when it is dropped: a connection of `wasi:http` with the connection, which may
//! be kept for later requests; those of `wasi:sockets`, whose end the host does not see, with their sandbox.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// How many connections there are, and may be.
#[derive(Debug)]
pub(in crate::runtime) struct Connections {
    held: AtomicU32,
    most: u32,
}

/// Some of them.
#[derive(Debug)]
pub(in crate::runtime) struct Held {
    of: Arc<Connections>,
    count: AtomicU32,
}

impl Connections {
    pub(in crate::runtime) fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { held: AtomicU32::new(0), most })
    }

    /// None yet, for somebody who will [take](Held::take_one) them one by one.
    pub(in crate::runtime) fn none(self: &Arc<Self>) -> Held {
        Held { of: Arc::clone(self), count: AtomicU32::new(0) }
    }

    /// One more, if there may be.
    pub(in crate::runtime) fn one(self: &Arc<Self>) -> Option<Held> {
        let held = self.none();
        held.take_one().then_some(held)
    }
}

impl Held {
    /// Counts one more in, if there may be. Whether there may.
    pub(in crate::runtime) fn take_one(&self) -> bool {
        let Connections { held, most } = &*self.of;
        let one_more = |now: u32| (now < *most).then_some(now + 1);
        let taken = held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        self.count.fetch_add(u32::from(taken), Ordering::Relaxed);
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.count.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A connection that is counted as long as it is there.
pub(super) struct Counted {
    stream: TokioIo<TcpStream>,
    _held: Held,
}

impl Counted {
    pub(super) fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream: TokioIo::new(stream), _held: held }
    }
}

impl Connection for Counted {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, io::Error>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, io::Error>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
