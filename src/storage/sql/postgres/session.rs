//! What a guest has open: a session with a database.
//!
//! **Invariant:** all statements of a session go through one connection, from its first to its last; one that is lost is not
//! replaced, since the session's settings and its transaction went with it.

use super::lease::{Lease, Rows, RunError};
use super::values::Value;
use super::{Pool, PostgresError, STATEMENT_BYTES_MAX};
use std::fmt;
use std::sync::Arc;

/// How often a first statement is tried: each time with a connection that another session left as it should not be left.
const TRIES: usize = 10;

/// A session with a database. It has a connection from its first statement on, until it is dropped.
pub struct Session {
    pool: Arc<Pool>,
    lease: Option<Lease>,
    /// It had a connection, and has none any more.
    is_lost: bool,
}

impl Session {
    /// Opens one; nothing is done until it is used.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, lease: None, is_lost: false }
    }

    /// Runs one statement, and returns its rows. Dropped before it is done, the statement is cancelled on the server, and the
    /// session is lost.
    pub async fn query(&mut self, statement: &str, parameters: &[Value]) -> Result<Rows, PostgresError> {
        self.run(statement, parameters, true).await
    }

    /// The same, and returns how many rows it touched; what it returned is passed over.
    pub async fn execute(&mut self, statement: &str, parameters: &[Value]) -> Result<u64, PostgresError> {
        Ok(self.run(statement, parameters, false).await?.touched)
    }

    async fn run(&mut self, text: &str, parameters: &[Value], wants_rows: bool) -> Result<Rows, PostgresError> {
        if text.len() > STATEMENT_BYTES_MAX {
            return Err(PostgresError::StatementTooLarge);
        }
        for attempt in 0..TRIES {
            let mut lease = match self.lease.take() {
                Some(lease) => lease,
                None if self.is_lost => return Err(PostgresError::Lost(String::new())),
                None => self.pool.shared.lease(attempt > 0).await?,
            };
            // Until it is back: if this is dropped at an `await`, it does not come back.
            self.is_lost = true;
            let done = lease.run(text, parameters, wants_rows).await;
            let unclean = matches!(done, Err(RunError::Unclean));
            if unclean || lease.is_usable() {
                self.is_lost = false;
            }
            match done {
                Err(RunError::Unclean) => {}
                Ok(_) | Err(RunError::Failed(_)) if self.is_lost => drop(lease),
                Ok(_) | Err(RunError::Failed(_)) => self.lease = Some(lease),
            }
            match done {
                Ok(rows) => return Ok(rows),
                Err(RunError::Failed(error)) => return Err(error),
                Err(RunError::Unclean) => {}
            }
        }
        Err(PostgresError::Unreachable("its connections cannot be cleaned between two sessions".to_owned()))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("pool", &self.pool).finish_non_exhaustive()
    }
}
