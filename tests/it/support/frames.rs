//! A client that speaks the frames of HTTP/2 (RFC 9113, 4.1), also those that no library would send.

use super::RawClient;
use std::net::SocketAddr;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// One connection.
pub(crate) struct FrameClient(pub(crate) RawClient);

/// A frame that came.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The number of an error, of `RST_STREAM` and `GOAWAY`.
    pub(crate) fn error(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// What `SETTINGS` say.
    pub(crate) fn setting(&self, number: u16) -> Option<u32> {
        let settings = self
            .payload
            .chunks(6)
            .map(|six| (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes(six[2..].try_into().unwrap())));
        settings.into_iter().find(|(known, _)| *known == number).map(|(_, value)| value)
    }
}

impl FrameClient {
    /// Says the preface, and these settings.
    pub(crate) fn open(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut client = Self(RawClient::open(address));
        client.0.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let payload =
            settings.iter().flat_map(|(number, value)| number.to_be_bytes().into_iter().chain(value.to_be_bytes()));
        client.send(SETTINGS, 0, 0, &payload.collect::<Vec<_>>());
        client
    }

    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.0.send(frame(kind, flags, stream, payload));
        self
    }

    /// Asks for `path`, whole.
    pub(crate) fn get(&mut self, stream: u32, path: &str) -> &mut Self {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path))
    }

    /// The next frame; nothing at the end.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let head = self.0.try_take(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let payload = self.0.try_take(length)?;
        if head[3] == PING && head[4] & 1 == 0 {
            // As the protocol has it; a host that says goodbye waits for that.
            self.send(PING, 1, 0, &payload);
        }
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind.
    #[track_caller]
    pub(crate) fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().unwrap_or_else(|| panic!("it closed, and no frame of kind {kind} came"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The body of a stream, to its end.
    #[track_caller]
    pub(crate) fn body_of(&mut self, stream: u32) -> String {
        let mut body = Vec::new();
        loop {
            let frame = self.next().expect("the body comes to its end");
            if frame.stream == stream {
                assert!(matches!(frame.kind, HEADERS | DATA), "{frame:?}");
                if frame.kind == DATA {
                    body.extend(&frame.payload);
                }
                if frame.flags & END_STREAM != 0 {
                    return String::from_utf8(body).unwrap();
                }
            }
        }
    }

    /// Everything until the host closes.
    pub(crate) fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A frame, as it is sent.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block that asks for `path` of the host `a`.
pub(crate) fn head(method: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)])
}

/// A header block without compression: literal fields that are not indexed (RFC 7541, 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (5.1).
            let mut left = text.len();
            if left < 127 {
                bytes.push(left as u8);
            } else {
                bytes.push(127);
                left -= 127;
                while left >= 128 {
                    bytes.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                bytes.push(left as u8);
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}
