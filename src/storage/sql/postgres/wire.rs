//! What is seen of a connection's bytes on their way in.
//!
//! `tokio-postgres` gathers each message whole before anybody can look at it, and keeps to itself whether a transaction is open.
//! So its stream is watched. **Invariant:** no message is gathered that is longer than [`MESSAGE_BYTES_MAX`].

use super::RESULT_BYTES_MAX;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{Config, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The longest message: a row that is the largest result, and what stands around its values.
const MESSAGE_BYTES_MAX: usize = RESULT_BYTES_MAX + (64 << 10);
const READY_FOR_QUERY: u8 = b'Z';

/// What was seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    in_transaction: AtomicBool,
    too_large: AtomicBool,
}

impl Seen {
    /// Whether a transaction was open, or had failed and was not ended, when the server was last ready for a statement.
    pub(super) fn in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    /// Whether the connection came to its end by a message that is too long.
    pub(super) fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Relaxed)
    }
}

/// A stream whose incoming bytes are looked at.
pub(super) struct Watched<S> {
    stream: S,
    watch: Watch,
}

enum Watch {
    /// These are the bytes of messages.
    Messages(Scanner),
    /// These are not: they are those of TLS.
    Nothing,
    /// The first byte will tell.
    Undecided(Scanner),
}

impl<S> Watched<S> {
    /// A socket on which an address of this `config` will be greeted.
    pub(super) fn socket(stream: S, config: &Config, seen: &Arc<Seen>) -> Self {
        let scanner = Scanner::new(seen);
        let watch = match (config.get_ssl_mode(), config.get_ssl_negotiation()) {
            (SslMode::Disable, _) => Watch::Messages(scanner),
            (_, SslNegotiation::Direct) => Watch::Nothing,
            _ => Watch::Undecided(scanner),
        };
        Self { stream, watch }
    }
}

impl Watch {
    fn see(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Messages(scanner) => scanner.scan(bytes),
            Self::Undecided(scanner) => {
                let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
                // `S` is the server's word for TLS; it comes alone.
                if *first == b'S' {
                    *self = Self::Nothing;
                    return Ok(());
                }
                let mut scanner = Scanner::new(&scanner.seen);
                scanner.scan(rest)?;
                *self = Self::Messages(scanner);
                Ok(())
            }
        }
    }
}

/// Reads the heads of messages: a byte that says what it is, and four that say how long.
struct Scanner {
    seen: Arc<Seen>,
    head: [u8; 5],
    head_bytes: usize,
    /// Of the message whose head was read.
    bytes_left: usize,
}

impl Scanner {
    fn new(seen: &Arc<Seen>) -> Self {
        Self { seen: Arc::clone(seen), head: [0; 5], head_bytes: 0, bytes_left: 0 }
    }

    fn scan(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some(first) = bytes.first() {
            if self.bytes_left > 0 {
                if self.head.first() == Some(&READY_FOR_QUERY) {
                    self.seen.in_transaction.store(*first != b'I', Ordering::Relaxed);
                }
                let passed = self.bytes_left.min(bytes.len());
                self.bytes_left -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.head_bytes) {
                *place = *first;
            }
            self.head_bytes += 1;
            bytes = bytes.get(1..).unwrap_or_default();
            if self.head_bytes == self.head.len() {
                self.head_bytes = 0;
                let [_, length @ ..] = self.head;
                // The length counts itself.
                self.bytes_left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX).saturating_sub(4);
                if self.bytes_left > MESSAGE_BYTES_MAX {
                    self.seen.too_large.store(true, Ordering::Relaxed);
                    return Err(io::Error::other("a message is too long"));
                }
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        Poll::Ready(this.watch.see(into.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Makes TLS of a stream, and watches what comes out of it.
pub(super) struct WatchedTls<T> {
    pub(super) tls: T,
    pub(super) seen: Arc<Seen>,
}

impl<S, T> TlsConnect<S> for WatchedTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
{
    type Stream = Watched<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, T::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let made = self.tls.connect(stream);
        let seen = self.seen;
        Box::pin(async move { Ok(Watched { stream: made.await?, watch: Watch::Messages(Scanner::new(&seen)) }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_transaction_is_seen_however_the_bytes_come() {
        let begun = [message(b'C', b"BEGIN\0"), message(READY_FOR_QUERY, b"T")].concat();
        // What looks like a message is a value.
        let ended = [message(b'D', b"Z\0\0\0\x05T"), message(READY_FOR_QUERY, b"I"), message(b'N', b"")].concat();
        for size in 1..=begun.len() {
            let seen = Arc::new(Seen::default());
            let mut watch = Watch::Messages(Scanner::new(&seen));
            begun.chunks(size).for_each(|bytes| watch.see(bytes).unwrap());
            assert!(seen.in_transaction());
            ended.chunks(size).for_each(|bytes| watch.see(bytes).unwrap());
            assert!(!seen.in_transaction() && !seen.too_large());
        }
    }

    #[test]
    fn what_is_too_long_is_refused_when_its_head_is_there() {
        let seen = Arc::new(Seen::default());
        let mut watch = Watch::Undecided(Scanner::new(&seen));
        watch.see(b"N").unwrap();
        assert!(watch.see(b"D\x7f\xff\xff\xff").is_err() && seen.too_large());
        let mut watch = Watch::Undecided(Scanner::new(&seen));
        watch.see(b"S").unwrap();
        watch.see(b"\xff\xff\xff\xff\xff\xff").unwrap();
    }
}
