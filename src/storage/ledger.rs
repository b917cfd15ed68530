//! The ledger of usage: what each release of each function has used, by hour.
//!
//! Owns `usage.db` in the state folder. Amounts are only ever added, to the hour in which their requests ended; hours that
//! are over are not written again, but for the last requests of a host that is on its way out. One that is damaged is moved
//! aside, whenever that shows, and another begun. **Invariant:** what [`Ledger::add`] was given is counted once: a batch whose
//! commit failed is looked for, by its number, before it is tried again. A host that is killed loses what it had not added yet.

use super::sqlite::{self, Layout, Refusal, from_sql, to_sql};
use crate::platform::{self, FileStamp};
use crate::usage::{Account, Amounts, HOUR_SECONDS};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const SCHEMA: &str = "
CREATE TABLE usage (
    hour INTEGER NOT NULL, -- since the epoch of Unix
    app TEXT NOT NULL, -- nothing, where no route was found
    function TEXT NOT NULL,
    release INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    refused INTEGER NOT NULL, -- of those, the ones that are not billed
    errors INTEGER NOT NULL,
    cpu_nanos INTEGER NOT NULL,
    gb_seconds REAL NOT NULL, -- of 10^9 bytes
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    cold_start_nanos INTEGER NOT NULL,
    PRIMARY KEY (hour, app, function, release)
) STRICT, WITHOUT ROWID;
-- Who writes, and the number of the last batch of theirs that is in.
CREATE TABLE writers (id TEXT PRIMARY KEY, batch INTEGER NOT NULL, hour INTEGER NOT NULL) STRICT;
";

const LAYOUT: Layout = Layout { version: 1, schema: SCHEMA, checked: true };
/// The largest ledger that is looked through when it is opened, which takes some tenths of a second. Of a larger one, a damaged
/// page shows when it is read or written.
const CHECKED_BYTES_MAX: u64 = 64 << 20;
const HOURS_PER_DAY: u64 = 24;

const ADD: &str = "
INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, refused = refused + excluded.refused,
    errors = errors + excluded.errors, cpu_nanos = cpu_nanos + excluded.cpu_nanos,
    gb_seconds = gb_seconds + excluded.gb_seconds, bytes_in = bytes_in + excluded.bytes_in,
    bytes_out = bytes_out + excluded.bytes_out, cold_start_nanos = cold_start_nanos + excluded.cold_start_nanos";

/// Why the ledger cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// `SQLite` says so.
    #[error("the ledger of usage {}: {cause}", file.display())]
    Sqlite {
        /// The database.
        file: PathBuf,
        /// What it says.
        cause: rusqlite::Error,
    },
    /// A later version of the host wrote it.
    #[error("the ledger of usage {} was written by a later version of fnhost", file.display())]
    Later {
        /// The database.
        file: PathBuf,
    },
    /// It is damaged, and cannot be moved out of the way.
    #[error("the ledger of usage {} is damaged, and cannot be moved away: {cause}", file.display())]
    Damaged {
        /// The database.
        file: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
}

/// What usage is added up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By app and function.
    Function,
    /// By app.
    App,
    /// By app and release.
    Release,
    /// By hour.
    Hour,
}

impl By {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::App => "app",
            Self::Release => "release",
            Self::Hour => "hour",
        }
    }

    /// From such a word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Function, Self::App, Self::Release, Self::Hour].into_iter().find(|by| by.as_str() == name)
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Function => "0, app, function, 0",
            Self::App => "0, app, '', 0",
            Self::Release => "0, app, '', release",
            Self::Hour => "hour, '', '', 0",
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Function => "app, function",
            Self::App => "app",
            Self::Release => "app, release",
            Self::Hour => "hour",
        }
    }
}

/// A sum of the ledger. What it was not added up by is zero or empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Sum {
    /// Hours since the epoch of Unix.
    pub hour: u64,
    /// The app; nothing for requests that no route was found for.
    pub app: String,
    /// The function.
    pub function: String,
    /// The number of the release.
    pub release: u64,
    /// What it came to.
    pub amounts: Amounts,
}

/// The ledger, open to be added to.
pub struct Ledger {
    file: PathBuf,
    /// Nothing, where it could not be opened again.
    connection: Option<Connection>,
    /// What the file was when it was opened.
    opened: Option<FileStamp>,
    /// Whose batches these are: this process's, among those that may write at the same time.
    writer: String,
    /// The number of the last batch.
    batch: u64,
    /// The last batch, if it may or may not be in.
    unsettled: Option<HashMap<Account, Amounts>>,
    keep_days: u32,
    /// Up to which hour old ones were forgotten.
    forgotten: u64,
}

