//! `spin:postgres@4.2.0`, which answers for 4.0.0 and 4.1.0 as well: all values, connections that trust others, and, for 0.3
//! components, calls during which the guest goes on.

use super::{
    Connection, ConnectionBuilder, DataView, HasDataView, State, TRUSTED_BYTES_MAX, TRUSTED_MAX, Told,
    bindings_v4 as v4, told,
};
use crate::storage::sql::postgres::{AddressPools, Bound, ColumnType, PostgresError, Rows, ServerError, Value};
use wasmtime::component::{Accessor, FutureReader, Resource, StreamReader};

impl v4::Host for DataView<'_> {}

impl v4::HostConnectionBuilder for DataView<'_> {
    async fn new(&mut self, address: String) -> wasmtime::Result<Resource<ConnectionBuilder>> {
        Ok(self.table.push(ConnectionBuilder { address, trusted: Vec::new() })?)
    }

    async fn set_ca_root(
        &mut self,
        builder: Resource<ConnectionBuilder>,
        certificate: String,
    ) -> wasmtime::Result<Result<(), v4::Error>> {
        let builder = self.table.get_mut(&builder)?;
        if builder.trusted.len() == TRUSTED_MAX || certificate.len() > TRUSTED_BYTES_MAX {
            return Ok(Err(v4::Error::Other("these are too many certificates".to_owned())));
        }
        if let Err(cause) = AddressPools::check_trusted(&certificate) {
            return Ok(Err(v4::Error::Other(format!("invalid root certificate: {cause}"))));
        }
        builder.trusted.push(certificate);
        Ok(Ok(()))
    }

    async fn build(
        &mut self,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, v4::Error>> {
        self.build_postgres(&builder)
    }

    async fn drop(&mut self, builder: Resource<ConnectionBuilder>) -> wasmtime::Result<()> {
        self.table.delete(builder)?;
        Ok(())
    }
}

impl v4::HostConnectionBuilderWithStore<State> for HasDataView {
    async fn build_async(
        accessor: &Accessor<State, Self>,
        builder: Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, v4::Error>> {
        accessor.with(|mut access| access.get().build_postgres(&builder))
    }
}

impl DataView<'_> {
    fn build_postgres(
        &mut self,
        builder: &Resource<ConnectionBuilder>,
    ) -> wasmtime::Result<Result<Resource<Connection>, v4::Error>> {
        let ConnectionBuilder { address, trusted } = self.table.get(builder)?;
        let (address, trusted) = (address.clone(), trusted.clone());
        Ok(self.open_postgres(&address, &trusted).map_err(v4::Error::ConnectionFailed))
    }
}

impl v4::HostConnection for DataView<'_> {
    async fn open(&mut self, address: String) -> wasmtime::Result<Result<Resource<Connection>, v4::Error>> {
        Ok(self.open_postgres(&address, &[]).map_err(v4::Error::ConnectionFailed))
    }

    async fn query(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v4::ParameterValue>,
    ) -> wasmtime::Result<Result<v4::RowSet, v4::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        Ok(connection.query(&statement, &parameters).await.map(Into::into).map_err(Into::into))
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v4::ParameterValue>,
    ) -> wasmtime::Result<Result<u64, v4::Error>> {
        let connection = self.postgres_session(&connection)?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        Ok(connection.execute(&statement, &parameters).await.map_err(Into::into))
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.close_postgres(connection)
    }
}

type Streamed = (Vec<v4::Column>, StreamReader<v4::Row>, FutureReader<Result<(), v4::Error>>);

impl v4::HostConnectionWithStore<State> for HasDataView {
    async fn open_async(
        accessor: &Accessor<State, Self>,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, v4::Error>> {
        let opened = accessor.with(|mut access| access.get().open_postgres(&address, &[]));
        Ok(opened.map_err(v4::Error::ConnectionFailed))
    }

    /// The rows are bounded, and there before the guest reads the first: a server is never kept waiting by a guest.
    async fn query_async(
        accessor: &Accessor<State, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v4::ParameterValue>,
    ) -> wasmtime::Result<Result<Streamed, v4::Error>> {
        let connection = accessor.with(|mut access| access.get().postgres_session(&connection))?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        let result = match connection.0.lock().await.query(&statement, &parameters).await {
            Ok(rows) => v4::RowSet::from(rows),
            Err(error) => return Ok(Err(error.into())),
        };
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, result.rows)?;
            let ended = FutureReader::new(&mut access, async { Ok::<_, wasmtime::Error>(Ok(())) })?;
            Ok(Ok((result.columns, rows, ended)))
        })
    }

    async fn execute_async(
        accessor: &Accessor<State, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<v4::ParameterValue>,
    ) -> wasmtime::Result<Result<u64, v4::Error>> {
        let connection = accessor.with(|mut access| access.get().postgres_session(&connection))?;
        let parameters: Vec<_> = parameters.into_iter().map(Value::from).collect();
        Ok(connection.0.lock().await.execute(&statement, &parameters).await.map_err(Into::into))
    }
}

