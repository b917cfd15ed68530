//! Migrations: what is done to a database, in the order of their names and once each, before a release that needs it is served.
//!
//! Which were done is noted in the database itself, with the sha256 of each. **Invariants:** each is done whole, with its note,
//! or not at all; one that was done and has changed since is refused, for nobody can tell what the database has of it.

use super::sqlite::{Database, SqliteError, Writer};
use crate::storage::artifacts::Digest256;
use rusqlite::OptionalExtension as _;
use std::path::{Path, PathBuf};

/// The most migrations of a database, and bytes of one.
const COUNT_MAX: usize = 10_000;
/// The most bytes of one.
pub const BYTES_MAX: u64 = 4 << 20;

const NOTES: &str = "CREATE TABLE IF NOT EXISTS _fnhost_migrations
    (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, done_at INTEGER NOT NULL) STRICT";

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The name of its file.
    pub name: String,
    /// Its statements.
    pub sql: String,
}

/// Why a database is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// One was done, and is not what it was.
    #[error("{0} was done before, and has changed since; write another one that changes what it did")]
    Changed(String),
    /// One cannot be done. What those before it did stays.
    #[error("{name}: {cause}")]
    Failed {
        /// Its name.
        name: String,
        /// Why.
        cause: SqliteError,
    },
    /// One has a transaction of its own, which would end the one that it is done in.
    #[error("{0} begins or ends a transaction, and each migration is in one already")]
    Transaction(String),
    /// The notes cannot be read or written.
    #[error("what was done to the database cannot be told: {0}")]
    Notes(#[from] SqliteError),
}

/// Reads the migrations in `folder`: `*.sql`, in the order of their names, byte by byte.
pub fn read(folder: &Path) -> Result<Vec<Migration>, MigrationError> {
    let unreadable = |path: &Path, cause| MigrationError::Unreadable { path: path.to_owned(), cause };
    let entries = std::fs::read_dir(folder).map_err(|cause| unreadable(folder, cause))?;
    let mut migrations = Vec::new();
    for entry in entries {
        let path = entry.map_err(|cause| unreadable(folder, cause))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| is_name(name)) else {
            continue;
        };
        let size = std::fs::metadata(&path).map_err(|cause| unreadable(&path, cause))?.len();
        if size > BYTES_MAX || migrations.len() == COUNT_MAX {
            let cause = format!("a migration has {BYTES_MAX} bytes at the most, and a database {COUNT_MAX} of them");
            return Err(unreadable(&path, std::io::Error::other(cause)));
        }
        let sql = std::fs::read_to_string(&path).map_err(|cause| unreadable(&path, cause))?;
        migrations.push(Migration { name: name.to_owned(), sql });
    }
    migrations.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(migrations)
}

/// Whether a file of this name is a migration.
pub fn is_name(name: &str) -> bool {
    name.strip_suffix(".sql").is_some_and(|stem| !stem.is_empty()) && !name.contains(['/', '\0'])
}

/// Does those of `migrations` that were not done before; says how many. May wait for a disk.
pub fn apply(database: &Database, migrations: &[Migration]) -> Result<usize, MigrationError> {
    if migrations.is_empty() {
        return Ok(0);
    }
    database.with_writer(|writer| {
        writer.as_host(|connection| connection.execute_batch(NOTES))?;
        let mut done = 0;
        for migration in migrations {
            done += usize::from(apply_one(writer, migration)?);
        }
        Ok(done)
    })
}

/// Whatever fails is rolled back when the connection is given back.
fn apply_one(writer: &mut Writer, migration: &Migration) -> Result<bool, MigrationError> {
    let Migration { name, sql } = migration;
    let sha256 = Digest256::of(sql.as_bytes()).to_string();
    let failed = |cause| MigrationError::Failed { name: name.clone(), cause };
    writer.as_guest("BEGIN IMMEDIATE").map_err(failed)?;
    let noted: Option<String> = writer.as_host(|connection| {
        let noted = "SELECT sha256 FROM _fnhost_migrations WHERE name = ?1";
        connection.query_row(noted, [name], |row| row.get(0)).optional()
    })?;
    match noted {
        Some(noted) if noted == sha256 => {
            writer.as_guest("ROLLBACK")?;
            return Ok(false);
        }
        Some(_) => return Err(MigrationError::Changed(name.clone())),
        None => {}
    }
    writer.as_guest(sql).map_err(failed)?;
    if !writer.in_transaction() {
        return Err(MigrationError::Transaction(name.clone()));
    }
    writer.as_host(|connection| {
        let note = "INSERT INTO _fnhost_migrations VALUES (?1, ?2, unixepoch())";
        connection.execute(note, [name, &sha256])
    })?;
    writer.as_guest("COMMIT").map_err(failed)?;
    Ok(true)
}
