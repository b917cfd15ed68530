//! What a guest's stdin, stdout and stderr are connected to.
//!
//! For a handler of `wasi:http`, stdin is empty and the other two become log lines; for a command, stdin is the upload
//! and stdout the response (`cgi`). **Invariant:** whatever a guest writes, the host keeps no more of it than one line,
//! logs no more than a bounded number, and never waits for the log.

use super::cgi::{Pipe, UploadReader};
use crate::names::{Name, RequestId};
use crate::runtime::text::printable;
use bytes::Bytes;
use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::pipe::ClosedInputStream;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most bytes of a line; what is longer is cut, and says so.
const LINE_BYTES_MAX: usize = 4096;
/// The most lines that one request may log on each stream.
const LINES_MAX: u64 = 1000;
/// How much a guest may write at once. It is handled at once, so the bound is the size of the copy.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The standard streams of one sandbox, and what a command finds in its environment besides.
pub(in crate::runtime) struct Stdio {
    pub(in crate::runtime) stdin: Stdin,
    pub(in crate::runtime) stdout: Stdout,
    pub(in crate::runtime) stderr: Stdout,
    pub(in crate::runtime) env: Vec<(String, String)>,
    pub(in crate::runtime) args: Vec<String>,
}

impl Stdio {
    /// For a handler: everything it prints is logged.
    pub(in crate::runtime) fn logged(log: GuestLog) -> Self {
        Self {
            stdin: Stdin::Empty,
            stdout: Stdout::Log(log.clone(), Stream::Stdout),
            stderr: Stdout::Log(log, Stream::Stderr),
            env: Vec::new(),
            args: Vec::new(),
        }
    }
}

/// Where a guest reads from.
pub(in crate::runtime) enum Stdin {
    Empty,
    Upload(UploadReader),
}

/// Where a guest writes to.
pub(in crate::runtime) enum Stdout {
    Log(GuestLog, Stream),
    Response(Pipe),
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) enum Stream {
    Stdout,
    Stderr,
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        match self {
            Self::Empty => Box::new(tokio::io::empty()),
            Self::Upload(reader) => Box::new(reader.clone()),
        }
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        match self {
            Self::Empty => Box::new(ClosedInputStream),
            Self::Upload(reader) => Box::new(reader.clone()),
        }
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        match self {
            Self::Log(log, stream) => Box::new(LogWriter(log.clone(), *stream)),
            Self::Response(pipe) => Box::new(pipe.clone()),
        }
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        match self {
            Self::Log(log, stream) => Box::new(LogWriter(log.clone(), *stream)),
            Self::Response(pipe) => Box::new(pipe.clone()),
        }
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

/// What one request prints. Cheap to clone; the last line is logged when the last clone goes.
#[derive(Clone)]
pub(in crate::runtime) struct GuestLog(Arc<GuestLogState>);

struct GuestLogState {
    app: Name,
    function: Name,
    request_id: RequestId,
    stdout: Mutex<Lines>,
    stderr: Mutex<Lines>,
}

/// One stream, cut into lines.
#[derive(Default)]
struct Lines {
    /// The line that has not ended yet, at most [`LINE_BYTES_MAX`] of it.
    open: Vec<u8>,
    /// Bytes of it that were left out.
    cut_bytes: u64,
    logged: u64,
    dropped: u64,
}

impl GuestLog {
    pub(in crate::runtime) fn new(app: Name, function: Name, request_id: RequestId) -> Self {
        Self(Arc::new(GuestLogState { app, function, request_id, stdout: Mutex::default(), stderr: Mutex::default() }))
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut lines = self.0.lines(stream).lock().unwrap_or_else(PoisonError::into_inner);
        lines.write(bytes, |line| self.0.log(stream, line));
    }
}

impl GuestLogState {
    fn lines(&self, stream: Stream) -> &Mutex<Lines> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn log(&self, stream: Stream, line: &str) {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let (app, function, request_id) = (&self.app, &self.function, &self.request_id);
        tracing::info!(target: "guest", %app, %function, %request_id, stream, "{line}");
    }
}

impl Drop for GuestLogState {
    fn drop(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut lines = std::mem::take(&mut *self.lines(stream).lock().unwrap_or_else(PoisonError::into_inner));
            lines.finish(|line| self.log(stream, line));
        }
    }
}

impl Lines {
    fn write(&mut self, bytes: &[u8], mut log: impl FnMut(&str)) {
        let mut rest = bytes;
        while let Some(newline) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(newline);
            self.add(line);
            self.end_line(&mut log);
            rest = behind.get(1..).unwrap_or_default();
        }
        self.add(rest);
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX - self.open.len().min(LINE_BYTES_MAX);
        let (kept, cut) = bytes.split_at(room.min(bytes.len()));
        self.open.extend_from_slice(kept);
        self.cut_bytes += cut.len() as u64;
    }

    fn end_line(&mut self, log: &mut impl FnMut(&str)) {
        if self.logged < LINES_MAX {
            self.logged += 1;
            log(&shown(&self.open, self.cut_bytes));
        } else {
            self.dropped += 1;
        }
        self.open.clear();
        self.cut_bytes = 0;
    }

    fn finish(&mut self, mut log: impl FnMut(&str)) {
        if !self.open.is_empty() {
            self.end_line(&mut log);
        }
        if self.dropped > 0 {
            log(&format!("[{} more lines dropped: a request may log {LINES_MAX} on each stream]", self.dropped));
        }
    }
}

/// A line as it may be shown, with what was cut of it.
fn shown(line: &[u8], cut_bytes: u64) -> String {
    let mut text = printable(line.strip_suffix(b"\r").unwrap_or(line), LINE_BYTES_MAX);
    if cut_bytes > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, " [{cut_bytes} more bytes cut]");
    }
    text
}

/// A stream that logs. Always ready: what is too much is dropped, and counted.
struct LogWriter(GuestLog, Stream);

#[async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("wrote more than `check-write` allowed"));
        }
        self.0.write(self.1, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for LogWriter {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.get(..bytes.len().min(WRITE_BYTES_MAX)).unwrap_or_default();
        self.0.write(self.1, taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for UploadReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_fill(cx));
        // An upload that broke off ends the stream, as a pipe from a dead writer does.
        buffer.put_slice(&self.take(buffer.remaining()).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(writes: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for bytes in writes {
            lines.write(bytes, |line| seen.push(line.to_owned()));
        }
        lines.finish(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn bytes_become_lines() {
        assert_eq!(logged(&[b"one\ntw", b"o\r\n", b"three"]), ["one", "two", "three"]);
        assert_eq!(logged(&[b""]), Vec::<String>::new());
        assert_eq!(logged(&[b"\n"]), [""]);
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let long = vec![b'x'; 10_000];
        let seen = logged(&[&long, &long, b"\nnext\n"]);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].len(), LINE_BYTES_MAX + " [15904 more bytes cut]".len());
        assert_eq!(seen[1], "next");
    }

    #[test]
    fn a_flood_is_counted_and_dropped() {
        let seen = logged(&[&b"y\n".repeat(5000)]);
        assert_eq!(seen.len(), 1001);
        assert!(seen[1000].contains("4000 more lines dropped"), "{}", seen[1000]);
    }
}
