//! Certificates, read again when their files change or when told to, and warned of before they end.

use crate::authoring::watch::FileWatch;
use crate::server::tls::Tls;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often certificates are looked at, whether anything was seen of their files or not: a folder that is reached by a symbolic
/// link may change unseen.
const LOOK_INTERVAL: Duration = Duration::from_hours(24);

/// Sees to the certificates of a listener.
pub(super) struct Certificates {
    /// Which one that is.
    listener: &'static str,
    tls: Arc<Tls>,
    watch: Option<FileWatch>,
    hangup: Signal,
}

impl Certificates {
    /// Those of `tls`, on the listener that is called so. Changes of their files are seen, and SIGHUP has them looked at.
    pub(super) fn new(tls: Arc<Tls>, listener: &'static str) -> anyhow::Result<Self> {
        let watch = FileWatch::new()
            .inspect_err(|error| tracing::warn!(%error, "certificates are read again each day, and on SIGHUP"))
            .ok();
        Ok(Self { listener, tls, watch, hangup: signal(SignalKind::hangup())? })
    }

    /// Looks for as long as it is polled: at first too, for what has changed since they were read was watched by nobody.
    pub(super) async fn run(mut self) {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        loop {
            if let Some(watch) = &mut self.watch {
                watch.set(self.tls.files(), std::iter::empty());
            }
            self.look().await;
            let changed = async {
                match &self.watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                told = self.hangup.recv() => if told.is_none() { return },
                _ = looks.tick() => {}
            }
        }
    }

    async fn look(&self) {
        let (tls, listener) = (Arc::clone(&self.tls), self.listener);
        let read = tokio::task::spawn_blocking(move || tls.reload().map_err(|error| error.to_string())).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(true) => tracing::info!(listener, "new certificates are served"),
            Ok(false) => tracing::debug!(listener, "the certificates are as they were"),
            Err(error) => {
                tracing::error!(listener, "the new certificates are not served, and those before still are: {error}");
            }
        }
        self.tls.warn_of_ends();
    }
}
