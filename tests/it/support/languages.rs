//! What the guests in JavaScript and Python need on the machine.

use std::process::{Command, Stdio};

/// What is missing for guests in JavaScript, if anything is.
pub(crate) fn missing_javascript() -> Option<String> {
    (!runs("npm", &["--version"]) || !runs("node", &["--version"])).then(|| "there is no Node.js with npm".to_owned())
}

/// What is missing for guests in Python, if anything is.
pub(crate) fn missing_python() -> Option<String> {
    (!runs("python3", &["-c", "import ensurepip, venv"])).then(|| "there is no Python with its module venv".to_owned())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
