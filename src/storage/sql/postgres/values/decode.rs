//! Values of rows, from PostgreSQL's binary form.

use super::calendar::{date_of, date_time_of, time_of};
use super::numeric;
use super::{Bound, ColumnType, Misfit, Range, Value};
use std::error::Error;
use tokio_postgres::types::{FromSql, Type};

const EMPTY: u8 = 0x01;
const LOWER_INCLUSIVE: u8 = 0x02;
const UPPER_INCLUSIVE: u8 = 0x04;
const LOWER_INFINITE: u8 = 0x08;
const UPPER_INFINITE: u8 = 0x10;

impl FromSql<'_> for Value {
    fn from_sql(kind: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let reason = match decode(&ColumnType::of(kind), raw) {
            Some(value) => return Ok(value),
            None => format!("this value of the type {kind} has no form that a guest could be given"),
        };
        Err(Box::new(Misfit { number: 0, reason }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Nothing, if the bytes are no value of this type, or one such as the date `infinity`.
fn decode(kind: &ColumnType, raw: &[u8]) -> Option<Value> {
    let mut bytes = Bytes(raw);
    Some(match kind {
        ColumnType::Boolean => Value::Boolean(bytes.array::<1>()? != [0]),
        ColumnType::Int8 => Value::Int8(i8::from_be_bytes(bytes.array()?)),
        ColumnType::Int16 => Value::Int16(bytes.i16()?),
        ColumnType::Int32 => Value::Int32(bytes.i32()?),
        ColumnType::Int64 => Value::Int64(bytes.i64()?),
        ColumnType::Floating32 => Value::Floating32(f32::from_be_bytes(bytes.array()?)),
        ColumnType::Floating64 => Value::Floating64(f64::from_be_bytes(bytes.array()?)),
        ColumnType::Text => Value::Text(text(raw)?),
        ColumnType::Binary => Value::Binary(raw.to_vec()),
        ColumnType::Date => Value::Date(date_of(bytes.i32()?)?),
        ColumnType::Time => Value::Time(time_of(bytes.i64()?)?),
        ColumnType::DateTime => Value::DateTime(date_time_of(bytes.i64()?)?),
        ColumnType::Uuid => Value::Uuid(uuid(u128::from_be_bytes(bytes.array()?))),
        // The first byte is the version of the form, and there is one.
        ColumnType::Jsonb => Value::Jsonb(raw.strip_prefix(&[1])?.to_vec()),
        ColumnType::Decimal => Value::Decimal(numeric::text_of(raw)?),
        ColumnType::RangeInt32 => Value::RangeInt32(range(bytes, |raw| Bytes(raw).i32(), 0)?),
        ColumnType::RangeInt64 => Value::RangeInt64(range(bytes, |raw| Bytes(raw).i64(), 0)?),
        ColumnType::RangeDecimal => Value::RangeDecimal(range(bytes, numeric::text_of, "0".to_owned())?),
        ColumnType::ArrayInt32 => Value::ArrayInt32(array(bytes, |raw| Bytes(raw).i32())?),
        ColumnType::ArrayInt64 => Value::ArrayInt64(array(bytes, |raw| Bytes(raw).i64())?),
        ColumnType::ArrayDecimal => Value::ArrayDecimal(array(bytes, numeric::text_of)?),
        ColumnType::ArrayText => Value::ArrayText(array(bytes, text)?),
        ColumnType::Interval => Value::Interval(bytes.i64()?, bytes.i32()?, bytes.i32()?),
        ColumnType::Other(_) => Value::Unsupported(raw.to_vec()),
    })
}

fn text(raw: &[u8]) -> Option<String> {
    std::str::from_utf8(raw).ok().map(str::to_owned)
}

fn uuid(bits: u128) -> String {
    let digits = format!("{bits:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| digits.get(group).unwrap_or_default());
    groups.join("-")
}

fn range<T: Clone>(mut bytes: Bytes<'_>, read: impl Fn(&[u8]) -> Option<T>, zero: T) -> Option<Range<T>> {
    let [flags] = bytes.array()?;
    if flags & EMPTY != 0 {
        return Some((Some((zero.clone(), Bound::Exclusive)), Some((zero, Bound::Exclusive))));
    }
    let mut end = |infinite: u8, inclusive: u8| -> Option<Option<(T, Bound)>> {
        if flags & infinite != 0 {
            return Some(None);
        }
        let bound = if flags & inclusive != 0 { Bound::Inclusive } else { Bound::Exclusive };
        Some(Some((read(bytes.sized().ok()??)?, bound)))
    };
    Some((end(LOWER_INFINITE, LOWER_INCLUSIVE)?, end(UPPER_INFINITE, UPPER_INCLUSIVE)?))
}

/// Of one dimension; guests have no others.
fn array<T>(mut bytes: Bytes<'_>, read: impl Fn(&[u8]) -> Option<T>) -> Option<Vec<Option<T>>> {
    let dimensions = bytes.i32()?;
    let (_has_null, _element) = (bytes.i32()?, bytes.i32()?);
    if dimensions == 0 {
        return Some(Vec::new());
    }
    if dimensions != 1 {
        return None;
    }
    let (count, _first) = (bytes.i32()?, bytes.i32()?);
    let values = (0..count).map(|_| match bytes.sized().ok()? {
        Some(raw) => Some(Some(read(raw)?)),
        None => Some(None),
    });
    values.collect()
}

/// There are fewer bytes than there should be.
struct TooShort;

/// Bytes that are read from their front.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// What a length is written before, of which -1 stands for a null.
    fn sized(&mut self) -> Result<Option<&'a [u8]>, TooShort> {
        let length = self.i32().ok_or(TooShort)?;
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| TooShort)?;
        let (first, rest) = self.0.split_at_checked(length).ok_or(TooShort)?;
        self.0 = rest;
        Ok(Some(first))
    }
}
