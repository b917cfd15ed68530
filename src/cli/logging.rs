//! Where log lines go: stderr, through a thread of their own.
//!
//! **Invariant:** nobody waits for the log. If whoever reads stderr stops reading, lines are dropped when
//! [`LINES_WAITING_MAX`] of them wait, and the host goes on.

use clap::ValueEnum;
use std::io::IsTerminal as _;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait to be written. A guest's line has at most 4 KiB, so some 16 MiB at the worst.
const LINES_WAITING_MAX: usize = 4096;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Starts logging. Lines that still wait are written when the guard is dropped.
pub(super) fn start(format: Format) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_WAITING_MAX).finish(std::io::stderr());
    let filter = EnvFilter::try_from_env("FNHOST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    // A process has one subscriber, and this is the only place that sets it.
    debug_assert!(started.is_ok());
    guard
}
