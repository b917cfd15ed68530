//! Files as they were when they were last looked at.

use crate::platform::FileStamp;
use crate::storage::artifacts::Digest256;
use ignore::{DirEntry, WalkBuilder};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Folders that hold no source, whatever .gitignore says.
const TOOL_FOLDERS: [&str; 8] = ["target", "node_modules", ".venv", "venv", "__pycache__", ".git", ".hg", ".jj"];
/// The most files that are looked at in one folder and those below it.
const FILES_MAX: usize = 50_000;
/// Up to here a file that was written anew is compared by what it holds.
const COMPARED_BYTES_MAX: u64 = 1 << 20;

/// Files, and the folders that they were found in.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    files: BTreeMap<PathBuf, Seen>,
    /// Those of which everything was looked at.
    walked: BTreeSet<PathBuf>,
    /// Those of single files.
    others: BTreeSet<PathBuf>,
}

/// One file.
#[derive(Debug, Clone)]
struct Seen {
    stamp: FileStamp,
    /// Of one that is not too large.
    digest: Option<Digest256>,
}

impl Seen {
    fn is_as(&self, other: &Self) -> bool {
        self.stamp == other.stamp || (self.digest.is_some() && self.digest == other.digest)
    }
}

impl Snapshot {
    pub(super) fn has(&self, file: &Path) -> bool {
        self.files.contains_key(file)
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.walked.union(&self.others).map(PathBuf::as_path)
    }

    /// Adds what `folder` holds to `now`, but for `left_out` and `outputs`. What this one knows is not read again.
    pub(super) fn walk(&self, folder: &Path, left_out: &Path, outputs: &HashSet<&Path>, now: &mut Self) {
        // Packages may lie in folders that were walked before.
        if now.walked.contains(folder) {
            return;
        }
        let left_out = left_out.to_owned();
        let is_source = move |entry: &DirEntry| {
            let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
            let is_tools = TOOL_FOLDERS.iter().any(|name| entry.file_name() == *name);
            !(is_folder && entry.depth() > 0 && (is_tools || entry.path() == left_out))
        };
        // Names that begin with a point are hidden from people, not from tools: `.cargo`, for instance.
        let walk = WalkBuilder::new(folder).hidden(false).require_git(false).filter_entry(is_source).build();
        for entry in walk.filter_map(Result::ok).take(FILES_MAX) {
            match entry.file_type() {
                Some(kind) if kind.is_dir() => {
                    now.walked.insert(entry.into_path());
                }
                Some(_) if outputs.contains(entry.path()) || is_editors(entry.path()) => {}
                Some(_) => self.look_at(entry.path(), now),
                None => {}
            }
        }
    }

    /// Adds one file to `now`, if it is there.
    pub(super) fn look_at(&self, file: &Path, now: &mut Self) {
        if now.files.contains_key(file) {
            return;
        }
        if let Some(seen) = self.see(file) {
            now.files.insert(file.to_owned(), seen);
        }
        if let Some(folder) = file.parent().filter(|folder| folder.is_dir()) {
            now.others.insert(folder.to_owned());
        }
    }

    fn see(&self, file: &Path) -> Option<Seen> {
        let metadata = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file)?;
        let stamp = FileStamp::of(&metadata)?;
        if let Some(seen) = self.files.get(file).filter(|seen| seen.stamp == stamp) {
            return Some(seen.clone());
        }
        let is_compared = metadata.len() <= COMPARED_BYTES_MAX;
        let digest = is_compared.then(|| std::fs::read(file).ok().map(|bytes| Digest256::of(&bytes))).flatten();
        Some(Seen { stamp, digest })
    }

    /// Takes one file as it is.
    pub(super) fn note(&mut self, file: &Path) {
        match self.see(file) {
            Some(seen) => drop(self.files.insert(file.to_owned(), seen)),
            None => drop(self.files.remove(file)),
        }
    }

    /// Adds what `other` has in folders that were not walked for this one. What is new elsewhere is a change, and not known yet.
    pub(super) fn extend(&mut self, other: Self) {
        let is_elsewhere = |file: &Path| !file.ancestors().any(|folder| self.walked.contains(folder));
        let more: Vec<_> = other.files.into_iter().filter(|(file, _)| is_elsewhere(file)).collect();
        for (file, seen) in more {
            self.files.entry(file).or_insert(seen);
        }
        self.walked.extend(other.walked);
        self.others.extend(other.others);
    }

    /// Becomes `now`, and says what is different there.
    pub(super) fn replace(&mut self, now: Self) -> BTreeSet<PathBuf> {
        let is_as_it_was = |(file, seen): &(&PathBuf, &Seen)| self.files.get(*file).is_some_and(|was| was.is_as(seen));
        let new = now.files.iter().filter(|file| !is_as_it_was(file)).map(|(file, _)| file.clone());
        let gone = self.files.keys().filter(|file| !now.files.contains_key(*file)).cloned();
        let changed = new.chain(gone).collect();
        *self = now;
        changed
    }
}

/// What editors put beside a file while it is open.
fn is_editors(file: &Path) -> bool {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return false };
    let is_swap = [".swp", ".swx", ".swo", ".tmp", "~"].iter().any(|end| name.ends_with(end));
    // vim tries with this name whether it may write to a folder.
    is_swap || name.starts_with(".#") || (name.starts_with('#') && name.ends_with('#')) || name == "4913"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(before: &Snapshot, folder: &Path) -> Snapshot {
        let mut now = Snapshot::default();
        before.walk(folder, &folder.join("state"), &HashSet::from([folder.join("out.wasm").as_path()]), &mut now);
        now
    }

    #[test]
    fn what_is_different_is_found_and_what_tools_write_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        for inner in ["src", "target", "node_modules/a", "state", "made"] {
            std::fs::create_dir_all(folder.join(inner)).unwrap();
        }
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
        write(".gitignore", "made/\n*.log\n");
        write("src/main.rs", "one");
        let mut seen = look(&Snapshot::default(), folder);
        for name in ["target/a", "node_modules/a/b.js", "state/db", "made/c", "x.log", "out.wasm", "src/.main.rs.swp"] {
            write(name, "output");
        }
        // Written anew, and the same.
        write("src/main.rs", "one");
        let now = look(&seen, folder);
        assert!(seen.replace(now).is_empty());
        write("src/main.rs", "two");
        write("src/more.rs", "new");
        std::fs::remove_file(folder.join(".gitignore")).unwrap();
        let now = look(&seen, folder);
        let changed = seen.replace(now);
        let names = [".gitignore", "made/c", "src/main.rs", "src/more.rs", "x.log"].map(|name| folder.join(name));
        assert_eq!(changed, BTreeSet::from(names));
    }
}
