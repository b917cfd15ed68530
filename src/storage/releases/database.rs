//! The database itself: its layout, how it is opened, and the copy that it is restored from.

use crate::platform;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The layout of the database, in `user_version`.
const VERSION: i64 = 1;
/// How long a statement waits for another process that holds the database: one that hands its port over.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE host (secret TEXT NOT NULL) STRICT;
CREATE TABLE apps (
    name TEXT PRIMARY KEY,
    next_number INTEGER NOT NULL DEFAULT 1,
    live INTEGER,
    canary INTEGER,
    canary_parts INTEGER -- of a million
) STRICT;
CREATE TABLE releases (
    app TEXT NOT NULL REFERENCES apps (name) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    created_ms INTEGER NOT NULL, -- since the epoch of Unix
    source TEXT NOT NULL,
    message TEXT NOT NULL,
    manifest TEXT NOT NULL,
    digest TEXT NOT NULL, -- of the manifest and all components
    note TEXT NOT NULL DEFAULT '',
    origin TEXT NOT NULL, -- the functions.toml, of one that came from a file
    before INTEGER, -- the release in whose place it became live
    PRIMARY KEY (app, number)
) STRICT;
CREATE TABLE functions (
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    component TEXT NOT NULL, -- sha256
    kind TEXT NOT NULL,
    needs TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (app, number, position),
    FOREIGN KEY (app, number) REFERENCES releases (app, number) ON DELETE CASCADE
) STRICT;
CREATE INDEX functions_by_component ON functions (component);
";

/// Why a database was not opened.
pub(super) enum Refusal {
    /// There is nothing, where there was something.
    Gone,
    Later,
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Sqlite(cause)
    }
}

pub(super) fn connect(file: &Path) -> Result<Connection, Refusal> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let whole: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if whole != "ok" {
        let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(damaged, Some(whole)).into());
    }
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Refusal::Later);
    }
    if version < VERSION {
        let transaction = connection.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        let secret = platform::random_hex().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        transaction.execute("INSERT INTO host (secret) VALUES (?1)", [secret])?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    Ok(connection)
}

pub(super) fn is_damage(refusal: &Refusal) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let cause = match refusal {
        Refusal::Gone => return true,
        Refusal::Later => return false,
        Refusal::Sqlite(cause) => cause,
    };
    matches!(cause.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

pub(super) fn copy_of(file: &Path) -> PathBuf {
    file.with_extension("db.copy")
}

/// Writes all of the database to `copy`: aside, and renamed.
pub(super) fn copy(connection: &Connection, copy: &Path) -> rusqlite::Result<()> {
    let temporary = copy.with_extension("copy.tmp");
    // One that a crash left there would be added to.
    let _ = std::fs::remove_file(&temporary);
    connection.execute("VACUUM INTO ?1", [temporary.to_string_lossy()])?;
    std::fs::rename(&temporary, copy)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(format!("{}: {error}", copy.display()).into()))
}

/// Puts `copy` in the place of a damaged `file`, which is kept beside it. At each moment there is the one or the other.
pub(super) fn restore(file: &Path, copy: &Path) -> rusqlite::Result<()> {
    let restored = (|| {
        let temporary = file.with_extension("db.tmp");
        std::fs::copy(copy, &temporary)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        if file.exists() {
            // For whoever wants to look at it.
            let _ = std::fs::copy(file, file.with_extension("db.damaged"));
        }
        // What was under way in the damaged one belongs to it.
        for name in ["db-wal", "db-shm"] {
            let _ = std::fs::remove_file(file.with_extension(name));
        }
        std::fs::rename(&temporary, file)?;
        std::fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    restored.map_err(|error: std::io::Error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
