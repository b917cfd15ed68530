//! The command line: one file per command, and what they share.
//!
//! Exit codes: 0 done; 1 it could not be done, with one error on stderr; 2 the command line makes no sense. `invoke` has
//! more.

mod bench;
mod build;
mod certificates;
mod check;
mod client;
mod completions;
mod deploy;
mod handover;
mod inspect;
mod invoke;
mod logging;
mod logs;
mod new;
mod progress;
mod rebuild;
mod receipts;
mod releases;
mod reload;
mod request;
mod rollout;
mod routes;
mod schema;
mod table;
mod trust;
mod up;
mod usage;

use crate::manifest::{Manifest, ManifestError};
use crate::names::RequestId;
use clap::{Args, Parser, Subcommand};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Serves functions written as WebAssembly components, each request in a fresh sandbox.
#[derive(Debug, Parser)]
#[command(name = "fnhost", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an app: a folder with a function, its test, and a functions.toml.
    New(new::NewArgs),
    /// Add a function to the app here, in a folder of its own.
    Add(new::AddArgs),
    /// Build, install and serve the functions of functions.toml.
    Up(up::UpArgs),
    /// Build the functions of functions.toml.
    Build(ManifestArgs),
    /// Find everything that `up` would refuse, without serving.
    Check(check::CheckArgs),
    /// List the routes, with the kinds and limits of their functions.
    Routes(ManifestArgs),
    /// Call a function once, without a server.
    Invoke(invoke::InvokeArgs),
    /// Say what a WebAssembly file is, and what it would need to be a function.
    Inspect(inspect::InspectArgs),
    /// Build the app here, and have a host serve it.
    Deploy(deploy::DeployArgs),
    /// Give the canary all requests.
    Promote(rollout::PromoteArgs),
    /// Go back: from the canary to the live release, or from that to an earlier one.
    Rollback(rollout::RollbackArgs),
    /// Take an app away from a host.
    Remove(rollout::RemoveArgs),
    /// List the releases of an app on a host.
    Releases(releases::ReleasesArgs),
    /// Show how a host is, and what it serves.
    Status(releases::StatusArgs),
    /// Show what guests and the host have logged.
    Logs(logs::LogsArgs),
    /// Show what one request cost.
    Receipt(receipts::ReceiptArgs),
    /// Follow requests, one line each as it ends.
    Tail(receipts::TailArgs),
    /// Show what was used, and what that costs.
    Usage(usage::UsageArgs),
    /// Measure a function: what each phase of a request to it takes, without the network.
    Bench(bench::BenchArgs),
    /// Print the JSON schema of functions.toml, for editors.
    Schema,
    /// Print a script that completes commands in a shell.
    Completions(completions::CompletionsArgs),
}

/// Where an app is described, if nobody says otherwise.
const DEFAULT_FILE: &str = "functions.toml";

/// Which functions.toml.
#[derive(Debug, Args)]
struct ManifestArgs {
    /// The file that describes the app.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

impl ManifestArgs {
    fn read(&self) -> anyhow::Result<Manifest> {
        Manifest::read(&self.config).map_err(|error| match &error {
            ManifestError::Unreadable { cause, .. }
                if cause.kind() == ErrorKind::NotFound && self.config == Path::new(DEFAULT_FILE) =>
            {
                anyhow::Error::msg("no functions.toml here; run fnhost in its folder, or name it with -c FILE")
            }
            _ => anyhow::Error::msg(error.to_string()),
        })
    }
}

/// Prints a part of an answer that goes on; an error, if nobody reads it any more.
fn print_more(part: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(part.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| NobodyReads.into())
}

/// Whoever read an answer has stopped reading it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads any more")]
struct NobodyReads;

/// A command has said what it had to say, and ends with this code.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
struct Ended(u8);

/// Prints a command's answer. Whoever reads it may have stopped reading, which is no failure.
fn print(answer: &str) {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(answer.as_bytes()).and_then(|()| stdout.flush());
}

/// Says on stderr what may not be as it was meant; the command goes on.
#[expect(clippy::print_stderr, reason = "whoever reads the answer from a pipe is not to take it for a part of that")]
fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// A request id on the command line.
fn request_id(text: &str) -> Result<RequestId, &'static str> {
    RequestId::parse(text).ok_or("that is no request id, which has 32 hex digits")
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::New(args) => new::new(&args),
        Command::Add(args) => new::add(&args),
        Command::Up(args) => up::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Routes(args) => routes::run(&args),
        Command::Deploy(args) => deploy::run(&args),
        Command::Promote(args) => rollout::promote(&args),
        Command::Rollback(args) => rollout::rollback(&args),
        Command::Remove(args) => rollout::remove(&args),
        Command::Releases(args) => releases::releases(&args),
        Command::Status(args) => releases::status(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Receipt(args) => receipts::receipt(&args),
        Command::Tail(args) => receipts::tail(&args),
        Command::Usage(args) => usage::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Invoke(args) => invoke::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Schema => schema::run(),
        Command::Completions(args) => completions::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // As with `| head`: that was enough.
        Err(error) if error.is::<NobodyReads>() => ExitCode::SUCCESS,
        Err(error) if error.is::<Ended>() => {
            error.downcast_ref().map_or(ExitCode::FAILURE, |Ended(code)| ExitCode::from(*code))
        }
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one error of a command that failed")]
            {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
