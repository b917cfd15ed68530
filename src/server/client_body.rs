//! A request's body as it comes from its client, and whether it has come to its end: a connection that closes in the middle
//! of an upload has to go on taking it for a while (`server::socket`).

use super::socket::SocketView;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended && let Some(socket) = self.socket.take() {
            socket.note_uploading(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
