//! Building guests: the `build` commands of functions.toml, run by the shell, each once.
//!
//! A build that is waited for by a person who may go away ([`BuildUnderWay`]) is a process group of its own. **Invariant:**
//! when such a build is dropped, none of its processes is left.

use super::tools;
use crate::manifest::{Build, Manifest};
use crate::names::Name;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Child;

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

impl BuildError {
    /// Takes away what it printed.
    pub fn take_output(&mut self) -> String {
        match self {
            Self::Missing { .. } | Self::Start { .. } => String::new(),
            Self::Failed { output, .. } => std::mem::take(output),
        }
    }
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
    let builds: Vec<(&Name, &Build)> =
        manifest.builds().map(|(name, _, build)| (name, build)).filter(|(_, build)| seen.insert(*build)).collect();
    for (done, (name, build)) in builds.iter().enumerate() {
        starting(name, done, builds.len());
        run(name, build, output)?;
    }
    Ok(())
}

/// What the builds of `manifest` would lack.
pub fn missing_tools(manifest: &Manifest) -> Vec<String> {
    let builds = manifest.builds().map(|(_, _, build)| build);
    let mut missing: Vec<String> = builds.filter_map(|build| tools::missing_before(build, folder_of(build))).collect();
    missing.dedup();
    missing
}

fn folder_of(build: &Build) -> &Path {
    if build.folder.as_os_str().is_empty() { Path::new(".") } else { &build.folder }
}

fn command_of(build: &Build) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(&build.command).current_dir(folder_of(build)).stdin(Stdio::null());
    command
}

fn failed_to_start(name: &Name, build: &Build, cause: io::Error) -> BuildError {
    BuildError::Start {
        function: name.to_string(),
        command: build.command.clone(),
        folder: folder_of(build).display().to_string(),
        cause,
    }
}

fn refuse_without_tools(name: &Name, build: &Build) -> Result<(), BuildError> {
    match tools::missing_before(build, folder_of(build)) {
        Some(tool) => Err(BuildError::Missing { function: name.to_string(), tool }),
        None => Ok(()),
    }
}

fn run(name: &Name, build: &Build, output: Output) -> Result<(), BuildError> {
    refuse_without_tools(name, build)?;
    let failed_to_start = |cause| failed_to_start(name, build, cause);
    let mut command = command_of(build);
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
    conclude(name, build, status, printed)
}

fn conclude(name: &Name, build: &Build, status: ExitStatus, output: String) -> Result<(), BuildError> {
    if status.success() {
        return Ok(());
    }
    let folder = folder_of(build);
    Err(BuildError::Failed {
        function: name.to_string(),
        command: build.command.clone(),
        folder: folder.display().to_string(),
        status,
        output,
        hint: tools::missing_behind(build, folder),
    })
}

/// How long a build that is no longer wanted may take to end by itself.
const END_WAIT: Duration = Duration::from_secs(1);
/// The most bytes of what a build prints that are kept, of its end.
const PRINTED_BYTES_MAX: usize = 256 << 10;

/// A build that is under way, and everything that it has started.
pub struct BuildUnderWay {
    child: Child,
    /// None once it has ended by itself: the number may be another's then.
    group: Option<Pid>,
    printed: pipe::Receiver,
}

impl BuildUnderWay {
    /// Starts the build of `name`.
    pub fn start(name: &Name, build: &Build) -> Result<Self, BuildError> {
        refuse_without_tools(name, build)?;
        let start = || {
            // One pipe for both, so that lines stay in their order.
            let (printed, prints) = io::pipe()?;
            let mut command = tokio::process::Command::from(command_of(build));
            command.stdout(prints.try_clone()?).stderr(prints).process_group(0);
            if std::env::var_os("NO_COLOR").is_none() {
                // A pipe is no terminal, but what it carries is shown on one, and to browsers.
                let colours = [("CARGO_TERM_COLOR", "always"), ("FORCE_COLOR", "1")];
                command.envs(colours.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()));
            }
            let child = command.spawn()?;
            let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            Ok(Self { child, group, printed: pipe::Receiver::from_owned_fd(printed.into())? })
        };
        start().map_err(|cause| failed_to_start(name, build, cause))
    }

    /// Waits for its end; `show` gets what it prints, as it comes.
    pub async fn finish(mut self, name: &Name, build: &Build, mut show: impl FnMut(&[u8])) -> Result<(), BuildError> {
        let mut kept = Vec::new();
        let mut chunk = vec![0; 8 << 10];
        let mut take = |bytes: &[u8]| {
            show(bytes);
            kept.extend_from_slice(bytes);
            if kept.len() > 2 * PRINTED_BYTES_MAX {
                kept.drain(..kept.len() - PRINTED_BYTES_MAX);
            }
        };
        let mut open = true;
        let status = loop {
            tokio::select! {
                read = self.printed.read(&mut chunk), if open => match read {
                    Ok(length) if length > 0 => take(chunk.get(..length).unwrap_or_default()),
                    _ => open = false,
                },
                // What it has left running may hold the pipe open for ever, so that is not waited for.
                status = self.child.wait() => break status,
            }
        };
        self.group = None;
        while let Ok(length @ 1..) = self.printed.try_read(&mut chunk) {
            take(chunk.get(..length).unwrap_or_default());
        }
        let status = status.map_err(|cause| failed_to_start(name, build, cause))?;
        let begin = kept.len().saturating_sub(PRINTED_BYTES_MAX);
        conclude(name, build, status, String::from_utf8_lossy(kept.get(begin..).unwrap_or_default()).into_owned())
    }
}

impl Drop for BuildUnderWay {
    /// Ends what is still running: first as Ctrl-C would, so that it can put away what it has, and then by force.
    fn drop(&mut self) {
        let Some(group) = self.group else { return };
        let _ = kill_process_group(group, Signal::TERM);
        let deadline = Instant::now() + END_WAIT;
        while Instant::now() < deadline {
            // Unless it is asked for, the first of them stays as a zombie.
            let _ = self.child.try_wait();
            if test_kill_process_group(group).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.try_wait();
    }
}
