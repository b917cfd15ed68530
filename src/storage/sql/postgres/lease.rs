//! A server connection in the hands of one session, and what that session does with it.
//!
//! **Invariants:** nobody gets an answer from a connection before the last session's traces are known to be gone; a lease that
//! is dropped gives its connection back cleaned, or closes it, at whatever moment that is.

use super::connection::{Cleaning, Connected};
use super::pool::Shared;
use super::statement::{Effect, Trace};
use super::values::{ColumnType, Misfit, Parameter, Value};
use super::{PostgresError, RESULT_BYTES_MAX, ROWS_MAX};
use futures_core::Stream as _;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio_postgres::{Client, Row, Statement};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub kind: ColumnType,
}

/// What a statement returned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// Its columns, whether there are rows or not.
    pub columns: Vec<Column>,
    /// A value for each column.
    pub rows: Vec<Vec<Value>>,
    /// How many rows it returned, or touched.
    pub touched: u64,
}

/// A connection that is one session's.
pub(super) struct Lease {
    pool: Arc<Shared>,
    connected: Option<Connected>,
    traces: Traces,
}

/// What a session has done with its connection, as far as the host can see.
struct Traces {
    /// Anything.
    any: bool,
    /// A statement is at work.
    busy: bool,
    /// The most that a statement left, as their texts have it.
    left: Trace,
}

/// Why a statement was not done.
pub(super) enum RunError {
    /// The last session's traces could not be taken away. Nothing was done; another connection will do it.
    Unclean,
    Failed(PostgresError),
}

impl Lease {
    pub(super) fn new(pool: &Arc<Shared>, connected: Connected) -> Self {
        let traces = Traces { any: false, busy: false, left: Trace::None };
        Self { pool: Arc::clone(pool), connected: Some(connected), traces }
    }

    /// The connection, as it came.
    pub(super) fn untouched(mut self) -> Option<Connected> {
        self.connected.take()
    }

    /// Whether the session can go on with it.
    pub(super) fn is_usable(&self) -> bool {
        !self.traces.busy && self.connected.as_ref().is_some_and(|connected| !connected.client.is_closed())
    }

