//! `fnhost promote`, `fnhost rollback` and `fnhost remove`: what of an app answers.

use super::client::{self, Answer, HostArgs};
use crate::api::{ChangeRequest, Changed};
use clap::Args;

/// The arguments of `promote`.
#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    change: ChangeArgs,
}

/// The arguments of `rollback`.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The release to go back to. Without it: the live one in place of its canary, or else the one before.
    number: Option<u64>,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The arguments of `remove`.
#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// The app.
    app: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The app; by default, that of functions.toml.
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Only if this release is live.
    #[arg(long, value_name = "N")]
    base: Option<u64>,
    /// Whatever is live, or under way.
    #[arg(long)]
    force: bool,
}

impl ChangeArgs {
    fn ask(&self, what: &str, to: Option<u64>) -> anyhow::Result<Changed> {
        let app = self.host.app(self.app.as_deref())?;
        let client = self.host.client()?;
        let request = ChangeRequest { to, base: self.base, force: self.force };
        client::block_on(async { client::understood(client.post(&format!("/apps/{app}/{what}"), &request).await?) })
    }
}

pub(super) fn promote(args: &PromoteArgs) -> anyhow::Result<()> {
    let Changed { app, number, .. } = args.change.ask("promote", None)?;
    super::print(&format!("release {number} of {app} is live\n"));
    Ok(())
}

pub(super) fn rollback(args: &RollbackArgs) -> anyhow::Result<()> {
    let Changed { app, number, .. } = args.change.ask("rollback", args.number)?;
    super::print(&format!("release {number} of {app} is live\n"));
    Ok(())
}

pub(super) fn remove(args: &RemoveArgs) -> anyhow::Result<()> {
    let app = args.host.app(Some(&args.app))?;
    let client = args.host.client()?;
    let answer = client::block_on(async { client.delete(&format!("/apps/{app}")).await })?;
    if let Answer::Problem(problem) = answer {
        return Err(client::refusal(&problem));
    }
    super::print(&format!("{app} is removed\n"));
    Ok(())
}
