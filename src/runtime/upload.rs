//! The request's body on its way into a guest: bounded, counted, and timed.
//!
//! Nothing is read ahead of the guest. **Invariant:** a guest never sees a byte past `request-body`, whatever the
//! client said its length was.

use super::meter::Meter;
use crate::names;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use wasmtime_wasi_http::Error;

/// The error of a body whose client broke the framing, and did not merely go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upload is in broken chunks")]
pub struct MalformedUpload;

/// An upload, as the guest reads it.
pub(super) struct Upload<B> {
    body: B,
    bytes_max: u64,
    meter: Arc<Meter>,
}

impl<B> Upload<B> {
    pub(super) fn new(body: B, bytes_max: u64, meter: Arc<Meter>) -> Self {
        Self { body, bytes_max, meter }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let upload = &self.meter.upload;
        if polled.is_pending() {
            upload.wait_begins(self.meter.started());
        } else {
            upload.wait_ends(self.meter.started());
        }
        let mut frame = match ready!(polled) {
            None => return Poll::Ready(None),
            // What went wrong between client and host is not the guest's to see, beyond that it did.
            Some(Err(error)) => {
                let error: Box<dyn StdError + Send + Sync> = error.into();
                if error.is::<MalformedUpload>() {
                    upload.note_malformed();
                } else {
                    upload.note_broke_off();
                }
                tracing::debug!(error = %error, "the upload broke off");
                return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
            }
            Some(Ok(frame)) => frame,
        };

        if let Some(trailers) = frame.trailers_mut() {
            names::strip_host_headers(trailers);
        }
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        if upload.add(length) > self.bytes_max {
            upload.note_too_large();
            return Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(self.bytes_max)))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
