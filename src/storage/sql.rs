//! SQL databases that functions use: embedded ones, and those of a PostgreSQL server.
//!
//! A function holds a grant; the host holds the connections. **Invariant:** nothing of a session (an open transaction, a
//! setting, a temporary table) reaches whoever has the connection next.

pub mod migrations;
pub mod postgres;
pub mod sqlite;
