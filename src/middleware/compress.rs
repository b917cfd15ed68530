//! `compress`: smaller answers, as the client takes them (RFC 9110, 12.5.3).
//!
//! A body is compressed as it comes, and never held: when its source pauses, what there is goes out, so that events still
//! arrive. What was compressed already, is small, is a part of something, or must not be changed is left as it is.

use super::vary;
use crate::manifest::middleware::CompressSpec;
use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use async_compression::{Level, brotli, zstd};
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue,
};
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// How much goes out at once.
const CHUNK_BYTES: usize = 16 << 10;
/// How much is taken in before others get a turn: what compresses well takes long to make a chunk.
const TURN_BYTES: usize = 256 << 10;
/// How far back the same text is looked for, as a power of two: 256 KiB, so that an encoder has about a MiB and not ten.
const WINDOW_LOG: u32 = 18;
/// The most encoders at once; answers beyond that go out as they are. A client may have many answers under way, and not read
/// them.
const ENCODERS_MAX: usize = 1024;
/// Levels that cost about as much as gzip's usual one, or less.
const BROTLI_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: i32 = 6;

/// An encoding that clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Zstd,
    Brotli,
    Gzip,
}

impl Encoding {
    /// Those that there are, the best first.
    const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The one that a client likes best; among those that it likes as well, the best.
    pub(super) fn choose(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let accepted: Vec<(&str, u16)> = texts.flat_map(|text| text.split(',')).filter_map(accepted).collect();
        let weight = |name: &str| accepted.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let any = weight("*").map_or(0, |(_, weight)| *weight);
        let weigh = |encoding: Self| weight(encoding.as_str()).map_or(any, |(_, weight)| *weight);
        // `max_by_key` takes the last of those that are alike.
        Self::ALL.into_iter().rev().max_by_key(|encoding| weigh(*encoding)).filter(|encoding| weigh(*encoding) > 0)
    }
}

/// An entry of `Accept-Encoding`: its name, and its weight in thousandths (RFC 9110, 12.4.2).
fn accepted(entry: &str) -> Option<(&str, u16)> {
    let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
    let weight = match parameters.trim().strip_prefix(['q', 'Q']) {
        Some(value) => value.trim_start().strip_prefix('=')?.trim().parse::<f32>().ok()?,
        None => 1.0,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
    Some((name.trim(), (weight.clamp(0.0, 1.0) * 1000.0) as u16))
}

/// Smaller answers.
pub struct Compress {
    size_bytes_min: u64,
}

impl Compress {
    /// As functions.toml has it.
    pub fn new(spec: &CompressSpec) -> Self {
        Self { size_bytes_min: spec.size_bytes_min }
    }

    /// Has an answer compressed, if it is to be; its head says so then.
    pub(super) fn apply(
        &self,
        encoding: Option<Encoding>,
        method: &Method,
        status: StatusCode,
        headers: &mut HeaderMap,
        size: Option<u64>,
    ) -> Option<Encoder> {
        let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let is_small = declared.or(size).is_some_and(|size| size < self.size_bytes_min);
        let bodiless =
            matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT);
        if bodiless || !may_change(headers) || !is_worth_it(headers) || (is_small && method != Method::HEAD) {
            return None;
        }
        // Another client may get something else for the same request.
        vary(headers, "accept-encoding");
        let encoding = encoding.filter(|_| method != Method::HEAD)?;
        let place = Place::take()?;
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
        headers.remove(CONTENT_LENGTH);
        // A range would be one of other bytes.
        headers.remove(ACCEPT_RANGES);
        weaken(headers);
        Some(Encoder::new(encoding, place))
    }
}

/// Whether the bytes of an answer may be others (RFC 9111, 5.2.2.6, and RFC 9530, which has their digests).
fn may_change(headers: &HeaderMap) -> bool {
    let says =
        |value: &HeaderValue| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("no-transform"));
    let of_these_bytes = [CONTENT_ENCODING.as_str(), CONTENT_RANGE.as_str(), "content-digest", "repr-digest"];
    !headers.get_all(CACHE_CONTROL).iter().any(says) && !of_these_bytes.iter().any(|name| headers.contains_key(*name))
}

/// Whether it is text of some kind. Pictures, films and archives are compressed already.
fn is_worth_it(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (class, name) = kind.split_once('/').unwrap_or_default();
    let named = [
        "json",
        "javascript",
        "xml",
        "wasm",
        "x-javascript",
        "x-ndjson",
        "ld+json",
        "manifest+json",
        "vnd.ms-fontobject",
    ];
    match class {
        "text" => true,
        "application" => named.contains(&name) || name.ends_with("+json") || name.ends_with("+xml"),
        "image" => matches!(name, "svg+xml" | "bmp" | "x-icon"),
        "font" => matches!(name, "ttf" | "otf"),
        _ => false,
    }
}

/// The same thing by other bytes is the same weakly (RFC 9110, 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    if let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        headers.insert(ETAG, weak);
    }
}

enum Inner {
    Zstd(ZstdEncoder<Vec<u8>>),
    Brotli(Box<BrotliEncoder<Vec<u8>>>),
    Gzip(GzipEncoder<Vec<u8>>),
}

