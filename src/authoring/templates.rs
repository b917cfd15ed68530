//! What a function begins as: the templates, which are real files under `templates/`, and putting one into a folder.
//!
//! Owns their texts, compiled in, and the writing of them. **Invariant:** a folder is written whole, or what was written of it
//! is taken away again; nothing that was there before is touched.
//!
//! The texts hold two words that are replaced, chosen such that each file is valid with them in it: `template-name` (in names
//! of Rust's, `template_name`), and `/template-route`, the path that the function's own paths begin with. A `Cargo.toml` there
//! is called `Cargo.toml.template`, because a folder with a `Cargo.toml` is a package to cargo, and is left out of ours; a
//! `.gitignore` is called `gitignore`, because git heeds every one.

use crate::names::Name;
use std::io;
use std::path::{Path, PathBuf};

/// In what a function is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// Rust, a handler by the crate wstd.
    Rust,
    /// Rust, an axum router.
    RustAxum,
    /// Rust, a handler of WASI 0.3.
    RustP3,
    /// Rust, a program that is called by CGI.
    RustCgi,
    /// JavaScript, a Hono app.
    JavaScript,
    /// Python.
    Python,
    /// Rust, what stands before functions.
    Middleware,
}

/// A file of a template: where it is put, and its text.
type File = (&'static str, &'static str);

macro_rules! files {
    ($folder:literal: $($file:literal $(as $put:literal)?),+ $(,)?) => {
        &[$((files!(@put $file $($put)?), include_str!(concat!("../../templates/", $folder, "/", $file)))),+]
    };
    (@put $file:literal) => { $file };
    (@put $file:literal $put:literal) => { $put };
}

const RUST: &[File] = files!["rust":
    "functions.toml", "Cargo.toml.template" as "Cargo.toml", "Cargo.lock", "src/main.rs", "README.md", "gitignore" as ".gitignore",
];
const RUST_AXUM: &[File] = files!["rust-axum":
    "functions.toml", "Cargo.toml.template" as "Cargo.toml", "Cargo.lock", "src/main.rs", "README.md", "gitignore" as ".gitignore",
];
const RUST_P3: &[File] = files!["rust-p3":
    "functions.toml", "Cargo.toml.template" as "Cargo.toml", "Cargo.lock", "src/lib.rs", "README.md", "gitignore" as ".gitignore",
];
const RUST_CGI: &[File] = files!["rust-cgi":
    "functions.toml", "Cargo.toml.template" as "Cargo.toml", "Cargo.lock", "src/main.rs", "README.md", "gitignore" as ".gitignore",
];
const JAVASCRIPT: &[File] = files!["javascript":
    "functions.toml", "package.json", "package-lock.json", "build.mjs", "src/app.js", "src/app.test.js", "src/component.js",
    "wit/world.wit", "README.md", "gitignore" as ".gitignore",
];
const PYTHON: &[File] = files!["python":
    "functions.toml", "requirements.txt", "build.py", "app.py", "routes.py", "test_routes.py", "wit/world.wit", "README.md",
    "gitignore" as ".gitignore",
];
const MIDDLEWARE: &[File] = files!["middleware":
    "functions.toml", "Cargo.toml.template" as "Cargo.toml", "Cargo.lock", "src/lib.rs", "examples/hello.rs", "wit/world.wit",
    "README.md", "gitignore" as ".gitignore",
];

/// Names that cargo takes for no package, or that a template's own dependencies have. `cargo new` refuses them likewise.
const TAKEN_IN_RUST: &str = "alloc as async await axum become box break const continue core crate deps do dyn else enum examples extern \
    false final fn for gen hello http if impl in incremental let loop macro match mod move mut override priv \
    proc-macro pub ref return self serde static std struct super test trait true try type typeof unsafe unsized use \
    virtual wasip3 where while wstd wstd-axum yield";

/// A package cannot depend on one of its own name, says npm.
const TAKEN_IN_JAVASCRIPT: &[&str] = &["hono", "rolldown"];

impl Template {
    /// All of them, the commonest first.
    pub const ALL: [Self; 7] =
        [Self::Rust, Self::RustAxum, Self::RustP3, Self::RustCgi, Self::JavaScript, Self::Python, Self::Middleware];

