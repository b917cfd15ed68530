//! Building guests: the `build` commands of functions.toml, run by the shell, each once.

use super::tools;
use crate::manifest::{Build, FunctionSpec, Manifest};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Why a component was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It needs a tool that is not there.
    #[error("function `{function}`: {tool}")]
    Missing {
        /// Whose.
        function: String,
        /// Which, and how one comes to have it.
        tool: String,
    },
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
    #[error("{output}function `{function}`: `{command}` in {folder} failed ({status}){}", hint.as_deref().map(|hint| format!("\n{hint}")).unwrap_or_default())]
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

/// Builds every function that has a `build`, in the order of the file. `starting` is told of each, with how many are
/// done and how many there are.
pub fn build_all(
    manifest: &Manifest,
    output: Output,
    starting: impl Fn(&FunctionSpec, usize, usize),
) -> Result<(), BuildError> {
    // Functions may share a command, a whole workspace for instance.
    let mut seen = HashSet::new();
    let builds: Vec<(&FunctionSpec, &Build)> = manifest
        .functions
        .iter()
        .filter_map(|spec| spec.build.as_ref().map(|build| (spec, build)))
        .filter(|(_, build)| seen.insert(*build))
        .collect();
    for (done, (spec, build)) in builds.iter().enumerate() {
        starting(spec, done, builds.len());
        run(spec, build, output)?;
    }
    Ok(())
}

/// What the builds of `manifest` would lack.
pub fn missing_tools(manifest: &Manifest) -> Vec<String> {
    let builds = manifest.functions.iter().filter_map(|spec| spec.build.as_ref());
    let mut missing: Vec<String> = builds.filter_map(|build| tools::missing_before(build, folder_of(build))).collect();
    missing.dedup();
    missing
}

fn folder_of(build: &Build) -> &Path {
    if build.folder.as_os_str().is_empty() { Path::new(".") } else { &build.folder }
}

fn run(spec: &FunctionSpec, build: &Build, output: Output) -> Result<(), BuildError> {
    let folder = folder_of(build);
    let failed_to_start = |cause| BuildError::Start {
        function: spec.name.to_string(),
        command: build.command.clone(),
        folder: folder.display().to_string(),
        cause,
    };
    if let Some(tool) = tools::missing_before(build, folder) {
        return Err(BuildError::Missing { function: spec.name.to_string(), tool });
    }
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
        function: spec.name.to_string(),
        command: build.command.clone(),
        folder: folder.display().to_string(),
        status,
        output: printed,
        hint: tools::missing_behind(build, folder),
    })
}
