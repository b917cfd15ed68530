//! What a guest's answer says of the connection that it goes out on: nothing, beyond a length that is true.
//!
//! Where an answer ends, and whether another follows, is the host's to say (RFC 9112, 6 and 9; RFC 9110, 7.6.1). A guest that could
//! say it as well could have its client read a part of one answer as the next. **Invariant:** what passes here leaves a
//! connection on which the next answer is read as what it is.

use http::header::{self, CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};

/// Fields of the connection, and not of the answer. `Trailer` stays: it tells which trailers there are.
const CONNECTION_FIELDS: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];
/// The most bytes of a head: names, values, and four for each field. Clients read less.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The highest status there is (RFC 9110, 15).
const STATUS_MAX: u16 = 599;

/// Why an answer cannot go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// 1xx belong to the connection: the client would go on waiting, or take it for another protocol.
    #[error("the guest answered with the status {0}")]
    Status(u16),
    /// No number, or several.
    #[error("the guest answered with a content-length that is none")]
    Length,
    /// More or less than the body has.
    #[error("the guest promised a body of {promised} bytes, and gave {given}")]
    Body {
        /// What `Content-Length` says.
        promised: u64,
        /// What there is, as far as it was looked at.
        given: u64,
    },
    /// Fields beyond all bounds.
    #[error("the guest answered with more than {HEAD_BYTES_MAX} bytes of headers")]
    TooLarge,
}

/// Takes out of a guest's head what is not the guest's to say. What is left of the length that it promised is true, if `given`,
/// the length of its body, is known; or else is to be held to.
pub(super) fn correct(parts: &mut response::Parts, given: Option<u64>, is_head: bool) -> Result<Option<u64>, Unfit> {
    let code = parts.status.as_u16();
    if parts.status.is_informational() || code > STATUS_MAX {
        return Err(Unfit::Status(code));
    }
    strip_connection_fields(&mut parts.headers);
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > HEAD_BYTES_MAX {
        return Err(Unfit::TooLarge);
    }
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let promised = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(length), None) => Some(number(length).ok_or(Unfit::Length)?),
        (Some(_), Some(_)) => return Err(Unfit::Length),
    };
    if is_bodiless(parts.status) {
        // 204 has none (RFC 9110, 8.6), and that of 304 would be another answer's.
        parts.headers.remove(CONTENT_LENGTH);
        return Ok(None);
    }
    match (promised, given) {
        // What HEAD would have had is not looked at.
        (Some(promised), Some(given)) if promised != given && !is_head => Err(Unfit::Body { promised, given }),
        (promised, _) => Ok(promised),
    }
}

/// Whether an answer with this status has no body, whatever its guest writes (RFC 9110, 15.3.5, 15.3.6, 15.4.5).
pub(super) fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Takes out of trailers what is the connection's, or says where the body ends: that has been said.
pub(super) fn correct_trailers(trailers: &mut HeaderMap) {
    strip_connection_fields(trailers);
    for name in [CONTENT_LENGTH, header::HOST, header::TRAILER] {
        trailers.remove(name);
    }
}

fn strip_connection_fields(headers: &mut HeaderMap) {
    // A field that `Connection` names is the connection's as well.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&CONNECTION_FIELDS) {
        headers.remove(name);
    }
}

/// `1*DIGIT`, and no more than that (RFC 9110, 8.6).
fn number(length: &HeaderValue) -> Option<u64> {
    let digits = length.to_str().ok()?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(
        status: u16,
        fields: &[(&str, &str)],
        given: Option<u64>,
    ) -> Result<(Option<u64>, Vec<String>), Unfit> {
        let mut builder = http::Response::builder().status(status);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        let mut parts = builder.body(()).unwrap().into_parts().0;
        let promised = correct(&mut parts, given, false)?;
        Ok((promised, parts.headers.keys().map(ToString::to_string).collect()))
    }

    #[test]
    fn fields_of_the_connection_are_taken_out() {
        let fields = [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-own", "2"),
        ];
        assert_eq!(corrected(200, &fields, None), Ok((None, vec!["x-own".to_owned()])));
    }

    #[test]
    fn a_length_is_one_number_and_true() {
        let of = |length, given| corrected(200, &[("content-length", length)], given).map(|(promised, _)| promised);
        assert_eq!(of("5", Some(5)), Ok(Some(5)));
        assert_eq!(of("5", None), Ok(Some(5)));
        assert_eq!(of("5", Some(6)), Err(Unfit::Body { promised: 5, given: 6 }));
        for bad in ["", "+5", "-5", "5, 5", "0x5", "5 ", "99999999999999999999"] {
            assert_eq!(of(bad, Some(5)), Err(Unfit::Length), "{bad}");
        }
        assert_eq!(corrected(200, &[("content-length", "5"), ("content-length", "5")], Some(5)), Err(Unfit::Length));
        assert_eq!(corrected(204, &[("content-length", "5")], Some(5)), Ok((None, vec![])));
    }

    #[test]
    fn a_status_is_one_that_there_is() {
        for bad in [100, 101, 103, 199, 600, 999] {
            assert_eq!(corrected(bad, &[], None), Err(Unfit::Status(bad)));
        }
        assert!(corrected(599, &[], None).is_ok());
    }

    #[test]
    fn a_head_is_bounded() {
        assert_eq!(corrected(200, &[("x", &"y".repeat(HEAD_BYTES_MAX))], None), Err(Unfit::TooLarge));
    }
}
