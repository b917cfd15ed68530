//! Compiled code on disk, so that a second start compiles nothing.
//!
//! Owns the folder `compiled/` of the state folder: for each key a file of machine code and, beside it, a note with
//! a sha256 over both. **Invariant:** a path that [`Artifacts::find`] hands out was written whole by this program, for
//! this key, and has not changed since: it will be mapped and run. Files are written aside and renamed, never
//! rewritten in place, because a file that shrinks under a mapping kills the process (mmap(2), SIGBUS).

use crate::platform;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How old a file that no release uses must be before it is removed.
const UNUSED_FOR: Duration = Duration::from_hours(24);

/// The sha256 of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest256([u8; 32]);

impl Digest256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// What a component and those that stand `before` it, the first of them first, are known by together.
    pub fn of_chain(before: &[Self], function: Self) -> Self {
        if before.is_empty() {
            return function;
        }
        let parts = before.iter().chain([&function]);
        let text = parts.fold("composed".to_owned(), |text, digest| format!("{text}\n{digest}"));
        Self::of(text.as_bytes())
    }

    /// The digest of all of `parts`, one behind the other.
    fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self::finish(hasher)
    }

    /// The digest of all that `hasher` was given.
    pub(super) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<Digest256> for String {
    fn from(digest: Digest256) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        let (digits, rest) = text.as_bytes().as_chunks::<2>();
        if digits.len() != bytes.len() || !rest.is_empty() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err("a sha256 has 64 hex digits");
        }
        for (byte, pair) in bytes.iter_mut().zip(digits) {
            let digits = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| "a sha256 has 64 hex digits")?;
        }
        Ok(Self(bytes))
    }
}

/// What compiled code is known by: the component, what it was compiled as, and the compiler with all its settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactKey {
    /// The sha256 of the component's file.
    pub component: Digest256,
    /// What it was compiled as.
    pub kind: &'static str,
    /// The engine's compatibility hash.
    pub engine: u64,
}

/// Code that was found, and what was noted when it was put there.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// The file of machine code.
    pub path: PathBuf,
    /// One line of the writer's own.
    pub note: String,
}

/// The folder of compiled code.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state folder {} cannot be written: {cause}", folder.display())]
pub struct ArtifactError {
    folder: PathBuf,
    cause: io::Error,
}

impl Artifacts {
    /// Opens `state/compiled`, makes it if need be, and closes it to other users.
    pub fn open(state: &Path) -> Result<Self, ArtifactError> {
        let folder = state.join("compiled");
        let failed = |cause| ArtifactError { folder: state.to_owned(), cause };
        platform::create_private_folder(state).map_err(failed)?;
        platform::create_private_folder(&folder).map_err(failed)?;
        // Mode bits do not tell whether a disk is full or mounted read-only: a write does.
        let probe = folder.join(format!(".tmp-probe-{:032x}", fastrand::u128(..)));
        platform::write_atomically(&probe, b"").map_err(failed)?;
        std::fs::remove_file(&probe).map_err(failed)?;
        Ok(Self { folder })
    }

    /// The code for `key`, if it is there and is what was put there. Damaged code is removed.
    pub fn find(&self, key: &ArtifactKey) -> Option<Artifact> {
        let (code_path, note_path) = self.paths(key);
        let noted = std::fs::read_to_string(&note_path).ok()?;
        let (digest, note) = noted.strip_suffix('\n').and_then(|text| text.split_once('\n')).unwrap_or_default();
        let code = std::fs::read(&code_path).ok()?;
        if Digest256::of_parts(&[&code, note.as_bytes()]).to_string() == digest {
            return Some(Artifact { path: code_path, note: note.to_owned() });
        }
        tracing::warn!(file = %code_path.display(), "compiled code on disk is damaged; compiling again");
        self.discard(key);
        None
    }

