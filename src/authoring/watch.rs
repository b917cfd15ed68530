//! Files that change: functions.toml, the components that it names, and what those are built from.
//!
//! Owns the watching of folders (inotify(7), by the crate `notify`). Folders and not files, because builds and editors put
//! a new file in the place of the old one. It tells that something has changed, and not what: `sources` finds that out.
//! **Invariant:** a change is told once it has been quiet for a moment, so that nobody reads a file that is being written.

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long it has to be quiet: longer than the pauses between the steps in which editors write a file, and no longer,
/// for somebody waits.
pub const QUIET: Duration = Duration::from_millis(20);
/// The same where a component has changed, which some other program may write piece by piece.
pub const QUIET_COMPONENT: Duration = Duration::from_millis(150);
/// Whoever changes files without a pause is not waited for.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(500);

/// Watches files until it is dropped.
pub struct FileWatch {
    watcher: RecommendedWatcher,
    folders: HashSet<PathBuf>,
    watched: Arc<Mutex<Watched>>,
    changed: Arc<Notify>,
}

/// What concerns whoever watches.
#[derive(Default)]
struct Watched {
    files: HashSet<PathBuf>,
    /// Folders in which everything matters.
    folders: HashSet<PathBuf>,
    /// All folders above the files: one that comes or goes takes files with it.
    above: HashSet<PathBuf>,
}

impl Watched {
    fn is_concerned(&self, event: &notify::Event) -> bool {
        let in_place = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
        let concerns = |path: &PathBuf| {
            self.files.contains(path)
                || path.parent().is_some_and(|folder| self.folders.contains(folder))
                || (!in_place && self.above.contains(path))
        };
        !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(concerns)
    }
}

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("files cannot be watched: {0}")]
pub struct WatchError(#[from] notify::Error);

impl FileWatch {
    /// Watches nothing yet.
    pub fn new() -> Result<Self, WatchError> {
        let (watched, changed) = (Arc::<Mutex<Watched>>::default(), Arc::<Notify>::default());
        let (known, tell) = (Arc::clone(&watched), Arc::clone(&changed));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // That something was lost is told like a change: the files are looked at again.
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            if event.map_or(true, |event| known.is_concerned(&event)) {
                tell.notify_one();
            }
        })?;
        Ok(Self { watcher, folders: HashSet::new(), watched, changed })
    }

    /// Watches `files`, and all files in `whole` folders, and no others. Of a folder that is not there, the nearest one above
    /// it is watched until it is; to be called again after each change, for folders come and go. Whether there is a folder that was not watched before.
    pub fn set<'p>(&mut self, files: impl Iterator<Item = &'p Path>, whole: impl Iterator<Item = &'p Path>) -> bool {
        let files: HashSet<PathBuf> = files.filter_map(|file| std::path::absolute(file).ok()).collect();
        let whole: HashSet<PathBuf> = whole.map(Path::to_owned).collect();
        let there = |file: &Path| file.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_owned);
        let folders: HashSet<PathBuf> = files.iter().filter_map(|file| there(file)).chain(whole.clone()).collect();
        for folder in self.folders.difference(&folders) {
            // It may be gone.
            let _ = self.watcher.unwatch(folder);
        }
        // Also those that were watched before: one that was made anew is another folder, which nobody watches.
        let mut watched = HashSet::with_capacity(folders.len());
        for folder in folders {
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(folder)),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "changes in this folder are not seen");
                }
            }
        }
        let is_new = !watched.is_subset(&self.folders);
        self.folders = watched;
        let above = files.iter().flat_map(|file| file.ancestors().skip(1)).map(Path::to_owned).collect();
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Watched { files, folders: whole, above };
        is_new
    }

    /// Completes when something has changed and is quiet again.
    pub async fn changed(&self) {
        self.changed.notified().await;
        self.quiet(QUIET).await;
    }

    /// Completes when nothing has changed for this long.
    pub async fn quiet(&self, quiet: Duration) {
        let quiet = async { while tokio::time::timeout(quiet, self.changed.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(QUIET_WAIT_MAX, quiet).await;
    }
}
