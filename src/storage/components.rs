//! Components by their sha256: what releases are made of.
//!
//! Owns the folder `components/` of the state folder. **Invariant:** a file that has its final name was written whole, was
//! synced, and had that sha256; one that was damaged since is found out when it is read, and removed.

use super::artifacts::Digest256;
use crate::platform;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long a component that no release uses is kept: it may be on its way into one.
const UNUSED_FOR: Duration = Duration::from_hours(1);
/// How the names of files begin that are not whole yet.
const TEMPORARY: &str = ".tmp-";

/// The folder of components.
#[derive(Debug, Clone)]
pub struct Components {
    folder: PathBuf,
}

/// Why a component could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum ComponentStoreError {
    /// The bytes are not those that were announced.
    #[error("the sha256 of what was sent is {found}, and not {wanted}")]
    OtherDigest {
        /// What was announced.
        wanted: Digest256,
        /// What came.
        found: Digest256,
    },
    /// The state folder cannot be written.
    #[error("the state folder {} cannot be written: {cause}", folder.display())]
    State {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

impl Components {
    /// Opens `state/components`, and makes it if need be.
    pub fn open(state: &Path) -> Result<Self, ComponentStoreError> {
        let folder = state.join("components");
        let opened = Self { folder };
        platform::create_private_folder(&opened.folder).map_err(|cause| opened.failed(cause))?;
        Ok(opened)
    }

    /// Where the component of this digest is, if it is.
    pub fn path(&self, digest: &Digest256) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    /// Whether it is there.
    pub fn has(&self, digest: &Digest256) -> bool {
        self.path(digest).is_file()
    }

    /// Whether it is there; if so, it counts as touched, and is not let go of within the hour.
    pub fn touch(&self, digest: &Digest256) -> bool {
        let Ok(file) = File::options().append(true).open(self.path(digest)) else { return false };
        file.set_modified(SystemTime::now()).is_ok()
    }

    /// Its bytes, if it is there and undamaged. A damaged one is removed.
    pub fn read(&self, digest: &Digest256) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let bytes = std::fs::read(&path).ok()?;
        if Digest256::of(&bytes) == *digest {
            return Some(bytes);
        }
        tracing::warn!(file = %path.display(), "a component on disk is damaged, and was removed");
        let _ = std::fs::remove_file(path);
        None
    }

    /// Keeps `bytes`, whose digest is `digest`.
    pub fn keep(&self, digest: &Digest256, bytes: &[u8]) -> Result<(), ComponentStoreError> {
        if self.has(digest) {
            return Ok(());
        }
        platform::write_atomically(&self.path(digest), bytes).map_err(|cause| self.failed(cause))
    }

    /// Begins to take in a component piece by piece.
    pub fn begin(&self) -> Result<Incoming, ComponentStoreError> {
        let path = self.folder.join(format!("{TEMPORARY}{:032x}", fastrand::u128(..)));
        let file = File::create_new(&path).map_err(|cause| self.failed(cause))?;
        Ok(Incoming { components: self.clone(), file, path, hasher: Sha256::new(), bytes: 0 })
    }

    /// Removes what no release uses and what a crash left half written, once it has not been touched for an hour.
    pub fn prune(&self, used: &HashSet<Digest256>) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let used: HashSet<PathBuf> = used.iter().map(|digest| self.path(digest)).collect();
        for entry in entries.flatten().filter(|entry| !used.contains(&entry.path())) {
            let modified = entry.metadata().and_then(|meta| meta.modified()).unwrap_or_else(|_| SystemTime::now());
            if SystemTime::now().duration_since(modified).unwrap_or_default() > UNUSED_FOR {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn failed(&self, cause: io::Error) -> ComponentStoreError {
        ComponentStoreError::State { folder: self.folder.clone(), cause }
    }
}

/// A component on its way in. Dropped before its end, it leaves nothing behind.
pub struct Incoming {
    components: Components,
    file: File,
    path: PathBuf,
    hasher: Sha256,
    bytes: u64,
}

impl Incoming {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next piece.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), ComponentStoreError> {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        self.file.write_all(piece).map_err(|cause| self.components.failed(cause))
    }

    /// That was all. It is there if this succeeds, also after a crash.
    pub fn finish(self, wanted: &Digest256) -> Result<(), ComponentStoreError> {
        let found = Digest256::finish(self.hasher.clone());
        if found != *wanted {
            return Err(ComponentStoreError::OtherDigest { wanted: *wanted, found });
        }
        let finished = (|| {
            self.file.sync_all()?;
            std::fs::rename(&self.path, self.components.path(wanted))?;
            File::open(&self.components.folder)?.sync_all()
        })();
        finished.map_err(|cause| self.components.failed(cause))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Once it has its final name, there is nothing of this one.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_there_once_it_was_whole() {
        let state = tempfile::tempdir().unwrap();
        let components = Components::open(state.path()).unwrap();
        let digest = Digest256::of(b"component");
        let mut incoming = components.begin().unwrap();
        incoming.write(b"compo").unwrap();
        assert!(!components.has(&digest));
        incoming.write(b"nent").unwrap();
        assert_eq!(incoming.bytes(), 9);
        incoming.finish(&digest).unwrap();
        assert_eq!(components.read(&digest).as_deref(), Some(&b"component"[..]));
        assert_eq!(std::fs::read_dir(state.path().join("components")).unwrap().count(), 1);
    }

    #[test]
    fn what_breaks_off_or_is_another_leaves_nothing() {
        let state = tempfile::tempdir().unwrap();
        let components = Components::open(state.path()).unwrap();
        let digest = Digest256::of(b"component");
        drop(components.begin().unwrap());
        let mut incoming = components.begin().unwrap();
        incoming.write(b"componenu").unwrap();
        assert!(matches!(incoming.finish(&digest), Err(ComponentStoreError::OtherDigest { .. })));
        assert_eq!(std::fs::read_dir(state.path().join("components")).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_component_is_not_handed_out() {
        let state = tempfile::tempdir().unwrap();
        let components = Components::open(state.path()).unwrap();
        let digest = Digest256::of(b"component");
        components.keep(&digest, b"component").unwrap();
        std::fs::write(components.path(&digest), b"componenu").unwrap();
        assert_eq!(components.read(&digest), None);
        assert!(!components.has(&digest));
    }

    #[test]
    fn only_what_nobody_uses_and_nobody_touched_is_pruned() {
        let state = tempfile::tempdir().unwrap();
        let components = Components::open(state.path()).unwrap();
        let [used, old, new] = [&b"used"[..], b"old", b"new"].map(|bytes| {
            let digest = Digest256::of(bytes);
            components.keep(&digest, bytes).unwrap();
            digest
        });
        let long_ago = SystemTime::now() - UNUSED_FOR * 2;
        for digest in [&used, &old] {
            let file = File::options().write(true).open(components.path(digest)).unwrap();
            file.set_times(std::fs::FileTimes::new().set_modified(long_ago)).unwrap();
        }
        components.prune(&HashSet::from([used]));
        assert!(components.has(&used) && !components.has(&old) && components.has(&new));
    }
}
