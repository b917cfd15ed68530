//! Trace context, as W3C Trace Context 1 has it: which trace a request belongs to, and whether its spans are recorded.
//!
//! **Invariant:** what a client says is only ever the name of a trace and of a span that is somebody else's; the host's own
//! spans have names that it made.

use crate::limits::Share;
use crate::names::RequestId;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write as _;

/// The header.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The only flag that version 00 knows.
const SAMPLED: u8 = 1;
/// The rightmost bits of a trace id, which are random (W3C Trace Context 2, 3.2.2.3); a part of them is sampled.
const RANDOM_BITS: u32 = 56;

/// Where a request stands in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: u128,
    /// The span of whoever called, if they said so.
    pub parent: Option<u64>,
    /// The span of the request itself.
    pub span: u64,
    /// Whether its spans are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// That of a request with these `headers`: the trace that its client began, or one of its own, which has the request's
    /// id as its name, and of which `sample` are recorded.
    pub fn of_request(headers: &HeaderMap, request_id: RequestId, sample: Share) -> Self {
        let span = new_span();
        let mut all = headers.get_all(TRACEPARENT).iter();
        // Two of them say nothing (4.3).
        let said = all.next().filter(|_| all.next().is_none()).and_then(|value| parse(value.as_bytes()));
        let Some((trace, parent, sampled)) = said else {
            let trace = request_id.as_u128();
            return Self { trace, parent: None, span, sampled: is_sampled(trace, sample) };
        };
        Self { trace, parent: Some(parent), span, sampled }
    }

    /// Writes it into the headers of its request, and gives what it wrote. State that came without a trace belongs to none
    /// (3.3: it must not be read then).
    pub fn mark(self, headers: &mut HeaderMap) -> HeaderValue {
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
        let traceparent = self.to_header();
        headers.insert(TRACEPARENT, traceparent.clone());
        traceparent
    }

    /// As the header has it, with the request's span as the parent.
    fn to_header(self) -> HeaderValue {
        let mut text = String::with_capacity(55);
        // Writing to a string cannot fail.
        let _ = write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled));
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// A name for a span; never 0, which stands for none.
pub fn new_span() -> u64 {
    fastrand::u64(1..)
}

fn is_sampled(trace: u128, sample: Share) -> bool {
    let random = trace & ((1 << RANDOM_BITS) - 1);
    random * u128::from(Share::PARTS) < u128::from(sample.parts()) << RANDOM_BITS
}

/// Trace, parent and whether it is sampled: `00-` 32 digits `-` 16 digits `-` 2 digits. Later versions may have more behind
/// that (3.2.4).
fn parse(header: &[u8]) -> Option<(u128, u64, bool)> {
    let text = std::str::from_utf8(header).ok()?;
    let mut parts = text.split('-');
    let mut digits = |length: usize| {
        let part = parts.next()?;
        let lower = part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (part.len() == length && lower).then_some(part)
    };
    let version = u8::from_str_radix(digits(2)?, 16).ok()?;
    let trace = u128::from_str_radix(digits(32)?, 16).ok()?;
    let parent = u64::from_str_radix(digits(16)?, 16).ok()?;
    let flags = u8::from_str_radix(digits(2)?, 16).ok()?;
    let whole = match version {
        0 => parts.next().is_none(),
        0xff => false,
        _ => true,
    };
    (whole && trace != 0 && parent != 0).then_some((trace, parent, flags & SAMPLED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> TraceContext {
        let headers = values.iter().map(|value| (TRACEPARENT, HeaderValue::from_str(value).unwrap()));
        TraceContext::of_request(&headers.collect(), RequestId::new(), Share::ALL)
    }

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_that_was_begun_elsewhere_goes_on() {
        let context = of(&[GOOD]);
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.parent, context.sampled), (Some(0x00f0_67aa_0ba9_02b7), true));
        let told = context.to_header();
        assert!(told.to_str().unwrap().starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{told:?}");
        assert_eq!(parse(told.as_bytes()), Some((context.trace, context.span, true)));
        assert!(!of(&[&GOOD.replace("-01", "-00")]).sampled);
        // Of a later version, with something behind it.
        assert!(of(&[&format!("cc{}-what", &GOOD[2..])]).parent.is_some());
    }

    #[test]
    fn what_is_no_trace_context_begins_a_trace() {
        let bad = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ];
        for bad in bad {
            assert_eq!(of(&[bad]).parent, None, "{bad}");
        }
        assert_eq!(of(&[GOOD, GOOD]).parent, None);
    }

    #[test]
    fn of_traces_that_are_begun_here_a_part_is_sampled() {
        let tenth = Share::of_parts(100_000).unwrap();
        let sampled = (0..10_000).filter(|_| is_sampled(RequestId::new().as_u128(), tenth)).count();
        assert!((800..1200).contains(&sampled), "{sampled}");
        assert!((0..1000).all(|_| is_sampled(RequestId::new().as_u128(), Share::ALL)));
    }
}
