//! What the sources promise of themselves: floors, headers, sizes, and a test for every guest.

use crate::support::project;
use std::path::{Path, PathBuf};

/// Bottom to top, as in src/lib.rs. A module uses only what stands on a floor below its own, or its own.
const FLOORS: &[&[&str]] = &[
    &["api", "grants", "limits", "names", "network", "platform", "receipt", "trace", "trickle", "usage"],
    &["manifest"],
    &["storage"],
    &["middleware", "runtime"],
    &["release"],
    &["server"],
    &["authoring"],
    &["cli"],
];

/// Crates that one floor alone may name.
const OWNED_CRATES: &[(&str, &str)] = &[
    ("wasmtime", "runtime"),
    ("wasmtime_wasi", "runtime"),
    ("wasmtime_wasi_http", "runtime"),
    ("axum", "server"),
    ("governor", "middleware"),
    ("jsonwebtoken", "middleware"),
    ("tower_http", "middleware"),
    ("wac_graph", "runtime"),
    ("clap", "cli"),
];

/// The most lines of a file, its tests included.
const LINES_MAX: usize = 600;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files.sort();
    files
}

/// The module of `src` that a file belongs to.
fn module_of(file: &Path) -> String {
    let relative = file.strip_prefix(project().join("src")).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Every `crate::NAME` in the code of a file; comments may point where they like.
fn names_after<'t>(text: &'t str, prefix: &str) -> Vec<&'t str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| {
            line.match_indices(prefix).map(|(at, found)| {
                let rest = &line[at + found.len()..];
                &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
            })
        })
        .collect()
}

#[test]
fn no_floor_looks_up() {
    let mut wrong = Vec::new();
    for file in sources(&project().join("src")) {
        let module = module_of(&file);
        if module == "lib" || module == "main" {
            continue;
        }
        let own = floor_of(&module).unwrap_or_else(|| panic!("{module} stands on no floor"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains("use crate::{"),
            "{}: one `use` for each module, so that this test sees it",
            file.display()
        );
        for used in names_after(&text, "crate::") {
            if floor_of(used).is_some_and(|floor| floor > own || (floor == own && used != module && own > 0)) {
                wrong.push(format!("{} uses crate::{used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these look up a floor:\n{}", wrong.join("\n"));
}

#[test]
fn each_borrowed_engine_is_named_by_one_floor() {
    let mut wrong = Vec::new();
    for file in sources(&project().join("src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, owner) in OWNED_CRATES {
            let uses = text.lines().any(|line| {
                !line.trim_start().starts_with("//")
                    && (line.contains(&format!("{name}::")) || line.contains(&format!("use {name};")))
            });
            if uses && module_of(&file) != *owner {
                wrong.push(format!("{} names {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_file_says_what_it_owns_and_stays_small() {
    for folder in ["src", "tests/it"] {
        for file in sources(&project().join(folder)) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//! "), "{} does not say what it owns", file.display());
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn each_guest_example_is_routed_tested_and_in_the_readme() {
    let routed = std::fs::read_to_string(project().join("functions.toml")).unwrap();
    let tested = std::fs::read_to_string(project().join("tests/it/examples.rs")).unwrap();
    let other_tested = std::fs::read_to_string(project().join("tests/it/languages.rs")).unwrap();
    let told = std::fs::read_to_string(project().join("README.md")).unwrap();
    for entry in std::fs::read_dir(project().join("guest-examples")).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        // Those in other languages are apps of their own.
        if entry.path().join("functions.toml").exists() {
            assert!(other_tested.contains(&format!("async fn {name}_")), "{name} has no test");
            assert!(told.contains(&format!("`{name}`")), "{name} has no line in README.md");
        }
        if !entry.path().join("Cargo.toml").exists() {
            continue;
        }
        assert!(routed.contains(&format!("[functions.{name}]")), "{name} is not routed");
        assert!(tested.contains(&format!("async fn {}_", name.replace('-', "_"))), "{name} has no test");
        assert!(told.contains(&format!("`{name}`")), "{name} has no line in README.md");
    }
}