/// Compresses a body as it comes.
pub struct Encoder {
    inner: Inner,
    /// Something was taken in that may not have come out.
    is_pending: bool,
    /// What comes behind the last of the data.
    trailers: Option<Frame<Bytes>>,
    has_finished: bool,
    _place: Place,
}

/// One of the encoders that there may be.
struct Place;

static ENCODERS: AtomicUsize = AtomicUsize::new(0);

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        (ENCODERS.fetch_add(1, Ordering::Relaxed) < ENCODERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ENCODERS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Encoder {
    fn new(encoding: Encoding, place: Place) -> Self {
        let inner = match encoding {
            Encoding::Zstd => {
                let window = [zstd::CParameter::window_log(WINDOW_LOG)];
                let level = Level::Precise(ZSTD_LEVEL);
                Inner::Zstd(ZstdEncoder::with_quality_and_params(Vec::new(), level, &window))
            }
            Encoding::Brotli => {
                let parameters = brotli::EncoderParams::default().quality(Level::Precise(BROTLI_LEVEL));
                let parameters = parameters.window_size(WINDOW_LOG.cast_signed());
                Inner::Brotli(Box::new(BrotliEncoder::with_params(Vec::new(), parameters)))
            }
            Encoding::Gzip => Inner::Gzip(GzipEncoder::with_quality(Vec::new(), Level::Precise(GZIP_LEVEL))),
        };
        Self { inner, is_pending: false, trailers: None, has_finished: false, _place: place }
    }

    /// Whether all of it has gone out.
    pub fn has_ended(&self) -> bool {
        self.has_finished && self.trailers.is_none()
    }

    /// The next frame of `body`, compressed; `explain` is what becomes of a failure of compressing.
    pub fn poll_frame<B: Body<Data = Bytes>>(
        &mut self,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
        explain: fn(io::Error) -> B::Error,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.has_finished {
            return Poll::Ready(self.trailers.take().map(Ok));
        }
        let mut taken = 0;
        loop {
            let frame = match body.as_mut().poll_frame(cx) {
                Poll::Pending => {
                    let out = self.flush(cx).map_err(explain)?;
                    return if out.is_empty() { Poll::Pending } else { Poll::Ready(Some(Ok(Frame::data(out)))) };
                }
                Poll::Ready(frame) => frame.transpose()?,
            };
            let data = match frame.map(Frame::into_data) {
                Some(Ok(data)) => data,
                last => {
                    self.trailers = last.and_then(Result::err);
                    return Poll::Ready(Some(Ok(Frame::data(self.finish(cx).map_err(explain)?))));
                }
            };
            taken += data.len();
            self.write(&data, cx).map_err(explain)?;
            if self.inner.out().len() >= CHUNK_BYTES {
                return Poll::Ready(Some(Ok(Frame::data(self.inner.take()))));
            }
            if taken >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// What is written to is in memory, so nothing here is ever waited for.
    fn write(&mut self, mut data: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        self.is_pending = true;
        while !data.is_empty() {
            let written = now(self.inner.writer().poll_write(cx, data))?;
            data = data.get(written.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<Bytes> {
        if std::mem::take(&mut self.is_pending) {
            now(self.inner.writer().poll_flush(cx))?;
        }
        Ok(self.inner.take())
    }

    fn finish(&mut self, cx: &mut Context<'_>) -> io::Result<Bytes> {
        self.has_finished = true;
        now(self.inner.writer().poll_shutdown(cx))?;
        Ok(self.inner.take())
    }
}

fn now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(io::Error::other("memory was waited for")),
    }
}

impl Inner {
    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match self {
            Self::Zstd(encoder) => Pin::new(encoder),
            Self::Brotli(encoder) => Pin::new(&mut **encoder),
            Self::Gzip(encoder) => Pin::new(encoder),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Zstd(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Gzip(encoder) => encoder.get_mut(),
        }
    }

    fn take(&mut self) -> Bytes {
        std::mem::take(self.out()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(text: &str) -> Option<&'static str> {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap())]);
        Encoding::choose(&headers).map(Encoding::as_str)
    }

    #[test]
    fn there_are_only_so_many_encoders() {
        let places: Vec<Place> = (0..ENCODERS_MAX).map_while(|_| Place::take()).collect();
        assert_eq!((places.len(), Place::take().is_none()), (ENCODERS_MAX, true));
        drop(places);
        assert!(Place::take().is_some());
    }

    #[test]
    fn a_client_gets_what_it_likes_best() {
        assert_eq!(choose("gzip, deflate, br, zstd"), Some("zstd"));
        assert_eq!(choose("gzip;q=1.0, br;q=0.5"), Some("gzip"));
        assert_eq!(choose("*"), Some("zstd"));
        assert_eq!(choose("*, zstd;q=0, BR;q=0"), Some("gzip"));
        assert_eq!(choose("gzip;q=0"), None);
        for none in ["", "identity", "deflate", "gzip;q=none"] {
            assert_eq!(choose(none), None, "{none}");
        }
        assert_eq!(Encoding::choose(&HeaderMap::new()), None);
    }
}
