//! What a function may use, and how such amounts are written.
//!
//! Owns the defaults and the ceilings of every limit, and the units of times and sizes. Enforcing them is the work of
//! `runtime` (time, CPU, memory, calls out) and of its gate (concurrency, queue).

use std::fmt;
use std::time::Duration;

/// What one function may use. Every request is held to all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Wall clock from the permit to the end of the response body, less the time in which the guest waited for the
    /// client's upload. `None` for streams without an end.
    pub timeout: Option<Duration>,
    /// CPU time of the guest, as the thread's CPU clock counts it.
    pub cpu: Duration,
    /// All linear memories and tables of one sandbox together, in bytes.
    pub memory_bytes: u64,
    /// Sandboxes of this function alive at once.
    pub concurrency: u32,
    /// Requests that may wait for a permit.
    pub queue: u32,
    /// How long one of them may wait.
    pub queue_wait: Duration,
    /// The most bytes of an upload.
    pub request_body_bytes: u64,
    /// Calls out that one request may make, and connections that it may open by sockets.
    pub outbound_requests: u32,
    /// Connections out that all requests together may have: those of calls, which are kept for the next, and those of sockets.
    pub outbound_connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(30)),
            cpu: Duration::from_secs(10),
            memory_bytes: 128 << 20,
            concurrency: 200,
            queue: 1000,
            queue_wait: Duration::from_secs(1),
            request_body_bytes: 16 << 20,
            outbound_requests: 50,
            outbound_connections: 1000,
        }
    }
}

/// The longest time that can be written: above it a typing error is likelier than a need.
pub const DURATION_MAX: Duration = Duration::from_hours(168);
/// What a 32-bit linear memory can hold.
pub const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// One page of a linear memory; less than that no guest can start with.
pub const MEMORY_BYTES_MIN: u64 = 64 << 10;
/// The largest upload that can be allowed.
pub const BODY_BYTES_MAX: u64 = 1 << 40;
/// The largest component that can be allowed.
pub const COMPONENT_BYTES_MAX: u64 = 512 << 20;
/// The most bytes of log lines that can be kept.
pub const LOG_BYTES_MAX: u64 = 1 << 40;
/// The least; lines are kept in files, and dropped file by file.
pub const LOG_BYTES_MIN: u64 = 1 << 20;
/// The most receipts that can be kept in memory: whoever looks for one looks at all.
pub const RECEIPTS_MAX: u32 = 100_000;
/// The most bytes of the keys and values of an embedded store, each entry with 128 bytes more, and of the file of an embedded
/// database, unless functions.toml says otherwise.
pub const STORE_BYTES: u64 = 1 << 30;
/// See there.
pub const DATABASE_BYTES: u64 = 1 << 30;
/// The most that either can be allowed.
pub const DATA_BYTES_MAX: u64 = 1 << 40;
/// Connections to a database server, unless its file says otherwise.
pub const POOL: u32 = 10;
/// The most of them.
pub const POOL_MAX: u32 = 1000;
/// The largest count that can be written for concurrency, queues, connections and calls.
pub const COUNT_MAX: u32 = 1_000_000;

/// Why a text is no time or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number, or no known unit behind it.
    #[error("`{written}` is not a {what}")]
    Malformed {
        /// What stood there.
        written: String,
        /// `time`, `size` or `share`.
        what: &'static str,
    },
    /// A limit of nothing would refuse every request.
    #[error("zero is not a limit")]
    Zero,
    /// More than the ceiling.
    #[error("`{written}` is more than the {ceiling} that can be set")]
    TooLarge {
        /// What stood there.
        written: String,
        /// The ceiling, written the same way.
        ceiling: String,
    },
}

const TIME_UNITS: &[(&str, f64)] = &[("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
const SIZE_UNITS: &[(&str, f64)] = &[
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("B", 1.0),
];

/// Reads a time such as `250us`, `500ms`, `1.5s`, `10m` or `1h`; more than zero, at most [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let seconds = parse_amount(text, TIME_UNITS, "time")?;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(UnitError::TooLarge { written: text.to_owned(), ceiling: show_duration(DURATION_MAX) });
    }
    let duration = Duration::from_secs_f64(seconds);
    if duration.is_zero() { Err(UnitError::Zero) } else { Ok(duration) }
}

