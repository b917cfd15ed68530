//! Changes of functions.toml and of its components, served without a restart.

use crate::authoring::watch::FileWatch;
use crate::manifest::Manifest;
use crate::release::deploy::{DeployError, Deployed, Deployments};
use crate::release::install::Silent;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Installs what has changed, when it changes or when it is told to.
pub(super) struct Reloader {
    manifest: Manifest,
    deployments: Arc<Deployments>,
    watch: Option<FileWatch>,
    hangup: Signal,
}

impl Reloader {
    /// For the app of `manifest`, which is live. SIGHUP always has it look; with a `watch`, so do changes.
    pub(super) fn new(
        manifest: Manifest,
        deployments: &Arc<Deployments>,
        mut watch: Option<FileWatch>,
    ) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        if let Some(watch) = &mut watch {
            watch.set(files_of(&manifest));
        }
        Ok(Self { manifest, deployments: Arc::clone(deployments), watch, hangup })
    }

    /// Looks for as long as it is polled.
    pub(super) async fn run(mut self) {
        loop {
            let changed = async {
                match &self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                told = self.hangup.recv() => if told.is_none() { return },
            }
            self.reload().await;
        }
    }

    async fn reload(&mut self) {
        let (path, deployments) = (self.manifest.path().to_owned(), Arc::clone(&self.deployments));
        let reloading = tokio::task::spawn_blocking(move || {
            let manifest = Manifest::read(&path).map_err(|error| error.to_string())?;
            let deployed = deployments.deploy_file(&manifest, &Silent).map_err(|error: DeployError| error.to_string());
            Ok::<_, String>((manifest, deployed))
        });
        let deployed = match reloading.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok((manifest, deployed)) => {
                if deployed.is_ok() && manifest.host != self.manifest.host {
                    tracing::warn!("what [host] says now holds from the next start on");
                }
                // Also one that is not served: what is wrong may be a file that it names, and that will change.
                if let Some(watch) = &mut self.watch {
                    watch.set(files_of(&manifest));
                }
                self.manifest = manifest;
                deployed
            }
            Err(report) => Err(report),
        };
        match deployed {
            Ok(Deployed { number, unchanged: false }) => {
                tracing::info!(app = self.manifest.name.as_str(), release = number, "the change is live");
            }
            Ok(Deployed { number, .. }) => tracing::debug!(release = number, "nothing has changed"),
            Err(report) => tracing::error!("the change is not served, and what was live still is:\n{report}"),
        }
    }
}

/// What SIGHUP comes to where there is no functions.toml: nothing. Without this, it would end the process.
pub(super) fn without_file() -> anyhow::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("there is no functions.toml to be read again");
        }
    })
}

fn files_of(manifest: &Manifest) -> impl Iterator<Item = &Path> {
    let functions = manifest.functions.iter().map(|spec| spec.component.as_path());
    let middleware = manifest.middleware_components().map(|(_, link)| link.path.as_path());
    std::iter::once(manifest.path()).chain(functions).chain(middleware)
}
