//! `fnhost up`

use super::logging::{self, Format};
use super::progress::Waiting;
use super::{ManifestArgs, build};
use crate::platform;
use crate::release::install;
use crate::server::{self, Host};
use anyhow::Context as _;
use clap::Args;
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};

/// The arguments of `up`.
#[derive(Debug, Args)]
pub(super) struct UpArgs {
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Where to listen, in place of what functions.toml says; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Serve what is built already.
    #[arg(long)]
    no_build: bool,
    /// How log lines look, on stderr. `FNHOST_LOG` sets what is logged, as in `FNHOST_LOG=warn,guest=info`.
    #[arg(long, value_enum, default_value = "text")]
    log: Format,
}

pub(super) fn run(args: &UpArgs) -> anyhow::Result<()> {
    let mut manifest = args.manifest.read()?;
    if let Some(listen) = args.listen {
        manifest.host.listen = listen;
    }
    let mut logging = logging::start(args.log)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listen = manifest.host.listen;
        platform::raise_file_limit();
        // The port first: to learn that it is taken, nobody should have to wait for a build.
        let socket = server::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
        if !args.no_build {
            build::build_all(&manifest)?;
        }
        let waiting = Waiting::new();
        let release = install::install(&manifest, &waiting).map_err(|error| anyhow::Error::msg(error.to_string()))?;
        drop(waiting);
        tracing::info!(sandboxes = release.engines.allocation().as_str(), "installed {} functions", release.functions.len());
        let stop = stop_signal()?;
        let listener = server::listen(socket).with_context(|| format!("cannot listen on {listen}"))?;
        announce(listener.local_addr()?);
        let host = Host::new(release, manifest.host.clone(), logging.receipts.take());
        let served = server::serve(std::sync::Arc::clone(&host), listener, stop).await;
        if served.cut_off > 0 {
            tracing::warn!(connections = served.cut_off, "the grace was over and not everything had finished");
        }
        super::print(&host.summary().to_string());
        anyhow::ensure!(
            !served.unsafe_to_go_on,
            "swap was turned on, and what one request wrote could have been read by the next; start again, and the host \
             will clear its sandboxes in another way",
        );
        Ok(())
    })
}

/// The first line on stdout: whoever started the host may be waiting for it. It can be called from here on.
fn announce(address: SocketAddr) {
    super::print(&format!("listening on http://{address}\n"));
}

/// Completes when the process is asked to end: SIGTERM, or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
