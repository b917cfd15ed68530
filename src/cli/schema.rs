//! `fnhost schema`

use crate::manifest::schema;

#[expect(clippy::unnecessary_wraps, reason = "commands give a result")]
pub(super) fn run() -> anyhow::Result<()> {
    super::print(&schema::text());
    Ok(())
}
