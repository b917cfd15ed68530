//! A store in a file of `SQLite`'s: reads at once, writes together.
//!
//! Who reads does so on its own thread, from one of a few connections: a look-up is some microseconds. Changes go into a queue;
//! one thread at a time takes what waits there, does it in one transaction, syncs once, and answers all. **Invariants:** a
//! change is answered when it is on the disk, and not before; it is done whole or not at all, and alone if it is refused;
//! nothing is known of the file but what was read in the same transaction, because another process may have it open for a
//! moment, while one host takes the place of another.

mod entries;

use super::change::{self, Answer, Change, Terms};
use super::{PAGE_KEYS, Page, StoreError, now_millis};
use crate::storage::sqlite::{self, Layout, Refusal, from_sql, to_sql};
use entries::Table;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior};
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

const SCHEMA: &str = "
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, -- grows with each new key
    key TEXT NOT NULL UNIQUE,
    expires_at INTEGER, -- milliseconds since the epoch of Unix; before the value, so that one that is long is not read for it
    value BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_expiry ON entries (expires_at) WHERE expires_at IS NOT NULL;
-- What the entries count as.
CREATE TABLE total (bytes INTEGER NOT NULL) STRICT;
INSERT INTO total VALUES (0);
";

const LAYOUT: Layout = Layout { version: 1, schema: SCHEMA, checked: false };

/// The most entries that one transaction changes, and the most bytes that it writes; a change that has more is done by itself.
const TRANSACTION_ENTRIES_MAX: usize = 1024;
const TRANSACTION_BYTES_MAX: usize = 8 << 20;
/// The most that waits in the queue, in KiB: who comes then waits for room.
const QUEUE_KIB: u32 = 64 << 10;
/// Connections that read and are kept. As many as threads that serve may be open at once.
const READERS_KEPT: usize = 16;
/// What the log of a file that is written a lot shrinks to again.
const WAL_BYTES: i64 = 64 << 20;

/// A file with a store, open. There is one for each file of a process.
pub struct Embedded {
    file: PathBuf,
    readers: Mutex<Vec<Connection>>,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    /// Nothing before the first change, and after one that failed.
    writer: Mutex<Option<Connection>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Whether a thread is at work on it.
    at_work: bool,
}

struct Waiting {
    change: Change,
    bytes: usize,
    terms: Terms,
    asker: Asker,
}

/// Who waits, and with what part of the queue's room.
struct Asker {
    answer: oneshot::Sender<Result<Answer, StoreError>>,
    _room: OwnedSemaphorePermit,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store in `file`, or makes one. May wait for a disk.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let mut connection = connect(file).map_err(|refusal| match refusal {
            Refusal::Later => StoreError::Unavailable("a later version of fnhost wrote it".to_owned()),
            Refusal::Gone => StoreError::Unavailable("its file is gone".to_owned()),
            Refusal::Sqlite(cause) => StoreError::Unavailable(cause.to_string()),
        })?;
        // Another process may be at work with it, and then forgets by itself.
        if let Err(cause) = forget(&mut connection) {
            tracing::warn!(file = %file.display(), %cause, "values whose time is over were not forgotten");
        }
        Ok(Self {
            file: file.to_owned(),
            readers: Mutex::default(),
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            writer: Mutex::new(Some(connection)),
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|connection| {
            let query = "SELECT value FROM entries WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)";
            let mut statement = connection.prepare_cached(query)?;
            statement.query_row((key, to_sql(now_millis())), |row| row.get(0)).optional()
        })
    }

    pub(super) fn exists(&self, key: &str) -> Result<bool, StoreError> {
        self.read(|connection| {
            let query = "SELECT 1 FROM entries WHERE key = ?1 AND (expires_at IS NULL OR expires_at > ?2)";
            connection.prepare_cached(query)?.exists((key, to_sql(now_millis())))
        })
    }

    pub(super) fn list(&self, after: Option<&str>) -> Result<Page<String>, StoreError> {
        self.read(|connection| {
            let query = "SELECT key, expires_at, id FROM entries WHERE key > ?1 ORDER BY key LIMIT ?2";
            let (keys, last) = list(connection, query, after.unwrap_or_default())?;
            Ok(Page { keys, next: last.map(|(key, _)| key) })
        })
    }