/// Reads a size such as `100 B`, `64 KiB`, `1.5 MiB`, `4 GiB` or `10 MB`; more than zero, at most `ceiling` bytes.
pub fn parse_size(text: &str, ceiling: u64) -> Result<u64, UnitError> {
    let bytes = parse_amount(text, SIZE_UNITS, "size")?;
    #[expect(clippy::cast_precision_loss, reason = "ceilings are powers of two, which a double holds exactly")]
    if bytes > ceiling as f64 {
        return Err(UnitError::TooLarge { written: text.to_owned(), ceiling: show_size(ceiling) });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the ceiling")]
    let bytes = bytes as u64;
    if bytes == 0 { Err(UnitError::Zero) } else { Ok(bytes) }
}

/// A part of all requests, in parts of a million; more than none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(Self::PARTS);
    /// What there are of them in all.
    pub const PARTS: u32 = 1_000_000;

    /// So many parts; nothing for none, and for more than there are.
    pub fn of_parts(parts: u32) -> Option<Self> {
        (1..=Self::PARTS).contains(&parts).then_some(Self(parts))
    }

    /// Parts of a million.
    pub fn parts(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1e4)
    }
}

/// Reads a share such as `10%` or `0.5%`; more than nothing, at most `100%`, to a ten-thousandth of a percent.
pub fn parse_share(text: &str) -> Result<Share, UnitError> {
    let parts = (parse_amount(text, &[("%", 1e4)], "share")?).round();
    if parts > f64::from(Share::PARTS) {
        return Err(UnitError::TooLarge { written: text.to_owned(), ceiling: Share::ALL.to_string() });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
    Share::of_parts(parts as u32).ok_or(UnitError::Zero)
}

fn parse_amount(text: &str, units: &[(&str, f64)], what: &'static str) -> Result<f64, UnitError> {
    let malformed = || UnitError::Malformed { written: text.to_owned(), what };
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
    let (digits, unit) = text.split_at_checked(digits_end).ok_or_else(malformed)?;
    let number: f64 = digits.parse().map_err(|_| malformed())?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(malformed)?;
    Ok(number * factor)
}

/// A time in the largest unit that writes it without a fraction.
pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    for (unit, size) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)] {
        if micros >= size && micros.is_multiple_of(size) {
            return format!("{}{unit}", micros / size);
        }
    }
    format!("{micros}us")
}

/// A size in the largest binary unit that writes it without a fraction.
pub fn show_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{} {unit}", bytes / size);
        }
    }
    format!("{bytes} B")
}

/// A measured time with three digits and its unit.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub fn show_nanos(nanos: u64) -> String {
    let (value, unit) = match nanos {
        0..1000 => return format!("{nanos}ns"),
        1000..1_000_000 => (nanos as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (nanos as f64 / 1e6, "ms"),
        _ => (nanos as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown() {
        for (text, micros) in
            [("250us", 250), ("10ms", 10_000), ("1.5s", 1_500_000), ("2m", 120_000_000), ("1h", 3_600_000_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1 fortnight", "1e3s", "1.2.3s", "10S"] {
            assert!(matches!(parse_duration(bad), Err(UnitError::Malformed { .. })), "{bad}");
        }
        assert_eq!(parse_duration("0s"), Err(UnitError::Zero));
        assert!(matches!(parse_duration("169h"), Err(UnitError::TooLarge { .. })));
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_mins(1)), "1m");
    }

    #[test]
    fn shares_are_read_and_shown() {
        for (text, parts) in [("10%", 100_000), ("0.5 %", 5_000), ("100%", 1_000_000), ("0.0001%", 1)] {
            assert_eq!(parse_share(text).map(Share::parts), Ok(parts), "{text}");
        }
        for bad in ["", "10", "0.1", "%", "-1%", "ten%"] {
            assert!(matches!(parse_share(bad), Err(UnitError::Malformed { .. })), "{bad}");
        }
        assert_eq!(parse_share("0%"), Err(UnitError::Zero));
        assert!(matches!(parse_share("101%"), Err(UnitError::TooLarge { .. })));
        assert_eq!(parse_share("2.5%").map(|share| share.to_string()), Ok("2.5%".to_owned()));
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in
            [("1 B", 1), ("64KiB", 65_536), ("64 KiB", 65_536), ("1.5 MiB", 1_572_864), ("2 MB", 2_000_000)]
        {
            assert_eq!(parse_size(text, MEMORY_BYTES_MAX), Ok(bytes), "{text}");
        }
        for bad in ["", "64", "MiB", "64 Mib", "64 M", "-1 B", "0x10 B"] {
            assert!(matches!(parse_size(bad, MEMORY_BYTES_MAX), Err(UnitError::Malformed { .. })), "{bad}");
        }
        assert_eq!(parse_size("0 MiB", MEMORY_BYTES_MAX), Err(UnitError::Zero));
        assert!(matches!(parse_size("5 GiB", MEMORY_BYTES_MAX), Err(UnitError::TooLarge { .. })));
        assert_eq!(show_size(128 << 20), "128 MiB");
    }
}
