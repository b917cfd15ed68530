//! `fermyon:spin/postgres` and `spin:postgres`: databases of a PostgreSQL server, by their name or by their address.
//!
//! A connection of a guest's is a session of a pool's (`storage::sql::postgres`); nothing is connected to before its first
//! statement. By a name, a guest opens what functions.toml grants, and no password enters the sandbox; by an address, what the
//! function's `outbound` grants. **Invariant:** one statement of a connection at a time: a 0.3 guest may call it again before the
//! last call was answered, and then waits.

mod v2;
mod v3;
mod v4;

use super::bindings::fermyon::spin::postgres as bindings_v2;
use super::bindings::spin::postgres3_0_0::postgres as bindings_v3;
use super::bindings::spin::postgres4_2_0::postgres as bindings_v4;
use crate::receipt::Kind;
use crate::runtime::sandbox::{DataView, HasDataView, State};
use crate::storage::sql::postgres::{PostgresError, Rows, Session, Value};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};
use wasmtime::component::{Linker, Resource};

/// What a guest has open.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings reexport it")]
pub struct Connection(Arc<Mutex<Session>>);

/// What a guest is about to open.
#[expect(unreachable_pub, reason = "the bindings reexport it")]
pub struct ConnectionBuilder {
    address: String,
    /// PEM texts of those whom it trusts.
    trusted: Vec<String>,
}

/// The most texts of certificates that a guest may trust, and the most bytes of each.
const TRUSTED_MAX: usize = 8;
const TRUSTED_BYTES_MAX: usize = 64 << 10;
const TOO_MANY: &str = "too many connections and other things are open";

impl DataView<'_> {
    /// Opens a database. Says why not in words: the interfaces have but one case for that.
    fn open_postgres(&mut self, address: &str, trusted: &[String]) -> Result<Resource<Connection>, String> {
        let is_name = !address.contains(['/', '=', ':']);
        let pool = if is_name {
            let granted = self.data.postgres(address).cloned();
            granted.ok_or("access denied: the function was granted no database of this name")?
        } else {
            self.postgres.open(address, trusted).map_err(|error| error.to_string())?
        };
        if is_name && !trusted.is_empty() {
            return Err("a database that is opened by its name is trusted as the host says".to_owned());
        }
        let connection = Connection(Arc::new(Mutex::new(Session::new(pool))));
        self.table.push(connection).map_err(|_| TOO_MANY.to_owned())
    }

    fn postgres_session(&self, connection: &Resource<Connection>) -> wasmtime::Result<Connection> {
        Ok(self.table.get(connection)?.clone())
    }

    fn close_postgres(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl Connection {
    /// For a call during which the guest does nothing else: one that has the session already could not go on either.
    fn now(&self) -> Result<MutexGuard<'_, Session>, PostgresError> {
        self.0.try_lock().map_err(|_| PostgresError::Busy)
    }

    async fn query(&self, statement: &str, parameters: &[Value]) -> Result<Rows, PostgresError> {
        self.now()?.query(statement, parameters).await
    }

    async fn execute(&self, statement: &str, parameters: &[Value]) -> Result<u64, PostgresError> {
        self.now()?.execute(statement, parameters).await
    }
}

/// How an error is told, by the cases that all versions have.
enum Told {
    ConnectionFailed,
    BadParameter,
    QueryFailed,
    ValueConversionFailed,
}

fn told(error: &PostgresError) -> Told {
    match error {
        PostgresError::Address(_)
        | PostgresError::Denied
        | PostgresError::TooManyPools
        | PostgresError::Unreachable(_)
        | PostgresError::Lost(_) => Told::ConnectionFailed,
        PostgresError::ParameterCount { .. } | PostgresError::Parameter { .. } => Told::BadParameter,
        PostgresError::Value { .. } => Told::ValueConversionFailed,
        PostgresError::Busy
        | PostgresError::Copy
        | PostgresError::StatementTooLarge
        | PostgresError::ResultTooLarge
        | PostgresError::Server(_) => Told::QueryFailed,
    }
}

/// Adds what a component of `kind` may import.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    bindings_v2::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    bindings_v3::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    let mut options = bindings_v4::LinkOptions::default();
    options.concurrent(kind == Kind::Http03);
    bindings_v4::add_to_linker::<_, HasDataView>(linker, &options, State::data_view)
}
