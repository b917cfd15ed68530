//! A client that speaks bytes: it sends what no library would, and believes nothing but the rules of RFC 9112.

use super::PATIENCE;
use rustix::net::{AddressFamily, SocketType};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// One connection.
pub(crate) struct RawClient {
    stream: TcpStream,
    /// What was read beyond the last answer.
    ahead: Vec<u8>,
}

/// An answer of HTTP/1.1, byte for byte.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl RawAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let problem: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
    }
}

impl RawClient {
    pub(crate) fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the host accepts"))
    }

    /// From another address of this machine.
    pub(crate) fn open_from(own: &str, address: SocketAddr) -> Self {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::new(own.parse().unwrap(), 0)).unwrap();
        rustix::net::connect(&socket, &address).expect("the host accepts");
        Self::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Self {
        // What is sent piece by piece should come so, and at once.
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, ahead: Vec::new() }
    }

    /// Sends all of it, as far as the host takes it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        match self.stream.write_all(bytes.as_ref()) {
            // A host that has closed need not have read it all.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {}
            sent => sent.expect("the host reads"),
        }
        self
    }

    /// Says that nothing more comes.
    pub(crate) fn finish_sending(&mut self) -> &mut Self {
        match self.stream.shutdown(Shutdown::Write) {
            // A host that has closed with something unread has reset the connection.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            ended => ended.expect("the host is there"),
        }
        self
    }

    /// The next answer. `bodiless`, if it is to HEAD.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, method: &str) -> RawAnswer {
        let head = loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.ahead.split_off(end + 4);
                break std::mem::replace(&mut self.ahead, rest);
            }
            assert!(self.read_more() > 0, "it ended in a head: {:?}", String::from_utf8_lossy(&self.ahead));
        };
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap();
        let status: u16 = first.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{head}"))[..3].parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())).unwrap())
            .collect();
        let values =
            |name: &str| headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect();
        let lengths: Vec<&str> = values("content-length");
        let codings: Vec<&str> = values("transfer-encoding");
        assert!(lengths.len() + codings.len() <= 1, "the end of it could be in two places: {head}");
        let body = if method == "HEAD" || matches!(status, 100..=199 | 204 | 304) {
            Vec::new()
        } else if let [length] = lengths[..] {
            self.take(length.parse().unwrap())
        } else if codings == ["chunked"] {
            self.take_chunks()
        } else {
            self.rest()
        };
        RawAnswer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// All that comes until it ends with `end`.
    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> Vec<u8> {
        while !self.ahead.ends_with(end.as_bytes()) {
            assert!(self.read_more() > 0, "it ended before: {}", String::from_utf8_lossy(&self.ahead));
        }
        std::mem::take(&mut self.ahead)
    }

    #[track_caller]
    pub(crate) fn answer(&mut self) -> RawAnswer {
        self.answer_to("GET")
    }

    /// All that comes until the host closes.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.read_more() > 0 {}
        std::mem::take(&mut self.ahead)
    }

    /// Nothing comes any more, and the host has closed.
    #[track_caller]
    pub(crate) fn assert_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "it went on: {}", String::from_utf8_lossy(&rest));
    }

    /// How long it takes until the host closes, whatever it says before.
    #[track_caller]
    pub(crate) fn closed_after(&mut self) -> Duration {
        let began = Instant::now();
        self.rest();
        began.elapsed()
    }

    /// Whether the host has neither said anything nor closed after so long.
    pub(crate) fn is_open_after(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let read = self.stream.peek(&mut [0; 1]);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        matches!(read, Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// So many bytes; nothing if it ends before.
    pub(crate) fn try_take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < bytes {
            if self.read_more() == 0 {
                return None;
            }
        }
        let rest = self.ahead.split_off(bytes);
        Some(std::mem::replace(&mut self.ahead, rest))
    }

    #[track_caller]
    fn take(&mut self, bytes: usize) -> Vec<u8> {
        self.try_take(bytes).expect("it ended in a body")
    }

    fn take_line(&mut self) -> String {
        let mut line = String::new();
        while !line.ends_with("\r\n") {
            line.push(char::from(self.take(1)[0]));
        }
        line.trim_end().to_owned()
    }

    fn take_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.take_line(), 16).expect("the size of a chunk");
            if size == 0 {
                while !self.take_line().is_empty() {}
                return body;
            }
            body.extend(self.take(size));
            assert_eq!(self.take(2), b"\r\n");
        }
    }

    /// How many bytes came; none at the end, however that came.
    fn read_more(&mut self) -> usize {
        let mut buffer = [0; 16 << 10];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("waited too long, or worse: {error}"),
        };
        self.ahead.extend_from_slice(&buffer[..count]);
        count
    }
}
