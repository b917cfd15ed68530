//! An embedded database of an app: one file, one connection that writes, some that read.
//!
//! A [`Session`] is what a guest has open. It has no connection of its own: each statement borrows one, on a thread that may
//! wait for a disk, and only a transaction keeps the writing one until it ends. **Invariants:** a statement reaches nothing
//! but the database's own file ([`guard`]); whoever goes away, at any moment, leaves no transaction behind.

mod guard;

use super::super::sqlite::BUSY_TIMEOUT;
use guard::Seen;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections that read, at once.
const READERS: usize = 4;
/// How long a statement waits for somebody else's transaction, as `SQLite`'s own busy timeout would have it.
const WRITER_WAIT: Duration = Duration::from_secs(5);
/// How often the host looks whether it is its turn.
const WRITER_LOOK: Duration = Duration::from_millis(2);
/// The most bytes of one result, and of one value.
pub const RESULT_BYTES_MAX: usize = 16 << 20;
/// The most rows of one result.
pub const ROWS_MAX: usize = 100_000;
/// The most bytes of one statement.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Steps of `SQLite`'s machine after which it is asked whether anybody still wants the result: some tens of microseconds.
const STEPS: i32 = 1000;
/// Statements that each connection keeps prepared.
const PREPARED: usize = 64;
/// Bytes of a page, as `SQLite` has it by default.
const PAGE_BYTES: u64 = 4096;

/// A value of a row, or of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `NULL`
    Null,
    /// `INTEGER`
    Integer(i64),
    /// `REAL`
    Real(f64),
    /// `TEXT`
    Text(String),
    /// `BLOB`
    Blob(Vec<u8>),
}

/// What a statement returned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// A value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// Why a statement was not done.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// It would reach beyond the database, or change what is the host's.
    #[error("{0} is not allowed here")]
    Denied(String),
    /// The database may not grow.
    #[error("the database is full")]
    Full,
    /// The result is more than is given out at once.
    #[error("the result has more than {} MiB, or more than {ROWS_MAX} rows", RESULT_BYTES_MAX >> 20)]
    TooLarge,
    /// Somebody else's transaction took too long.
    #[error("the database is locked")]
    Busy,
    /// The session has another statement at work.
    #[error("another statement of this connection is not done yet")]
    Underway,
    /// `SQLite` says so.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The thread that worked on it is gone.
    #[error("the statement was given up")]
    Lost,
}

/// A database, open. Everybody who uses it shares it.
#[derive(Debug)]
pub struct Database {
    file: PathBuf,
    size_bytes_max: u64,
    readers: Lane,
    writer: Lane,
}

/// Connections of one sort: those that nobody uses now, and as many permits as there may be.
#[derive(Debug)]
struct Lane {
    idle: Mutex<Vec<Connected>>,
    permits: Arc<Semaphore>,
    writes: bool,
}

/// A connection, and what is seen of it.
#[derive(Debug)]
struct Connected {
    connection: Connection,
    seen: Arc<Seen>,
}

impl Database {
    /// The database in `file`, which is made if it is not there.
    pub fn open(file: &Path, size_bytes_max: u64) -> Result<Self, SqliteError> {
        let lane =
            |permits, writes| Lane { idle: Mutex::default(), permits: Arc::new(Semaphore::new(permits)), writes };
        let database =
            Self { file: file.to_owned(), size_bytes_max, readers: lane(READERS, false), writer: lane(1, true) };
        // Now, so that one that cannot be opened is told of when its app is installed.
        let connected = database.connect(true)?;
        lock(&database.writer.idle).push(connected);
        Ok(database)
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn connect(&self, writes: bool) -> Result<Connected, SqliteError> {
        let access = if writes {
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
        } else {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        };
        let mut connection = Connection::open_with_flags(&self.file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        // Another process has it only while one host takes the place of another.
        connection.busy_timeout(BUSY_TIMEOUT)?;
        if writes {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            let pages = i64::try_from(self.size_bytes_max / PAGE_BYTES).unwrap_or(i64::MAX).max(1);
            connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        let bytes = i32::try_from(RESULT_BYTES_MAX).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes)?;
        let bytes = i32::try_from(STATEMENT_BYTES_MAX).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, bytes)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        let seen = guard::install(&mut connection)?;
        Ok(Connected { connection, seen })
    }

    fn take(&self, lane: &Lane) -> Result<Connected, SqliteError> {
        let idle = lock(&lane.idle).pop();
        idle.map_or_else(|| self.connect(lane.writes), Ok)
    }

    /// Does `work`, the host's own, with the connection that writes. May wait for a disk, and for whoever has a transaction
    /// open.
    pub(super) fn with_writer<T, E: From<SqliteError>>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, E>,
    ) -> Result<T, E> {
        let deadline = Instant::now() + WRITER_WAIT;
        let _permit = loop {
            match Arc::clone(&self.writer.permits).try_acquire_owned() {
                Ok(permit) => break permit,
                Err(_) if Instant::now() > deadline => return Err(SqliteError::Busy.into()),
                Err(_) => std::thread::sleep(WRITER_LOOK),
            }
        };
        let mut writer = Writer(self.take(&self.writer)?);
        let done = work(&mut writer);
        if writer.0.leave() {
            lock(&self.writer.idle).push(writer.0);
        }
        done
    }
}

