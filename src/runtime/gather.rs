//! Small frames of a body, put together.
//!
//! A guest writes a few KiB at a time (`blocking-write-and-flush` of `wasi:io` takes 4096 bytes at the most), and each piece is one
//! of the allocator's, a chunk of HTTP/1.1 and a part of a write; a client that does not read leaves a dozen of them waiting.
//! Nothing is waited for here: what is put together is what is there at once, which a connection takes before it writes anyway.

use super::guest::InvokeError;
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use std::task::{Poll, ready};

/// How large a frame gets by this. One that has more than half of it stays what it is: copying costs more then than it saves.
const GATHERED_BYTES_MAX: usize = 8 << 10;
/// How many pieces like the first there is room for at once.
const PIECES: usize = 8;

/// What a body gives when it is asked: a frame, its failure, or its end.
type Next = Option<Result<Frame<Bytes>, InvokeError>>;

/// Frames on their way.
#[derive(Default)]
pub(super) struct Gather {
    /// What came behind the last and did not go with it.
    kept: Option<Next>,
}

impl Gather {
    /// The next frame of what `next` gives. Nothing is given in another order, or lost.
    pub(super) fn poll(&mut self, mut next: impl FnMut() -> Poll<Next>) -> Poll<Next> {
        let first = match self.kept.take() {
            Some(kept) => kept,
            None => ready!(next()),
        };
        let data = match first.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        };
        let mut gathered = Gathered::One(data);
        let is_small = gathered.bytes().len() <= GATHERED_BYTES_MAX / 2;
        while is_small
            && gathered.bytes().len() < GATHERED_BYTES_MAX
            && let Poll::Ready(more) = next()
        {
            match more {
                Some(Ok(frame)) if frame.data_ref().is_some_and(|data| gathered.has_room_for(data)) => {
                    frame.data_ref().into_iter().for_each(|data| gathered.add(data));
                }
                other => {
                    self.kept = Some(other);
                    break;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(gathered.into_bytes()))))
    }

    /// Whether more is to be given than the end.
    pub(super) fn has_more(&self) -> bool {
        matches!(self.kept, Some(Some(_)))
    }

    /// How many bytes are kept.
    pub(super) fn kept_bytes(&self) -> u64 {
        match &self.kept {
            Some(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        }
    }
}

/// Data that goes out together. What is alone is not copied.
enum Gathered {
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes,
        }
    }

    fn has_room_for(&self, data: &Bytes) -> bool {
        self.bytes().len() + data.len() <= GATHERED_BYTES_MAX
    }

    fn add(&mut self, data: &Bytes) {
        if let Self::One(first) = self {
            let room = (first.len().max(data.len()) * PIECES).min(GATHERED_BYTES_MAX);
            let mut many = BytesMut::with_capacity(room);
            many.extend_from_slice(first);
            *self = Self::Many(many);
        }
        if let Self::Many(many) = self {
            many.extend_from_slice(data);
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Many(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use std::collections::VecDeque;

    fn data(bytes: usize) -> Poll<Next> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; bytes])))))
    }

    /// What comes of all that a body gives, in words.
    fn given(body: impl IntoIterator<Item = Poll<Next>>) -> Vec<String> {
        let mut body: VecDeque<_> = body.into_iter().collect();
        let mut gather = Gather::default();
        let mut given = Vec::new();
        while !body.is_empty() || gather.kept.is_some() {
            given.push(match gather.poll(|| body.pop_front().unwrap_or(Poll::Pending)) {
                Poll::Pending => "nothing yet".to_owned(),
                Poll::Ready(None) => "end".to_owned(),
                Poll::Ready(Some(Err(error))) => error.to_string(),
                Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => "trailers".to_owned(),
                Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap().len().to_string(),
            });
        }
        given
    }

    #[test]
    fn small_frames_that_are_there_go_out_together() {
        let mut body: Vec<_> = std::iter::repeat_with(|| data(4096)).take(9).collect();
        body.push(Poll::Ready(None));
        assert_eq!(given(body), ["8192", "8192", "8192", "8192", "4096", "end"]);
        assert_eq!(given([data(1), data(2), Poll::Pending, data(3), Poll::Ready(None)]), ["3", "3", "end"]);
    }

    #[test]
    fn a_large_frame_stays_what_it_is() {
        assert_eq!(given([data(100_000), data(5), data(100_000)]), ["100000", "5", "100000"]);
    }

    #[test]
    fn what_is_no_data_keeps_its_place() {
        let failure = || Poll::Ready(Some(Err(InvokeError::Timeout)));
        assert_eq!(given([data(1), data(1), failure()]), ["2".to_owned(), InvokeError::Timeout.to_string()]);
        let trailers = Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new()))));
        assert_eq!(given([data(1), trailers, Poll::Ready(None)]), ["1", "trailers", "end"]);
        assert_eq!(given([Poll::Pending, Poll::Ready(None)]), ["nothing yet", "end"]);
    }
}
