//! A client's socket: what its connection reads and writes, and what can be seen of it besides.

use super::frames::FrameMeter;
use super::progress::Progress;
use super::stream::Stream;
use super::target;
use crate::platform;
use http::Version;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How long a client may go on with an upload that nobody wants behind the last answer on its connection: in all, and between
/// two of its packets. Both are what nginx has (`lingering_time`, `lingering_timeout`).
const LINGER_MAX: Duration = Duration::from_secs(30);
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How much of such an upload is thrown away at once.
const DISCARD_BYTES: usize = 16 << 10;
/// How much of an answer the kernel takes before the client has room for it.
const UNSENT_BYTES_MAX: u32 = 128 << 10;
/// How much of a connection's first head is kept here while it is not whole.
const OPENING_BYTES_MAX: usize = 4 << 10;

/// What the sockets of a host know of each other.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether guests compute for long: then a turn can take long, and no answer should wait for one.
    pub(super) guests_compute: AtomicBool,
    /// Answers that waited for others to have had their turn.
    given: AtomicU64,
}

/// A connection's own socket: closed when this is dropped.
///
/// Answers go out together: before the first bytes of an answer are written, every other connection that is ready gets
/// its turn. Waking a client that sleeps costs the server more than anything else the kernel does for a small answer, and
/// a client that is just taking one answer need not be woken for the next. A host that is not busy loses nothing, for
/// then nobody else is ready.
#[derive(Debug)]
pub(super) struct Socket {
    /// The lock is never waited for: who reads, writes and looks are parts of one task, but for looks that can do
    /// without. It is what gives reading and writing the stream itself, which knows when a read took all there was;
    /// through a shared one, each request would cost a second read that finds nothing.
    stream: Arc<Mutex<Stream>>,
    /// What was read before there was something to answer. It goes to who reads in one piece: hyper takes a head that comes in two
    /// for one that goes on, and makes twice the room (16 KiB); and a client that never gets further costs little more than it has sent.
    ahead: Vec<u8>,
    /// Whether something was read that was not yet answered.
    asked: bool,
    /// How many answers had waited when this one's last did.
    given_last: u64,
    /// Whether an answer waits for others to have had their turn.
    waits: bool,
    signs: Arc<Signs>,
    turns: Arc<Turns>,
    progress: Arc<Progress>,
    frames: FrameMeter,
    /// Closing, while the client is still sending.
    linger: Option<Linger>,
}

/// What a socket lets its connection know.
#[derive(Debug, Default)]
struct Signs {
    /// An answer waits, and no other connection has had one since the last of this.
    waits_alone: AtomicBool,
    /// A read was put off, and was not tried again since.
    refused: AtomicBool,
    /// The upload of the last request has not come to its end.
    uploading: AtomicBool,
    /// An upload ended in a way that others may read otherwise.
    unclear_end: AtomicBool,
}

/// A look at a socket, which does not keep it open. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SocketView {
    stream: Weak<Mutex<Stream>>,
    signs: Arc<Signs>,
}

impl Socket {
    /// What it does not write within `write_timeout` is the kernel's to give up on, also behind the end of this.
    pub(super) fn new(stream: Stream, turns: Arc<Turns>, progress: Arc<Progress>, write_timeout: Duration) -> Self {
        // Small frames must not wait for the acknowledgement of the one before: some 40 ms each on Linux (Nagle).
        if let Err(error) = stream.tcp().set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        platform::bound_unacknowledged(stream.tcp(), write_timeout);
        platform::bound_unsent(stream.tcp(), UNSENT_BYTES_MAX);
        Self {
            stream: Arc::new(Mutex::new(stream)),
            ahead: Vec::new(),
            asked: false,
            given_last: 0,
            waits: false,
            signs: Arc::default(),
            turns,
            progress,
            frames: FrameMeter::new(),
            linger: None,
        }
    }

    pub(super) fn view(&self) -> SocketView {
        SocketView { stream: Arc::downgrade(&self.stream), signs: Arc::clone(&self.signs) }
    }

