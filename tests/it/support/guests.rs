//! Guests: the examples, built once, and small components written as text.

use super::project;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The component of the guest example `name`.
pub(crate) fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(build);
    let target = if name == "cgi" { "wasm32-wasip1" } else { "wasm32-wasip2" };
    let file = format!("{}.wasm", name.replace('-', "_"));
    let plain = project().join("guest-examples/target").join(target).join("release").join(format!("{name}.wasm"));
    if plain.exists() { plain } else { plain.with_file_name(file) }
}

/// Builds all of them with the commands that functions.toml has.
fn build() {
    let built = Command::new(env!("CARGO_BIN_EXE_fnhost"))
        .args(["build", "-c", "functions.toml"])
        .current_dir(project())
        .output()
        .expect("fnhost starts");
    assert!(built.status.success(), "the guests were not built:\n{}", String::from_utf8_lossy(&built.stderr));
}

/// Writes the component that `text` describes into `folder`.
pub(crate) fn component_of_wat(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(format!("{name}.wasm"));
    std::fs::write(&path, wat::parse_str(text).expect("the text is a component")).unwrap();
    path
}
