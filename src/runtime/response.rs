//! A guest's answer on its way out.
//!
//! A [`GuestBody`] drives its guest as it is read. While it streams, it is also looked at several times a second, so that
//! it ends at its deadline even if nobody reads it: a client that stops reading would otherwise keep a sandbox for ever.
//!
//! **Invariant:** a body that the guest did not finish never ends as if it had: it ends in an error.

use super::gather::Gather;
use super::guest::{Guest, InvokeError};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;
use wasmtime_wasi_http::WasiBody;

/// How much of a body is looked at before its head is sent, to learn its length.
const SETTLE_BYTES_MAX: usize = 64 << 10;
/// How long a guest may go on with a body that nobody wants, as that of HEAD.
const UNREAD_GRACE: Duration = Duration::from_secs(1);
/// How long a guest without a timeout may work on behind its response.
const TAIL_GRACE: Duration = Duration::from_secs(30);

/// A response body.
pub struct GuestBody {
    /// Frames that were there with the head.
    ready: VecDeque<Frame<Bytes>>,
    rest: BodyRest,
}

/// What there is behind the frames that were there.
enum BodyRest {
    /// More comes from here.
    Stream(Arc<Mutex<Stream>>),
    /// Nothing; the guest has ended, and what is left of it may be taken apart at any time.
    Ended(Option<Guest>),
}

/// What is left of a sandbox whose guest has ended. Dropping it takes the sandbox apart, which takes its time.
pub struct Remains(#[expect(dead_code, reason = "held to be dropped, later")] BodyRest);

/// A body that is not whole yet.
pub(super) struct Stream {
    body: WasiBody,
    /// Dropped when the body was read to its end.
    body_read: Option<oneshot::Sender<()>>,
    guest: Guest,
    gather: Gather,
    /// No more will come.
    ended: bool,
    /// Why it was ended, though nobody read that.
    failed: Option<InvokeError>,
    waker: Option<Waker>,
    stalled: Arc<Notify>,
}

/// What a guest still does while nobody reads its body, or after it.
pub struct Tail {
    stream: Arc<Mutex<Stream>>,
    rest: Rest,
}

/// Why nobody reads a body any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// All of it was read.
    Read,
    /// The response has none, whatever the guest writes.
    Unread,
}

impl Tail {
    /// Lets the guest finish, within its limits; one without a timeout within half a minute. What it still writes is
    /// thrown away, and it must be done with a body that nobody wants within a second.
    pub async fn finish(self) -> Result<(), InvokeError> {
        let reading = async {
            while let Some(frame) = poll_fn(|cx| lock(&self.stream).poll_next(cx)).await {
                frame?;
            }
            Ok(())
        };
        match self.rest {
            Rest::Read => reading.await?,
            Rest::Unread => match timeout(UNREAD_GRACE, reading).await {
                Ok(read) => read?,
                // It writes on for nobody. Its answer was the head, and that was given.
                Err(_) => return Ok(()),
            },
        }
        let working = poll_fn(|cx| lock(&self.stream).guest.poll(cx));
        let has_timeout = lock(&self.stream).guest.meter.has_timeout();
        if has_timeout {
            working.await
        } else {
            timeout(TAIL_GRACE, working).await.unwrap_or(Err(InvokeError::Timeout))
        }
    }
}

impl GuestBody {
    /// The body of an answer. What the guest can give of it at once is taken before the head is sent, so that the length
    /// of a small body is known, and so that a guest that breaks off can still be answered for. One that streams is put
    /// among the `streams`.
    pub(super) async fn new(
        body: WasiBody,
        body_read: Option<oneshot::Sender<()>>,
        guest: Guest,
        stalled: Arc<Notify>,
        streams: &Streams,
    ) -> Result<Self, InvokeError> {
        let mut stream = Stream {
            body,
            body_read,
            guest,
            gather: Gather::default(),
            ended: false,
            failed: None,
            waker: None,
            stalled,
        };
        let ready = poll_fn(|cx| Poll::Ready(stream.take_ready(cx))).await?;
        if stream.has_ended() && !stream.guest.is_running() {
            return Ok(Self { ready, rest: BodyRest::Ended(Some(stream.guest)) });
        }
        let stream = Arc::new(Mutex::new(stream));
        lock(&streams.0).push(Arc::downgrade(&stream));
        Ok(Self { ready, rest: BodyRest::Stream(stream) })
    }

    /// Whether all of it was read.
    pub fn has_ended(&self) -> bool {
        self.ready.is_empty() && self.stream().is_none_or(|stream| lock(stream).has_ended())
    }

    /// Why it was ended, if nobody has read that.
    pub fn failure(&self) -> Option<InvokeError> {
        self.stream().and_then(|stream| lock(stream).failed.take())
    }

    /// What is left of a guest that has ended; once.
    pub fn take_remains(&mut self) -> Option<Remains> {
        match &mut self.rest {
            BodyRest::Stream(_) => None,
            BodyRest::Ended(guest) => guest.take().map(|guest| Remains(BodyRest::Ended(Some(guest)))),
        }
    }

