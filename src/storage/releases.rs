//! The record of releases: which there are, of what they are made, and which answers.
//!
//! Owns `fnhost.db` in the state folder, an `SQLite` database in WAL mode, synced at each commit. **Invariant:** what a
//! transaction did is on disk when it returns, and a crash at any moment leaves the record before it or after it. Behind
//! each change a copy is written aside (`fnhost.db.copy`), from which a record that was damaged is restored.

mod database;
mod parts;
mod rows;

use super::artifacts::Digest256;
use super::sqlite::{Refusal, from_sql, to_sql};
use crate::names::Name;

use database::{connect, copy, copy_of, restore};
pub use parts::Used;
use parts::middleware_of;
pub use rows::{FunctionRecord, NewRelease, Pointers, ReleaseLine, ReleaseRecord, Source};
use rows::{digest, function, line, pointers};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// `SQLite` says so.
    #[error("the record of releases {}: {cause}", file.display())]
    Sqlite {
        /// The database.
        file: PathBuf,
        /// What it says.
        cause: rusqlite::Error,
    },
    /// A later version of the host wrote it.
    #[error("the record of releases {} was written by a later version of fnhost", file.display())]
    Later {
        /// The database.
        file: PathBuf,
    },
    /// It is damaged, and so is its copy, or there is none.
    #[error("the record of releases {} is damaged, and there is no copy of it; move it away, and deploy again", file.display())]
    Damaged {
        /// The database.
        file: PathBuf,
    },
}

/// The record.
pub struct Releases {
    file: PathBuf,
    connection: Mutex<Connection>,
}

