//! What the record has of a release: what is handed in, what is handed out, and how a row of the database is read.

use crate::names::Name;
use crate::storage::artifacts::Digest256;
use crate::storage::sqlite::from_sql;
use rusqlite::Row;

/// Where a release came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A functions.toml that the host was started with.
    File,
    /// The admin API.
    Deploy,
}

impl Source {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Deploy => "deploy",
        }
    }
}

/// One function of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRecord {
    /// Its name.
    pub name: String,
    /// The sha256 of its component.
    pub component: Digest256,
    /// That of each component that is composed with it; the first sees a request first.
    pub before: Vec<Digest256>,
    /// What its component was found to be.
    pub kind: String,
    /// What its sandboxes need, as a line.
    pub needs: String,
    /// The size of its component.
    pub bytes: u64,
}

/// A release to be recorded.
#[derive(Debug)]
pub struct NewRelease<'a> {
    /// Whose it is.
    pub app: &'a Name,
    /// Where it came from.
    pub source: Source,
    /// What its author says of it.
    pub message: &'a str,
    /// The text of its functions.toml.
    pub manifest: &'a str,
    /// That file, if it came from one; else nothing.
    pub origin: &'a str,
    /// Of the manifest and all components.
    pub digest: Digest256,
    /// Its functions, in the order of the manifest.
    pub functions: &'a [FunctionRecord],
}

/// A release, without what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseLine {
    /// Its number.
    pub number: u64,
    /// Milliseconds since the epoch of Unix.
    pub created_ms: u64,
    /// Where it came from.
    pub source: String,
    /// What its author says of it.
    pub message: String,
    /// Of the manifest and all components.
    pub digest: Digest256,
    /// What became of it, where there is something to say.
    pub note: String,
}

/// All of a release.
#[derive(Debug, Clone)]
pub struct ReleaseRecord {
    /// What the list has of it.
    pub line: ReleaseLine,
    /// The text of its functions.toml.
    pub manifest: String,
    /// Where that stands, of one that came from a file.
    pub origin: String,
    /// Its functions, in the order of the manifest.
    pub functions: Vec<FunctionRecord>,
}

/// Which releases of an app answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pointers {
    /// The live one.
    pub live: Option<u64>,
    /// The canary, and of how many requests in a million it has a part.
    pub canary: Option<(u64, u32)>,
}

pub(super) fn pointers(row: &Row<'_>, first: usize) -> rusqlite::Result<Pointers> {
    let live: Option<i64> = row.get(first)?;
    let canary: Option<i64> = row.get(first + 1)?;
    let parts: Option<u32> = row.get(first + 2)?;
    Ok(Pointers { live: live.map(from_sql), canary: canary.map(from_sql).zip(parts) })
}

pub(super) fn line(row: &Row<'_>) -> rusqlite::Result<ReleaseLine> {
    Ok(ReleaseLine {
        number: from_sql(row.get(0)?),
        created_ms: from_sql(row.get(1)?),
        source: row.get(2)?,
        message: row.get(3)?,
        digest: digest(row, 4)?,
        note: row.get(5)?,
    })
}

pub(super) fn function(row: &Row<'_>) -> rusqlite::Result<FunctionRecord> {
    Ok(FunctionRecord {
        name: row.get(0)?,
        component: digest(row, 1)?,
        before: Vec::new(),
        kind: row.get(2)?,
        needs: row.get(3)?,
        bytes: from_sql(row.get(4)?),
    })
}

pub(super) fn digest(row: &Row<'_>, at: usize) -> rusqlite::Result<Digest256> {
    let text: String = row.get(at)?;
    Digest256::try_from(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into()))
}
