//! Commands as functions: the Common Gateway Interface (RFC 3875).
//!
//! A command finds the request in its environment and on stdin, and writes header lines, an empty line and a body to
//! stdout. Owns the environment, the pipe from stdout to the response, and the reading of the header lines.
//!
//! **Invariant:** the pipe holds at most [`PIPE_BYTES_MAX`]; a command that writes faster than its client reads waits.

use crate::runtime::invoke::Call;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi_http::{Error, WasiBody};

/// How much a command may write before somebody reads it. Header lines must fit.
const PIPE_BYTES_MAX: usize = 64 << 10;
/// The most header lines.
const HEADERS_MAX: usize = 128;

/// The most bytes of an environment: the adapter for preview 1 keeps all of it in one page of 64 KiB, and traps.
const ENVIRONMENT_BYTES_MAX: usize = 32 << 10;

/// Whether a guest can be given these.
pub(in crate::runtime) fn fits(environment: &[(String, String)]) -> bool {
    environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() <= ENVIRONMENT_BYTES_MAX
}

/// The meta-variables of RFC 3875, 4.1, and `REQUEST_URI`, which every server adds.
pub(in crate::runtime) fn environment(request: &request::Parts, call: &Call) -> Vec<(String, String)> {
    let path = request.uri.path();
    // SCRIPT_NAME is the part of the path that led here, PATH_INFO what is left for the script: together, all of it.
    let (script, info) = path.split_at_checked(call.route_prefix_bytes.min(path.len())).unwrap_or(("", path));
    let (server_name, server_port) = split_authority(call.authority.as_str());
    let client = call.client.to_string();
    let mut variables: Vec<(String, String)> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", concat!("fnhost/", env!("CARGO_PKG_VERSION"))),
        ("SERVER_PROTOCOL", protocol(request.version)),
        ("SERVER_NAME", server_name),
        ("SERVER_PORT", server_port),
        ("REQUEST_METHOD", request.method.as_str()),
        ("REQUEST_URI", request.uri.path_and_query().map_or(path, http::uri::PathAndQuery::as_str)),
        ("SCRIPT_NAME", script),
        ("QUERY_STRING", request.uri.query().unwrap_or_default()),
        ("REMOTE_ADDR", &client),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if request.uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
        // What every server adds, and programs look at.
        variables.push(("HTTPS".to_owned(), "on".to_owned()));
    }
    variables.push(("PATH_INFO".to_owned(), percent_decode(info)));
    variables.extend(request.headers.keys().filter_map(|name| header_variable(name, &request.headers)));
    variables
}

/// The protocol's version as a request line has it.
fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "HTTP/0.9",
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        http::Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

fn split_authority(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
        _ => (authority, "80"),
    }
}

/// The variable of a header: `CONTENT_TYPE`, `CONTENT_LENGTH`, or `HTTP_` and its name.
fn header_variable(name: &HeaderName, headers: &HeaderMap) -> Option<(String, String)> {
    // `Proxy` would become HTTP_PROXY, which client libraries take for the operator's setting (CVE-2016-5385).
    // A name with `_` would be taken for the one with `-`, and `-` is how the host writes its own.
    if name == "proxy" || name.as_str().contains('_') {
        return None;
    }
    let separator = if name == http::header::COOKIE { "; " } else { ", " };
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    let spelled = name.as_str().to_ascii_uppercase().replace('-', "_");
    let variable = match spelled.as_str() {
        "CONTENT_TYPE" | "CONTENT_LENGTH" => spelled,
        _ => format!("HTTP_{spelled}"),
    };
    Some((variable, values.join(separator)))
}

/// Decodes `%XX`, as `PATH_INFO` is to be (RFC 3875, 4.1.5). What decodes to no UTF-8, or to a NUL, is replaced.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let decoded = behind.get(..2).filter(|_| first == b'%').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(digits, 16).ok()
        });
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}")
}

/// From a command's stdout to the response. Cheap to clone: a guest may open its stdout more than once.
#[derive(Clone, Default)]
pub(in crate::runtime) struct Pipe(Arc<Mutex<PipeState>>);

