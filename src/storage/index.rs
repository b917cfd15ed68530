//! What is known of component files that have not changed, so that a start need not read them.
//!
//! An entry says what a file of this path, size, inode and times was found to be. **Invariant:** an entry is believed only
//! for a file whose size, inode, device, and times of modification and of status change are all the same, and none is
//! written for a file that changed so lately that it could change again within the same tick of the file system's clock
//! (the racy entries of git's index).

use super::artifacts::Digest256;
use crate::platform::{self, FileStamp};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a file must have been as it is, before that is noted.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What a component file was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The sha256 of the file.
    pub component: Digest256,
    /// What it is compiled as.
    pub kind: String,
    /// One line of the writer's own.
    pub note: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    stamp: FileStamp,
    known: Known,
}

/// All that is known, by path.
#[derive(Debug)]
pub struct Index {
    file: PathBuf,
    entries: HashMap<PathBuf, Entry>,
    changed: bool,
}

impl Index {
    /// Reads what an earlier start wrote. An index that is not there, or damaged, knows nothing.
    pub fn open(state: &Path) -> Self {
        let file = state.join("components.json");
        let entries = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, entries, changed: false }
    }

    /// What `component` is, if it has not changed since that was noted.
    pub fn find(&self, component: &Path) -> Option<&Known> {
        let entry = self.entries.get(component)?;
        let stamp = FileStamp::of(&std::fs::metadata(component).ok()?)?;
        (entry.stamp == stamp).then_some(&entry.known)
    }

    /// Whether a file of this stamp, taken now, has been as it is for long enough to be noted.
    pub fn is_settled(stamp: &FileStamp) -> bool {
        stamp.age().is_some_and(|age| age >= SETTLED_AFTER)
    }

    /// Notes what `component` is. Its `stamp` was taken, and was settled then, before it was read.
    pub fn note(&mut self, component: &Path, stamp: FileStamp, known: Known) {
        // A path that is no Unicode has no place in JSON; its file is read each time.
        if component.to_str().is_some() {
            self.entries.insert(component.to_owned(), Entry { stamp, known });
            self.changed = true;
        }
    }

    /// Writes what is known, and forgets files that are gone. An index that cannot be written costs time at the next start
    /// and nothing else.
    pub fn save(mut self) {
        if !self.changed {
            return;
        }
        self.entries.retain(|path, _| path.exists());
        let written = serde_json::to_vec(&self.entries)
            .map_err(std::io::Error::other)
            .and_then(|text| platform::write_atomically(&self.file, &text));
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.file.display(), "what is known of components could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};

    fn known() -> Known {
        Known { component: Digest256::of(b"component"), kind: "http-0.2".to_owned(), note: "1 2 3 4".to_owned() }
    }

    fn stamp_of(file: &Path) -> FileStamp {
        FileStamp::of(&std::fs::metadata(file).unwrap()).unwrap()
    }

    #[test]
    fn a_file_that_just_changed_is_not_settled() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("a.wasm");
        std::fs::write(&file, b"component").unwrap();
        assert!(!Index::is_settled(&stamp_of(&file)));
        // Older than the build of this test.
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
        assert!(Index::is_settled(&stamp_of(&old)));
        let mut index = Index::open(state.path());
        index.note(&old, stamp_of(&old), known());
        assert_eq!(index.find(&old), Some(&known()));
    }

    #[test]
    fn an_entry_is_believed_only_of_the_very_same_file() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("a.wasm");
        std::fs::write(&file, b"component").unwrap();
        let mut index = Index::open(state.path());
        index.entries.insert(file.clone(), Entry { stamp: stamp_of(&file), known: known() });
        index.changed = true;
        index.save();
        let index = Index::open(state.path());
        assert_eq!(index.find(&file), Some(&known()));
        // The same size, and a time of modification that was set back.
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, b"componenu").unwrap();
        File::options().write(true).open(&file).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
        assert_eq!(index.find(&file), None);
    }

    #[test]
    fn a_file_that_is_gone_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("a.wasm");
        std::fs::write(&file, b"component").unwrap();
        let mut index = Index::open(state.path());
        index.note(&file, stamp_of(&file), known());
        std::fs::remove_file(&file).unwrap();
        index.save();
        assert!(Index::open(state.path()).entries.is_empty());
    }

    #[test]
    fn a_damaged_index_knows_nothing() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("components.json"), b"{\"/a\":").unwrap();
        assert!(Index::open(state.path()).entries.is_empty());
    }
}
