//! `fnhost completions`

use super::Cli;
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell: `source <(fnhost completions bash)`, for instance.
    #[arg(value_enum)]
    shell: Completed,
}

/// A shell that is known here.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Completed {
    Bash,
    Zsh,
    Fish,
}

#[expect(clippy::unnecessary_wraps, reason = "commands give a result")]
pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<()> {
    let shell = match args.shell {
        Completed::Bash => Shell::Bash,
        Completed::Zsh => Shell::Zsh,
        Completed::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fnhost", &mut script);
    super::print(&String::from_utf8_lossy(&script));
    Ok(())
}
