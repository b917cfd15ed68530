//! What can go wrong with a database of a server, in words that a guest may read.

use super::{CONNECT_TIMEOUT, RESULT_BYTES_MAX, ROWS_MAX, STATEMENT_BYTES_MAX};
use std::error::Error as _;
use tokio_postgres::error::{DbError, ErrorPosition};

/// Why a statement was not done, or a database not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// The text is no address, or one that is not supported.
    #[error("this is no address of a database: {0}")]
    Address(String),
    /// The address is not among the function's grants.
    #[error("access denied: the function's `outbound` does not grant this address")]
    Denied,
    /// More databases are in use by their addresses than a function may have.
    #[error("too many databases are in use by their addresses")]
    TooManyPools,
    /// There is no connection to be had.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// The session's connection is gone, and what it had with it.
    #[error("the connection to the database is lost{0}")]
    Lost(String),
    /// The session has another statement at work.
    #[error("another statement of this connection is not done yet")]
    Busy,
    /// `COPY`, whose data goes another way than rows and parameters.
    #[error("COPY from and to a client is not offered here")]
    Copy,
    /// The statement is too long.
    #[error("the statement has more than {} MiB", STATEMENT_BYTES_MAX >> 20)]
    StatementTooLarge,
    /// The result is more than is given out at once.
    #[error("the result has more than {} MiB, or more than {ROWS_MAX} rows", RESULT_BYTES_MAX >> 20)]
    ResultTooLarge,
    /// Not as many parameters as the statement has.
    #[error("the statement has {expected} parameters, and {given} were given")]
    ParameterCount {
        /// How many the statement has.
        expected: usize,
        /// How many came.
        given: usize,
    },
    /// A parameter that is not what the statement needs there.
    #[error("${number}: {reason}")]
    Parameter {
        /// Which one, from 1.
        number: usize,
        /// Why.
        reason: String,
    },
    /// A value of a row that a guest cannot be given.
    #[error("the column `{column}`: {reason}")]
    Value {
        /// Its column.
        column: String,
        /// Why.
        reason: String,
    },
    /// The server refused.
    #[error("{0}")]
    Server(Box<ServerError>),
}

/// An error as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// SQLSTATE, five characters.
    pub code: String,
    /// One line, as a rule.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What else is known: `column`, `constraint`, `hint`, `position`, ..
    pub extras: Vec<(&'static str, String)>,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity, self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "\nDETAIL: {detail}")?;
        }
        let hint = self.extras.iter().find(|(name, _)| *name == "hint");
        hint.map_or(Ok(()), |(_, hint)| write!(f, "\nHINT: {hint}"))
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let position = match error.position() {
            Some(ErrorPosition::Original(position) | ErrorPosition::Internal { position, .. }) => Some(*position),
            None => None,
        };
        let known = [
            ("column", error.column().map(str::to_owned)),
            ("constraint", error.constraint().map(str::to_owned)),
            ("routine", error.routine().map(str::to_owned)),
            ("hint", error.hint().map(str::to_owned)),
            ("table", error.table().map(str::to_owned)),
            ("datatype", error.datatype().map(str::to_owned)),
            ("schema", error.schema().map(str::to_owned)),
            ("file", error.file().map(str::to_owned)),
            ("line", error.line().map(|line| line.to_string())),
            ("where_", error.where_().map(str::to_owned)),
            ("position", position.map(|position| position.to_string())),
        ];
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            extras: known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        }
    }
}

impl PostgresError {
    /// Of an attempt to connect.
    pub(super) fn of_connect(error: &tokio_postgres::Error) -> Self {
        if let Some(told) = error.as_db_error() {
            return Self::Unreachable(ServerError::from(told).to_string());
        }
        let text = chain(error);
        let untrusted = text.contains("certificate");
        let hint =
            if untrusted { " (`sslrootcert` says whom to trust, `sslmode=disable` does without TLS)" } else { "" };
        Self::Unreachable(format!("{text}{hint}"))
    }

    /// Of a look-up, or a socket.
    pub(super) fn of_io(error: &std::io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }

    /// Nobody was there in time.
    pub(super) fn timed_out() -> Self {
        Self::Unreachable(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))
    }

    /// Of a statement.
    pub(super) fn of_statement(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(told) => Self::Server(Box::new(told.into())),
            None => Self::Lost(format!(": {}", chain(error))),
        }
    }
}

/// An error with its causes. None of those of `tokio-postgres` has the address in it, nor the password.
fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
