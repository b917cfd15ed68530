//! `fnhost check`

use super::ManifestArgs;
use super::progress::Waiting;
use crate::release::install;
use clap::Args;

/// The arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let manifest = args.manifest.read()?;
    let waiting = Waiting::new();
    let release = install::install(&manifest, &waiting).map_err(|error| anyhow::Error::msg(error.to_string()))?;
    drop(waiting);
    let (functions, routes) = (release.functions.len(), release.routes.iter().count());
    super::print(&format!("{}: {functions} functions and {routes} routes are ready to serve\n", manifest.name));
    Ok(())
}
