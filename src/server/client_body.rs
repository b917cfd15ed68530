//! A request's body as it comes from its client, and whether it has come to its end: a connection that closes in the middle
//! of an upload has to go on taking it for a while (`server::socket`).

use super::socket::SocketView;
use crate::runtime::MalformedUpload;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The body of a request of HTTP/1.1 or HTTP/2.
pub(super) struct ClientBody {
    body: Incoming,
    /// Told when the upload has ended; nothing where nobody needs to know.
    socket: Option<SocketView>,
}

impl ClientBody {
    /// The body of a request that came on `socket`, if that carries one request at a time.
    pub(super) fn new(body: Incoming, socket: Option<&SocketView>) -> Self {
        let uploads = !body.is_end_stream();
        if let Some(socket) = socket {
            socket.note_uploading(uploads);
        }
        Self { body, socket: socket.filter(|_| uploads).cloned() }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended && let Some(socket) = self.socket.take() {
            socket.note_uploading(false);
            if frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
                socket.note_unclear_end();
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(explained)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // hyper takes the rest of it, to read on behind that, and keeps to itself whether there were trailers.
        if let Some(socket) = self.socket.take()
            && self.body.size_hint().exact().is_none()
        {
            socket.note_unclear_end();
        }
    }
}

/// What broke an upload off. Of HTTP/1.1, a client that breaks the framing is told from one that went away by the kind of the
/// error alone: those of a connection have other kinds.
fn explained(error: hyper::Error) -> Box<dyn StdError + Send + Sync> {
    let cause = StdError::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match cause {
        Some(ErrorKind::InvalidData | ErrorKind::InvalidInput) => Box::new(MalformedUpload),
        _ => Box::new(error),
    }
}
