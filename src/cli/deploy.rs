//! `fnhost deploy`: from a project to a host, live.

use super::client::{self, Answer, Client, HostArgs};
use super::progress::Waiting;
use super::{build, client::refusal};
use crate::api::{AppList, Changed, DeployRequest, MigrationText};
use crate::limits::{self, COMPONENT_BYTES_MAX, show_size};
use crate::manifest::Manifest;
use crate::release::data;
use crate::storage::artifacts::Digest256;
use crate::storage::sql::migrations::Migration;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// How often the host may say that something is missing. Once is usual; it may let go of what was unused for long.
const ROUNDS_MAX: usize = 3;

/// The arguments of `deploy`.
#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Give it this part of the requests, such as 10%, and the rest to what is live.
    #[arg(long, value_name = "SHARE")]
    canary: Option<String>,
    /// What is to be said of it.
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    message: String,
    /// Deploy what is built already.
    #[arg(long)]
    no_build: bool,
    /// Only if this release is live.
    #[arg(long, value_name = "N")]
    base: Option<u64>,
    /// Whatever is live, or under way.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &DeployArgs) -> anyhow::Result<()> {
    let manifest = args.host.manifest()?;
    if let Some(share) = &args.canary {
        limits::parse_share(share).context("--canary takes a share such as 10%")?;
    }
    if !args.no_build {
        build::build_all(&manifest)?;
    }
    let client = args.host.client()?;
    client::block_on(deploy(args, &client, &manifest))
}

async fn deploy(args: &DeployArgs, client: &Client, manifest: &Manifest) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut components = BTreeMap::new();
    for spec in &manifest.functions {
        let digest = Digest256::of(&read(&spec.component)?).to_string();
        files.insert(digest.clone(), spec.component.clone());
        components.insert(spec.name.to_string(), digest);
    }
    let mut middleware = BTreeMap::new();
    for (name, link) in manifest.middleware_components() {
        let digest = Digest256::of(&read(&link.path)?).to_string();
        files.insert(digest.clone(), link.path.clone());
        middleware.insert(name.to_string(), digest);
    }
    let request = DeployRequest {
        manifest: manifest.source().to_owned(),
        components,
        middleware,
        migrations: migrations_of(manifest)?,
        message: args.message.clone(),
        canary: args.canary.clone(),
        base: match args.base {
            None if !args.force => live_now(client, manifest).await?,
            base => base,
        },
        force: args.force,
    };
    let waiting = Waiting::new();
    let path = format!("/apps/{}/releases", manifest.name);
    let mut uploaded = 0;
    for _ in 0..ROUNDS_MAX {
        waiting.say(format!("deploying {}", manifest.name));
        let problem = match client.post(&path, &request).await? {
            Answer::Problem(problem) => problem,
            answer @ Answer::Done(..) => {
                drop(waiting);
                let changed: Changed = client::understood(answer)?;
                super::print(&said(args, &changed, uploaded, files.len(), began));
                return Ok(());
            }
        };
        if problem.code != "missing_components" || problem.missing.is_empty() {
            return Err(refusal(&problem));
        }
        for (done, digest) in problem.missing.iter().enumerate() {
            let file = files.get(digest).context("the host misses a component that this app does not have")?;
            waiting.say(format!("uploading {} ({}/{})", file.display(), done + 1, problem.missing.len()));
            if let Answer::Problem(problem) = client.put(&format!("/components/{digest}"), read(file)?).await? {
                return Err(refusal(&problem).context(format!("{} was not taken", file.display())));
            }
            uploaded += 1;
        }
    }
    bail!("the host goes on to miss components that were uploaded; its disk may be full or damaged")
}

fn migrations_of(manifest: &Manifest) -> anyhow::Result<BTreeMap<String, Vec<MigrationText>>> {
    let found = data::migrations_of(manifest).map_err(|errors| manifest.errors_at(errors))?;
    let text = |Migration { name, sql }| MigrationText { name, sql };
    Ok(found.into_iter().map(|(name, all)| (name.to_string(), all.into_iter().map(text).collect())).collect())
}

/// What is live as this deploy begins: if that is another by the time it is uploaded, somebody else has deployed.
async fn live_now(client: &Client, manifest: &Manifest) -> anyhow::Result<Option<u64>> {
    let apps: AppList = client.get("/apps").await?;
    Ok(apps.apps.into_iter().find(|app| app.name == manifest.name.as_str()).and_then(|app| app.live))
}

fn read(file: &Path) -> anyhow::Result<Bytes> {
    let size = std::fs::metadata(file).map(|metadata| metadata.len());
    let size = size.with_context(|| format!("cannot read the component {}", file.display()))?;
    if size > COMPONENT_BYTES_MAX {
        bail!("the component {} is larger than {}", file.display(), show_size(COMPONENT_BYTES_MAX));
    }
    Ok(std::fs::read(file).with_context(|| format!("cannot read the component {}", file.display()))?.into())
}

fn said(args: &DeployArgs, changed: &Changed, uploaded: usize, components: usize, began: Instant) -> String {
    let Changed { app, number, unchanged } = changed;
    let seconds = began.elapsed().as_secs_f64();
    match (unchanged, &args.canary) {
        (true, _) => format!("release {number} of {app} is live already: nothing has changed ({seconds:.1} s)\n"),
        (false, None) => {
            format!(
                "release {number} of {app} is live ({uploaded} of {components} components uploaded, {seconds:.1} s)\n"
            )
        }
        (false, Some(share)) => format!(
            "release {number} of {app} answers {share} of the requests ({uploaded} of {components} components uploaded, \
             {seconds:.1} s); `fnhost promote` gives it all, `fnhost rollback` none\n"
        ),
    }
}