/// The connection that writes, in the host's own hands.
pub(super) struct Writer(Connected);

impl Writer {
    /// Runs statements that are held to what a guest may do.
    pub(super) fn as_guest(&mut self, statements: &str) -> Result<(), SqliteError> {
        let Connected { connection, seen } = &mut self.0;
        connection.execute_batch(statements).map_err(|cause| explain(cause.into(), seen))
    }

    /// Does what no guest may.
    pub(super) fn as_host<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, SqliteError> {
        self.0.seen.trust(true);
        let done = work(&self.0.connection);
        self.0.seen.trust(false);
        Ok(done?)
    }

    /// Whether a transaction is open.
    pub(super) fn in_transaction(&self) -> bool {
        !self.0.connection.is_autocommit()
    }
}

impl Connected {
    /// Ends what is open; whether the connection can be used again.
    fn leave(&mut self) -> bool {
        let quiet = self.connection.progress_handler(0, None::<fn() -> bool>).is_ok();
        quiet && self.end_transaction()
    }

    fn end_transaction(&self) -> bool {
        self.connection.is_autocommit() || self.connection.execute_batch("ROLLBACK").is_ok()
    }
}

/// A connection that is somebody's for now. Dropped, it goes back, without a transaction.
#[derive(Debug)]
struct Lease {
    database: Arc<Database>,
    connected: Option<Connected>,
    writes: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connected) = self.connected.take() else { return };
        if connected.leave() {
            let lane = if self.writes { &self.database.writer } else { &self.database.readers };
            lock(&lane.idle).push(connected);
        }
    }
}

/// What a guest has open.
#[derive(Debug)]
pub struct Session {
    database: Arc<Database>,
    /// While a transaction is open.
    transaction: Option<Lease>,
    tallies: Tallies,
}

/// What `SQLite` remembers of a connection, kept for a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tallies {
    last_insert_rowid: i64,
    changes: i64,
    total_changes: i64,
}

impl Session {
    /// Opens a session; nothing is done until it is used.
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, transaction: None, tallies: Tallies::default() }
    }

    /// The row that it inserted last; 0 before the first.
    pub fn last_insert_rowid(&self) -> i64 {
        self.tallies.last_insert_rowid
    }

    /// How many rows its last insert, update or delete touched.
    pub fn changes(&self) -> u64 {
        u64::try_from(self.tallies.changes).unwrap_or(0)
    }

    /// Runs one statement. Dropped before it is done, the statement is interrupted, and its transaction rolled back.
    pub async fn execute(&mut self, statement: String, parameters: Vec<Value>) -> Result<Rows, SqliteError> {
        let mut lease = match self.transaction.take() {
            Some(lease) => lease,
            None if guard::writes(&statement) => borrow(&self.database, true).await?,
            None => borrow(&self.database, false).await?,
        };
        let mut job = Job { statement, parameters, tallies: self.tallies };
        loop {
            let (back, job_back, done) = on_a_thread(lease, job).await?;
            let in_transaction = back.connected.as_ref().is_some_and(|it| !it.connection.is_autocommit());
            match done {
                // It writes, though it did not look like it.
                Ok(None) => {
                    drop(back);
                    lease = borrow(&self.database, true).await?;
                    job = job_back;
                }
                done => {
                    self.tallies = job_back.tallies;
                    if in_transaction {
                        self.transaction = Some(back);
                    } else {
                        give_back(back);
                    }
                    return done.map(Option::unwrap_or_default);
                }
            }
        }
    }
}

