//! `spin:postgres@3.0.0`: dates and times, too.

use super::{Connection, DataView, Told, bindings_v3 as v3, told};
use crate::storage::sql::postgres::{ColumnType, PostgresError, Rows, Value};
use wasmtime::component::Resource;

impl v3::Host for DataView<'_> {}

impl v3::HostConnection for DataView<'_> {
    async fn open(&mut self, address: String) -> wasmtime::Result<Result<Resource<Connection>, v3::Error>> {
        Ok(self.open_postgres(&address, &[]).map_err(v3::Error::ConnectionFailed))
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v3::ParameterValue>,
    ) -> wasmtime::Result<Result<v3::RowSet, v3::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        Ok(connection.query(&statement, &parameters).await.map(Into::into).map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v3::ParameterValue>,
    ) -> wasmtime::Result<Result<u64, v3::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        Ok(connection.execute(&statement, &parameters).await.map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.close_postgres(connection)
    }
}

impl From<v3::ParameterValue> for Value {
    fn from(parameter: v3::ParameterValue) -> Self {
        use v3::ParameterValue as From;
        match parameter {
            From::Boolean(value) => Self::Boolean(value),
            From::Int8(number) => Self::Int8(number),
            From::Int16(number) => Self::Int16(number),
            From::Int32(number) => Self::Int32(number),
            From::Int64(number) => Self::Int64(number),
            From::Floating32(number) => Self::Floating32(number),
            From::Floating64(number) => Self::Floating64(number),
            From::Str(text) => Self::Text(text),
            From::Binary(bytes) => Self::Binary(bytes),
            From::Date(date) => Self::Date(date),
            From::Time(time) => Self::Time(time),
            From::Datetime(moment) => Self::DateTime(moment),
            From::Timestamp(seconds) => Self::Timestamp(seconds),
            From::DbNull => Self::Null,
        }
    }
}

impl From<Rows> for v3::RowSet {
    fn from(rows: Rows) -> Self {
        let columns = rows.columns.into_iter();
        Self {
            columns: columns.map(|it| v3::Column { name: it.name, data_type: it.kind.into() }).collect(),
            rows: rows.rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect(),
        }
    }
}

impl From<ColumnType> for v3::DbDataType {
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
            ColumnType::Date => Self::Date,
            ColumnType::Time => Self::Time,
            ColumnType::DateTime => Self::Datetime,
            _ => Self::Other,
        }
    }
}

impl From<Value> for v3::DbValue {
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
            Value::Date(date) => Self::Date(date),
            Value::Time(time) => Self::Time(time),
            Value::DateTime(moment) => Self::Datetime(moment),
            Value::Timestamp(seconds) => Self::Timestamp(seconds),
            _ => Self::Unsupported,
        }
    }
}

impl From<PostgresError> for v3::Error {
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
