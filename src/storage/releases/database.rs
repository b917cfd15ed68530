//! The database itself: its layout, how it is opened, and the copy that it is restored from.

use crate::platform;
use crate::storage::sqlite::{self, Layout, Refusal};
use rusqlite::Connection;
use std::path::{Path, PathBuf};

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

/// What came later. A version of the host that does not know it cannot read a functions.toml that needs it either.
const ADDED: &str = "
CREATE TABLE IF NOT EXISTS middleware (
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    position INTEGER NOT NULL, -- of the function
    place INTEGER NOT NULL, -- in the chain before it
    component TEXT NOT NULL, -- sha256
    PRIMARY KEY (app, number, position, place),
    FOREIGN KEY (app, number, position) REFERENCES functions (app, number, position) ON DELETE CASCADE
) STRICT;
";

const LAYOUT: Layout = Layout { version: 1, schema: SCHEMA, checked: true };

/// Opens the record, or makes it.
pub(super) fn connect(file: &Path) -> Result<Connection, Refusal> {
    let connection = sqlite::connect(file, &LAYOUT, |transaction| {
        let secret = platform::random_hex().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        transaction.execute("INSERT INTO host (secret) VALUES (?1)", [secret]).map(drop)
    })?;
    connection.execute_batch(ADDED)?;
    Ok(connection)
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