    /// Whether there are files for `key`; whether they are whole is for [`Artifacts::find`] to say.
    pub fn has(&self, key: &ArtifactKey) -> bool {
        let (code_path, note_path) = self.paths(key);
        code_path.exists() && note_path.exists()
    }

    /// Keeps `code` for `key`, with a `note` of one line.
    pub fn keep(&self, key: &ArtifactKey, code: &[u8], note: &str) -> Result<Artifact, ArtifactError> {
        let (code_path, note_path) = self.paths(key);
        let failed = |cause| ArtifactError { folder: self.folder.clone(), cause };
        // The note comes last: code without one is code that was not written whole.
        platform::write_atomically(&code_path, code).map_err(failed)?;
        let noted = format!("{}\n{note}\n", Digest256::of_parts(&[code, note.as_bytes()]));
        platform::write_atomically(&note_path, noted.as_bytes()).map_err(failed)?;
        Ok(Artifact { path: code_path, note: note.to_owned() })
    }

    /// Forgets `key`. The files are unlinked: whoever has them mapped keeps them.
    pub fn discard(&self, key: &ArtifactKey) {
        let (code_path, note_path) = self.paths(key);
        for path in [note_path, code_path] {
            // A file that is not there is as good as removed, and any other failure shows at the next write.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes what nobody can use any more: files that a crash left half written, and code of other components or
    /// compilers, once it has not been touched for a day. `used` is what releases run from.
    pub fn prune(&self, used: impl Iterator<Item = ArtifactKey>) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let used: HashSet<String> = used.map(|key| stem(&key)).collect();
        for entry in entries.flatten() {
            let path = entry.path();
            let in_use = path.file_stem().and_then(|name| name.to_str()).is_some_and(|name| used.contains(name));
            if in_use {
                continue;
            }
            let modified = entry.metadata().and_then(|meta| meta.modified()).unwrap_or_else(|_| SystemTime::now());
            let age = SystemTime::now().duration_since(modified).unwrap_or_default();
            if age > UNUSED_FOR {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn paths(&self, key: &ArtifactKey) -> (PathBuf, PathBuf) {
        let stem = stem(key);
        (self.folder.join(format!("{stem}.cwasm")), self.folder.join(format!("{stem}.note")))
    }
}

/// The name of a key's files, without what follows the point.
fn stem(key: &ArtifactKey) -> String {
    format!("{}-{}-{:016x}", key.component, key.kind.replace('.', ""), key.engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ArtifactKey {
        ArtifactKey { component: Digest256::of(b"component"), kind: "http-0.2", engine: 7 }
    }

    #[test]
    fn code_is_found_again_as_it_was_kept() {
        let state = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(state.path()).unwrap();
        assert!(artifacts.find(&key()).is_none());
        artifacts.keep(&key(), b"code", "1 2 3").unwrap();
        let found = artifacts.find(&key()).unwrap();
        assert_eq!(std::fs::read(found.path).unwrap(), b"code");
        assert_eq!(found.note, "1 2 3");
        assert!(artifacts.find(&ArtifactKey { engine: 8, ..key() }).is_none());
    }

    #[test]
    fn damaged_code_is_not_handed_out() {
        let state = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(state.path()).unwrap();
        for damage in [&b"codf"[..], b"cod", b"", b"code and more"] {
            let kept = artifacts.keep(&key(), b"code", "").unwrap();
            std::fs::write(&kept.path, damage).unwrap();
            assert!(artifacts.find(&key()).is_none(), "{damage:?}");
            assert!(!kept.path.exists());
        }
        let kept = artifacts.keep(&key(), b"code", "").unwrap();
        std::fs::write(kept.path.with_extension("note"), "short").unwrap();
        assert!(artifacts.find(&key()).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let state = tempfile::tempdir().unwrap();
        let inner = state.path().join("state");
        Artifacts::open(&inner).unwrap();
        for folder in [inner.clone(), inner.join("compiled")] {
            assert_eq!(std::fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
