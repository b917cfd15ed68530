//! `fnhost build`

use super::ManifestArgs;
use super::progress::Waiting;
use crate::authoring::build::{self, Output};
use crate::manifest::Manifest;
use std::io::IsTerminal as _;

pub(super) fn run(args: &ManifestArgs) -> anyhow::Result<()> {
    build_all(&args.read()?)
}

/// Builds the functions of `manifest`, showing what people want to see.
pub(super) fn build_all(manifest: &Manifest) -> anyhow::Result<()> {
    let output = if std::io::stderr().is_terminal() { Output::Shown } else { Output::Kept };
    let waiting = Waiting::new();
    build::build_all(manifest, output, |name, done, total| waiting.building(name, done, total))?;
    Ok(())
}