impl Ledger {
    /// Opens the ledger in `state`, which must be there, or makes it. Hours are kept for `keep_days`. A damaged one is moved
    /// away, and another begun: what is used from now on is not lost with it.
    pub fn open(state: &Path, keep_days: u32) -> Result<Self, LedgerError> {
        let file = state.join("usage.db");
        let (connection, opened) = (Some(connect(&file)?), stamp(&file));
        let writer = platform::random_hex().map_err(|cause| LedgerError::Damaged { file: file.clone(), cause })?;
        Ok(Self { file, connection, opened, writer, batch: 0, unsettled: None, keep_days, forgotten: 0 })
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Adds `amounts`, and takes them out of there. If that fails, they are kept, and added with the next. If the ledger turns
    /// out to be damaged, they are added to another.
    pub fn add(&mut self, amounts: &mut HashMap<Account, Amounts>) -> Result<(), LedgerError> {
        let mut added = self.try_add(amounts);
        if let Err(LedgerError::Sqlite { cause, .. }) = &added
            && sqlite::is_damage(cause)
        {
            self.replace()?;
            added = self.try_add(amounts);
        }
        added
    }

    /// Requests that it was given, and that may not be in.
    pub fn unsettled(&self) -> u64 {
        self.unsettled.iter().flatten().map(|(_, amounts)| amounts.requests).sum()
    }

    fn try_add(&mut self, amounts: &mut HashMap<Account, Amounts>) -> Result<(), LedgerError> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let connection = connect(&self.file)?;
            self.opened = stamp(&self.file);
            connection
        };
        let added = self.add_to(&mut connection, amounts);
        self.connection = Some(connection);
        added.map_err(|cause| LedgerError::Sqlite { file: self.file.clone(), cause })
    }

    fn add_to(&mut self, connection: &mut Connection, amounts: &mut HashMap<Account, Amounts>) -> rusqlite::Result<()> {
        self.settle(connection, amounts)?;
        if amounts.is_empty() {
            return Ok(());
        }
        self.batch += 1;
        let batch = std::mem::take(amounts);
        let written = self.write(connection, &batch);
        if written.is_err() {
            self.unsettled = Some(batch);
        }
        written
    }

    /// Finds out whether the last batch is in after all; if not, it is among `amounts` again.
    fn settle(&mut self, connection: &Connection, amounts: &mut HashMap<Account, Amounts>) -> rusqlite::Result<()> {
        if self.unsettled.is_none() {
            return Ok(());
        }
        let query = "SELECT batch FROM writers WHERE id = ?1";
        let last: Option<i64> = connection.query_row(query, [&self.writer], |row| row.get(0)).optional()?;
        let is_in = last.is_some_and(|last| from_sql(last) >= self.batch);
        for (account, amount) in self.unsettled.take().into_iter().flatten().filter(|_| !is_in) {
            amounts.entry(account).or_default().add(&amount);
        }
        Ok(())
    }

    fn write(&mut self, connection: &mut Connection, batch: &HashMap<Account, Amounts>) -> rusqlite::Result<()> {
        let now = this_hour();
        let transaction = connection.transaction()?;
        {
            let mut add = transaction.prepare(ADD)?;
            for (account, amounts) in batch {
                let (app, function) =
                    account.function.as_ref().map_or(("", ""), |(app, name)| (app.as_str(), name.as_str()));
                add.execute(params![
                    to_sql(account.hour),
                    app,
                    function,
                    to_sql(account.release),
                    to_sql(amounts.requests),
                    to_sql(amounts.refused),
                    to_sql(amounts.errors),
                    to_sql(amounts.cpu_nanos),
                    amounts.gb_seconds,
                    to_sql(amounts.bytes_in),
                    to_sql(amounts.bytes_out),
                    to_sql(amounts.cold_start_nanos),
                ])?;
            }
        }
        transaction.execute(
            "INSERT INTO writers VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET batch = excluded.batch, hour = excluded.hour",
            params![self.writer, to_sql(self.batch), to_sql(now)],
        )?;
        if self.forgotten < now {
            forget(&transaction, now, self.keep_days)?;
        }
        transaction.commit()?;
        self.forgotten = now;
        Ok(())
    }

    /// Moves a ledger out of the way that turned out to be damaged, unless another host has done so: one that hands over, or
    /// the one that took over.
    fn replace(&mut self) -> Result<(), LedgerError> {
        // Closed first: on its way out it removes the log beside it, by its name.
        self.connection = None;
        let is_another = stamp(&self.file).zip(self.opened).is_some_and(|(now, then)| !now.is_same_file(&then));
        if is_another { Ok(()) } else { set_aside(&self.file) }
    }

    /// What there is from `since` to `until`, in hours, added up: in the order of apps and functions, or of hours. The ledger
    /// is at `file`, and may be written meanwhile.
    pub fn sums(file: &Path, by: By, since: u64, until: u64) -> Result<Vec<Sum>, LedgerError> {
        let read = || -> rusqlite::Result<Vec<Sum>> {
            let connection = sqlite::connect_to_read(file)?;
            let query = format!(
                "SELECT {}, sum(requests), sum(refused), sum(errors), sum(cpu_nanos), sum(gb_seconds), sum(bytes_in),
                 sum(bytes_out), sum(cold_start_nanos) FROM usage WHERE hour >= ?1 AND hour < ?2 GROUP BY {1} ORDER BY {1}",
                by.columns(),
                by.group(),
            );
            connection.prepare(&query)?.query_map([to_sql(since), to_sql(until)], sum)?.collect()
        };
        read().map_err(|cause| LedgerError::Sqlite { file: file.to_owned(), cause })
    }
}

