//! Names that people give and that become parts of paths, headers, labels and log lines: checked once, when made.
//!
//! Owns the rule for names of apps and functions, and the request id. **Invariant:** a `Name` is safe to put into a
//! file name, a header value and a terminal without quoting.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The most bytes a name may have. 63 is what a DNS label allows (RFC 1035, 2.3.4), so that a name may become one.
pub const NAME_BYTES_MAX: usize = 63;

/// The name of an app or of a function: `[a-z][a-z0-9-]*`, at most 63 bytes, no `-` at the end. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing between the quotes.
    #[error("a name cannot be empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name has at most {NAME_BYTES_MAX} characters")]
    TooLong,
    /// A character outside the rule, or one of the rule in the wrong place.
    #[error("a name is made of a-z, 0-9 and `-`, begins with a letter and does not end with `-`")]
    BadCharacter,
}

impl Name {
    /// Checks `text` against the rule above.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let starts_well = text.starts_with(|first: char| first.is_ascii_lowercase());
        if !starts_well || text.ends_with('-') || !text.bytes().all(allowed) {
            return Err(NameError::BadCharacter);
        }
        Ok(Self(text.into()))
    }

    /// The nearest text that would be a name, for a hint; nothing where no letter is left.
    pub fn nearest(text: &str) -> Option<Self> {
        let spelled: String =
            text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let trimmed = spelled.trim_start_matches(|c: char| !c.is_ascii_lowercase());
        let short: String = trimmed.chars().take(NAME_BYTES_MAX).collect();
        Self::new(short.trim_end_matches('-')).ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// How the names of headers begin that the host speaks, and nobody else.
pub const HOST_HEADERS: &str = "fnhost-";

/// The number of the release that answered.
pub const RELEASE_HEADER: http::HeaderName = http::HeaderName::from_static("fnhost-release");

/// Takes the host's own headers out. They mean something only when the host writes them.
pub fn strip_host_headers(headers: &mut http::HeaderMap) {
    let forged =
        |headers: &http::HeaderMap| headers.keys().find(|name| name.as_str().starts_with(HOST_HEADERS)).cloned();
    while let Some(name) = forged(headers) {
        headers.remove(name);
    }
}

/// The host's own name of one request: 48 bits of Unix time in milliseconds, then 80 random bits, as 32 hex digits
/// (the layout of a UUID version 7, RFC 9562 5.7, without its version bits), so that ids sort by time. Always made
/// here, never taken from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u128);

impl RequestId {
    /// A new id.
    pub fn new() -> Self {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Self((millis << 80) | (fastrand::u128(..) >> 48))
    }

    /// The id as a number.
    pub fn as_u128(self) -> u128 {
        self.0
    }

    /// The id that this is the number of.
    pub fn of_u128(number: u128) -> Self {
        Self(number)
    }

    /// Reads an id as it is written: 32 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| digits).map(Self)
    }

    /// The id as its 32 hex digits, without an allocation.
    pub fn encode(self, buffer: &mut [u8; 32]) -> &str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (place, slot) in buffer.iter_mut().rev().enumerate() {
            let nibble = (self.0 >> (4 * place)) & 0xf;
            *slot = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
        }
        std::str::from_utf8(buffer).unwrap_or_default()
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; 32]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_follows_the_rule() {
        for good in ["a", "hello", "hello-p3", "a1"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Hello", "1a", "-a", "a-", "a_b", "a/b", "..", "é", &"a".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_has_a_near_good_one() {
        assert_eq!(Name::nearest("My_Func").unwrap().as_str(), "my-func");
        assert_eq!(Name::nearest("1st!").unwrap().as_str(), "st");
        assert!(Name::nearest("!!").is_none());
    }

    #[test]
    fn request_ids_are_32_hex_digits_in_the_order_of_time() {
        let first = RequestId::new().to_string();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let second = RequestId::new().to_string();
        assert_eq!(first.len(), 32);
        assert!(first.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(first < second, "{first} {second}");
        assert_eq!(RequestId::parse(&first).unwrap().to_string(), first);
        for bad in ["", "xyz", &first[1..], &format!("+{}", &first[1..])] {
            assert!(RequestId::parse(bad).is_none(), "{bad}");
        }
    }
}
