//! Databases of a PostgreSQL server: a few connections that everybody shares, and sessions on them.
//!
//! A [`Session`] is what a guest has open. It takes a server connection from its [`Pool`] at its first statement, keeps it, and
//! with it all that PostgreSQL remembers of a session, and leaves it when it is dropped. **Invariants:** a pool never has more
//! than `size` connections, those among them that are being made, cancelled or closed; nothing that a session left (an open
//! transaction, a setting, a temporary table, a lock, a cursor) is there when the next one's first statement runs; no error,
//! log line or `Debug` has a password in it.
//!
//! The pool is our own, on `tokio-postgres`. `deadpool-postgres` gives a connection's place away before the server has closed
//! it, drops a connection that is half made with whoever waited for it, waits for the cleaning of a connection before it lets
//! anyone use it, keeps every statement forever, and tells of a server that is away only when each one who waits has tried it.

mod address;
mod by_address;
mod connection;
mod error;
mod lease;
mod pool;
mod session;
mod statement;
mod values;
mod wire;

pub use by_address::AddressPools;
pub use error::{PostgresError, ServerError};
pub use lease::{Column, Rows};
pub use pool::Pool;
pub use session::Session;
pub use values::{Bound, ColumnType, Date, DateTime, Range, Time, Value};

use std::time::Duration;

/// The most bytes of one result, as the host keeps them.
pub const RESULT_BYTES_MAX: usize = 16 << 20;
/// The most rows of one result.
pub const ROWS_MAX: usize = 100_000;
/// The most bytes of one statement.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// How long it may take to have a new connection, from the name's look-up to the end of the greeting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