    /// Runs a statement. If this is dropped before it is done, the statement is cancelled when the lease is dropped.
    pub(super) async fn run(&mut self, text: &str, parameters: &[Value], wants_rows: bool) -> Result<Rows, RunError> {
        let Self { connected: Some(connected), traces, .. } = self else {
            return Err(RunError::Failed(PostgresError::Lost(String::new())));
        };
        traces.any = true;
        traces.busy = true;
        let cleaning = connected.take_cleaning();
        let work = work(connected, traces, text, parameters, wants_rows);
        let Some(done) = behind(cleaning, work).await else {
            self.traces.busy = false;
            self.traces.left = Trace::Indelible;
            return Err(RunError::Unclean);
        };
        // After these, the server may still be at work for this session.
        self.traces.busy = matches!(done, Err(PostgresError::Lost(_) | PostgresError::ResultTooLarge));
        let too_large = self.connected.as_ref().is_some_and(|connected| connected.seen.too_large());
        done.map_err(|error| RunError::Failed(if too_large { PostgresError::ResultTooLarge } else { error }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut connected) = self.connected.take() else { return };
        let traces = &self.traces;
        if traces.busy {
            connected.give_up();
            return;
        }
        let is_clean = match traces.left {
            Trace::None if !traces.any => true,
            Trace::None => connected.clean(true),
            Trace::Session => connected.clean(false),
            Trace::Indelible => false,
        };
        if is_clean {
            self.pool.give(connected);
        }
        // Else it is dropped, which closes it, and the server rolls back what is open.
    }
}

/// Does `work` when the connection is clean, and nothing of it if it cannot be cleaned. Where that is safe, `work` is begun
/// before: what it sends stands in line behind the cleaning, and the server does both in one go.
async fn behind<T>(cleaning: Option<Cleaning>, work: impl Future<Output = T>) -> Option<T> {
    let Some(cleaning) = cleaning else { return Some(work.await) };
    let mut work = pin!(work);
    let mut begun = Poll::Pending;
    if cleaning.may_follow {
        begun = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
    }
    if !cleaning.succeeded().await {
        return None;
    }
    Some(match begun {
        Poll::Ready(done) => done,
        Poll::Pending => work.await,
    })
}

async fn work(
    connected: &mut Connected,
    traces: &mut Traces,
    text: &str,
    parameters: &[Value],
    wants_rows: bool,
) -> Result<Rows, PostgresError> {
    // To a session that has changed its settings, or made a table of its own, a text may mean something else.
    let kept = if traces.left == Trace::None { connected.statements.find(text) } else { None };
    if let Some(statement) = kept {
        let done = answer(&connected.client, &statement, parameters, wants_rows).await;
        if !done.as_ref().is_err_and(is_outdated) {
            return done;
        }
        connected.statements.forget(text);
        if connected.seen.in_transaction() {
            return done;
        }
    }
    let statement = prepare(connected, traces, text).await?;
    answer(&connected.client, &statement, parameters, wants_rows).await
}

/// Whether a prepared statement is not any more what the text would be: a table has changed, or the session forgot it.
/// The server finds out before it does anything.
fn is_outdated(error: &PostgresError) -> bool {
    let PostgresError::Server(told) = error else { return false };
    match told.code.as_str() {
        "26000" => true,
        "0A000" => told.extras.iter().any(|(name, value)| *name == "routine" && value == "RevalidateCachedQuery"),
        _ => false,
    }
}

async fn prepare(connected: &mut Connected, traces: &mut Traces, text: &str) -> Result<Statement, PostgresError> {
    let effect = Effect::of(text);
    if effect.copies {
        return Err(PostgresError::Copy);
    }
    traces.left = traces.left.max(effect.leaves);
    let statement = connected.client.prepare(text).await.map_err(|error| PostgresError::of_statement(&error))?;
    if traces.left == Trace::None {
        connected.statements.keep(text, statement.clone());
    }
    Ok(statement)
}

async fn answer(
    client: &Client,
    statement: &Statement,
    parameters: &[Value],
    wants_rows: bool,
) -> Result<Rows, PostgresError> {
    let (expected, given) = (statement.params().len(), parameters.len());
    if expected != given {
        return Err(PostgresError::ParameterCount { expected, given });
    }
    let parameters = parameters.iter().enumerate().map(|(at, value)| Parameter { number: at + 1, value });
    let found = client.query_raw(statement, parameters).await.map_err(|error| explain(&error))?;
    let mut found = pin!(found);
    let column = |column: &tokio_postgres::Column| Column {
        name: column.name().to_owned(),
        kind: ColumnType::of(column.type_()),
    };
    let mut answer = Rows { columns: statement.columns().iter().map(column).collect(), ..Rows::default() };
    let (mut bytes, mut unreadable) = (0, None);
    while let Some(row) = poll_fn(|cx| found.as_mut().poll_next(cx)).await {
        let row = row.map_err(|error| explain(&error))?;
        if !wants_rows {
            continue;
        }
        bytes += row.raw_size_bytes() + row.len() * size_of::<Value>();
        if bytes > RESULT_BYTES_MAX || answer.rows.len() == ROWS_MAX {
            return Err(PostgresError::ResultTooLarge);
        }
        match values_of(&row) {
            Ok(values) => answer.rows.push(values),
            Err(error) => unreadable = Some(error),
        }
    }
    answer.touched = found.rows_affected().unwrap_or(0);
    unreadable.map_or(Ok(answer), Err)
}

fn values_of(row: &Row) -> Result<Vec<Value>, PostgresError> {
    let values = row.columns().iter().enumerate().map(|(at, column)| {
        let value = row.try_get::<_, Value>(at);
        value.map_err(|error| match error.source().and_then(|cause| cause.downcast_ref::<Misfit>()) {
            Some(misfit) => PostgresError::Value { column: column.name().to_owned(), reason: misfit.reason.clone() },
            None => PostgresError::Lost(format!(": {error}")),
        })
    });
    values.collect()
}

fn explain(error: &tokio_postgres::Error) -> PostgresError {
    match error.source().and_then(|cause| cause.downcast_ref::<Misfit>()) {
        Some(misfit) => PostgresError::Parameter { number: misfit.number, reason: misfit.reason.clone() },
        None => PostgresError::of_statement(error),
    }
}
