//! `fermyon:spin/sqlite` and `spin:sqlite`: the embedded databases that a function was granted, by name.
//!
//! A connection of a guest's is a session of the database (`storage::sql::sqlite`). **Invariant:** one statement of a
//! connection at a time: a 0.3 guest may call it again before the last call was answered, and then waits; by a call during which
//! it does nothing else, it is told.

use super::bindings::fermyon::spin::sqlite as v2;
use super::bindings::spin::sqlite::sqlite as v3;
use crate::receipt::Kind;
use crate::runtime::sandbox::{DataView, HasDataView, State};
use crate::storage::sql::sqlite::{Rows, Session, SqliteError, Value};
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};
use wasmtime::component::{Accessor, FutureReader, Linker, Resource, StreamReader};

/// What a guest has open.
#[derive(Clone)]
#[expect(unreachable_pub, reason = "the bindings reexport it")]
pub struct Connection(Arc<Mutex<Session>>);

/// Why a database was not opened.
enum Refused {
    AccessDenied,
    TooMany,
}

const TOO_MANY: &str = "too many connections and other things are open";

impl DataView<'_> {
    fn open_database(&mut self, name: &str) -> Result<Resource<Connection>, Refused> {
        let database = self.data.sqlite(name).ok_or(Refused::AccessDenied)?;
        let session = Session::new(Arc::clone(database));
        self.table.push(Connection(Arc::new(Mutex::new(session)))).map_err(|_| Refused::TooMany)
    }

    fn session(&self, connection: &Resource<Connection>) -> wasmtime::Result<Connection> {
        Ok(self.table.get(connection)?.clone())
    }
}

impl Connection {
    /// For a call during which the guest does nothing else: a call of its that has the session already could not go on either.
    fn now(&self) -> Result<MutexGuard<'_, Session>, SqliteError> {
        self.0.try_lock().map_err(|_| SqliteError::Underway)
    }

    async fn execute_now(&self, statement: String, parameters: Vec<Value>) -> Result<Rows, SqliteError> {
        self.now()?.execute(statement, parameters).await
    }
}

impl v2::Host for DataView<'_> {}

impl v2::HostConnection for DataView<'_> {
    async fn open(&mut self, database: String) -> wasmtime::Result<Result<Resource<Connection>, v2::Error>> {
        Ok(self.open_database(&database).map_err(|refused| match refused {
            Refused::AccessDenied => v2::Error::AccessDenied,
            Refused::TooMany => v2::Error::Io(TOO_MANY.to_owned()),
        }))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v2::Value>,
    ) -> wasmtime::Result<Result<v2::QueryResult, v2::Error>> {
        let connection = self.session(&connection)?;
        let parameters = parameters.into_iter().map(Value::from).collect();
        let done = connection.execute_now(statement, parameters).await;
        Ok(done.map(v2::QueryResult::from).map_err(|error| match error {
            SqliteError::Full => v2::Error::DatabaseFull,
            error => v2::Error::Io(error.to_string()),
        }))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl v3::Host for DataView<'_> {}

impl v3::HostConnection for DataView<'_> {
    async fn open(&mut self, database: String) -> wasmtime::Result<Result<Resource<Connection>, v3::Error>> {
        Ok(self.open_database(&database).map_err(v3::Error::from))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v3::Value>,
    ) -> wasmtime::Result<Result<v3::QueryResult, v3::Error>> {
        let connection = self.session(&connection)?;
        let parameters = parameters.into_iter().map(Value::from).collect();
        let done = connection.execute_now(statement, parameters).await;
        Ok(done.map(v3::QueryResult::from).map_err(v3::Error::from))
    }

    async fn last_insert_rowid(&mut self, connection: Resource<Connection>) -> wasmtime::Result<i64> {
        // There is no case for an error here.
        Ok(self.session(&connection)?.now()?.last_insert_rowid())
    }

    async fn changes(&mut self, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        Ok(self.session(&connection)?.now()?.changes())
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

type Streamed = (Vec<String>, StreamReader<v3::RowResult>, FutureReader<Result<(), v3::Error>>);

impl v3::HostConnectionWithStore<State> for HasDataView {
    async fn open_async(
        accessor: &Accessor<State, Self>,
        database: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, v3::Error>> {
        Ok(accessor.with(|mut access| access.get().open_database(&database)).map_err(v3::Error::from))
    }

    /// The rows are bounded, and there before the guest reads the first: a connection that it forgets to read from holds
    /// nobody up.
    async fn execute_async(
        accessor: &Accessor<State, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v3::Value>,
    ) -> wasmtime::Result<Result<Streamed, v3::Error>> {
        let connection = accessor.with(|mut access| access.get().session(&connection))?;
        let parameters = parameters.into_iter().map(Value::from).collect();
        let result = match connection.0.lock().await.execute(statement, parameters).await {
            Ok(rows) => v3::QueryResult::from(rows),
            Err(error) => return Ok(Err(error.into())),
        };
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, result.rows)?;
            let ended = FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(Ok(())) })?;
            Ok(Ok((result.columns, rows, ended)))
        })
    }

    async fn last_insert_rowid_async(
        accessor: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> wasmtime::Result<i64> {
        let connection = accessor.with(|mut access| access.get().session(&connection))?;
        Ok(connection.0.lock().await.last_insert_rowid())
    }

    async fn changes_async(
        accessor: &Accessor<State, Self>,
        connection: Resource<Connection>,
    ) -> wasmtime::Result<u64> {
        let connection = accessor.with(|mut access| access.get().session(&connection))?;
        Ok(connection.0.lock().await.changes())
    }
}

impl From<Refused> for v3::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::AccessDenied => Self::AccessDenied,
            Refused::TooMany => Self::Io(TOO_MANY.to_owned()),
        }
    }
}

impl From<SqliteError> for v3::Error {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::Full => Self::DatabaseFull,
            error => Self::Io(error.to_string()),
        }
    }
}

/// The two versions have the same values, by different types.
macro_rules! values_of {
    ($version:ident) => {
        impl From<$version::Value> for Value {
            fn from(value: $version::Value) -> Self {
                match value {
                    $version::Value::Integer(number) => Self::Integer(number),
                    $version::Value::Real(number) => Self::Real(number),
                    $version::Value::Text(text) => Self::Text(text),
                    $version::Value::Blob(bytes) => Self::Blob(bytes),
                    $version::Value::Null => Self::Null,
                }
            }
        }

        impl From<Value> for $version::Value {
            fn from(value: Value) -> Self {
                match value {
                    Value::Integer(number) => Self::Integer(number),
                    Value::Real(number) => Self::Real(number),
                    Value::Text(text) => Self::Text(text),
                    Value::Blob(bytes) => Self::Blob(bytes),
                    Value::Null => Self::Null,
                }
            }
        }

        impl From<Rows> for $version::QueryResult {
            fn from(rows: Rows) -> Self {
                let row =
                    |values: Vec<Value>| $version::RowResult { values: values.into_iter().map(Into::into).collect() };
                Self { columns: rows.columns, rows: rows.rows.into_iter().map(row).collect() }
            }
        }
    };
}

values_of!(v2);
values_of!(v3);

/// Adds what a component of `kind` may import.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    v2::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    let mut options = v3::LinkOptions::default();
    options.concurrent(kind == Kind::Http03);
    v3::add_to_linker::<_, HasDataView>(linker, &options, State::data_view)
}
