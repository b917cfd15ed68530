//! `fnhost logs`

use super::client::{self, Client, HostArgs};
use crate::api::{LogLine, LogList};
use crate::names::{Name, RequestId};
use crate::storage::logs::LIMIT_MAX;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The arguments of `logs`.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Of this function alone.
    #[arg(value_parser = Name::new)]
    name: Option<Name>,
    /// Of this app alone.
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    app: Option<Name>,
    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// Of one request alone: `x-request-id` of its response.
    #[arg(long, value_name = "ID", value_parser = super::request_id)]
    request: Option<RequestId>,
    /// Not older than this: how long ago, such as `10m` or `7d`, a date, or a time as RFC 3339 has it.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Of this level, or more serious.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// With this text in them.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The last so many, 10000 at the most; 1000, if nothing is said.
    #[arg(short = 'n', long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=i64::from(LIMIT_MAX)))]
    lines: Option<u32>,
    /// Prints JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

pub(super) fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let since = args.since.as_deref().map(time_of).transpose()?;
    // Whoever follows wants a few lines of what was before.
    let limit = args.lines.or((args.follow && since.is_none()).then_some(10)).map(|lines| lines.to_string());
    let request = args.request.map(|id| id.to_string());
    let query = client::query(&[
        ("app", args.app.as_ref().map(Name::as_str)),
        ("function", args.name.as_ref().map(Name::as_str)),
        ("request", request.as_deref()),
        ("since", since.as_deref()),
        ("level", args.level.map(Level::as_str)),
        ("text", args.text.as_deref()),
        ("limit", limit.as_deref()),
    ]);
    client::block_on(show(args, &client, &query))
}

async fn show(args: &LogsArgs, client: &Client, query: &str) -> anyhow::Result<()> {
    client.warn_of_unknown(args.app.as_ref(), args.name.as_ref()).await?;
    if !args.follow {
        let list: LogList = client.get(&format!("/logs{query}")).await?;
        let mut text = String::new();
        for line in &list.lines {
            text.push_str(&render(line, args.json)?);
        }
        super::print(&text);
        return Ok(());
    }
    client
        .follow(&format!("/logs/tail{query}"), |name, data| match name {
            "line" => super::print_more(&render(&serde_json::from_str(data)?, args.json)?),
            "missed" if !args.json => super::print_more(&format!("[{data} lines missed: they came too fast]\n")),
            _ => Ok(()),
        })
        .await
}

/// A time that lies as far back as `text` says, or the one that it says.
pub(super) fn time_of(text: &str) -> anyhow::Result<String> {
    let time = if let Some(ago) = ago(text) {
        let time = SystemTime::now().checked_sub(ago).filter(|time| *time >= UNIX_EPOCH);
        time.with_context(|| format!("`{text}` is too far back: nothing is as old as that"))?
    } else {
        let midnight = || humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
        let time = humantime::parse_rfc3339_weak(text).or_else(|_| midnight()).ok();
        time.with_context(|| {
            format!("`{text}` is no time: write `10m`, `30d`, `2026-11-24` or `2026-11-24T03:14:46Z`")
        })?
    };
    Ok(humantime::format_rfc3339_micros(time).to_string())
}

/// How long ago, as in `90s`, `10m`, `1.5h`, `30d` or `2w`; nothing for what is written otherwise.
fn ago(text: &str) -> Option<Duration> {
    let (amount, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        _ => return None,
    };
    let is_amount = amount.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    // What no duration holds is further back than anything.
    let amount: f64 = amount.parse().ok().filter(|_| is_amount)?;
    Some(Duration::try_from_secs_f64(amount * seconds).unwrap_or(Duration::MAX))
}

/// A line as people read it: when, how serious, who, what. Behind it what else it says, as JSON.
fn render(line: &LogLine, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(serde_json::to_string(line)? + "\n");
    }
    let who = match (&line.app, &line.function) {
        (Some(app), Some(function)) => format!("{app}/{function}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => line.target.clone(),
    };
    let mut text = format!("{} {:>5} {who}", line.time, line.level);
    if let Some(id) = &line.request_id {
        let _ = write!(text, " {id}");
    }
    let _ = write!(text, ": {}", set_in(&line.message));
    for (name, value) in line.fields.iter().filter(|(name, _)| name.as_str() != "stream") {
        let _ = write!(text, " {name}={value}");
    }
    Ok(text + "\n")
}

/// A message with its lines, but for the first, set in, if they were not: no other than the log's own begin at the margin.
fn set_in(message: &str) -> String {
    const CONTINUATION: &str = "\n    | ";
    message.replace(CONTINUATION, "\n").replace('\n', CONTINUATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_three_ways() {
        assert_eq!(time_of("2026-11-24").unwrap(), "2026-11-24T00:00:00.000000Z");
        assert_eq!(time_of("2026-11-24T03:14:46Z").unwrap(), "2026-11-24T03:14:46.000000Z");
        let then: SystemTime = time_of("10m").unwrap().parse::<humantime::Timestamp>().unwrap().into();
        assert!(then.elapsed().unwrap().as_secs().abs_diff(600) < 5);
        for (text, seconds) in [("90s", 90), ("1.5h", 5400), ("720h", 2_592_000), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(ago(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["yesterday", "", "d", "1y", "-1d", "infd", "1e3s", "\u{e9}"] {
            assert!(time_of(text).unwrap_err().to_string().contains("is no time"), "{text}");
        }
        for text in ["9999w", &format!("{}d", "9".repeat(400))] {
            assert!(time_of(text).unwrap_err().to_string().contains("too far back"), "{text}");
        }
    }
}
