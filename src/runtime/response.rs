//! A guest's answer on its way out.
//!
//! A [`GuestBody`] drives its guest as it is read. While it streams, it is also in sight of the epoch thread, which ends
//! it at its deadline even if nobody reads it: a client that stops reading would otherwise keep a sandbox for ever.
//!
//! **Invariant:** a body that the guest did not finish never ends as if it had: it ends in an error.

use super::engine::Alive;
use super::guest::{Guest, InvokeError};
use super::meter::Stop;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, Waker};
use wasmtime_wasi_http::WasiBody;

/// How much of a body is looked at before its head is sent, to learn its length.
const SETTLE_BYTES_MAX: usize = 64 << 10;

/// A response body.
pub struct GuestBody {
    /// Frames that were there with the head.
    ready: VecDeque<Frame<Bytes>>,
    /// Where more comes from, if more can come.
    stream: Option<Arc<Mutex<Stream>>>,
}

/// A body that is not whole yet.
pub(super) struct Stream {
    body: WasiBody,
    guest: Guest,
    /// No more will come.
    ended: bool,
    /// Why the epoch thread ended it.
    failed: Option<InvokeError>,
    waker: Option<Waker>,
    /// The epoch thread must not sleep over it.
    _alive: Alive,
}

/// What a guest still does while nobody reads its body, or after it.
pub struct Tail(Arc<Mutex<Stream>>);

impl Tail {
    /// Lets it finish, within its limits. What it still writes is thrown away.
    pub async fn finish(self) -> Result<(), InvokeError> {
        while let Some(frame) = poll_fn(|cx| lock(&self.0).poll_next(cx)).await {
            frame?;
        }
        poll_fn(|cx| lock(&self.0).guest.poll(cx)).await
    }
}

impl GuestBody {
    /// The body of an answer. Of a guest that has ended, it takes what was left behind, so that the length of a small
    /// body is known before its head is sent, and so that one that broke off is an error while there can be one.
    /// Whoever keeps the `watch` is shown bodies that stream.
    pub(super) fn new(
        body: WasiBody,
        guest: Guest,
        alive: Alive,
        watch: impl FnOnce(Weak<Mutex<Stream>>),
    ) -> Result<Self, InvokeError> {
        let mut stream = Stream { body, guest, ended: false, failed: None, waker: None, _alive: alive };
        let mut ready = VecDeque::new();
        if !stream.guest.is_running() {
            let mut cx = Context::from_waker(Waker::noop());
            let mut bytes = 0;
            while bytes <= SETTLE_BYTES_MAX
                && let Poll::Ready(frame) = stream.poll_next(&mut cx)
            {
                let Some(frame) = frame else { return Ok(Self { ready, stream: None }) };
                let frame = frame?;
                bytes += frame.data_ref().map_or(0, Bytes::len);
                ready.push_back(frame);
            }
        }
        let stream = Arc::new(Mutex::new(stream));
        watch(Arc::downgrade(&stream));
        Ok(Self { ready, stream: Some(stream) })
    }

    /// Whether all of it was read.
    pub fn has_ended(&self) -> bool {
        self.ready.is_empty() && self.stream.as_ref().is_none_or(|stream| lock(stream).ended)
    }

    /// What the guest still has to do, if anything. Whoever drops it stops the guest.
    pub fn into_tail(self) -> Option<Tail> {
        self.stream.filter(|stream| lock(stream).guest.is_running()).map(Tail)
    }
}

impl Stream {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = match self.failed.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None if self.ended => Poll::Ready(None),
            None => self.poll_more(cx),
        };
        self.ended |= matches!(frame, Poll::Ready(None | Some(Err(_))));
        // The epoch thread wakes whoever waits for a body that it ends.
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
        let frame = self.poll_body(cx);
        if frame.is_pending()
            && !self.guest.is_running()
            && let Poll::Ready(error) = self.guest.poll_limits(cx)
        {
            // A guest may pass its upload on as its answer, and be done long before that is.
            return Poll::Ready(Some(Err(error)));
        }
        frame
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                // A guest that passes its upload on fails with it.
                let too_large = self.guest.meter.upload.too_large();
                if too_large { InvokeError::BodyTooLarge } else { InvokeError::GuestError(error.to_string()) }
            })
        }))
    }

    /// Ends it, if its time is over and nobody sees to it.
    fn end_if_overdue(&mut self) {
        // Its other limits need nobody's eye: they are passed by what the guest does.
        if !self.ended && self.failed.is_none() && self.guest.meter.check_waiting() == Err(Stop::Timeout) {
            self.guest.stop();
            self.failed = Some(InvokeError::Timeout);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

/// The bodies that stream now.
#[derive(Default)]
pub(super) struct Streams(Mutex<Vec<Weak<Mutex<Stream>>>>);

impl Streams {
    pub(super) fn watch(&self, stream: Weak<Mutex<Stream>>) {
        lock(&self.0).push(stream);
    }

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
        match &self.stream {
            Some(stream) => lock(stream).poll_next(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let ready: u64 = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
        match &self.stream {
            None => SizeHint::with_exact(ready),
            Some(stream) => match lock(stream).body.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(ready + rest),
                None => SizeHint::default(),
            },
        }
    }
}
