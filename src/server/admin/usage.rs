//! What was used, and what that costs: `/v1/usage`.

use super::problem::Problem;
use super::releases::ok;
use super::{Admin, QueryOf, blocking, query};
use crate::api::{UsageInfo, UsageRow};
use crate::storage::ledger::{By, Ledger, Sum, this_hour};
use crate::usage::{Amounts, HOUR_SECONDS, Tariff};
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which usage.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsageQuery {
    /// `function`, `app`, `release` or `hour`.
    by: Option<String>,
    /// From the hour of this time on: RFC 3339, or a date.
    since: Option<String>,
    /// Before the hour of this time.
    until: Option<String>,
}

/// What was used, added up.
pub(super) async fn usage(State(admin): State<Arc<Admin>>, asked: QueryOf<UsageQuery>) -> Result<Response, Problem> {
    let query = query(asked)?;
    let by = query.by.as_deref().map_or(Some(By::Function), By::from_name);
    let by =
        by.ok_or_else(|| Problem::BadRequest("Usage is added up by function, app, release or hour.".to_owned()))?;
    let since = query.since.as_deref().map_or(Ok(0), hour_of)?;
    let until = query.until.as_deref().map_or(Ok(this_hour() + 1), hour_of)?;
    let info = blocking(move || {
        let collector = &admin.host.observer.collector;
        let file = collector.ledger().ok_or(Problem::Off("usage is", "usage"))?;
        // What has ended by now is in it then, if the disk takes it.
        collector.settle();
        let sums = Ledger::sums(file, by, since, until).map_err(|error| Problem::Host(error.to_string()))?;
        let tariff = admin.host.settings.tariff.as_ref();
        let mut total = Amounts::default();
        for sum in &sums {
            total.add(&sum.amounts);
        }
        Ok(UsageInfo {
            by: by.as_str().to_owned(),
            since: text_of(since),
            until: text_of(until),
            currency: tariff.map(|tariff| tariff.currency.clone()),
            rows: sums.into_iter().map(|sum| named(by, sum, tariff)).collect(),
            total: row(&total, tariff),
        })
    });
    Ok(ok(&info.await?))
}

/// The hour of a time, since the epoch of Unix.
fn hour_of(text: &str) -> Result<u64, Problem> {
    let time = humantime::parse_rfc3339_weak(text).or_else(|_| humantime::parse_rfc3339(&format!("{text}T00:00:00Z")));
    let time: SystemTime = time.map_err(|_| {
        Problem::BadRequest(format!(
            "`{text}` is no time: write it as RFC 3339 has it, or as a date, such as 2026-11-01."
        ))
    })?;
    Ok(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / HOUR_SECONDS)
}

fn text_of(hour: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(hour.saturating_mul(HOUR_SECONDS))).to_string()
}

fn named(by: By, sum: Sum, tariff: Option<&Tariff>) -> UsageRow {
    let of = row(&sum.amounts, tariff);
    match by {
        By::Function => UsageRow { app: Some(sum.app), function: Some(sum.function), ..of },
        By::App => UsageRow { app: Some(sum.app), ..of },
        By::Release => UsageRow { app: Some(sum.app), release: Some(sum.release), ..of },
        By::Hour => UsageRow { hour: Some(text_of(sum.hour)), ..of },
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with some decimals")]
fn row(amounts: &Amounts, tariff: Option<&Tariff>) -> UsageRow {
    UsageRow {
        requests: amounts.requests,
        refused: amounts.refused,
        errors: amounts.errors,
        cpu_ms: amounts.cpu_nanos as f64 / 1e6,
        gb_seconds: amounts.gb_seconds,
        bytes_in: amounts.bytes_in,
        bytes_out: amounts.bytes_out,
        cold_start_us: amounts.cold_start_nanos as f64 / 1e3,
        cost: tariff.map(|tariff| tariff.cost(amounts)),
        ..UsageRow::default()
    }
}
