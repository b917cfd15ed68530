//! A guest's body on its way to the client, and the receipt that is written when it ends.
//!
//! **Invariant:** a body that is not what its guest promised, or that its guest did not finish, never ends as if it had been.

use crate::middleware::Encoder;
use crate::names::strip_host_headers;
use crate::runtime::guest::InvokeError;
use crate::runtime::response::{GuestBody, Rest};
use crate::server::framing::{self, Unfit};
use crate::server::observe::Observation;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A guest's body, held to the length that its head promised.
pub(super) struct Promised {
    body: GuestBody,
    length: Option<u64>,
    given: u64,
}

impl Promised {
    pub(super) fn new(body: GuestBody, length: Option<u64>) -> Self {
        Self { body, length, given: 0 }
    }

    /// Whether all of it was read, and it is what was promised: less must be asked for, to be told so.
    fn has_ended(&self) -> bool {
        self.body.has_ended() && self.length.is_none_or(|promised| self.given >= promised)
    }
}

impl Body for Promised {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?;
        self.given += frame.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        let given = self.given;
        match self.length {
            Some(promised) if given > promised || (frame.is_none() && given < promised) => {
                let unfit = Unfit::Body { promised, given };
                Poll::Ready(Some(Err(InvokeError::GuestError(unfit.to_string()))))
            }
            _ => Poll::Ready(frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a client gets of it.
pub(in crate::server) struct ObservedBody {
    /// Nothing once it has ended.
    reading: Option<Reading>,
    sent: u64,
    /// How many bytes there are to be, where that is known.
    expected: Option<u64>,
}

struct Reading {
    body: Promised,
    /// What makes it smaller, if something does.
    encoder: Option<Encoder>,
    observed: Observation,
}

impl Reading {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        match &mut self.encoder {
            Some(encoder) => {
                encoder.poll_frame(Pin::new(&mut self.body), cx, |error| InvokeError::Host(error.to_string()))
            }
            None => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    /// Whether all of it was read.
    fn has_ended(&self) -> bool {
        self.encoder.as_ref().map_or_else(|| self.body.has_ended(), Encoder::has_ended)
    }
}

impl ObservedBody {
    /// Of so many bytes, where that is `expected`; an `encoder` makes others of them.
    pub(super) fn new(body: Promised, encoder: Option<Encoder>, observed: Observation, expected: Option<u64>) -> Self {
        let expected = expected.filter(|_| encoder.is_none());
        Self { reading: Some(Reading { body, encoder, observed }), sent: 0, expected }
    }
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        match ready!(reading.poll_frame(cx)) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_host_headers(trailers);
                    framing::correct_trailers(trailers);
                }
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                reading.observed.add_bytes_out(length);
                self.sent += length;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(reading) = self.reading.take() {
                    reading.observed.cut();
                    reading.observed.log_failure(&error);
                    reading.observed.end(error.outcome());
                }
                // The connection is cut, or the stream reset, so that the client can tell.
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if let Some(reading) = self.reading.take() {
                    reading.observed.finish_without_client(reading.body.body, Rest::Read);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.as_ref().is_none_or(|reading| match &reading.encoder {
            Some(encoder) => encoder.has_ended(),
            None => reading.body.is_end_stream(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reading {
            None => SizeHint::with_exact(0),
            Some(Reading { encoder: Some(_), .. }) => SizeHint::default(),
            Some(reading) => reading.body.size_hint(),
        }
    }
}

impl Drop for ObservedBody {
    fn drop(&mut self) {
        let Some(reading) = self.reading.take() else { return };
        // A connection stops reading at the last byte that was announced, and need not ask for the end.
        let is_sent = self.expected.is_some_and(|expected| self.sent >= expected);
        if reading.has_ended() || is_sent {
            reading.observed.finish_without_client(reading.body.body, Rest::Read);
            return;
        }
        let failure = reading.body.body.failure();
        // The guest goes with its body; nobody is there for whom it could work.
        drop(reading.body);
        if let Some(error) = &failure {
            reading.observed.log_failure(error);
        }
        match failure {
            Some(error) => reading.observed.end(error.outcome()),
            None => drop(reading.observed),
        }
    }
}
