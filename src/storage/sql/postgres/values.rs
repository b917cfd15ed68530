//! Values of rows and parameters, and the types of columns, as guests have them.
//!
//! How they go over the wire is in the files below. What has no case here comes as the bytes that the server sent.

mod calendar;
mod decode;
mod encode;
mod numeric;

pub(super) use encode::Parameter;
use std::fmt;
use tokio_postgres::types::{Kind, Type};

/// A value of a row, or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `NULL`
    Null,
    /// `boolean`
    Boolean(bool),
    /// `"char"`
    Int8(i8),
    /// `smallint`
    Int16(i16),
    /// `integer`
    Int32(i32),
    /// `bigint`
    Int64(i64),
    /// `real`
    Floating32(f32),
    /// `double precision`
    Floating64(f64),
    /// `text` and its kin. As a parameter, any type as SQL writes it.
    Text(String),
    /// `bytea`
    Binary(Vec<u8>),
    /// `date`: year (0 is 1 BC), month, day.
    Date(Date),
    /// `time`: hour, minute, second, nanosecond.
    Time(Time),
    /// `timestamp`, or `timestamptz` in UTC: a date and a time.
    DateTime(DateTime),
    /// Seconds since 1970; of parameters only.
    Timestamp(i64),
    /// `uuid`
    Uuid(String),
    /// The text of a `jsonb`.
    Jsonb(Vec<u8>),
    /// `numeric`
    Decimal(String),
    /// `int4range`
    RangeInt32(Range<i32>),
    /// `int8range`
    RangeInt64(Range<i64>),
    /// `numrange`
    RangeDecimal(Range<String>),
    /// `integer[]`
    ArrayInt32(Vec<Option<i32>>),
    /// `bigint[]`
    ArrayInt64(Vec<Option<i64>>),
    /// `numeric[]`
    ArrayDecimal(Vec<Option<String>>),
    /// `text[]` and its kin.
    ArrayText(Vec<Option<String>>),
    /// `interval`: microseconds, days, months.
    Interval(i64, i32, i32),
    /// Anything else, as the server sent it; of rows only.
    Unsupported(Vec<u8>),
}

/// Year, month, day.
pub type Date = (i32, u8, u8);
/// Hour, minute, second, nanosecond.
pub type Time = (u8, u8, u8, u32);
/// Year, month, day, hour, minute, second, nanosecond.
pub type DateTime = (i32, u8, u8, u8, u8, u8, u32);
/// From and to; nothing where it has no end. The empty range is one that begins and ends at the same value without it.
pub type Range<T> = (Option<(T, Bound)>, Option<(T, Bound)>);

/// Whether the end of a range belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It does.
    Inclusive,
    /// It does not.
    Exclusive,
}

/// The type of a column: that of its values, by the case of [`Value`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are named as the cases of `Value`")]
pub enum ColumnType {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Floating32,
    Floating64,
    Text,
    Binary,
    Date,
    Time,
    DateTime,
    Uuid,
    Jsonb,
    Decimal,
    RangeInt32,
    RangeInt64,
    RangeDecimal,
    ArrayInt32,
    ArrayInt64,
    ArrayDecimal,
    ArrayText,
    Interval,
    /// Any other, by its name.
    Other(String),
}

impl ColumnType {
    pub(super) fn of(kind: &Type) -> Self {
        match *kind {
            Type::BOOL => Self::Boolean,
            Type::CHAR => Self::Int8,
            Type::INT2 => Self::Int16,
            Type::INT4 => Self::Int32,
            Type::INT8 => Self::Int64,
            Type::FLOAT4 => Self::Floating32,
            Type::FLOAT8 => Self::Floating64,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => Self::Text,
            Type::BYTEA => Self::Binary,
            Type::DATE => Self::Date,
            Type::TIME => Self::Time,
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Self::DateTime,
            Type::UUID => Self::Uuid,
            Type::JSONB => Self::Jsonb,
            Type::NUMERIC => Self::Decimal,
            Type::INT4_RANGE => Self::RangeInt32,
            Type::INT8_RANGE => Self::RangeInt64,
            Type::NUM_RANGE => Self::RangeDecimal,
            Type::INT4_ARRAY => Self::ArrayInt32,
            Type::INT8_ARRAY => Self::ArrayInt64,
            Type::NUMERIC_ARRAY => Self::ArrayDecimal,
            Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => Self::ArrayText,
            Type::INTERVAL => Self::Interval,
            _ => match kind.kind() {
                Kind::Domain(base) => Self::of(base),
                _ => Self::Other(kind.name().to_owned()),
            },
        }
    }
}

/// A value that does not fit where it should go.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Of a parameter, from 1; 0 of a column.
    pub(super) number: usize,
    pub(super) reason: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}