    /// What it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::RustAxum => "rust-axum",
            Self::RustP3 => "rust-p3",
            Self::RustCgi => "rust-cgi",
            Self::JavaScript => "javascript",
            Self::Python => "python",
            Self::Middleware => "middleware",
        }
    }

    /// What it is.
    pub fn description(self) -> &'static str {
        match self {
            Self::Rust => "an async handler, by the crate wstd",
            Self::RustAxum => "an axum router, by the crate wstd-axum",
            Self::RustP3 => "an async handler of WASI 0.3, by the crate wasip3",
            Self::RustCgi => "a program called by CGI, without any crate",
            Self::JavaScript => "a Hono app, by componentize-js",
            Self::Python => "a handler, by componentize-py",
            Self::Middleware => "what stands before functions, in Rust",
        }
    }

    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => RUST,
            Self::RustAxum => RUST_AXUM,
            Self::RustP3 => RUST_P3,
            Self::RustCgi => RUST_CGI,
            Self::JavaScript => JAVASCRIPT,
            Self::Python => PYTHON,
            Self::Middleware => MIDDLEWARE,
        }
    }

    /// Whether a function of this name can be written in its language.
    pub fn takes(self, name: &Name) -> bool {
        match self {
            Self::Python => true,
            Self::JavaScript => !TAKEN_IN_JAVASCRIPT.contains(&name.as_str()),
            Self::Rust | Self::RustAxum | Self::RustP3 | Self::RustCgi | Self::Middleware => {
                !TAKEN_IN_RUST.split(' ').any(|taken| taken == name.as_str())
            }
        }
    }

    /// Its functions.toml, for an app of that name which has no other function.
    fn manifest(self) -> &'static str {
        self.files().iter().find(|(put, _)| *put == MANIFEST).map_or("", |(_, text)| *text)
    }

    /// The entries that a functions.toml gets of it when it is added, in the folder `name` beside that file.
    pub fn entries(self, name: &Name) -> String {
        let mut lines = Vec::new();
        // What is called after the function is the function's; the rest makes it an app by itself.
        let tables = self.manifest().split("\n\n").skip(1);
        for table in tables.filter(|table| table.lines().any(|line| line.starts_with('[') && line.contains(NAME))) {
            lines.push(String::new());
            for line in filled(table, name, &format!("/{name}")).lines() {
                lines.push(line.replacen("component = \"", &format!("component = \"{name}/"), 1));
                if line.starts_with("build = ") {
                    lines.push(format!("build-dir = \"{name}\""));
                }
            }
        }
        lines.join("\n") + "\n"
    }
}

const MANIFEST: &str = "functions.toml";
const NAME: &str = "template-name";
const ROUTE: &str = "/template-route";

/// A text of a template for the function `name`, whose paths begin with `route`; nothing, for all paths.
fn filled(text: &str, name: &Name, route: &str) -> String {
    text.replace(&format!("{ROUTE}/"), &format!("{route}/"))
        .replace(ROUTE, if route.is_empty() { "/" } else { route })
        .replace(NAME, name.as_str())
        .replace(&NAME.replace('-', "_"), &name.as_str().replace('-', "_"))
}

/// Why a template was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Something is there already.
    #[error("{} is there already, and is not an empty folder", .0.display())]
    Taken(PathBuf),
    /// The system does not let it.
    #[error("cannot write {}: {cause}", path.display())]
    Refused {
        /// What.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

/// Files and folders that were written, and are taken away again if nobody says that they are to stay.
#[derive(Debug)]
#[must_use]
pub struct Written(Vec<PathBuf>);

impl Written {
    /// They stay.
    pub fn keep(mut self) {
        self.0.clear();
    }

    fn folder(&mut self, folder: &Path) -> Result<(), WriteError> {
        // From the top down, each on its own: only those that were not there are taken away again.
        let missing: Vec<&Path> = folder.ancestors().take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir(folder).map_err(|cause| WriteError::Refused { path: folder.to_owned(), cause })?;
            self.0.push(folder.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, text: &str) -> Result<(), WriteError> {
        let refused = |cause| WriteError::Refused { path: path.to_owned(), cause };
        let mut file = std::fs::File::create_new(path).map_err(refused)?;
        self.0.push(path.to_owned());
        io::Write::write_all(&mut file, text.as_bytes()).map_err(refused)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // Each was made here, and a folder that somebody has put more into stays.
            let _ = if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
        }
    }
}

/// Puts `template` into `folder`, as an app of its own called `name`.
pub fn write_app(template: Template, name: &Name, folder: &Path) -> Result<Written, WriteError> {
    write(template.files().iter(), name, "", folder)
}

/// Puts `template` into `folder`, as the function `name` of an app that has its functions.toml elsewhere.
pub fn write_function(template: Template, name: &Name, folder: &Path) -> Result<Written, WriteError> {
    write(template.files().iter().filter(|(put, _)| *put != MANIFEST), name, &format!("/{name}"), folder)
}

fn write<'f>(
    files: impl Iterator<Item = &'f File>,
    name: &Name,
    route: &str,
    folder: &Path,
) -> Result<Written, WriteError> {
    let is_empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !is_empty {
        return Err(WriteError::Taken(folder.to_owned()));
    }
    let mut written = Written(Vec::new());
    written.folder(folder)?;
    for (put, text) in files {
        let path = folder.join(put);
        written.folder(path.parent().unwrap_or(folder))?;
        written.file(&path, &filled(text, name, route))?;
    }
    Ok(written)
}
