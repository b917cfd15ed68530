//! The frames of HTTP/2 as they come in, counted: what costs a client nothing and this host something is bounded.
//!
//! h2 bounds what it keeps (streams, headers, resets that nobody has seen yet). It does not bound how often it is asked to
//! answer a PING, to take a SETTINGS, or to drop a request that it has begun (CVE-2019-9512, -9515, -9516, CVE-2023-44487).
//! Here only the nine bytes before each frame are read (RFC 9113, 4.1); what is in the frames is for h2.

use http::Version;
use std::time::Instant;

/// What a client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames that carry nothing of a request, at once and each second. A client that reads gives room by `WINDOW_UPDATE`, so it may send
/// one more for so many bytes that it was sent.
const FRAMES_BURST: u64 = 4000;
const FRAMES_PER_SECOND: u64 = 1000;
const BYTES_PER_FRAME: u64 = 512;
/// A request that is taken back costs as much as so many of them.
const RESET_FRAMES: u64 = 10;

/// A client sends more frames that carry nothing than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client floods the connection with frames that carry nothing")]
pub(super) struct Flood;

/// Counts the frames of a connection; of HTTP/1.1, nothing.
#[derive(Debug)]
pub(super) struct FrameMeter {
    place: Place,
    /// In the middle of a header block, between its frames.
    in_block: bool,
    budget: Budget,
}

/// Where in the bytes it is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// It is not HTTP/2.
    Elsewhere,
    /// In the nine bytes before a frame: those, and how many there are.
    Head([u8; HEAD_BYTES], usize),
    /// In a frame: its kind, and how much is left of it.
    Payload(u8, usize),
}

impl FrameMeter {
    pub(super) fn new() -> Self {
        Self { place: Place::Preface(0), in_block: false, budget: Budget::full() }
    }

    /// Takes what was read.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.place {
                Place::Elsewhere => return Ok(()),
                Place::Preface(seen) => {
                    if PREFACE.get(*seen) != Some(&first) {
                        self.place = Place::Elsewhere;
                        return Ok(());
                    }
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                    bytes = rest;
                }
                Place::Head(head, seen) => {
                    if let Some(slot) = head.get_mut(*seen) {
                        *slot = first;
                    }
                    *seen += 1;
                    bytes = rest;
                    if *seen == HEAD_BYTES {
                        let head = *head;
                        self.begin_frame(head)?;
                    }
                }
                Place::Payload(_, left) => {
                    let taken = (*left).min(bytes.len());
                    *left -= taken;
                    bytes = bytes.get(taken..).unwrap_or_default();
                    if *left == 0 {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, [high, middle, low, kind, flags, ..]: [u8; HEAD_BYTES]) -> Result<(), Flood> {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.place = if length == 0 { Place::Head([0; HEAD_BYTES], 0) } else { Place::Payload(kind, length) };
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_block = flags & END_HEADERS == 0;
        }
        match kind {
            HEADERS => Ok(()),
            DATA if length > 0 || flags & END_STREAM != 0 => Ok(()),
            RST_STREAM => self.budget.spend(RESET_FRAMES),
            _ => self.budget.spend(1),
        }
    }

    /// So many bytes were written to the client.
    pub(super) fn wrote(&mut self, bytes: usize) {
        if self.is_http2() {
            self.budget.bytes += bytes as u64;
        }
    }

    /// What is spoken, once it is known: HTTP/2 if its preface has come, whole, and else HTTP/1.1.
    pub(super) fn version(&self) -> Option<Version> {
        match self.place {
            Place::Preface(_) => None,
            Place::Elsewhere => Some(Version::HTTP_11),
            Place::Head(..) | Place::Payload(..) => Some(Version::HTTP_2),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        self.version() == Some(Version::HTTP_2)
    }

    /// Whether what comes next belongs to something that began, and is no upload.
    pub(super) fn is_within(&self) -> bool {
        match self.place {
            Place::Preface(_) | Place::Elsewhere => false,
            Place::Head(_, seen) => seen > 0 || self.in_block,
            Place::Payload(kind, _) => kind != DATA,
        }
    }
}

/// Frames that may still come.
#[derive(Debug)]
struct Budget {
    frames: u64,
    /// Written since it was last filled.
    bytes: u64,
    filled: Instant,
}

impl Budget {
    fn full() -> Self {
        Self { frames: FRAMES_BURST, bytes: 0, filled: Instant::now() }
    }

    fn spend(&mut self, frames: u64) -> Result<(), Flood> {
        if self.frames < frames {
            // The clock is read once in many frames, or when it is about to be over.
            let now = Instant::now();
            let millis = u64::try_from(now.duration_since(self.filled).as_millis()).unwrap_or(u64::MAX);
            let gained = millis.saturating_mul(FRAMES_PER_SECOND) / 1000 + self.bytes / BYTES_PER_FRAME;
            self.frames = (self.frames + gained).min(FRAMES_BURST);
            (self.bytes, self.filled) = (0, now);
        }
        self.frames = self.frames.checked_sub(frames).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    /// Reads byte by byte, as a client may send.
    fn read(meter: &mut FrameMeter, bytes: &[u8]) -> Result<(), Flood> {
        bytes.iter().try_for_each(|byte| meter.read(&[*byte]))
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let mut meter = FrameMeter::new();
        read(&mut meter, PREFACE).unwrap();
        assert!(meter.is_http2() && !meter.is_within());
        read(&mut meter, &frame(HEADERS, 0, b"block")).unwrap();
        assert!(meter.is_within(), "the block goes on");
        let rest = frame(CONTINUATION, END_HEADERS, b"block");
        let (last, most) = rest.split_last().unwrap();
        read(&mut meter, most).unwrap();
        assert!(meter.is_within());
        read(&mut meter, &[*last]).unwrap();
        assert!(!meter.is_within());
        read(&mut meter, &frame(DATA, 0, b"body")[..12]).unwrap();
        assert!(!meter.is_within(), "an upload has a time of its own");
    }

    #[test]
    fn http_1_is_left_alone() {
        let mut meter = FrameMeter::new();
        for _ in 0..10_000 {
            meter.read(b"PRI / HTTP/1.1\r\n\r\n").unwrap();
        }
        assert!(!meter.is_http2() && !meter.is_within());
    }

    #[test]
    fn frames_that_carry_nothing_are_bounded_and_those_of_requests_are_not() {
        let flood = |kind, flags, payload: &[u8], count| {
            let mut meter = FrameMeter::new();
            meter.read(PREFACE).unwrap();
            meter.read(&frame(kind, flags, payload).repeat(count))
        };
        let count = usize::try_from(FRAMES_BURST).unwrap() * 2;
        for kind in [2, 4, 6, 8, 200] {
            assert_eq!(flood(kind, 0, b"12345678", count), Err(Flood), "kind {kind}");
        }
        assert_eq!(flood(DATA, 0, b"", count), Err(Flood));
        assert_eq!(flood(CONTINUATION, 0, b"", count), Err(Flood));
        assert_eq!(flood(RST_STREAM, 0, b"1234", count / 10), Err(Flood));
        assert_eq!(flood(HEADERS, END_HEADERS, b"x", count), Ok(()));
        assert_eq!(flood(DATA, 0, b"x", count), Ok(()));
    }

    #[test]
    fn a_client_that_reads_may_give_room() {
        let mut meter = FrameMeter::new();
        meter.read(PREFACE).unwrap();
        for _ in 0..20_000 {
            meter.wrote(16 << 10);
            meter.read(&frame(8, 0, b"1234").repeat(2)).unwrap();
        }
    }
}
