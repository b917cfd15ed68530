//! Frames of HTTP/2 (RFC 9113, 4.1 and 6): made of what an input says, and read strictly where the host has written them.

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use std::collections::{BTreeMap, BTreeSet};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The payload of the PING by which it is seen that the host still listens.
pub const PROBE: [u8; 8] = *b"still up";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const HAS_PRIORITY: u8 = 32;

const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const SETTINGS_MAX_FRAME_SIZE: u16 = 5;
const WINDOW_BYTES: u64 = 65_535;
const FRAME_BYTES: u64 = 16_384;

/// A frame.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: &'a [u8],
}

/// The frames of `bytes`, and what is left of one that is not whole.
#[must_use]
pub fn read(mut bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((head, behind)) = bytes.split_first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(payload) = behind.get(..length) else { break };
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        frames.push(Frame { kind: head[3], flags: head[4], stream, payload });
        bytes = &behind[length..];
    }
    (frames, bytes)
}

/// A frame, as it is sent.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The PING by which it is seen that the host still listens.
#[must_use]
pub fn probe() -> Vec<u8> {
    frame(PING, 0, 0, &PROBE)
}

/// What a client does, step by step.
#[derive(Debug, Arbitrary)]
pub enum Step {
    /// A request, as it should be.
    Ask {
        stream: u8,
        method: Method,
        path: Path,
        ends: bool,
    },
    /// A header block, whatever it is.
    Headers {
        stream: u8,
        flags: u8,
        fields: Vec<(Field, Vec<u8>)>,
        raw: Vec<u8>,
    },
    Continuation {
        stream: u8,
        flags: u8,
        raw: Vec<u8>,
    },
    Data {
        stream: u8,
        length: u16,
        ends: bool,
        padding: Option<u8>,
    },
    Reset {
        stream: u8,
        code: u32,
    },
    Settings {
        flags: u8,
        settings: Vec<(u8, u32)>,
    },
    Window {
        stream: u8,
        increment: u32,
    },
    Ping {
        flags: u8,
    },
    Goaway {
        last: u8,
        code: u32,
        debug: Vec<u8>,
    },
    Priority {
        stream: u8,
        on: u8,
        weight: u8,
    },
    Frame {
        kind: u8,
        flags: u8,
        stream: u32,
        payload: Vec<u8>,
    },
    Bytes(Vec<u8>),
    /// The same again, so many times.
    Repeat {
        times: u8,
    },
}

#[derive(Debug, Arbitrary)]
pub enum Method {
    Get,
    Post,
    Head,
    Options,
    Connect,
    Other,
}

#[derive(Debug, Arbitrary)]
pub enum Path {
    Echo,
    Moved,
    Site,
    Guarded,
    Nowhere,
    Star,
}

#[derive(Debug, Arbitrary)]
pub enum Field {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Other(Vec<u8>),
}

impl Field {
    fn name(&self) -> &[u8] {
        match self {
            Self::Method => b":method",
            Self::Scheme => b":scheme",
            Self::Authority => b":authority",
            Self::Path => b":path",
            Self::Status => b":status",
            Self::Host => b"host",
            Self::ContentLength => b"content-length",
            Self::TransferEncoding => b"transfer-encoding",
            Self::Connection => b"connection",
            Self::Te => b"te",
            Self::Other(name) => name,
        }
    }
}