#[derive(Default)]
struct PipeState {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// The command has ended.
    ended: bool,
    /// Nobody will read any more.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Why what a command wrote is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::runtime) enum HeadError {
    #[error("the command wrote no CGI header: RFC 3875 asks for header lines, an empty line, and then the body")]
    NoHeader,
    #[error("the command's CGI header is malformed: {0}")]
    Malformed(String),
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The command has ended: what is in the pipe is all there will be.
    pub(in crate::runtime) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// The response, once its header lines are there; the body is what follows in the pipe.
    pub(in crate::runtime) fn take_head(&self) -> Option<Result<Response<WasiBody>, HeadError>> {
        let mut state = self.state();
        let mut written = BytesMut::with_capacity(state.bytes);
        state.chunks.drain(..).for_each(|chunk| written.extend_from_slice(&chunk));
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let parsed = match httparse::parse_headers(&written, &mut headers) {
            Ok(httparse::Status::Complete((length, lines))) => Some(head(lines).map(|head| (length, head))),
            Ok(httparse::Status::Partial) if state.ended || written.len() >= PIPE_BYTES_MAX => {
                Some(Err(HeadError::NoHeader))
            }
            Ok(httparse::Status::Partial) => None,
            Err(error) => Some(Err(HeadError::Malformed(error.to_string()))),
        };
        let result = match parsed {
            Some(Ok((length, head))) => {
                let _header_lines = written.split_to(length);
                Some(Ok(head.map(|()| PipeBody(self.clone()).boxed_unsync())))
            }
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        state.bytes = written.len();
        if !written.is_empty() {
            state.chunks.push_back(written.freeze());
        }
        if state.bytes < PIPE_BYTES_MAX
            && let Some(writer) = state.writer.take()
        {
            writer.wake();
        }
        result
    }

    fn push(&self, bytes: Bytes) -> bool {
        let mut state = self.state();
        if state.abandoned {
            return false;
        }
        state.bytes += bytes.len();
        if !bytes.is_empty() {
            state.chunks.push_back(bytes);
        }
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        true
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.state();
        if state.bytes < PIPE_BYTES_MAX || state.abandoned {
            return Poll::Ready(PIPE_BYTES_MAX.saturating_sub(state.bytes));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The response that header lines describe: `Status`, or 302 with a `Location` alone, or 200 (RFC 3875, 6.2 and 6.3).
fn head(lines: &[httparse::Header<'_>]) -> Result<Response<()>, HeadError> {
    let malformed = |what: &str| HeadError::Malformed(what.to_owned());
    if lines.is_empty() {
        return Err(HeadError::NoHeader);
    }
    let mut response = Response::new(());
    let mut status = None;
    for line in lines {
        if line.name.eq_ignore_ascii_case("status") {
            let code = std::str::from_utf8(line.value).ok().and_then(|value| value.split(' ').next());
            let code = code.and_then(|code| StatusCode::from_bytes(code.as_bytes()).ok());
            // 1xx are the connection's own; a script that sends one means something else.
            status = Some(code.filter(|code| code.as_u16() >= 200).ok_or_else(|| malformed("`Status` has no status"))?);
            continue;
        }
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| malformed("a header's name"))?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| malformed("a header's value"))?;
        if !wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(&name) {
            response.headers_mut().append(name, value);
        }
    }
    let redirects = response.headers().contains_key(http::header::LOCATION);
    *response.status_mut() = status.unwrap_or(if redirects { StatusCode::FOUND } else { StatusCode::OK });
    Ok(response)
}

#[async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_room(cx)).await;
    }
}

#[async_trait]
impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > PIPE_BYTES_MAX {
            return Err(StreamError::trap("wrote more than `check-write` allowed"));
        }
        if self.push(bytes) { Ok(()) } else { Err(StreamError::Closed) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let state = self.state();
        if state.abandoned { Err(StreamError::Closed) } else { Ok(PIPE_BYTES_MAX.saturating_sub(state.bytes)) }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = std::task::ready!(self.poll_room(cx));
        let taken = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        let alive = self.push(Bytes::copy_from_slice(taken));
        Poll::Ready(if alive { Ok(taken.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The reading end.
struct PipeBody(Pipe);

impl Body for PipeBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut state = self.0.state();
        if let Some(chunk) = state.chunks.pop_front() {
            state.bytes -= chunk.len();
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.state();
        state.ended && state.chunks.is_empty()
    }
}

impl Drop for PipeBody {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.abandoned = true;
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
    }
}

/// An upload as a command's stdin. Cheap to clone; the clones share one position.
#[derive(Clone)]
pub(in crate::runtime) struct UploadReader(Arc<Mutex<ReaderState>>);

struct ReaderState {
    body: WasiBody,
    chunk: Bytes,
    ended: bool,
    failed: bool,
}

impl UploadReader {
    pub(in crate::runtime) fn new(body: WasiBody) -> Self {
        Self(Arc::new(Mutex::new(ReaderState { body, chunk: Bytes::new(), ended: false, failed: false })))
    }

    fn state(&self) -> MutexGuard<'_, ReaderState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when there is something to take, or will never be.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        while state.chunk.is_empty() && !state.ended {
            match std::task::ready!(Pin::new(&mut state.body).poll_frame(cx)) {
                // Trailers have no place in CGI.
                Some(Ok(frame)) => state.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => (state.ended, state.failed) = (true, true),
                None => state.ended = true,
            }
        }
        Poll::Ready(())
    }

    /// At most `size` bytes of what is there; an error at the end, and another where the upload broke off.
    pub(super) fn take(&self, size: usize) -> StreamResult<Bytes> {
        let mut state = self.state();
        if !state.chunk.is_empty() {
            let length = size.min(state.chunk.len());
            return Ok(state.chunk.split_to(length));
        }
        match (state.ended, state.failed) {
            (true, true) => Err(StreamError::LastOperationFailed(wasmtime::Error::msg("the upload broke off"))),
            (true, false) => Err(StreamError::Closed),
            (false, _) => Ok(Bytes::new()),
        }
    }
}

#[async_trait]
impl Pollable for UploadReader {
    async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await;
    }
}