    fn stream(&self) -> MutexGuard<'_, Stream> {
        lock(&self.stream)
    }

    /// Which HTTP is spoken, once there is something to answer: the preface of HTTP/2, or a first head that is whole, wrong, or more
    /// than is kept here. Who reads then reads that as well. An end is for HTTP/1.1 to see.
    pub(super) fn poll_opening(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Version>> {
        loop {
            let kept = self.ahead.len();
            match self.frames.version() {
                Some(Version::HTTP_11) if kept < OPENING_BYTES_MAX && target::is_unfinished(&self.ahead) => {}
                Some(version) => return Poll::Ready(Ok(version)),
                None => {}
            }
            let mut room = [MaybeUninit::uninit(); OPENING_BYTES_MAX];
            let mut buffer = ReadBuf::uninit(room.get_mut(kept..).unwrap_or_default());
            ready!(Pin::new(&mut *self.stream()).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(Version::HTTP_11));
            }
            self.ahead.extend_from_slice(read);
            self.take_note(read)?;
        }
    }

    /// Gives what was read before, and says whether there was something. What there is no room for is for the next time.
    fn give_ahead(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let later = self.ahead.split_off(self.ahead.len().min(buffer.remaining()));
        let now = std::mem::replace(&mut self.ahead, later);
        buffer.put_slice(&now);
        !now.is_empty()
    }

    /// Looks at what was read: whether it is too much of nothing, and whether a head has begun for it.
    fn take_note(&mut self, read: &[u8]) -> io::Result<()> {
        self.asked = true;
        self.frames.read(read).map_err(io::Error::other)?;
        if self.frames.is_http2() {
            self.progress.note_head(self.frames.is_within());
        } else if !self.progress.is_answering() {
            self.progress.note_head(true);
        }
        Ok(())
    }

    fn note_written(&mut self, written: &Poll<io::Result<usize>>) {
        self.progress.note_blocked(written.is_pending());
        if let Poll::Ready(Ok(bytes)) = written {
            self.frames.wrote(*bytes);
        }
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SocketView {
    /// Whether an answer is ready and not yet written, on the one connection that is busy.
    pub(super) fn answer_waits_alone(&self) -> bool {
        self.signs.waits_alone.load(Ordering::Relaxed)
    }

    /// Whether a read was put off, and whoever reads has to be woken.
    pub(super) fn take_refused(&self) -> bool {
        self.signs.refused.swap(false, Ordering::Relaxed)
    }

    /// Whether the client has closed its end, though there may be bytes of it that were not read yet: a connection that
    /// waits for its guest to take an upload does not read, and would not notice.
    pub(super) fn client_left(&self) -> bool {
        self.stream.upgrade().is_none_or(|socket| platform::peer_closed(lock(&socket).tcp()))
    }

    /// Whether the client is still sending the body of its last request, as far as it was read.
    pub(super) fn note_uploading(&self, uploading: bool) {
        self.signs.uploading.store(uploading, Ordering::Relaxed);
    }

    /// An upload had trailers, or came in chunks of which nobody read the last. hyper takes a line of trailers that ends without CR
    /// for a part of the next one, so others may have seen the end of the upload before, and a request in what was taken for
    /// trailers here: nothing behind them is answered.
    pub(super) fn note_unclear_end(&self) {
        self.signs.unclear_end.store(true, Ordering::Relaxed);
    }

    /// Whether an upload ended so.
    pub(super) fn has_unclear_end(&self) -> bool {
        self.signs.unclear_end.load(Ordering::Relaxed)
    }

    /// Has the client see a reset in place of an end, when this is closed.
    pub(super) fn reset_on_close(&self) {
        if let Some(socket) = self.stream.upgrade()
            && let Err(error) = rustix::net::sockopt::set_socket_linger(lock(&socket).tcp(), Some(Duration::ZERO))
        {
            tracing::debug!(%error, "no SO_LINGER");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The answer first: a client that has sent all it has and closed its half would look as if it had left.
        self.signs.refused.store(self.waits, Ordering::Relaxed);
        if self.waits {
            return Poll::Pending;
        }
        if self.give_ahead(buffer) {
            // What comes next, be it an error, is for the next time: this could be a whole request.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream()).poll_read(cx, buffer);
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() {
            self.take_note(read)?;
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream()).poll_write(cx, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // An upload that nobody wants is thrown away as soon as it is answered, and what is behind it read: if that is no request,
        // hyper puts its refusal before what it has not written yet of the answer. So that is not put off.
        let puts_off =
            !self.signs.uploading.load(Ordering::Relaxed) && !self.turns.guests_compute.load(Ordering::Relaxed);
        if std::mem::take(&mut self.asked) && puts_off {
            // A task that wakes itself is polled again behind those that are ready now.
            cx.waker().wake_by_ref();
            let given = self.turns.given.fetch_add(1, Ordering::Relaxed);
            let alone = given == std::mem::replace(&mut self.given_last, given + 1);
            self.signs.waits_alone.store(alone, Ordering::Relaxed);
            self.waits = true;
            return Poll::Pending;
        }
        if std::mem::take(&mut self.waits) {
            self.signs.waits_alone.store(false, Ordering::Relaxed);
        }
        let written = Pin::new(&mut *self.stream()).poll_write_vectored(cx, parts);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream();
        let flushed = Pin::new(&mut *stream).poll_flush(cx);
        if stream.is_tls() {
            // What TLS has taken is not what its client has: that shows here.
            self.progress.note_blocked(flushed.is_pending());
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut *self.stream()).poll_shutdown(cx))?;
            // Or a head that nobody reads to its end, or what comes behind the last request.
            let is_sending = self.signs.uploading.load(Ordering::Relaxed)
                || self.progress.is_in_head()
                || platform::has_unread(self.stream().tcp());
            if !is_sending {
                return Poll::Ready(Ok(()));
            }
            self.linger = Some(Linger::begin());
        }
        let Self { stream, linger: Some(linger), .. } = &mut *self else { return Poll::Ready(Ok(())) };
        linger.poll(lock(stream).tcp_mut(), cx).map(Ok)
    }
}

/// The end of a connection whose client is still sending, or has sent more than was read.
///
/// What a socket has not read when it is closed has the kernel send a reset, on which the client's throws away what it has not
/// read either: the answer that says why the upload was not wanted (RFC 9112, 9.6). So what comes is taken, and thrown away,
/// until the client has seen the answer and ends, or takes too long over it.
#[derive(Debug)]
struct Linger {
    ends: Instant,
    pause: Pin<Box<Sleep>>,
}

impl Linger {
    fn begin() -> Self {
        Self { ends: Instant::now() + LINGER_MAX, pause: Box::pin(tokio::time::sleep(LINGER_PAUSE_MAX)) }
    }

    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        let mut discarded = [MaybeUninit::uninit(); DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut discarded);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.pause.as_mut().poll(cx),
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let now = Instant::now();
                    if now >= self.ends {
                        return Poll::Ready(());
                    }
                    self.pause.as_mut().reset((now + LINGER_PAUSE_MAX).min(self.ends));
                }
                // The client has ended, or is gone.
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_first_head_comes_in_one_piece_with_what_is_behind_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (turns, progress) = (Arc::new(Turns::default()), Arc::new(Progress::begin()));
        let mut socket = Socket::new(Stream::Plain(stream), turns, Arc::clone(&progress), LINGER_MAX);

        let head = b"POST /somewhere HTTP/1.1\r\nHost: a\r\n\r\nbody";
        let mut opening = pin!(poll_fn(|cx| socket.poll_opening(cx)));
        for byte in &head[..head.len() - 5] {
            client.write_all(&[*byte]).await.unwrap();
            let opened = tokio::time::timeout(Duration::from_millis(1), opening.as_mut()).await;
            assert!(opened.is_err(), "a head that is not whole");
        }
        client.write_all(&head[head.len() - 5..]).await.unwrap();
        let version = opening.await.unwrap();
        assert!(version == Version::HTTP_11 && progress.is_in_head());
        let mut little = [0; 10];
        assert_eq!(socket.read(&mut little).await.unwrap(), little.len());
        // Nor is it lost because its client is.
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        let mut room = [0; 100];
        let read = socket.read(&mut room).await.unwrap();
        assert_eq!([&little, &room[..read]].concat(), head);
        assert_eq!(socket.read(&mut room).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
