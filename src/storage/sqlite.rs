//! How an `SQLite` database of the host is opened: in WAL mode, synced at each commit, of a layout that is known.

use rusqlite::{Connection, OpenFlags, Transaction};
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for another process that holds the database: one that hands its port over.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The layout of a database.
pub(super) struct Layout {
    /// Its number, in `user_version`.
    pub(super) version: i64,
    /// Its tables.
    pub(super) schema: &'static str,
    /// Whether all of it is looked through when it is opened.
    pub(super) checked: bool,
}

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

impl Refusal {
    /// Whether the file is not what it was.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Gone => true,
            Self::Later => false,
            Self::Sqlite(cause) => is_damage(cause),
        }
    }
}

/// Whether `SQLite` says that the file is not what it was.
pub(super) fn is_damage(cause: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(cause.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Opens `file`, or makes it, with what `fill` puts into it first.
pub(super) fn connect(
    file: &Path,
    layout: &Layout,
    fill: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<Connection, Refusal> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if layout.checked {
        let whole: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if whole != "ok" {
            let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(damaged, Some(whole)).into());
        }
    }
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > layout.version {
        return Err(Refusal::Later);
    }
    if version < layout.version {
        let transaction = connection.transaction()?;
        transaction.execute_batch(layout.schema)?;
        fill(&transaction)?;
        transaction.pragma_update(None, "user_version", layout.version)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// Opens `file` to look at it, and nothing else.
pub(super) fn connect_to_read(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// The number as `SQLite` has it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way.
pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
