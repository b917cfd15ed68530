//! Guests: the examples, built once, and small components written as text.

use super::project;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The component of the guest example `name`, or of a guest that tests alone need: those are called `…-probe`.
pub(crate) fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    if name.ends_with("-probe") {
        return test_guest(name);
    }
    BUILT.get_or_init(build);
    let target = if name == "cgi" { "wasm32-wasip1" } else { "wasm32-wasip2" };
    let file = format!("{}.wasm", name.replace('-', "_"));
    let plain = project().join("guest-examples/target").join(target).join("release").join(format!("{name}.wasm"));
    if plain.exists() { plain } else { plain.with_file_name(file) }
}

/// The component of a guest in `tests/guests`; all of them are built once.
pub(crate) fn test_guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let folder = project().join("tests/guests");
    BUILT.get_or_init(|| {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--locked", "--release", "--target", "wasm32-wasip2"]).current_dir(&folder);
        // What the tests themselves are built with is not for guests.
        let built = cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR").output().expect("cargo starts");
        assert!(built.status.success(), "the guests were not built:\n{}", String::from_utf8_lossy(&built.stderr));
    });
    let folder = folder.join("target/wasm32-wasip2/release");
    let plain = folder.join(format!("{name}.wasm"));
    if plain.exists() { plain } else { folder.join(format!("{}.wasm", name.replace('-', "_"))) }
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