/// The ends of a range, with bounds of one type or the other.
type Ends<T, Bound> = (Option<(T, Bound)>, Option<(T, Bound)>);

fn ends<T, A, B: From<A>>((lower, upper): Ends<T, A>) -> Ends<T, B> {
    let end = |end: Option<(T, A)>| end.map(|(value, bound)| (value, bound.into()));
    (end(lower), end(upper))
}

impl From<v4::RangeBoundKind> for Bound {
    fn from(bound: v4::RangeBoundKind) -> Self {
        match bound {
            v4::RangeBoundKind::Inclusive => Self::Inclusive,
            v4::RangeBoundKind::Exclusive => Self::Exclusive,
        }
    }
}

impl From<Bound> for v4::RangeBoundKind {
    fn from(bound: Bound) -> Self {
        match bound {
            Bound::Inclusive => Self::Inclusive,
            Bound::Exclusive => Self::Exclusive,
        }
    }
}

impl From<v4::ParameterValue> for Value {
    fn from(parameter: v4::ParameterValue) -> Self {
        use v4::ParameterValue as From;
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
            From::Uuid(text) => Self::Uuid(text),
            From::Jsonb(text) => Self::Jsonb(text),
            From::Decimal(text) => Self::Decimal(text),
            From::RangeInt32(range) => Self::RangeInt32(ends(range)),
            From::RangeInt64(range) => Self::RangeInt64(ends(range)),
            From::RangeDecimal(range) => Self::RangeDecimal(ends(range)),
            From::ArrayInt32(values) => Self::ArrayInt32(values),
            From::ArrayInt64(values) => Self::ArrayInt64(values),
            From::ArrayDecimal(values) => Self::ArrayDecimal(values),
            From::ArrayStr(values) => Self::ArrayText(values),
            From::Interval(span) => Self::Interval(span.micros, span.days, span.months),
            From::DbNull => Self::Null,
        }
    }
}

impl From<Rows> for v4::RowSet {
    fn from(rows: Rows) -> Self {
        let columns = rows.columns.into_iter();
        Self {
            columns: columns.map(|it| v4::Column { name: it.name, data_type: it.kind.into() }).collect(),
            rows: rows.rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect(),
        }
    }
}

impl From<ColumnType> for v4::DbDataType {
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
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Jsonb => Self::Jsonb,
            ColumnType::Decimal => Self::Decimal,
            ColumnType::RangeInt32 => Self::RangeInt32,
            ColumnType::RangeInt64 => Self::RangeInt64,
            ColumnType::RangeDecimal => Self::RangeDecimal,
            ColumnType::ArrayInt32 => Self::ArrayInt32,
            ColumnType::ArrayInt64 => Self::ArrayInt64,
            ColumnType::ArrayDecimal => Self::ArrayDecimal,
            ColumnType::ArrayText => Self::ArrayStr,
            ColumnType::Interval => Self::Interval,
            ColumnType::Other(name) => Self::Other(name),
        }
    }
}

impl From<Value> for v4::DbValue {
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
            Value::Uuid(text) => Self::Uuid(text),
            Value::Jsonb(text) => Self::Jsonb(text),
            Value::Decimal(text) => Self::Decimal(text),
            Value::RangeInt32(range) => Self::RangeInt32(ends(range)),
            Value::RangeInt64(range) => Self::RangeInt64(ends(range)),
            Value::RangeDecimal(range) => Self::RangeDecimal(ends(range)),
            Value::ArrayInt32(values) => Self::ArrayInt32(values),
            Value::ArrayInt64(values) => Self::ArrayInt64(values),
            Value::ArrayDecimal(values) => Self::ArrayDecimal(values),
            Value::ArrayText(values) => Self::ArrayStr(values),
            Value::Interval(micros, days, months) => Self::Interval(v4::Interval { micros, days, months }),
            Value::Unsupported(bytes) => Self::Unsupported(bytes),
        }
    }
}

impl From<PostgresError> for v4::Error {
    fn from(error: PostgresError) -> Self {
        let text = error.to_string();
        match told(&error) {
            Told::ConnectionFailed => Self::ConnectionFailed(text),
            Told::BadParameter => Self::BadParameter(text),
            Told::ValueConversionFailed => Self::ValueConversionFailed(text),
            Told::QueryFailed => Self::QueryFailed(match error {
                PostgresError::Server(error) => v4::QueryError::DbError((*error).into()),
                _ => v4::QueryError::Text(text),
            }),
        }
    }
}

impl From<ServerError> for v4::DbError {
    fn from(error: ServerError) -> Self {
        let as_text = error.to_string();
        let extras = error.extras.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self {
            as_text,
            severity: error.severity,
            code: error.code,
            message: error.message,
            detail: error.detail,
            extras,
        }
    }
}
