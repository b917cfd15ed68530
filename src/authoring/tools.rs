//! The tools that a build needs, and what to install where one is missing.
//!
//! Owns the list of them. It looks at the words of the command and at the folder, and guesses no further: what is not on the
//! list is the shell's to complain of.

use crate::manifest::Build;
use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Commands that builds begin with, and how one comes to have them.
const TOOLS: &[(&str, &str)] = &[
    ("cargo", "Rust is not installed: https://rustup.rs says how to"),
    ("node", "Node.js is not installed: https://nodejs.org says how to, or: apt install nodejs npm"),
    (
        "npm",
        "npm is not installed, which comes with Node.js: https://nodejs.org says how to, or: apt install nodejs npm",
    ),
    (
        "npx",
        "npx is not installed, which comes with Node.js: https://nodejs.org says how to, or: apt install nodejs npm",
    ),
    ("python3", "Python is not installed: https://www.python.org says how to, or: apt install python3 python3-venv"),
];

/// What is missing for certain, found before the build is tried.
pub(super) fn missing_before(build: &Build, folder: &Path) -> Option<String> {
    // With an `||`, there is another way, and it is the shell that knows which one is taken.
    let first = commands(&build.command).next().filter(|_| !build.command.contains("||"))?;
    let target = || if first == "cargo" { missing_target(&build.command, folder) } else { None };
    missing(first, folder).or_else(|| missing_module(first, folder)).or_else(target)
}

/// What may be the reason that a build failed.
pub(super) fn missing_behind(build: &Build, folder: &Path) -> Option<String> {
    let tool = commands(&build.command).find_map(|word| missing(word, folder).or_else(|| missing_module(word, folder)));
    tool.or_else(|| missing_target(&build.command, folder))
}

/// The first words of the commands that a shell would run.
fn commands(line: &str) -> impl Iterator<Item = &str> {
    line.split(['&', '|', ';', '\n', '(', ')', '{', '}']).filter_map(|command| {
        // `NAME=value` before it sets a variable.
        command.split_whitespace().find(|word| !word.contains('='))
    })
}

fn missing(command: &str, folder: &Path) -> Option<String> {
    let (tool, way_out) = TOOLS.iter().find(|(tool, _)| *tool == command)?;
    // Asked of the shell, because it is the shell that looks for it.
    let mut asked = Command::new("sh");
    asked.args(["-c", "command -v \"$0\"", tool]).current_dir(folder).stdin(Stdio::null());
    (!succeeds(&mut asked)).then(|| (*way_out).to_owned())
}

/// Debian and its kin have Python without the module by which requirements.txt is installed.
fn missing_module(command: &str, folder: &Path) -> Option<String> {
    let wanted = command == "python3" && folder.join("requirements.txt").is_file() && !folder.join(".venv").is_dir();
    let mut asked = Command::new("python3");
    asked.args(["-c", "import ensurepip, venv"]).current_dir(folder).stdin(Stdio::null());
    (wanted && !succeeds(&mut asked))
        .then(|| "Python's module venv is not installed; install it with: apt install python3-venv".to_owned())
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

/// The commonest reason why a first build fails: the Rust target is not installed.
fn missing_target(command: &str, folder: &Path) -> Option<String> {
    /// Those that were found: builds come one after the other, and asking takes as long as starting rustc does.
    static FOUND: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    // Other compilers have an option of that name as well.
    let mut words = command.split_whitespace().skip_while(|word| *word != "cargo");
    let mut words = words.by_ref().skip_while(|word| !word.starts_with("--target"));
    let target = match words.next()?.split_once('=') {
        Some((_, target)) => target,
        None => words.next()?,
    };
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let found = found.get_or_insert_default();
    if found.contains(target) {
        return None;
    }
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).current_dir(folder).output();
    let libraries = String::from_utf8(asked.ok()?.stdout).ok()?;
    if !libraries.trim().is_empty() && Path::new(libraries.trim()).is_dir() {
        found.insert(target.to_owned());
        return None;
    }
    Some(format!("the Rust target {target} is not installed; add it with: rustup target add {target}"))
}
