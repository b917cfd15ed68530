//! `fnhost releases` and `fnhost status`: what a host has, and how it is.

use super::client::{self, HostArgs};
use super::table;
use crate::api::{AppInfo, ReleaseInfo, ReleaseList, StatusInfo};
use crate::limits::show_duration;
use clap::Args;
use std::time::Duration;

/// Digits of a sha256 that are shown; `--json` has all.
const DIGITS: usize = 12;

/// The arguments of `releases`.
#[derive(Debug, Args)]
pub(super) struct ReleasesArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The app; by default, that of functions.toml.
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// The arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn releases(args: &ReleasesArgs) -> anyhow::Result<()> {
    let app = args.host.app(args.app.as_deref())?;
    let client = args.host.client()?;
    let list: ReleaseList = client::block_on(client.get(&format!("/apps/{app}/releases")))?;
    let text = if args.json { serde_json::to_string_pretty(&list)? + "\n" } else { table_of(&list.releases) };
    super::print(&text);
    Ok(())
}

fn table_of(releases: &[ReleaseInfo]) -> String {
    let mut rows = vec![["RELEASE", "STATE", "WHEN", "SOURCE", "SIZE", "COMPONENTS", "MESSAGE"].map(str::to_owned)];
    for release in releases {
        let share = release.share.as_ref().map(|share| format!(" {share}")).unwrap_or_default();
        let components: Vec<String> = release
            .functions
            .iter()
            .map(|function| format!("{} {}", function.name, function.component.get(..DIGITS).unwrap_or_default()))
            .collect();
        let said = [release.message.as_str(), release.note.as_str()];
        let said: Vec<&str> = said.into_iter().filter(|text| !text.is_empty()).collect();
        rows.push([
            release.number.to_string(),
            format!("{}{share}", release.state.as_str()),
            release.created.clone(),
            release.source.clone(),
            show_bytes(release.bytes),
            shortened(&components),
            said.join("; "),
        ]);
    }
    table::render(&rows)
}

/// A few, and how many more.
fn shortened(components: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = components.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match components.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let status: StatusInfo = client::block_on(client.get("/status"))?;
    let text = if args.json { serde_json::to_string_pretty(&status)? + "\n" } else { text_of(&status) };
    super::print(&text);
    Ok(())
}

fn text_of(status: &StatusInfo) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let uptime = show_duration(Duration::from_secs(status.uptime_seconds.max(1)));
    let draining = if status.draining { ", stopping" } else { "" };
    let scheme = if status.tls { "https" } else { "http" };
    let _ = writeln!(text, "fnhost {} at {scheme}://{}, up for {uptime}{draining}", status.version, status.listen);
    let (now, most, loaded) = (status.sandboxes, status.sandboxes_max, status.loaded);
    let pools = status.allocation.join(", ");
    let _ = writeln!(text, "sandboxes: {now} of {most} alive, {pools}; code of {loaded} components mapped\n");
    let mut rows = vec![["APP", "LIVE", "CANARY", "FUNCTIONS", "ROUTES"].map(str::to_owned)];
    rows.extend(status.apps.iter().map(row_of));
    text.push_str(&table::render(&rows));
    for warning in &status.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn row_of(app: &AppInfo) -> [String; 5] {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let share = app.share.as_ref().map(|share| format!(" ({share})")).unwrap_or_default();
    [app.name.clone(), number(app.live), number(app.canary) + &share, app.functions.to_string(), app.routes.to_string()]
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn show_bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
