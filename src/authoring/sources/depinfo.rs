//! What Cargo made a component from: the `.d` file that it writes beside each artifact, in the way of make(1).
//!
//! It names the sources of all packages that are on this machine as folders, and what their build scripts asked to have
//! watched; packages of registries do not change, and are not in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The most bytes of such a file that are read: some ten thousand paths.
const BYTES_MAX: u64 = 4 << 20;

/// What a component was made from.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Each file.
    pub(super) files: BTreeSet<PathBuf>,
    /// The folders of the packages that they belong to.
    pub(super) packages: BTreeSet<PathBuf>,
    /// Files of the workspaces around those.
    pub(super) workspace: BTreeSet<PathBuf>,
}

impl Inputs {
    /// What is said of `component`; nothing where that is not known, or was said of another file.
    pub(super) fn of_component(component: &Path) -> Option<Self> {
        let file = component.with_extension("d");
        if std::fs::metadata(&file).ok()?.len() > BYTES_MAX {
            return None;
        }
        let text = std::fs::read_to_string(&file).ok()?;
        let (target, inputs) = text.lines().next()?.split_once(": ")?;
        // A folder that was moved or copied has such files of elsewhere.
        if std::fs::canonicalize(unescaped(target)).ok()? != std::fs::canonicalize(component).ok()? {
            return None;
        }
        // What a build script has made is no source.
        let is_source = |path: &PathBuf| path.is_absolute() && !path.iter().any(|folder| folder == "target");
        let files: BTreeSet<PathBuf> = paths(inputs).filter(is_source).collect();
        let packages: BTreeSet<PathBuf> = files.iter().filter_map(|file| folder_with(file, "Cargo.toml")).collect();
        let workspaces = packages.iter().filter_map(|package| folder_with(&package.join("Cargo.toml"), "Cargo.lock"));
        let shared = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain", ".cargo/config.toml"];
        let workspace = workspaces.flat_map(|folder| shared.map(|name| folder.join(name))).collect();
        (!packages.is_empty()).then_some(Self { files, packages, workspace })
    }

    /// Both.
    pub(super) fn and(mut self, mut other: Self) -> Self {
        self.files.append(&mut other.files);
        self.packages.append(&mut other.packages);
        self.workspace.append(&mut other.workspace);
        self
    }
}

/// The nearest folder above `path` that has a file of this name.
fn folder_with(path: &Path, name: &str) -> Option<PathBuf> {
    path.ancestors().skip(1).find(|folder| folder.join(name).is_file()).map(Path::to_owned)
}

/// Paths with spaces between them; one that belongs to a path stands behind a backslash.
fn paths(text: &str) -> impl Iterator<Item = PathBuf> {
    let mut paths = vec![String::new()];
    for word in text.split(' ') {
        let (begun, more) = word.strip_suffix('\\').map_or((word, false), |begun| (begun, true));
        if let Some(path) = paths.last_mut() {
            path.push_str(begun);
            if more {
                path.push(' ');
            } else {
                paths.push(String::new());
            }
        }
    }
    paths.into_iter().filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn unescaped(path: &str) -> String {
    path.replace("\\ ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_behind_a_backslash_belongs_to_its_path() {
        let read: Vec<_> = paths(r"/a/main.rs /my\ code/lib.rs /b.wit").collect();
        assert_eq!(read, ["/a/main.rs", "/my code/lib.rs", "/b.wit"].map(PathBuf::from));
    }

    #[test]
    fn what_was_said_of_another_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::create_dir(file("src")).unwrap();
        for name in ["Cargo.toml", "Cargo.lock", "src/main.rs", "it.wasm", "other.wasm"] {
            std::fs::write(file(name), "").unwrap();
        }
        let said = format!("{}: {}\n", file("it.wasm").display(), file("src/main.rs").display());
        std::fs::write(file("it.d"), &said).unwrap();
        std::fs::write(file("other.d"), &said).unwrap();
        let inputs = Inputs::of_component(&file("it.wasm")).unwrap();
        assert_eq!(inputs.packages, BTreeSet::from([folder.path().to_owned()]));
        assert!(inputs.workspace.contains(&file("Cargo.lock")));
        assert!(Inputs::of_component(&file("other.wasm")).is_none());
        assert!(Inputs::of_component(&file("none.wasm")).is_none());
    }
}