/// The hour that it is.
pub fn this_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / HOUR_SECONDS)
}

fn stamp(file: &Path) -> Option<FileStamp> {
    std::fs::metadata(file).ok().and_then(|metadata| FileStamp::of(&metadata))
}

fn connect(file: &Path) -> Result<Connection, LedgerError> {
    let checked = std::fs::metadata(file).is_ok_and(|metadata| metadata.len() <= CHECKED_BYTES_MAX);
    let layout = Layout { checked, ..LAYOUT };
    let connected = match sqlite::connect(file, &layout, |_| Ok(())) {
        Err(refusal) if refusal.is_damage() => {
            set_aside(file)?;
            sqlite::connect(file, &layout, |_| Ok(()))
        }
        connected => connected,
    };
    connected.map_err(|refusal| match refusal {
        Refusal::Later => LedgerError::Later { file: file.to_owned() },
        Refusal::Gone => LedgerError::Damaged { file: file.to_owned(), cause: std::io::ErrorKind::NotFound.into() },
        Refusal::Sqlite(cause) => LedgerError::Sqlite { file: file.to_owned(), cause },
    })
}

/// Moves a damaged ledger out of the way, and with it the log of what was under way in it.
fn set_aside(file: &Path) -> Result<(), LedgerError> {
    // There may be another of the same second.
    let aside = file.with_extension(format!("damaged-{}-{:08x}", platform::unix_seconds(), fastrand::u32(..)));
    tracing::error!(
        file = %file.display(), kept = %aside.display(),
        "the ledger of usage is damaged; it is kept aside, and another is begun"
    );
    std::fs::rename(file, &aside).map_err(|cause| LedgerError::Damaged { file: file.to_owned(), cause })?;
    let beside = |file: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", file.display()));
    // Neither need be there.
    let _ = std::fs::rename(beside(file, "-wal"), beside(&aside, "-wal"));
    let _ = std::fs::remove_file(beside(file, "-shm"));
    Ok(())
}

/// Forgets what is older than `keep_days`, and writers of yesterday.
fn forget(transaction: &Transaction<'_>, now: u64, keep_days: u32) -> rusqlite::Result<()> {
    let days = |days: u64| to_sql(now.saturating_sub(days * HOURS_PER_DAY));
    transaction.execute("DELETE FROM usage WHERE hour < ?1", [days(keep_days.into())])?;
    transaction.execute("DELETE FROM writers WHERE hour < ?1", [days(1)])?;
    Ok(())
}

