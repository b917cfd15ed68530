//! A file on its way to the client, and the receipt that is written when it ends.

use crate::middleware::{Encoder, FileBody};
use crate::receipt::Outcome;
use crate::runtime::guest::InvokeError;
use crate::server::observe::Observation;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A file that middleware answers with.
pub(in crate::server) struct FileOut {
    /// Nothing once it has ended.
    reading: Option<(FileBody, Observation)>,
    encoder: Option<Encoder>,
    outcome: Outcome,
    /// How many bytes there are to be, where that is known, and how many were sent.
    expected: Option<u64>,
    sent: u64,
}

impl FileOut {
    pub(super) fn new(
        file: FileBody,
        encoder: Option<Encoder>,
        observed: Observation,
        outcome: Outcome,
        expected: Option<u64>,
    ) -> Self {
        Self { reading: Some((file, observed)), encoder, outcome, expected, sent: 0 }
    }
}

impl Body for FileOut {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let this = &mut *self;
        let Some((file, observed)) = &mut this.reading else { return Poll::Ready(None) };
        let frame = match &mut this.encoder {
            Some(encoder) => ready!(encoder.poll_frame(Pin::new(file), cx, std::convert::identity)),
            None => ready!(Pin::new(file).poll_frame(cx)),
        };
        match frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                observed.add_bytes_out(length);
                this.sent += length;
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error = InvokeError::Host(format!("a file broke off: {error}"));
                if let Some((_, observed)) = this.reading.take() {
                    observed.cut();
                    observed.log_failure(&error);
                    observed.end(error.outcome());
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if let Some((_, observed)) = this.reading.take() {
                    observed.end(this.outcome);
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.as_ref().is_none_or(|(file, _)| match &self.encoder {
            Some(encoder) => encoder.has_ended(),
            None => file.is_end_stream(),
        })
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.reading, &self.encoder) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(_)) => SizeHint::default(),
            (Some((file, _)), None) => file.size_hint(),
        }
    }
}

impl Drop for FileOut {
    fn drop(&mut self) {
        let has_ended = self.is_end_stream() || self.expected.is_some_and(|expected| self.sent >= expected);
        if let Some((_, observed)) = self.reading.take() {
            // A connection stops reading at the last byte that was announced, and need not ask for the end. One that goes
            // before that is a client's that went away, which is what dropping says.
            if has_ended {
                observed.end(self.outcome);
            }
        }
    }
}
