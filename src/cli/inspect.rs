//! `fnhost inspect`

use crate::limits::{COMPONENT_BYTES_MAX, show_size};
use crate::runtime::inspect::{self, Inspected};
use anyhow::{Context as _, ensure};
use clap::Args;
use std::fmt::Write as _;
use std::path::PathBuf;

/// The arguments of `inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// A component, or a core module for wasm32-wasip1.
    file: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let file = args.file.display();
    let metadata = std::fs::metadata(&args.file).with_context(|| format!("cannot read {file}"))?;
    ensure!(metadata.is_file(), "{file} is no file");
    ensure!(metadata.len() <= COMPONENT_BYTES_MAX, "{file} has more than {}", show_size(COMPONENT_BYTES_MAX));
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {file}"))?;
    let inspected = inspect::inspect(&bytes).map_err(|error| anyhow::anyhow!("{file}: {error}; {}", error.help()))?;
    super::print(&if args.json { serde_json::to_string_pretty(&inspected)? + "\n" } else { render(&inspected) });
    Ok(())
}

fn render(inspected: &Inspected) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:14} {value}");
    };
    let from = if inspected.core_module { ", made of a core module for wasm32-wasip1" } else { "" };
    field(
        "kind",
        match &inspected.why_not {
            Some(reason) => format!("no function: {reason}"),
            None => format!("{}{from}", inspected.kind),
        },
    );
    field("size", format!("{} bytes", inspected.bytes));
    field("core instances", inspected.core_instances.to_string());
    field("memories", format!("{}, of {} bytes at the start", inspected.memories, inspected.memory_bytes));
    field("tables", inspected.tables.to_string());
    if !inspected.made_with.is_empty() {
        field("made with", inspected.made_with.join(", "));
    }
    field("exports", if inspected.exports.is_empty() { "nothing".to_owned() } else { inspected.exports.join(", ") });
    if inspected.imports.is_empty() {
        field("imports", "nothing".to_owned());
        return text;
    }
    text.push_str("imports\n");
    let width = inspected.imports.iter().map(|import| import.name.len()).max().unwrap_or(0);
    for import in &inspected.imports {
        let _ = writeln!(text, "  {:width$}  {}", import.name, import.granted_by.explain());
    }
    text
}