impl Releases {
    /// Opens the record in `state`, which must be there; makes it, or restores it from its copy, if need be.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        let file = state.join("fnhost.db");
        let copy = copy_of(&file);
        // One without a byte would be taken for a new one.
        let gone = std::fs::metadata(&file).map_or(true, |metadata| metadata.len() == 0);
        let opened = if gone && copy.exists() { Err(Refusal::Gone) } else { connect(&file) };
        match opened {
            Ok(connection) => return Ok(Self { file, connection: Mutex::new(connection) }),
            Err(error) if error.is_damage() && copy.exists() => {}
            Err(error) if error.is_damage() => return Err(RecordError::Damaged { file }),
            Err(Refusal::Gone) => return Err(RecordError::Damaged { file }),
            Err(Refusal::Later) => return Err(RecordError::Later { file }),
            Err(Refusal::Sqlite(cause)) => return Err(RecordError::Sqlite { file, cause }),
        }
        tracing::warn!(file = %file.display(), "the record of releases is damaged; taking the copy of the last change");
        let restored = restore(&file, &copy).map_err(Refusal::Sqlite).and_then(|()| connect(&file));
        match restored {
            Ok(connection) => Ok(Self { file, connection: Mutex::new(connection) }),
            Err(_) => Err(RecordError::Damaged { file }),
        }
    }

    /// What this host alone knows.
    pub fn secret(&self) -> Result<String, RecordError> {
        self.read(|connection| connection.query_row("SELECT secret FROM host", [], |row| row.get(0)))
    }

    /// The apps, by name, and what of them answers.
    pub fn apps(&self) -> Result<Vec<(Name, Pointers)>, RecordError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare("SELECT name, live, canary, canary_parts FROM apps ORDER BY name")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, pointers(row, 1)?)))?;
            // Names were checked before they were written.
            rows.map(|row| row.map(|(name, pointers)| Name::new(&name).ok().map(|name| (name, pointers))))
                .filter_map(Result::transpose)
                .collect()
        })
    }

    /// What of `app` answers; nothing if there is no such app.
    pub fn pointers(&self, app: &Name) -> Result<Option<Pointers>, RecordError> {
        self.read(|connection| {
            let query = "SELECT live, canary, canary_parts FROM apps WHERE name = ?1";
            connection.query_row(query, [app.as_str()], |row| pointers(row, 0)).optional()
        })
    }

    /// The releases of `app`, the newest first.
    pub fn list(&self, app: &Name) -> Result<Vec<ReleaseLine>, RecordError> {
        self.read(|connection| {
            let query = "SELECT number, created_ms, source, message, digest, note FROM releases
                         WHERE app = ?1 ORDER BY number DESC";
            connection.prepare(query)?.query_map([app.as_str()], line)?.collect()
        })
    }

    /// One release, whole.
    pub fn find(&self, app: &Name, number: u64) -> Result<Option<ReleaseRecord>, RecordError> {
        self.read(|connection| {
            let query = "SELECT number, created_ms, source, message, digest, note, manifest, origin FROM releases
                         WHERE app = ?1 AND number = ?2";
            let found = connection
                .query_row(query, params![app.as_str(), to_sql(number)], |row| {
                    Ok((line(row)?, row.get(6)?, row.get(7)?))
                })
                .optional()?;
            let Some((line, manifest, origin)) = found else { return Ok(None) };
            let query = "SELECT name, component, kind, needs, bytes FROM functions
                         WHERE app = ?1 AND number = ?2 ORDER BY position";
            let mut functions = connection
                .prepare(query)?
                .query_map(params![app.as_str(), to_sql(number)], function)?
                .collect::<Result<Vec<_>, _>>()?;
            for (position, component) in middleware_of(connection, app, number)? {
                if let Some(function) = functions.get_mut(position) {
                    function.before.push(component);
                }
            }
            Ok(Some(ReleaseRecord { line, manifest, origin, functions }))
        })
    }

    /// What the component of this digest was found to be, by any release that has it with nothing composed before it: its kind
    /// and its needs.
    pub fn known(&self, component: &Digest256) -> Result<Option<(String, String)>, RecordError> {
        self.read(|connection| {
            let query = "SELECT kind, needs FROM functions WHERE component = ?1
                         AND (app, number, position) NOT IN (SELECT app, number, position FROM middleware) LIMIT 1";
            connection.query_row(query, [component.to_string()], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
    }

    /// The names of the functions of all releases of `app`.
    pub fn functions(&self, app: &Name) -> Result<HashSet<String>, RecordError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT DISTINCT name FROM functions WHERE app = ?1")?;
            statement.query_map([app.as_str()], |row| row.get(0))?.collect()
        })
    }

    /// The number that the next release of `app` will have: one more than any that it has had.
    pub fn next_number(&self, app: &Name) -> Result<u64, RecordError> {
        self.read(|connection| {
            let query = "SELECT next_number FROM apps WHERE name = ?1";
            let number: Option<i64> = connection.query_row(query, [app.as_str()], |row| row.get(0)).optional()?;
            Ok(number.map_or(1, from_sql))
        })
    }

    /// The release that was live before `number` became it; nothing where there was none, or is none any more.
    pub fn before(&self, app: &Name, number: u64) -> Result<Option<u64>, RecordError> {
        self.read(|connection| {
            let query = "SELECT before FROM releases WHERE app = ?1 AND number = ?2
                         AND before IN (SELECT number FROM releases WHERE app = ?1)";
            let found = connection.query_row(query, params![app.as_str(), to_sql(number)], |row| row.get(0));
            Ok(found.optional()?.map(from_sql))
        })
    }

    /// The digest of the newest release of `app` that came from a file.
    pub fn newest_of_file(&self, app: &Name) -> Result<Option<Digest256>, RecordError> {
        self.read(|connection| {
            let query = "SELECT digest FROM releases WHERE app = ?1 AND source = 'file' ORDER BY number DESC LIMIT 1";
            connection.query_row(query, [app.as_str()], |row| digest(row, 0)).optional()
        })
    }

    /// The apps whose live release came from the file `origin`, but `app`: as it was named before.
    pub fn others_of_file(&self, origin: &str, app: &Name) -> Result<Vec<Name>, RecordError> {
        self.read(|connection| {
            let query = "SELECT apps.name FROM apps JOIN releases ON app = apps.name AND number = live
                         WHERE source = 'file' AND origin = ?1 AND apps.name <> ?2";
            let mut statement = connection.prepare(query)?;
            let names = statement.query_map([origin, app.as_str()], |row| row.get::<_, String>(0))?;
            names.map(|name| name.map(|name| Name::new(&name).ok())).filter_map(Result::transpose).collect()
        })
    }

    /// Records release `number`, the next one, points as told, notes of others what became of them, and forgets the apps
    /// that it `replaces`. All or nothing.
    pub fn add(
        &self,
        number: u64,
        new: &NewRelease<'_>,
        pointers: Pointers,
        notes: &[(u64, &str)],
        replaces: &[Name],
    ) -> Result<(), RecordError> {
        let app = new.app.as_str();
        self.change(|transaction| {
            transaction.execute("INSERT INTO apps (name) VALUES (?1) ON CONFLICT DO NOTHING", [app])?;
            transaction
                .execute("UPDATE apps SET next_number = ?2 + 1 WHERE name = ?1", params![app, to_sql(number)])?;
            // A number that is taken is refused by the primary key.
            transaction.execute(
                "INSERT INTO releases (app, number, created_ms, source, message, manifest, digest, origin)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    app,
                    to_sql(number),
                    to_sql(now_ms()),
                    new.source.as_str(),
                    new.message,
                    new.manifest,
                    new.digest.to_string(),
                    new.origin
                ],
            )?;
            let mut statement = transaction.prepare("INSERT INTO functions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            for (position, function) in new.functions.iter().enumerate() {
                let FunctionRecord { name, component, before, kind, needs, bytes } = function;
                let (number, position, bytes) = (to_sql(number), to_sql(position as u64), to_sql(*bytes));
                statement.execute(params![app, number, position, name, component.to_string(), kind, needs, bytes])?;
                for (place, component) in (0_i64..).zip(before) {
                    let query = "INSERT INTO middleware VALUES (?1, ?2, ?3, ?4, ?5)";
                    transaction.execute(query, params![app, number, position, place, component.to_string()])?;
                }
            }
            drop(statement);
            for replaced in replaces {
                transaction.execute("DELETE FROM apps WHERE name = ?1", [replaced.as_str()])?;
            }
            note(transaction, app, notes)?;
            point(transaction, app, pointers)
        })
    }

    /// Points to other releases of `app`, and notes of some what became of them.
    pub fn point(&self, app: &Name, pointers: Pointers, notes: &[(u64, &str)]) -> Result<(), RecordError> {
        self.change(|transaction| {
            note(transaction, app.as_str(), notes)?;
            point(transaction, app.as_str(), pointers)
        })
    }

    /// Forgets the oldest releases of `app` but `keep`; never those that it points to, nor the one that was live before.
    /// Says how many went.
    pub fn prune(&self, app: &Name, keep: u32) -> Result<usize, RecordError> {
        self.change(|transaction| {
            transaction.execute(
                "DELETE FROM releases WHERE app = ?1
                 AND number NOT IN (SELECT number FROM releases WHERE app = ?1 ORDER BY number DESC LIMIT ?2)
                 AND number NOT IN (SELECT live FROM apps WHERE name = ?1 AND live IS NOT NULL)
                 AND number NOT IN (SELECT canary FROM apps WHERE name = ?1 AND canary IS NOT NULL)
                 AND number NOT IN (SELECT before FROM releases JOIN apps ON app = name AND number = live
                                    WHERE app = ?1 AND before IS NOT NULL)",
                params![app.as_str(), keep],
            )
        })
    }

    /// Forgets `app` and all its releases. Says whether there was such an app.
    pub fn remove(&self, app: &Name) -> Result<bool, RecordError> {
        self.change(|transaction| Ok(transaction.execute("DELETE FROM apps WHERE name = ?1", [app.as_str()])? > 0))
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, RecordError> {
        read(&self.connection()).map_err(|cause| self.failed(cause))
    }

    fn change<T>(&self, change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, RecordError> {
        let mut connection = self.connection();
        let changed = (|| {
            let transaction = connection.transaction()?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })();
        changed.map_err(|cause| self.failed(cause))
    }

    /// Writes the copy. Changes are safe without it; one that could not be made is as old as the one before.
    pub fn copy_aside(&self) {
        if let Err(error) = copy(&self.connection(), &copy_of(&self.file)) {
            tracing::warn!(%error, "the record of releases has no fresh copy");
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, cause: rusqlite::Error) -> RecordError {
        RecordError::Sqlite { file: self.file.clone(), cause }
    }
}

fn point(transaction: &Transaction<'_>, app: &str, pointers: Pointers) -> rusqlite::Result<()> {
    // Going back leaves what came before as it was, and so one can go back again.
    let before = "UPDATE releases SET before = (SELECT live FROM apps WHERE name = ?1)
                  WHERE app = ?1 AND number = ?2 AND before IS NULL
                  AND number > (SELECT live FROM apps WHERE name = ?1)";
    transaction.execute(before, params![app, pointers.live.map(to_sql)])?;
    // What became of a release is over when it is live again.
    let renewed = "UPDATE releases SET note = '' WHERE app = ?1 AND number = ?2
                   AND number IS NOT (SELECT live FROM apps WHERE name = ?1)";
    transaction.execute(renewed, params![app, pointers.live.map(to_sql)])?;
    let (canary, parts) = pointers.canary.map(|(number, parts)| (to_sql(number), parts)).unzip();
    transaction.execute(
        "UPDATE apps SET live = ?2, canary = ?3, canary_parts = ?4 WHERE name = ?1",
        params![app, pointers.live.map(to_sql), canary, parts],
    )?;
    Ok(())
}

fn note(transaction: &Transaction<'_>, app: &str, notes: &[(u64, &str)]) -> rusqlite::Result<()> {
    for (number, note) in notes {
        let change = "UPDATE releases SET note = ?3 WHERE app = ?1 AND number = ?2";
        transaction.execute(change, params![app, to_sql(*number), note])?;
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> Name {
        Name::new("app").unwrap()
    }

    fn add(releases: &Releases, message: &str, canary_parts: Option<u32>) -> u64 {
        let function = FunctionRecord {
            name: "hello".to_owned(),
            component: Digest256::of(message.as_bytes()),
            before: Vec::new(),
            kind: "http-0.2".to_owned(),
            needs: "1 2 3 4".to_owned(),
            bytes: 7,
        };
        let new = NewRelease {
            app: &app(),
            source: Source::Deploy,
            message,
            manifest: "name = \"app\"",
            origin: "",
            digest: Digest256::of(message.as_bytes()),
            functions: &[function],
        };
        let number = releases.next_number(&app()).unwrap();
        let before = releases.pointers(&app()).unwrap().unwrap_or_default();
        let pointers = match canary_parts {
            None => Pointers { live: Some(number), canary: None },
            Some(parts) => Pointers { canary: Some((number, parts)), ..before },
        };
        releases.add(number, &new, pointers, &[], &[]).unwrap();
        releases.copy_aside();
        number
    }

    #[test]
    fn releases_are_numbered_and_found_again() {
        let state = tempfile::tempdir().unwrap();
        let releases = Releases::open(state.path()).unwrap();
        assert_eq!(releases.pointers(&app()).unwrap(), None);
        assert_eq!((add(&releases, "one", None), add(&releases, "two", Some(100_000))), (1, 2));
        drop(releases);
        let releases = Releases::open(state.path()).unwrap();
        let pointers = Pointers { live: Some(1), canary: Some((2, 100_000)) };
        assert_eq!(releases.apps().unwrap(), [(app(), pointers)]);
        let found = releases.find(&app(), 2).unwrap().unwrap();
        assert_eq!((found.line.message.as_str(), found.functions.len()), ("two", 1));
        assert_eq!(releases.known(&Digest256::of(b"one")).unwrap().unwrap().0, "http-0.2");
        releases.point(&app(), Pointers { live: Some(1), canary: None }, &[(2, "it erred")]).unwrap();
        let lines = releases.list(&app()).unwrap();
        assert_eq!(
            lines.iter().map(|line| (line.number, line.note.as_str())).collect::<Vec<_>>(),
            [(2, "it erred"), (1, "")]
        );
    }

    #[test]
    fn going_back_leads_to_what_was_live_before_and_not_to_what_was_left() {
        let state = tempfile::tempdir().unwrap();
        let releases = Releases::open(state.path()).unwrap();
        let back = |from: u64| {
            let to = releases.before(&app(), from).unwrap();
            if to.is_some() {
                releases.point(&app(), Pointers { live: to, canary: None }, &[(from, "left")]).unwrap();
            }
            to
        };
        add(&releases, "one", None);
        add(&releases, "two, on trial", Some(1));
        add(&releases, "three", None);
        add(&releases, "four, bad", None);
        assert_eq!(back(4), Some(3));
        add(&releases, "five, bad as well", None);
        assert_eq!(back(5), Some(3), "and not the one that was left before");
        assert_eq!(back(3), Some(1), "and not the one on trial");
        assert_eq!(back(1), None);
        releases.point(&app(), Pointers { live: Some(4), canary: None }, &[]).unwrap();
        assert_eq!(releases.find(&app(), 4).unwrap().unwrap().line.note, "");
        assert_eq!(releases.find(&app(), 5).unwrap().unwrap().line.note, "left");
    }

    #[test]
    fn old_releases_go_and_live_ones_never() {
        let state = tempfile::tempdir().unwrap();
        let releases = Releases::open(state.path()).unwrap();
        for message in ["1", "2", "3", "4", "5"] {
            add(&releases, message, None);
        }
        releases.point(&app(), Pointers { live: Some(1), canary: None }, &[]).unwrap();
        assert_eq!(releases.prune(&app(), 2).unwrap(), 2);
        let left: Vec<u64> = releases.list(&app()).unwrap().iter().map(|line| line.number).collect();
        assert_eq!(left, [5, 4, 1]);
        // Nor does the one that was live before.
        releases.point(&app(), Pointers { live: Some(5), canary: None }, &[]).unwrap();
        assert_eq!((releases.prune(&app(), 1).unwrap(), releases.before(&app(), 5).unwrap()), (1, Some(4)));
        releases.point(&app(), Pointers { live: Some(4), canary: None }, &[]).unwrap();
        assert_eq!(releases.used().unwrap().components.len(), 2);
        // A number is never given twice, whatever was forgotten.
        assert_eq!(add(&releases, "6", None), 6);
        assert!(releases.remove(&app()).unwrap() && !releases.remove(&app()).unwrap());
        assert!(releases.used().unwrap().components.is_empty());
    }

    #[test]
    fn a_record_that_is_gone_or_empty_is_no_new_one_while_there_is_a_copy() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("fnhost.db");
        add(&Releases::open(state.path()).unwrap(), "one", None);
        let secret = Releases::open(state.path()).unwrap().secret().unwrap();
        for harm in [|file: &Path| std::fs::write(file, b""), |file: &Path| std::fs::remove_file(file)] {
            harm(&file).unwrap();
            let releases = Releases::open(state.path()).unwrap();
            assert_eq!(releases.list(&app()).unwrap().len(), 1);
            assert_eq!(releases.secret().unwrap(), secret);
        }
    }

    #[test]
    fn a_damaged_record_is_restored_from_its_copy() {
        let state = tempfile::tempdir().unwrap();
        let releases = Releases::open(state.path()).unwrap();
        add(&releases, "one", None);
        drop(releases);
        std::fs::write(state.path().join("fnhost.db"), b"not what it was, by far, and long enough to be read").unwrap();
        let releases = Releases::open(state.path()).unwrap();
        assert_eq!(releases.list(&app()).unwrap().len(), 1);
        drop(releases);
        std::fs::write(state.path().join("fnhost.db"), b"not what it was, by far, and long enough to be read").unwrap();
        std::fs::remove_file(state.path().join("fnhost.db.copy")).unwrap();
        assert!(matches!(Releases::open(state.path()), Err(RecordError::Damaged { .. })));
    }
}