/// Waits for a connection. One is taken, or made, where it may wait for a disk.
async fn borrow(database: &Arc<Database>, writes: bool) -> Result<Lease, SqliteError> {
    let lane = if writes { &database.writer } else { &database.readers };
    let permit = tokio::time::timeout(WRITER_WAIT, Arc::clone(&lane.permits).acquire_owned());
    let permit = permit.await.map_err(|_| SqliteError::Busy)?.map_err(|_| SqliteError::Lost)?;
    Ok(Lease { database: Arc::clone(database), connected: None, writes, _permit: permit })
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(lease) = self.transaction.take() {
            give_back(lease);
        }
    }
}

/// Gives a connection back. Rolling back may wait for a disk, which whoever serves requests should not.
fn give_back(lease: Lease) {
    let in_transaction = lease.connected.as_ref().is_some_and(|it| !it.connection.is_autocommit());
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) if in_transaction => drop(runtime.spawn_blocking(move || drop(lease))),
        _ => drop(lease),
    }
}

struct Job {
    statement: String,
    parameters: Vec<Value>,
    tallies: Tallies,
}

/// Set when nobody waits for the result any more.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Done = (Lease, Job, Result<Option<Rows>, SqliteError>);

/// Runs `job`; nothing comes of it if it needs a connection that writes, and this is none. If this is dropped, the statement
/// is interrupted, and the connection goes back from the thread that had it.
async fn on_a_thread(mut lease: Lease, mut job: Job) -> Result<Done, SqliteError> {
    let given_up = GiveUp(Arc::default());
    let flag = Arc::clone(&given_up.0);
    let work = move || {
        let done = run(&mut lease, &mut job, &flag);
        (lease, job, done)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| SqliteError::Lost)
}

fn run(lease: &mut Lease, job: &mut Job, given_up: &Arc<AtomicBool>) -> Result<Option<Rows>, SqliteError> {
    if given_up.load(Ordering::Relaxed) {
        return Err(SqliteError::Lost);
    }
    if lease.connected.is_none() {
        let lane = if lease.writes { &lease.database.writer } else { &lease.database.readers };
        lease.connected = Some(lease.database.take(lane)?);
    }
    let Some(Connected { connection, seen }) = &mut lease.connected else { return Err(SqliteError::Lost) };
    let flag = Arc::clone(given_up);
    connection.progress_handler(STEPS, Some(move || flag.load(Ordering::Relaxed)))?;
    seen.begin(connection, job.tallies);
    let done = query(connection, lease.writes, job).map_err(|error| explain(error, seen));
    if lease.writes {
        job.tallies = seen.tallies(connection, job.tallies, guard::is_change(&job.statement));
    }
    done
}

fn query(connection: &Connection, writes: bool, job: &Job) -> Result<Option<Rows>, SqliteError> {
    let mut statement = connection.prepare_cached(&job.statement)?;
    if !writes && !statement.readonly() {
        return Ok(None);
    }
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let width = columns.len();
    let mut found = statement.query(params_from_iter(job.parameters.iter()))?;
    let mut rows = Vec::new();
    let mut bytes: usize = columns.iter().map(String::len).sum();
    while let Some(row) = found.next()? {
        let mut values = Vec::with_capacity(width);
        for at in 0..width {
            let value = value_of(row.get_ref(at)?);
            bytes += size_of::<Value>() + value.bytes();
            values.push(value);
        }
        if bytes > RESULT_BYTES_MAX || rows.len() == ROWS_MAX {
            return Err(SqliteError::TooLarge);
        }
        rows.push(values);
    }
    Ok(Some(Rows { columns, rows }))
}

fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Real(number),
        // SQLite does not check that a text is UTF-8.
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
    }
}

impl Value {
    fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn explain(error: SqliteError, seen: &Seen) -> SqliteError {
    // How SQLite puts a denial depends on where it meets it.
    if let Some(denied) = seen.denied() {
        return SqliteError::Denied(denied);
    }
    let SqliteError::Sqlite(cause) = &error else { return error };
    match cause.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SqliteError::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SqliteError::Busy,
        _ => error,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
