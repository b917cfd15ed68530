//! `fnhost logs`

use super::client::{self, Client, HostArgs};
use crate::api::{LogLine, LogList};
use crate::limits;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use std::fmt::Write as _;
use std::time::SystemTime;

/// The arguments of `logs`.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Of this function alone.
    name: Option<String>,
    /// Of this app alone.
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,
    /// Of one request alone: `x-request-id` of its response.
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Not older than this: a time such as `10m`, or as RFC 3339 has it.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Of this level, or more serious.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// With this text in them.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// The last so many; 1000, if nothing is said.
    #[arg(short = 'n', long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
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
    let query = client::query(&[
        ("app", args.app.as_deref()),
        ("function", args.name.as_deref()),
        ("request", args.request.as_deref()),
        ("since", since.as_deref()),
        ("level", args.level.map(Level::as_str)),
        ("text", args.text.as_deref()),
        ("limit", limit.as_deref()),
    ]);
    client::block_on(show(args, &client, &query))
}

async fn show(args: &LogsArgs, client: &Client, query: &str) -> anyhow::Result<()> {
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
    let time = if let Ok(ago) = limits::parse_duration(text) {
        SystemTime::now().checked_sub(ago)
    } else {
        let midnight = || humantime::parse_rfc3339(&format!("{text}T00:00:00Z"));
        humantime::parse_rfc3339_weak(text).or_else(|_| midnight()).ok()
    };
    let time =
        time.with_context(|| format!("`{text}` is no time: write `10m`, `2026-11-24` or `2026-11-24T03:14:46Z`"))?;
    Ok(humantime::format_rfc3339_micros(time).to_string())
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
        let ago: SystemTime = time_of("10m").unwrap().parse::<humantime::Timestamp>().unwrap().into();
        assert!(ago.elapsed().unwrap().as_secs().abs_diff(600) < 5);
        assert!(time_of("yesterday").is_err());
    }
}
