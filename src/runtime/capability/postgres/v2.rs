//! `fermyon:spin/postgres@2.0.0`: numbers, texts and bytes.

use super::{Connection, DataView, Told, bindings_v2 as v2, told};
use crate::runtime::capability::bindings::fermyon::spin::rdbms_types as types;
use crate::storage::sql::postgres::{ColumnType, PostgresError, Rows, Value};
use wasmtime::component::Resource;

const UNSIGNED: &str = "PostgreSQL has no unsigned integers";

impl v2::Host for DataView<'_> {}

impl v2::HostConnection for DataView<'_> {
    async fn open(&mut self, address: String) -> wasmtime::Result<Result<Resource<Connection>, types::Error>> {
        Ok(self.open_postgres(&address, &[]).map_err(types::Error::ConnectionFailed))
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<types::ParameterValue>,
    ) -> wasmtime::Result<Result<types::RowSet, types::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters = match values_of(parameters) {
            Ok(parameters) => parameters,
            Err(error) => return Ok(Err(error)),
        };
        Ok(connection.query(&statement, &parameters).await.map(Into::into).map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<types::ParameterValue>,
    ) -> wasmtime::Result<Result<u64, types::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters = match values_of(parameters) {
            Ok(parameters) => parameters,
            Err(error) => return Ok(Err(error)),
        };
        Ok(connection.execute(&statement, &parameters).await.map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.close_postgres(connection)
    }
}

fn values_of(parameters: Vec<types::ParameterValue>) -> Result<Vec<Value>, types::Error> {
    parameters.into_iter().map(value_of).collect()
}

fn value_of(parameter: types::ParameterValue) -> Result<Value, types::Error> {
    use types::ParameterValue as From;
    Ok(match parameter {
        From::Boolean(value) => Value::Boolean(value),
        From::Int8(number) => Value::Int8(number),
        From::Int16(number) => Value::Int16(number),
        From::Int32(number) => Value::Int32(number),
        From::Int64(number) => Value::Int64(number),
        From::Uint8(_) | From::Uint16(_) | From::Uint32(_) | From::Uint64(_) => {
            return Err(types::Error::ValueConversionFailed(UNSIGNED.to_owned()));
        }
        From::Floating32(number) => Value::Floating32(number),
        From::Floating64(number) => Value::Floating64(number),
        From::Str(text) => Value::Text(text),
        From::Binary(bytes) => Value::Binary(bytes),
        From::DbNull => Value::Null,
    })
}

impl From<Rows> for types::RowSet {
    fn from(rows: Rows) -> Self {
        let columns = rows.columns.into_iter();
        Self {
            columns: columns.map(|it| types::Column { name: it.name, data_type: it.kind.into() }).collect(),
            rows: rows.rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect(),
        }
    }
}

impl From<ColumnType> for types::DbDataType {
    fn from(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Boolean => Self::Boolean,
            ColumnType::Int8 => Self::Int8,
            ColumnType::Int16 => Self::Int16,
            ColumnType::Int32 => Self::Int32,
            ColumnType::Int64 => Self::Int64,
            ColumnType::Floating32 => Self::Floating32,
            ColumnType::Floating64 => Self::Floating64,
            ColumnType::Text => Self::Str,
            ColumnType::Binary => Self::Binary,
            _ => Self::Other,
        }
    }
}

impl From<Value> for types::DbValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::DbNull,
            Value::Boolean(value) => Self::Boolean(value),
            Value::Int8(number) => Self::Int8(number),
            Value::Int16(number) => Self::Int16(number),
            Value::Int32(number) => Self::Int32(number),
            Value::Int64(number) => Self::Int64(number),
            Value::Floating32(number) => Self::Floating32(number),
            Value::Floating64(number) => Self::Floating64(number),
            Value::Text(text) => Self::Str(text),
            Value::Binary(bytes) => Self::Binary(bytes),
            _ => Self::Unsupported,
        }
    }
}

impl From<PostgresError> for types::Error {
    fn from(error: PostgresError) -> Self {
        let text = error.to_string();
        match told(&error) {
            Told::ConnectionFailed => Self::ConnectionFailed(text),
            Told::BadParameter => Self::BadParameter(text),
            Told::QueryFailed => Self::QueryFailed(text),
            Told::ValueConversionFailed => Self::ValueConversionFailed(text),
        }
    }
}
