//! Every rule of functions.toml has a pair in tests/manifest: a file that breaks it, and what is said of it.
//!
//! `UPDATE=1 cargo test` writes the `.err` files anew; read the difference before you keep it.

use crate::support::{fnhost, project};
use std::path::Path;

#[test]
fn each_mistake_is_reported_with_its_place_and_the_way_out() {
    let folder = project().join("tests/manifest");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() > 20);
    let wrong: Vec<String> = files.iter().filter_map(|file| difference(&folder, file)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `check` says of `file`, if it is not what stands beside it.
fn difference(folder: &Path, file: &Path) -> Option<String> {
    let ended = fnhost(folder).args(["check", "-c"]).arg(file.file_name().unwrap()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{} was accepted", file.display());
    let expected_file = file.with_extension("err");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&expected_file, &said).unwrap();
    }
    let expected = std::fs::read_to_string(&expected_file).unwrap_or_default();
    (said != expected).then(|| format!("{}:\n--- expected\n{expected}--- said\n{said}", file.display()))
}