#[async_trait]
impl InputStream for UploadReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.take(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(writes: &[&str], ended: bool) -> Option<Result<Response<WasiBody>, HeadError>> {
        let pipe = Pipe::default();
        for text in writes {
            assert!(pipe.push(Bytes::copy_from_slice(text.as_bytes())));
        }
        if ended {
            pipe.end();
        }
        pipe.take_head()
    }

    #[tokio::test]
    async fn header_lines_become_a_response() {
        let response = head_of(&["Content-Ty", "pe: text/plain\nX-A: 1\n", "\nbody"], true).unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "body");
    }

    #[test]
    fn the_status_is_the_script_s() {
        let status = |text: &str| head_of(&[text], true).unwrap().map(|response| response.status().as_u16());
        assert_eq!(status("Status: 404 Not Found\r\n\r\n"), Ok(404));
        assert_eq!(status("Location: http://x/\r\n\r\n"), Ok(302));
        assert_eq!(status("Location: http://x/\nStatus: 201\n\n"), Ok(201));
        assert!(status("Status: 100\n\n").is_err());
        assert!(status("Status: many\n\n").is_err());
    }

    #[test]
    fn what_is_no_header_is_no_response() {
        assert!(head_of(&["Content-Type: text/pl"], false).is_none());
        assert_eq!(head_of(&["Content-Type: text/pl"], true).unwrap().err(), Some(HeadError::NoHeader));
        assert_eq!(head_of(&[""], true).unwrap().err(), Some(HeadError::NoHeader));
        assert!(matches!(head_of(&["hello, world\n"], true).unwrap().err(), Some(HeadError::Malformed(_))));
        assert_eq!(head_of(&["\n\nbody"], true).unwrap().err(), Some(HeadError::NoHeader));
    }

    #[test]
    fn paths_are_decoded() {
        assert_eq!(percent_decode("/a%20b/%C3%A9%"), "/a b/é%");
        assert_eq!(percent_decode("%00%zz%f"), "\u{fffd}%zz%f");
    }

    #[test]
    fn headers_become_variables() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("proxy", HeaderValue::from_static("evil"));
        headers.append("content-type", HeaderValue::from_static("text/plain"));
        let variable = |name: &str| header_variable(&HeaderName::from_bytes(name.as_bytes()).unwrap(), &headers);
        assert_eq!(variable("x-a"), Some(("HTTP_X_A".into(), "1, 2".into())));
        assert_eq!(variable("content-type"), Some(("CONTENT_TYPE".into(), "text/plain".into())));
        assert_eq!(variable("proxy"), None);
        assert_eq!(variable("fnhost_route"), None);
    }
}
