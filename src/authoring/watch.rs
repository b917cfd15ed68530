//! Files that change: functions.toml, and the components that it names.
//!
//! Owns the watching of folders (inotify(7), by the crate `notify`). Folders and not files, because builds and editors put
//! a new file in the place of the old one. **Invariant:** a change is told once it has been quiet for a moment, so that
//! nobody reads a file that is being written.

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long files have to be as they are.
const QUIET: Duration = Duration::from_millis(150);

/// Watches files until it is dropped.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    folders: HashSet<PathBuf>,
    files: Arc<Mutex<HashSet<PathBuf>>>,
    changed: Arc<Notify>,
}

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("files cannot be watched: {0}")]
pub struct WatchError(#[from] notify::Error);

impl FileWatch {
    /// Watches nothing yet.
    pub fn new() -> Result<Self, WatchError> {
        let (files, changed) = (Arc::<Mutex<HashSet<PathBuf>>>::default(), Arc::<Notify>::default());
        let (watched, tell) = (Arc::clone(&files), Arc::clone(&changed));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // That something was lost is told like a change: the files are looked at again.
            let concerns = event.map_or(true, |event| {
                let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| watched.contains(path))
            });
            if concerns {
                tell.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: HashSet::new(), files, changed })
    }

    /// Watches `files`, and no others. A folder that is not there is not watched: whatever makes it is followed by a change
    /// of functions.toml, or by a restart.
    pub fn set<'p>(&mut self, files: impl Iterator<Item = &'p Path>) {
        let files: HashSet<PathBuf> = files.filter_map(|file| std::path::absolute(file).ok()).collect();
        let folders: HashSet<PathBuf> = files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
        for folder in folders.difference(&self.folders) {
            if let Err(error) = self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %folder.display(), %error, "changes in this folder are not seen");
            }
        }
        for folder in self.folders.difference(&folders) {
            // It may be gone.
            let _ = self.watcher.unwatch(folder);
        }
        self.folders = folders;
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = files;
    }

    /// Completes when something has changed and is quiet again.
    pub async fn changed(&self) {
        self.changed.notified().await;
        while tokio::time::timeout(QUIET, self.changed.notified()).await.is_ok() {}
    }
}
