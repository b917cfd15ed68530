//! Building guests: the `build` commands of functions.toml, run by the shell, each once.

use crate::manifest::{Build, Manifest};
use crate::names::Name;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Why a component was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The command could not be started.
    #[error("function `{function}`: cannot run `{command}` in {folder}: {cause}")]
    Start {
        /// Whose.
        function: String,
        /// The command.
        command: String,
        /// Where it was to run.
        folder: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The command failed.
    #[error("{output}function `{function}`: `{command}` in {folder} failed ({status}){}", hint.as_deref().unwrap_or_default())]
    Failed {
        /// Whose.
        function: String,
        /// The command.
        command: String,
        /// Where it ran.
        folder: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed, if that was not shown already.
        output: String,
        /// The way out, where it is known.
        hint: Option<String>,
    },
}

/// Whether people see what a build prints while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Straight to stderr.
    Shown,
    /// Only if it fails.
    Kept,
}

/// Builds every function that has a `build`, in the order of the file, and middleware before that. `starting` is told of each, with how many are
/// done and how many there are.
pub fn build_all(
    manifest: &Manifest,
    output: Output,
    starting: impl Fn(&Name, usize, usize),
) -> Result<(), BuildError> {
    // Functions may share a command, a whole workspace for instance.
    let mut seen = HashSet::new();
    let middleware = manifest.middleware_components().map(|(name, link)| (name, link.build.as_ref()));
    let functions = manifest.functions.iter().map(|spec| (&spec.name, spec.build.as_ref()));
    let builds: Vec<(&Name, &Build)> = middleware
        .chain(functions)
        .filter_map(|(name, build)| build.map(|build| (name, build)))
        .filter(|(_, build)| seen.insert(*build))
        .collect();
    for (done, (name, build)) in builds.iter().enumerate() {
        starting(name, done, builds.len());
        run(name, build, output)?;
    }
    Ok(())
}

fn run(name: &Name, build: &Build, output: Output) -> Result<(), BuildError> {
    let folder = if build.folder.as_os_str().is_empty() { Path::new(".") } else { &build.folder };
    let failed_to_start = |cause| BuildError::Start {
        function: name.to_string(),
        command: build.command.clone(),
        folder: folder.display().to_string(),
        cause,
    };
    let mut command = Command::new("sh");
    command.arg("-c").arg(&build.command).current_dir(folder).stdin(Stdio::null());
    let (status, printed) = match output {
        Output::Shown => {
            // stdout is the host's own interface, so what a build prints goes to stderr, all of it.
            command.stdout(io::stderr()).stderr(Stdio::inherit());
            (command.status().map_err(failed_to_start)?, String::new())
        }
        Output::Kept => {
            let ended = command.output().map_err(failed_to_start)?;
            let printed = [ended.stdout, ended.stderr].concat();
            (ended.status, String::from_utf8_lossy(&printed).into_owned())
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(BuildError::Failed {
        function: name.to_string(),
        command: build.command.clone(),
        folder: folder.display().to_string(),
        status,
        output: printed,
        hint: missing_target(&build.command, folder),
    })
}

/// The commonest reason why a first build fails: the Rust target is not installed.
fn missing_target(command: &str, folder: &Path) -> Option<String> {
    let mut words = command.split_whitespace().skip_while(|word| !word.starts_with("--target"));
    let target = match words.next()?.split_once('=') {
        Some((_, target)) => target,
        None => words.next()?,
    };
    let asked =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).current_dir(folder).output();
    let libraries = String::from_utf8(asked.ok()?.stdout).ok()?;
    let installed = !libraries.trim().is_empty() && Path::new(libraries.trim()).is_dir();
    (!installed)
        .then(|| format!("\nthe Rust target {target} is not installed; add it with: rustup target add {target}"))
}
