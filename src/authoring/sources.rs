//! What functions are built from: which files those are, which of them have changed, and whose build that concerns.
//!
//! A function's sources are what lies in the folder of its `build`, but for what .gitignore leaves out and what tools
//! put there. Cargo says more exactly what it made a component from (`dep-info`, the `.d` file beside it), also outside
//! of that folder; where that is there, a change concerns the packages that it names, and no other of the workspace.
//! **Invariant:** nothing is lost: what has changed is found by comparing files, whatever the system told meanwhile.

mod depinfo;
mod snapshot;

use crate::manifest::{Build, Manifest};
use depinfo::Inputs;
use snapshot::Snapshot;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// Files of a workspace that all of its packages are built with.
const WORKSPACE_FILES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "rust-toolchain", "config.toml"];

/// Files that tools write while they build.
const LOCK_FILES: [&str; 4] = ["Cargo.lock", "package-lock.json", "uv.lock", "yarn.lock"];

/// The files of an app: functions.toml, components, and what those are built from.
pub struct Sources {
    recipes: Vec<Recipe>,
    /// functions.toml, and the components.
    files: Vec<PathBuf>,
    /// What tools keep: the state folder.
    left_out: PathBuf,
    seen: Snapshot,
}

/// One build, and what it reads.
struct Recipe {
    build: Build,
    folder: PathBuf,
    /// What its components were made from, if all of them say so.
    inputs: Option<Inputs>,
}

/// What has changed since it was last looked at.
#[derive(Debug, Default)]
pub struct Changes {
    /// Sources.
    pub sources: BTreeSet<PathBuf>,
    /// functions.toml, and components.
    pub files: BTreeSet<PathBuf>,
}

impl Changes {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.files.is_empty()
    }

    /// Leaves out the files that tools write while they build.
    #[must_use]
    pub fn without_lock_files(mut self) -> Self {
        let is_lock = |path: &PathBuf| LOCK_FILES.iter().any(|name| path.ends_with(name));
        self.sources.retain(|path| !is_lock(path));
        self
    }
}

impl Sources {
    /// The files of `manifest` as they are now; with `builds`, also what its functions are built from.
    pub fn of(manifest: &Manifest, builds: bool) -> Self {
        let mut sources = Self {
            recipes: Vec::new(),
            files: Vec::new(),
            left_out: real(&manifest.host.state),
            seen: Snapshot::default(),
        };
        sources.describe(manifest, builds);
        sources
    }

    /// The same of `manifest`, which may be another, or have been built since. Folders that nobody looked at before are
    /// taken as they are now.
    pub fn describe(&mut self, manifest: &Manifest, builds: bool) {
        self.files = std::iter::once(manifest.path()).chain(manifest.components()).map(real_file).collect();
        self.recipes.clear();
        for (_, component, build) in manifest.builds().filter(|_| builds) {
            let inputs = Inputs::of_component(&real_file(component));
            match self.recipes.iter_mut().find(|recipe| recipe.build == *build) {
                Some(recipe) => {
                    recipe.inputs = recipe.inputs.take().zip(inputs).map(|(before, more)| before.and(more));
                }
                None => {
                    self.recipes.push(Recipe { build: build.clone(), folder: real(&build.folder), inputs });
                }
            }
        }
        let now = self.look();
        self.seen.extend(now);
    }

    /// The folders in which a change may matter.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.seen.folders()
    }

    /// functions.toml, and the components.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// What has changed since the last time.
    pub fn changes(&mut self) -> Changes {
        let now = self.look();
        let changed = self.seen.replace(now);
        let (files, sources) = changed.into_iter().partition(|path| self.files.contains(path));
        Changes { sources, files }
    }

    /// Takes functions.toml and the components as they are now: a build has made them.
    pub fn accept_components(&mut self) {
        for file in &self.files {
            self.seen.note(file);
        }
    }

    /// The builds that a change of `path` concerns.
    pub fn concerned<'s>(&'s self, path: &'s Path) -> impl Iterator<Item = &'s Build> {
        self.recipes.iter().filter(|recipe| self.is_concerned(recipe, path)).map(|recipe| &recipe.build)
    }

    fn is_concerned(&self, recipe: &Recipe, path: &Path) -> bool {
        let Some(inputs) = &recipe.inputs else { return path.starts_with(&recipe.folder) };
        if inputs.files.contains(path) {
            return true;
        }
        let Some(package) = self.package_of(path) else { return path.starts_with(&recipe.folder) };
        let is_shared = || path.file_name().is_some_and(|name| WORKSPACE_FILES.iter().any(|shared| name == *shared));
        inputs.packages.contains(package)
            || (is_shared() && inputs.packages.iter().any(|below| below.starts_with(package)))
    }

    /// The folder of the package that a file belongs to.
    fn package_of<'p>(&self, path: &'p Path) -> Option<&'p Path> {
        path.ancestors().skip(1).find(|folder| self.seen.has(&folder.join("Cargo.toml")))
    }

    fn look(&self) -> Snapshot {
        let mut now = Snapshot::default();
        let outputs: HashSet<&Path> = self.files().collect();
        let inputs = || self.recipes.iter().filter_map(|recipe| recipe.inputs.as_ref());
        let folders = self.recipes.iter().map(|recipe| &recipe.folder);
        for folder in folders.chain(inputs().flat_map(|inputs| &inputs.packages)) {
            self.seen.walk(folder, &self.left_out, &outputs, &mut now);
        }
        for file in inputs().flat_map(|inputs| inputs.files.iter().chain(&inputs.workspace)).chain(&self.files) {
            self.seen.look_at(file, &mut now);
        }
        now
    }
}

/// A path as Cargo and the walk have it: from the root, without links on the way. What is not there yet stays as written.
fn real(path: &Path) -> PathBuf {
    // Only an empty path, or a working directory that is gone, have none.
    let path = std::path::absolute(if path.as_os_str().is_empty() { Path::new(".") } else { path }).unwrap_or_default();
    let resolved = path.ancestors().find_map(|above| {
        let real = std::fs::canonicalize(above).ok()?;
        // Joining nothing would add a slash.
        Some(if above == path { real } else { real.join(path.strip_prefix(above).ok()?) })
    });
    resolved.unwrap_or(path)
}

/// The same of a file, which may be a link itself: it is that which builds and editors replace.
fn real_file(path: &Path) -> PathBuf {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => real(folder).join(name),
        _ => real(path),
    }
}