impl Step {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let id = |stream: &u8| u32::from(*stream);
        match self {
            Self::Ask { stream, method, path, ends } => {
                let flags = END_HEADERS | if *ends { END_STREAM } else { 0 };
                frame(HEADERS, flags, id(stream) * 2 + 1, &question(method, path))
            }
            Self::Headers { stream, flags, fields, raw } => {
                let fields = fields.iter().map(|(field, value)| (field.name(), value.as_slice()));
                let block = [block(fields), raw.clone()].concat();
                frame(HEADERS, *flags & (END_HEADERS | END_STREAM | PADDED | HAS_PRIORITY), id(stream), &block)
            }
            Self::Continuation { stream, flags, raw } => frame(CONTINUATION, *flags & END_HEADERS, id(stream), raw),
            Self::Data { stream, length, ends, padding } => {
                let mut payload = vec![b'd'; usize::from(*length)];
                let mut flags = if *ends { END_STREAM } else { 0 };
                if let Some(padding) = padding {
                    flags |= PADDED;
                    payload.insert(0, *padding);
                }
                frame(DATA, flags, id(stream), &payload)
            }
            Self::Reset { stream, code } => frame(RST_STREAM, 0, id(stream), &code.to_be_bytes()),
            Self::Settings { flags, settings } => {
                let payload = settings.iter().flat_map(|(number, value)| {
                    u16::from(*number).to_be_bytes().into_iter().chain(value.to_be_bytes())
                });
                frame(SETTINGS, *flags & ACK, 0, &payload.collect::<Vec<_>>())
            }
            Self::Window { stream, increment } => frame(WINDOW_UPDATE, 0, id(stream), &increment.to_be_bytes()),
            Self::Ping { flags } => frame(PING, *flags & ACK, 0, b"whatever"),
            Self::Goaway { last, code, debug } => {
                let payload = [&id(last).to_be_bytes(), &code.to_be_bytes(), debug.as_slice()].concat();
                frame(GOAWAY, 0, 0, &payload)
            }
            Self::Priority { stream, on, weight } => frame(PRIORITY, 0, id(stream), &[0, 0, 0, *on, *weight]),
            Self::Frame { kind, flags, stream, payload } => frame(*kind, *flags, *stream, payload),
            Self::Bytes(bytes) => bytes.clone(),
            Self::Repeat { .. } => Vec::new(),
        }
    }
}

/// The bytes of all of them.
#[must_use]
pub fn bytes_of(steps: &[Step]) -> Vec<u8> {
    /// More is what `floods` of the tests is about, and takes its time.
    const BYTES_MAX: usize = 256 << 10;
    let mut bytes = Vec::new();
    let mut last = Vec::new();
    for step in steps {
        if let Step::Repeat { times } = step {
            let room = BYTES_MAX.saturating_sub(bytes.len()) / last.len().max(1);
            bytes.extend(last.repeat(usize::from(*times).min(room)));
        } else {
            last = step.bytes();
            bytes.extend_from_slice(&last);
        }
    }
    bytes
}

fn question(method: &Method, path: &Path) -> Vec<u8> {
    let method: &[u8] = match method {
        Method::Get => b"GET",
        Method::Post => b"POST",
        Method::Head => b"HEAD",
        Method::Options => b"OPTIONS",
        Method::Connect => b"CONNECT",
        Method::Other => b"PURGE",
    };
    let path: &[u8] = match path {
        Path::Echo => b"/e/x?y",
        Path::Moved => b"/moved/x",
        Path::Site => b"/site/",
        Path::Guarded => b"/guarded/1",
        Path::Nowhere => b"/",
        Path::Star => b"*",
    };
    let fields: [(&[u8], &[u8]); 4] =
        [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)];
    block(fields.into_iter())
}

/// A header block without compression (RFC 7541, 6.2.2).
fn block<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // An integer with a prefix of seven bits (5.1).
            let mut left = text.len();
            if left < 127 {
                bytes.push(u8::try_from(left).unwrap_or(0));
            } else {
                bytes.push(127);
                left -= 127;
                while left >= 128 {
                    bytes.push(u8::try_from(left % 128).unwrap_or(0) | 128);
                    left /= 128;
                }
                bytes.push(u8::try_from(left).unwrap_or(0));
            }
            bytes.extend(text);
        }
    }
    bytes
}

/// What a client has let the host do, at the most, whenever the host came to know it.
#[derive(Debug)]
pub struct Allowance {
    streams: BTreeSet<u32>,
    /// Those that it named in any way.
    named: BTreeSet<u32>,
    frame_bytes: u64,
    window: u64,
    connection_window: u64,
    added: BTreeMap<u32, u64>,
    /// The last frame is whole.
    pub is_whole: bool,
}

impl Allowance {
    /// Reads it off what was sent behind the preface.
    #[must_use]
    pub fn of(sent: &[u8]) -> Self {
        let (frames, rest) = read(sent);
        let mut it = Self {
            streams: BTreeSet::new(),
            named: BTreeSet::new(),
            frame_bytes: FRAME_BYTES,
            window: WINDOW_BYTES,
            connection_window: WINDOW_BYTES,
            added: BTreeMap::new(),
            is_whole: rest.is_empty(),
        };
        for frame in frames {
            let stream = frame.stream & 0x7fff_ffff;
            it.named.insert(stream);
            match frame.kind {
                HEADERS => drop(it.streams.insert(stream)),
                SETTINGS => {
                    for six in frame.payload.chunks_exact(6) {
                        let value = u64::from(u32::from_be_bytes([six[2], six[3], six[4], six[5]]));
                        match u16::from_be_bytes([six[0], six[1]]) {
                            SETTINGS_INITIAL_WINDOW_SIZE => it.window = it.window.max(value),
                            SETTINGS_MAX_FRAME_SIZE => it.frame_bytes = it.frame_bytes.max(value),
                            _ => {}
                        }
                    }
                }
                WINDOW_UPDATE => {
                    let Some(four) = frame.payload.first_chunk() else { continue };
                    let increment = u64::from(u32::from_be_bytes(*four) & 0x7fff_ffff);
                    if stream == 0 {
                        it.connection_window += increment;
                    } else {
                        *it.added.entry(stream).or_default() += increment;
                    }
                }
                _ => {}
            }
        }
        it
    }
}