fn sum(row: &Row<'_>) -> rusqlite::Result<Sum> {
    let number = |at: usize| row.get(at).map(from_sql);
    Ok(Sum {
        hour: number(0)?,
        app: row.get(1)?,
        function: row.get(2)?,
        release: number(3)?,
        amounts: Amounts {
            requests: number(4)?,
            refused: number(5)?,
            errors: number(6)?,
            cpu_nanos: number(7)?,
            gb_seconds: row.get(8)?,
            bytes_in: number(9)?,
            bytes_out: number(10)?,
            cold_start_nanos: number(11)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Name;

    fn account(hour: u64, function: &str, release: u64) -> Account {
        Account { hour, function: Some((Name::new("demo").unwrap(), Name::new(function).unwrap())), release }
    }

    fn amounts(of: &[(Account, u64)]) -> HashMap<Account, Amounts> {
        let amount = |requests| Amounts { requests, gb_seconds: 0.5, ..Amounts::default() };
        of.iter().map(|(account, requests)| (account.clone(), amount(*requests))).collect()
    }

    #[test]
    fn amounts_add_up_by_what_is_asked_for() {
        let state = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(state.path(), 400).unwrap();
        let now = this_hour();
        let unrouted = Account { hour: now, function: None, release: 0 };
        ledger.add(&mut amounts(&[(account(now, "a", 1), 1), (account(now, "b", 1), 2), (unrouted, 9)])).unwrap();
        ledger.add(&mut amounts(&[(account(now, "a", 1), 10), (account(now - 1, "a", 2), 20)])).unwrap();
        let sums = |by, since| -> Vec<(String, String, u64, u64)> {
            let sums = Ledger::sums(ledger.file(), by, since, now + 1).unwrap();
            sums.into_iter().map(|sum| (sum.app, sum.function, sum.release, sum.amounts.requests)).collect()
        };
        let named =
            |app: &str, function: &str, release, requests| (app.to_owned(), function.to_owned(), release, requests);
        assert_eq!(sums(By::Function, 0), [named("", "", 0, 9), named("demo", "a", 0, 31), named("demo", "b", 0, 2)]);
        assert_eq!(sums(By::App, now), [named("", "", 0, 9), named("demo", "", 0, 13)]);
        assert_eq!(sums(By::Release, 0)[1..], [named("demo", "", 1, 13), named("demo", "", 2, 20)]);
        let hours: Vec<u64> =
            Ledger::sums(ledger.file(), By::Hour, 0, now + 1).unwrap().iter().map(|sum| sum.hour).collect();
        assert_eq!(hours, [now - 1, now]);
    }

    #[test]
    fn a_batch_whose_fate_is_unknown_is_counted_once() {
        let state = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(state.path(), 400).unwrap();
        let now = this_hour();
        let one = || amounts(&[(account(now, "a", 1), 1)]);
        let total = |ledger: &Ledger| Ledger::sums(ledger.file(), By::App, 0, now + 1).unwrap()[0].amounts.requests;
        ledger.add(&mut one()).unwrap();
        // It was in, though its commit said otherwise.
        ledger.unsettled = Some(one());
        ledger.add(&mut HashMap::new()).unwrap();
        assert_eq!(total(&ledger), 1);
        // It was not.
        ledger.batch += 1;
        ledger.unsettled = Some(one());
        ledger.add(&mut HashMap::new()).unwrap();
        assert_eq!(total(&ledger), 2);
    }

    #[test]
    fn what_cannot_be_written_now_is_written_later() {
        let state = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(state.path(), 400).unwrap();
        let now = this_hour();
        ledger.connection.as_ref().unwrap().busy_timeout(std::time::Duration::from_millis(1)).unwrap();
        let other = Connection::open(ledger.file()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut waiting = amounts(&[(account(now, "a", 1), 1)]);
        assert!(ledger.add(&mut waiting).is_err());
        assert!(waiting.is_empty(), "the ledger has them");
        assert_eq!(ledger.unsettled(), 1);
        assert!(ledger.add(&mut amounts(&[(account(now, "a", 1), 5)])).is_err());
        other.execute_batch("ROLLBACK").unwrap();
        ledger.add(&mut amounts(&[(account(now, "a", 1), 10)])).unwrap();
        assert_eq!(Ledger::sums(ledger.file(), By::App, 0, now + 1).unwrap()[0].amounts.requests, 16);
    }

    #[test]
    fn old_hours_are_forgotten_and_a_damaged_ledger_is_kept_aside() {
        let state = tempfile::tempdir().unwrap();
        let now = this_hour();
        let mut ledger = Ledger::open(state.path(), 2).unwrap();
        ledger.add(&mut amounts(&[(account(now - 49, "a", 1), 1), (account(now - 47, "a", 1), 2)])).unwrap();
        let sums = |file: &Path| Ledger::sums(file, By::App, 0, now + 1).unwrap();
        assert_eq!(sums(ledger.file())[0].amounts.requests, 2);
        let file = ledger.file().to_owned();
        drop(ledger);
        std::fs::write(&file, [7; 5000]).unwrap();
        let mut ledger = Ledger::open(state.path(), 2).unwrap();
        ledger.add(&mut amounts(&[(account(now, "a", 1), 4)])).unwrap();
        assert_eq!(sums(&file)[0].amounts.requests, 4);
        let aside = std::fs::read_dir(state.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("usage.damaged-"));
        assert_eq!(aside.count(), 1);
    }
}
