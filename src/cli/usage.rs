//! `fnhost usage`: what was used, and what that costs.

use super::client::{self, HostArgs};
use super::logs::time_of;
use super::table;
use crate::api::{UsageInfo, UsageRow};
use clap::{Args, ValueEnum};

/// The arguments of `usage`.
#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    #[command(flatten)]
    host: HostArgs,
    /// What it is added up by.
    #[arg(long, value_enum, default_value = "function")]
    by: By,
    /// From this hour on: a date, a time as RFC 3339 has it, or how long ago, such as `24h` or `30d`.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this hour, likewise.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Function,
    App,
    Release,
    Hour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Csv,
}

pub(super) fn run(args: &UsageArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let by = match args.by {
        By::Function => "function",
        By::App => "app",
        By::Release => "release",
        By::Hour => "hour",
    };
    let since = args.since.as_deref().map(time_of).transpose()?;
    let until = args.until.as_deref().map(time_of).transpose()?;
    let query = client::query(&[("by", Some(by)), ("since", since.as_deref()), ("until", until.as_deref())]);
    let usage: UsageInfo = client::block_on(client.get(&format!("/usage{query}")))?;
    super::print(&match args.format {
        Format::Table => table_of(&usage),
        Format::Json => serde_json::to_string_pretty(&usage)? + "\n",
        Format::Csv => csv_of(&usage),
    });
    Ok(())
}

/// What a row is of.
fn name(row: &UsageRow) -> String {
    let app = row.app.as_deref().map(|app| if app.is_empty() { "(no route)" } else { app });
    match (app, row.function.as_deref(), row.release, &row.hour) {
        (Some(app), Some(function), ..) if !function.is_empty() => format!("{app}/{function}"),
        (Some(app), None, Some(release), _) if release > 0 => format!("{app} {release}"),
        (Some(app), ..) => app.to_owned(),
        (None, .., Some(hour)) => hour.clone(),
        _ => "all".to_owned(),
    }
}

fn table_of(usage: &UsageInfo) -> String {
    let heads =
        ["", "REQUESTS", "REFUSED", "ERRORS", "CPU MS", "GB-SECONDS", "BYTES IN", "BYTES OUT", "COLD START US", "COST"];
    let cells = |row: &UsageRow| {
        let cost = row.cost.map(|cost| format!("{cost:.6} {}", usage.currency.as_deref().unwrap_or_default()));
        [
            name(row),
            row.requests.to_string(),
            row.refused.to_string(),
            row.errors.to_string(),
            format!("{:.1}", row.cpu_ms),
            format!("{:.6}", row.gb_seconds),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
            format!("{:.0}", row.cold_start_us),
            cost.unwrap_or_default(),
        ]
    };
    let mut heads = heads.map(str::to_owned);
    usage.by.to_uppercase().clone_into(&mut heads[0]);
    if usage.currency.is_none() {
        heads[9].clear();
    }
    let mut rows = vec![heads];
    rows.extend(usage.rows.iter().map(cells));
    rows.push(cells(&usage.total));
    table::render(&rows)
}

/// As RFC 4180 has it. Names need no quotes.
fn csv_of(usage: &UsageInfo) -> String {
    let mut text = "hour,app,function,release,requests,refused,errors,cpu_ms,gb_seconds,bytes_in,bytes_out,cold_start_us,cost,currency\r\n".to_owned();
    for row in &usage.rows {
        let or_nothing = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells = [
            or_nothing(&row.hour),
            or_nothing(&row.app),
            or_nothing(&row.function),
            row.release.map(|release| release.to_string()).unwrap_or_default(),
            row.requests.to_string(),
            row.refused.to_string(),
            row.errors.to_string(),
            row.cpu_ms.to_string(),
            row.gb_seconds.to_string(),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
            row.cold_start_us.to_string(),
            row.cost.map(|cost| cost.to_string()).unwrap_or_default(),
            or_nothing(&usage.currency),
        ];
        text.push_str(&cells.join(","));
        text.push_str("\r\n");
    }
    text
}