/// What the host did.
#[derive(Debug, Default)]
pub struct Told {
    /// It answered the probe.
    pub is_up: bool,
    /// It said goodbye, and why.
    pub goodbye: Option<u32>,
    /// Some bytes of a frame that is not whole.
    pub rest: usize,
}

/// Reads what the host wrote.
///
/// # Panics
/// If that is not what a client can read, or more than this one has let the host send.
#[must_use]
pub fn check(written: &[u8], allowed: &Allowance) -> Told {
    let (frames, rest) = read(written);
    let mut told = Told { rest: rest.len(), ..Told::default() };
    let mut block: Option<u32> = None;
    let mut ended = BTreeSet::new();
    let mut begun = BTreeSet::new();
    let (mut data, mut data_of) = (0, BTreeMap::<u32, u64>::new());
    for (at, frame) in frames.iter().enumerate() {
        let length = frame.payload.len();
        assert!(length as u64 <= allowed.frame_bytes, "{frame:?}");
        assert!(at > 0 || (frame.kind == SETTINGS && frame.flags & ACK == 0), "the first is {frame:?}");
        assert_eq!(block.is_some(), frame.kind == CONTINUATION, "a header block is broken up: {frame:?}");
        let of_stream = matches!(frame.kind, DATA | HEADERS | RST_STREAM | CONTINUATION);
        if frame.kind != WINDOW_UPDATE {
            assert_eq!(of_stream, frame.stream != 0, "{frame:?}");
        }
        if frame.kind == RST_STREAM {
            assert!(allowed.named.contains(&frame.stream), "nobody named it: {frame:?}");
        } else if frame.stream != 0 {
            let is_asked = frame.stream % 2 == 1 && allowed.streams.contains(&frame.stream);
            assert!(is_asked, "nobody asked: {frame:?}");
        }
        match frame.kind {
            HEADERS => {
                assert_eq!(frame.flags & (PADDED | HAS_PRIORITY), 0, "{frame:?}");
                assert!(!ended.contains(&frame.stream), "behind its end: {frame:?}");
                begun.insert(frame.stream);
                block = (frame.flags & END_HEADERS == 0).then_some(frame.stream);
            }
            CONTINUATION => {
                assert_eq!(block, Some(frame.stream), "{frame:?}");
                block = block.filter(|_| frame.flags & END_HEADERS == 0);
            }
            DATA => {
                assert_eq!(frame.flags & PADDED, 0, "{frame:?}");
                assert!(begun.contains(&frame.stream) && !ended.contains(&frame.stream), "{frame:?}");
                data += length as u64;
                let of_this = data_of.entry(frame.stream).or_default();
                *of_this += length as u64;
                let window = allowed.window + allowed.added.get(&frame.stream).copied().unwrap_or(0);
                assert!(*of_this <= window && data <= allowed.connection_window, "no window: {frame:?} {allowed:?}");
            }
            RST_STREAM | WINDOW_UPDATE => assert_eq!(length, 4, "{frame:?}"),
            SETTINGS => assert!(length % 6 == 0 && (frame.flags & ACK == 0 || length == 0), "{frame:?}"),
            PING => {
                assert_eq!(length, 8, "{frame:?}");
                told.is_up |= frame.flags & ACK != 0 && frame.payload == PROBE;
            }
            GOAWAY => {
                assert!(length >= 8, "{frame:?}");
                let code = frame.payload[4..8].try_into().expect("four bytes");
                told.goodbye = Some(u32::from_be_bytes(code));
            }
            PRIORITY | PUSH_PROMISE => panic!("no server of ours says {frame:?}"),
            _ => panic!("of no known kind: {frame:?}"),
        }
        if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
            ended.insert(frame.stream);
        }
        if frame.kind == RST_STREAM {
            ended.insert(frame.stream);
        }
    }
    told
}