    /// What the guest still has to do, which whoever drops it stops; or, if it has ended, what is left of it.
    pub fn into_tail(self, rest: Rest) -> Result<Tail, Remains> {
        match self.rest {
            BodyRest::Stream(stream) if lock(&stream).guest.is_running() => Ok(Tail { stream, rest }),
            ended => Err(Remains(ended)),
        }
    }

    fn stream(&self) -> Option<&Mutex<Stream>> {
        match &self.rest {
            BodyRest::Stream(stream) => Some(stream),
            BodyRest::Ended(_) => None,
        }
    }
}

impl Stream {
    /// The frames that are there, or that the guest makes when it is asked for them; not too many.
    fn take_ready(&mut self, cx: &mut Context<'_>) -> Result<VecDeque<Frame<Bytes>>, InvokeError> {
        let mut ready = VecDeque::new();
        let mut bytes = 0;
        while bytes <= SETTLE_BYTES_MAX
            && let Poll::Ready(Some(frame)) = self.poll_next(cx)
        {
            let frame = frame?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
            ready.push_back(frame);
        }
        Ok(ready)
    }

    /// Whether all of it was given.
    fn has_ended(&self) -> bool {
        self.ended && !self.gather.has_more()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let mut gather = std::mem::take(&mut self.gather);
        let next = gather.poll(|| self.poll_one(cx));
        self.gather = gather;
        if next.is_ready() {
            // It has what it waits for, though there was nothing more behind that.
            self.waker = None;
        }
        next
    }

    fn poll_one(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = match self.failed.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if self.ended => Poll::Ready(None),
            None => self.poll_more(cx),
        };
        self.ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
        // The sweep wakes whoever waits for a body that it ends.
        self.waker = frame.is_pending().then(|| cx.waker().clone());
        frame
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        // What is there already goes out before the guest makes more.
        if let Poll::Ready(Some(frame)) = self.poll_body(cx) {
            return Poll::Ready(Some(frame));
        }
        // An end is believed only when the guest has been asked: its failure looks like one.
        if let Poll::Ready(Err(error)) = self.guest.poll(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        match self.poll_body(cx) {
            Poll::Pending if !self.guest.is_running() => {
                let left = InvokeError::of_guest("it returned, and its body was not finished");
                Poll::Ready(Some(Err(left)))
            }
            Poll::Ready(None) => match self.guest.poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(None),
            },
            frame => frame,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let body = &mut self.body;
        // A channel that only says to let others have a turn must not look like one that is empty.
        let frame = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)))).poll(cx);
        let frame = std::task::ready!(frame);
        if frame.is_none() {
            self.body_read = None;
        }
        // A guest that passes its upload on fails with it.
        let upload = &self.guest.meter.upload;
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| match () {
                () if upload.too_large() => InvokeError::BodyTooLarge,
                () if upload.malformed() => InvokeError::UploadMalformed,
                () if upload.broke_off() => InvokeError::UploadBroken,
                () => InvokeError::of_guest(&error.to_string()),
            })
        }))
    }

    /// Ends it, if its time is over and nobody sees to it.
    fn end_if_overdue(&mut self) {
        if self.ended || self.failed.is_some() {
            return;
        }
        if let Err(stop) = self.guest.meter.check_waiting() {
            self.guest.stop();
            self.failed = Some(InvokeError::of_stop(stop));
            match self.waker.take() {
                Some(waker) => waker.wake(),
                // Its client does not take what there is, so it will not ask for more.
                None => self.stalled.notify_one(),
            }
        }
    }
}

/// The bodies that stream now.
#[derive(Default)]
pub(super) struct Streams(Mutex<Vec<Weak<Mutex<Stream>>>>);

impl Streams {
    /// Ends those whose time is over, and forgets those that are gone.
    pub(super) fn sweep(&self) {
        let mut streams = Vec::new();
        lock(&self.0).retain(|stream| match stream.upgrade() {
            Some(stream) => {
                streams.push(stream);
                true
            }
            None => false,
        });
        // Outside of the lock, for taking a sandbox apart takes its time.
        for stream in streams {
            match stream.try_lock() {
                Ok(mut stream) => stream.end_if_overdue(),
                Err(TryLockError::Poisoned(stream)) => stream.into_inner().end_if_overdue(),
                // Somebody polls it at this moment, and sees to its time.
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match self.stream() {
            Some(stream) => lock(stream).poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        // HTTP/1.1 has no trailers behind a length.
        if self.ready.iter().any(Frame::is_trailers) {
            return SizeHint::default();
        }
        let ready: u64 = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        let rest = self.stream().map_or(Some(0), |stream| {
            let stream = lock(stream);
            match stream.ended {
                // A failure that is still to be given: whoever knew the length would not ask for it.
                true if stream.gather.has_more() => None,
                true => Some(0),
                false => stream.body.size_hint().exact().map(|rest| stream.gather.kept_bytes() + rest),
            }
        });
        rest.map_or(SizeHint::default(), |rest| SizeHint::with_exact(ready + rest))
    }
}
