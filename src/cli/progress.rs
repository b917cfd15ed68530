//! What people see while they wait: a line that moves, on a terminal; nothing, in a pipe.

use crate::manifest::FunctionSpec;
use crate::names::Name;
use crate::release::install;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write as _;
use std::time::Duration;

/// One stretch of long work.
pub(super) struct Waiting(ProgressBar);

impl Waiting {
    pub(super) fn new() -> Self {
        // Draws on stderr, and nothing at all where that is no terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Says what is being done. The line stays until the next, or the end.
    pub(super) fn say(&self, what: String) {
        self.0.set_message(what);
        self.0.enable_steady_tick(Duration::from_millis(100));
    }

    pub(super) fn building(&self, name: &Name, done: usize, total: usize) {
        // A build draws for itself, and two that draw at once draw nothing that can be read: so this is a line, and stays.
        if !self.0.is_hidden() {
            let _ = writeln!(std::io::stderr(), "building {name} ({}/{total})", done + 1);
        }
    }
}

impl install::Progress for Waiting {
    fn compiling(&self, function: &FunctionSpec, done: usize, total: usize) {
        self.say(format!("compiling {} ({}/{total})", function.name, done + 1));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
