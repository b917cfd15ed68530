//! What functions have used, added up: accounts, amounts, and what they cost.
//!
//! An account is an hour of a release of a function; the ledger (`storage::ledger`) keeps its amounts. **Invariant:** a
//! request is counted in one account, when it ends, and it is billed only if it had a sandbox: what was refused costs
//! nothing, and neither does what the host itself failed at.

use crate::names::Name;
use crate::receipt::{Outcome, Receipt};
use std::time::UNIX_EPOCH;

/// Seconds of the hours that usage is added up by.
pub const HOUR_SECONDS: u64 = 3600;
/// Bytes of a gigabyte, as tariffs have it (SI).
const GB_BYTES: f64 = 1e9;
const NANOS_PER_SECOND: f64 = 1e9;

/// What amounts are booked on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// Hours since the epoch of Unix in which the requests ended.
    pub hour: u64,
    /// The app and the function; none for requests that no route was found for.
    pub function: Option<(Name, Name)>,
    /// The number of the release; 0 where there is none.
    pub release: u64,
}

/// What requests have used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amounts {
    /// How many there were.
    pub requests: u64,
    /// Those of them that had no sandbox, or that the host failed at: they are not billed.
    pub refused: u64,
    /// Those of them that are errors ([`Receipt::is_error`]), refused or not.
    pub errors: u64,
    /// CPU time, in nanoseconds.
    pub cpu_nanos: u64,
    /// Peak memory times the time from the permit to the end, in gigabytes (10^9 bytes) times seconds.
    pub gb_seconds: f64,
    /// Bytes of uploads that guests read.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// `store` + `instantiate`, in nanoseconds.
    pub cold_start_nanos: u64,
}

/// `[tariff]`: what usage costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Tariff {
    /// The three letters of ISO 4217.
    pub currency: String,
    /// Of a million requests.
    pub per_million_requests: f64,
    /// Of an hour of CPU time.
    pub per_cpu_hour: f64,
    /// Of a gigabyte held for a second.
    pub per_gb_second: f64,
    /// Of a gigabyte sent.
    pub per_gb_out: f64,
}

impl Account {
    /// The account of a request.
    pub fn of(receipt: &Receipt) -> Self {
        let since_epoch = receipt.ended.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            hour: since_epoch.as_secs() / HOUR_SECONDS,
            function: receipt.app.clone().zip(receipt.function.clone()),
            release: receipt.release.unwrap_or(0),
        }
    }
}

impl Amounts {
    /// What one request has used.
    #[expect(clippy::cast_precision_loss, reason = "gigabyte-seconds are a sum of products, kept as a double")]
    pub fn of(receipt: &Receipt) -> Self {
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let counted = Self { requests: 1, errors: u64::from(receipt.is_error()), ..Self::default() };
        let is_billed = receipt.had_sandbox() && !matches!(receipt.outcome, Outcome::Host | Outcome::Shutdown);
        if !is_billed {
            // A file is sent without a sandbox, and is sent.
            let bytes_out = if receipt.outcome == Outcome::StaticFile { receipt.bytes_out } else { 0 };
            return Self { refused: 1, bytes_out, ..counted };
        }
        let held = receipt.phases.since_permit().as_nanos() as f64 / NANOS_PER_SECOND;
        Self {
            cpu_nanos: nanos(receipt.cpu),
            gb_seconds: receipt.memory_peak_bytes as f64 / GB_BYTES * held,
            bytes_in: receipt.bytes_in,
            bytes_out: receipt.bytes_out,
            cold_start_nanos: nanos(receipt.phases.cold_start()),
            ..counted
        }
    }

    /// Adds those of `other`.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.errors += other.errors;
        self.cpu_nanos += other.cpu_nanos;
        self.gb_seconds += other.gb_seconds;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.cold_start_nanos += other.cold_start_nanos;
    }
}

impl Tariff {
    /// What `amounts` cost.
    #[expect(clippy::cast_precision_loss, reason = "amounts of money of less than 2^53 of the smallest prices")]
    pub fn cost(&self, amounts: &Amounts) -> f64 {
        let billed = amounts.requests.saturating_sub(amounts.refused) as f64;
        billed / 1e6 * self.per_million_requests
            + amounts.cpu_nanos as f64 / NANOS_PER_SECOND / HOUR_SECONDS as f64 * self.per_cpu_hour
            + amounts.gb_seconds * self.per_gb_second
            + amounts.bytes_out as f64 / GB_BYTES * self.per_gb_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Phases;
    use std::time::Duration;

    fn receipt() -> Receipt {
        let phases = Phases {
            queue: Duration::from_secs(7),
            store: Duration::from_millis(1),
            instantiate: Duration::from_millis(2),
            handler: Duration::from_millis(997),
            body: Duration::from_secs(1),
        };
        Receipt {
            ended: UNIX_EPOCH + Duration::from_secs(2 * HOUR_SECONDS + 1),
            phases,
            cpu: Duration::from_millis(36),
            memory_peak_bytes: 500_000_000,
            bytes_out: 2_000_000,
            ..Receipt::sample()
        }
    }

    #[test]
    fn memory_is_held_from_the_permit_to_the_end() {
        let amounts = Amounts::of(&receipt());
        assert!((amounts.gb_seconds - 1.0).abs() < 1e-9, "{amounts:?}");
        assert_eq!((amounts.requests, amounts.refused, amounts.cold_start_nanos), (1, 0, 3_000_000));
        assert_eq!(Account::of(&receipt()).hour, 2);
    }

    #[test]
    fn what_was_refused_is_counted_and_costs_nothing() {
        let tariff = Tariff {
            currency: "USD".to_owned(),
            per_million_requests: 1e6,
            per_cpu_hour: 1e5,
            per_gb_second: 3.0,
            per_gb_out: 1000.0,
        };
        let refused = Receipt { phases: Phases::default(), outcome: Outcome::Busy, status: 503, ..receipt() };
        let failed = Receipt { outcome: Outcome::Host, ..receipt() };
        for free in [refused, failed] {
            let amounts = Amounts::of(&free);
            assert_eq!((amounts.requests, amounts.refused, amounts.errors), (1, 1, 1));
            assert!(tariff.cost(&amounts).abs() < 1e-12);
        }
        // One request, 36 ms of an hour of CPU, one gigabyte-second, 2 MB: 1 + 1 + 3 + 2.
        assert!((tariff.cost(&Amounts::of(&receipt())) - 7.0).abs() < 1e-9);
        let trapped = Receipt { outcome: Outcome::Trap, ..receipt() };
        assert!(tariff.cost(&Amounts::of(&trapped)) > 6.9, "an error of the guest's own is billed");
    }
}