    pub(super) fn list_numbered(&self, after: Option<u64>) -> Result<Page<u64>, StoreError> {
        self.read(|connection| {
            let query = "SELECT key, expires_at, id FROM entries WHERE id > ?1 ORDER BY id LIMIT ?2";
            let (keys, last) = list(connection, query, to_sql(after.unwrap_or_default()))?;
            Ok(Page { keys, next: last.map(|(_, id)| id) })
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let kept = lock(&self.readers).pop();
        let read = kept.map_or_else(|| sqlite::connect_to_read(&self.file), Ok).and_then(|connection| {
            let done = work(&connection)?;
            Ok((connection, done))
        });
        let (connection, done) = read.map_err(|cause| self.explain(&cause, "read"))?;
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_KEPT {
            readers.push(connection);
        }
        Ok(done)
    }

    /// Does `change` with whatever else waits. It is done even if nobody waits for the answer any more.
    pub(super) async fn change(
        self: &Arc<Self>,
        change: Change,
        bytes: usize,
        terms: Terms,
    ) -> Result<Answer, StoreError> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1).min(QUEUE_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| given_up())?;
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back(Waiting { change, bytes, terms, asker: Asker { answer, _room: room } });
            !std::mem::replace(&mut queue.at_work, true)
        };
        if begins {
            let turn = Turn { at: Arc::clone(self), is_over: false };
            tokio::task::spawn_blocking(move || turn.work());
        }
        answered.await.map_err(|_| given_up())?
    }

    /// What to do next, within the bounds of one transaction. Without any, the thread's work is over.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = lock(&self.queue);
        let (mut entries, mut bytes) = (0, 0);
        let mut fits = |next: &Waiting| {
            entries += next.change.entries();
            bytes += next.bytes;
            entries <= TRANSACTION_ENTRIES_MAX && bytes <= TRANSACTION_BYTES_MAX
        };
        let count = queue.waiting.iter().take_while(|next| fits(next)).count();
        let count = count.max(1).min(queue.waiting.len());
        queue.at_work = count > 0;
        queue.waiting.drain(..count).collect()
    }

    fn write(&self, batch: Vec<Waiting>) {
        let (tasks, askers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| ((waiting.change, waiting.terms), waiting.asker)).unzip();
        let mut writer = lock(&self.writer);
        let connected = writer.take().map_or_else(|| connect(&self.file).map_err(broken), Ok);
        let done = connected.and_then(|mut connection| {
            let done = transact(&mut connection, tasks)?;
            *writer = Some(connection);
            Ok(done)
        });
        drop(writer);
        match done {
            Ok(done) => {
                for (asker, done) in askers.into_iter().zip(done) {
                    // Whoever went away does not hear of it.
                    let _ = asker.answer.send(done);
                }
            }
            Err(cause) => {
                let told = self.explain(&cause, "written");
                for asker in askers {
                    let _ = asker.answer.send(Err(told.clone()));
                }
            }
        }
    }

    /// The file's path is for the log, not for guests.
    fn explain(&self, cause: &rusqlite::Error, done: &str) -> StoreError {
        tracing::error!(file = %self.file.display(), %cause, "a key-value store cannot be {done}");
        StoreError::Unavailable(match cause {
            rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::DiskFull => {
                "the disk is full".to_owned()
            }
            rusqlite::Error::SqliteFailure(code, _) => code.to_string(),
            _ => "its file is not what it was".to_owned(),
        })
    }
}

/// The work of the one thread that writes. If it ends before its time (the host stops, or it panics), those who wait are told,
/// and another may begin.
struct Turn {
    at: Arc<Embedded>,
    is_over: bool,
}

impl Turn {
    fn work(mut self) {
        loop {
            let batch = self.at.take();
            if batch.is_empty() {
                self.is_over = true;
                return;
            }
            self.at.write(batch);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            let mut queue = lock(&self.at.queue);
            queue.at_work = false;
            queue.waiting.clear();
        }
    }
}

fn transact(
    connection: &mut Connection,
    tasks: Vec<(Change, Terms)>,
) -> rusqlite::Result<Vec<Result<Answer, StoreError>>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let now = now_millis();
    let mut table = Table::of(&transaction)?;
    let done = tasks.into_iter().map(|(change, terms)| change::apply(&mut table, change, &terms, now));
    let done = done.collect::<rusqlite::Result<_>>()?;
    change::forget(&mut table, now)?;
    table.keep_bytes()?;
    transaction.commit()?;
    Ok(done)
}

fn forget(connection: &mut Connection) -> rusqlite::Result<()> {
    while !transact_forgetting(connection)? {}
    Ok(())
}

/// Whether that was all.
fn transact_forgetting(connection: &mut Connection) -> rusqlite::Result<bool> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut table = Table::of(&transaction)?;
    let count = change::forget(&mut table, now_millis())?;
    table.keep_bytes()?;
    transaction.commit()?;
    Ok(count < change::FORGOTTEN_MAX)
}

fn connect(file: &Path) -> Result<Connection, Refusal> {
    let connection = sqlite::connect(file, &LAYOUT, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES, |_| Ok(()))?;
    Ok(connection)
}

fn broken(refusal: Refusal) -> rusqlite::Error {
    match refusal {
        Refusal::Sqlite(cause) => cause,
        Refusal::Gone | Refusal::Later => rusqlite::Error::InvalidQuery,
    }
}

type Listed = (Vec<String>, Option<(String, u64)>);

/// Keys of a page, and the last that was looked at, if there are more. Those whose time is over are passed over here, so that
/// any number of them takes no more time than a page of others.
fn list(connection: &Connection, query: &str, after: impl rusqlite::ToSql) -> rusqlite::Result<Listed> {
    let now = now_millis();
    let mut statement = connection.prepare_cached(query)?;
    let mut rows = statement.query((after, to_sql(PAGE_KEYS as u64 + 1)))?;
    let mut keys = Vec::new();
    let mut last = None;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        if count == PAGE_KEYS {
            return Ok((keys, last));
        }
        count += 1;
        let key: String = row.get(0)?;
        let expires_at: Option<i64> = row.get(1)?;
        if expires_at.is_none_or(|at| from_sql(at) > now) {
            keys.push(key.clone());
        }
        last = Some((key, from_sql(row.get(2)?)));
    }
    Ok((keys, None))
}

fn given_up() -> StoreError {
    StoreError::Unanswered("the host gave it up".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
