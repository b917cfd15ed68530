//! Parameters, in PostgreSQL's binary form, or as SQL writes them where the server reads that better than we would.

use super::calendar::{days_of, micros_of, moment_of, moment_of_unix};
use super::{Bound, Misfit, Range, Value};
use bytes::{BufMut as _, BytesMut};
use std::error::Error;
use std::fmt::Write as _;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type};

/// A value that goes where the statement has `$number`.
#[derive(Debug)]
pub(in super::super) struct Parameter<'a> {
    pub(in super::super) number: usize,
    pub(in super::super) value: &'a Value,
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let kind = base_of(kind);
        let reason = match encode(self.value, kind, out) {
            Ok(is_null) => return Ok(is_null),
            Err(Unfit::Type(what)) => format!("{what} is no {kind}"),
            Err(Unfit::Value(what)) => format!("there is no such {what}"),
        };
        Err(Box::new(Misfit { number: self.number, reason }))
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.to_sql(kind, out)
    }

    fn encode_format(&self, kind: &Type) -> Format {
        if is_text(self.value, base_of(kind)) { Format::Text } else { Format::Binary }
    }
}

/// A domain's values go as those of the type below it.
fn base_of(kind: &Type) -> &Type {
    match kind.kind() {
        Kind::Domain(base) => base_of(base),
        _ => kind,
    }
}

/// Whether it goes as SQL writes it.
fn is_text(value: &Value, kind: &Type) -> bool {
    match value {
        Value::Text(_) | Value::Uuid(_) | Value::Decimal(_) | Value::RangeDecimal(_) | Value::ArrayDecimal(_) => true,
        Value::Int8(_) | Value::Int16(_) | Value::Int32(_) | Value::Int64(_) => *kind == Type::NUMERIC,
        _ => false,
    }
}

/// Why a value does not go there.
enum Unfit {
    Type(&'static str),
    Value(&'static str),
}

fn encode(value: &Value, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Unfit> {
    match value {
        Value::Null => return Ok(IsNull::Yes),
        Value::Boolean(value) => fixed(out, *kind == Type::BOOL, "a boolean", [u8::from(*value)])?,
        Value::Int8(number) => integer(out, kind, i64::from(*number))?,
        Value::Int16(number) => integer(out, kind, i64::from(*number))?,
        Value::Int32(number) => integer(out, kind, i64::from(*number))?,
        Value::Int64(number) => integer(out, kind, *number)?,
        Value::Floating32(number) if *kind == Type::FLOAT8 => out.put_f64(f64::from(*number)),
        Value::Floating32(number) => fixed(out, *kind == Type::FLOAT4, "a floating32", number.to_be_bytes())?,
        Value::Floating64(number) => fixed(out, *kind == Type::FLOAT8, "a floating64", number.to_be_bytes())?,
        Value::Text(text) => out.put_slice(text.as_bytes()),
        Value::Binary(bytes) => fixed(out, *kind == Type::BYTEA, "a binary", bytes)?,
        Value::Date(date) => {
            let days = days_of(*date).ok_or(Unfit::Value("date"))?;
            fixed(out, *kind == Type::DATE, "a date", days.to_be_bytes())?;
        }
        Value::Time(time) => {
            let micros = micros_of(*time).ok_or(Unfit::Value("time"))?;
            fixed(out, *kind == Type::TIME, "a time", micros.to_be_bytes())?;
        }
        Value::DateTime(moment) => moments(out, kind, "a datetime", moment_of(*moment))?,
        Value::Timestamp(seconds) => moments(out, kind, "a timestamp", moment_of_unix(*seconds))?,
        Value::Uuid(text) => {
            let text = text.strip_prefix("urn:uuid:").unwrap_or(text);
            fixed(out, *kind == Type::UUID, "a uuid", text)?;
        }
        Value::Jsonb(text) => {
            if *kind == Type::JSONB {
                out.put_u8(1);
            }
            fixed(out, matches!(*kind, Type::JSON | Type::JSONB), "a jsonb", text)?;
        }
        Value::Decimal(text) => fixed(out, *kind == Type::NUMERIC, "a decimal", text)?,
        Value::RangeInt32(ends) => {
            range(out, *kind == Type::INT4_RANGE, "a range of int32", ends, i32::to_be_bytes)?;
        }
        Value::RangeInt64(ends) => {
            range(out, *kind == Type::INT8_RANGE, "a range of int64", ends, i64::to_be_bytes)?;
        }
        Value::RangeDecimal(ends) => fixed(out, *kind == Type::NUM_RANGE, "a range of decimals", text_of_range(ends))?,
        Value::ArrayInt32(values) => array(out, kind, &[Type::INT4], "an array of int32", values, |n| n.to_be_bytes())?,
        Value::ArrayInt64(values) => array(out, kind, &[Type::INT8], "an array of int64", values, |n| n.to_be_bytes())?,
        Value::ArrayText(values) => {
            let texts = [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME];
            array(out, kind, &texts, "an array of strings", values, String::as_bytes)?;
        }
        Value::ArrayDecimal(values) => {
            fixed(out, *kind == Type::NUMERIC_ARRAY, "an array of decimals", text_of_array(values))?;
        }
        Value::Interval(micros, days, months) => {
            fixed(out, *kind == Type::INTERVAL, "an interval", micros.to_be_bytes())?;
            out.put_i32(*days);
            out.put_i32(*months);
        }
        Value::Unsupported(_) => return Err(Unfit::Type("an unsupported value")),
    }
    Ok(IsNull::No)
}

fn fixed(out: &mut BytesMut, fits: bool, what: &'static str, bytes: impl AsRef<[u8]>) -> Result<(), Unfit> {
    if !fits {
        return Err(Unfit::Type(what));
    }
    out.put_slice(bytes.as_ref());
    Ok(())
}

/// An integer goes into every type of numbers that has it.
fn integer(out: &mut BytesMut, kind: &Type, number: i64) -> Result<(), Unfit> {
    let too_large = |_| Unfit::Value("number in that type");
    match *kind {
        Type::CHAR => out.put_i8(i8::try_from(number).map_err(too_large)?),
        Type::INT2 => out.put_i16(i16::try_from(number).map_err(too_large)?),
        Type::INT4 => out.put_i32(i32::try_from(number).map_err(too_large)?),
        Type::INT8 => out.put_i64(number),
        Type::OID => out.put_u32(u32::try_from(number).map_err(too_large)?),
        Type::NUMERIC => out.put_slice(number.to_string().as_bytes()),
        // What a double has exactly, it has up to 2 to the power of 53.
        Type::FLOAT8 => out.put_f64(f64::from(i32::try_from(number).map_err(too_large)?)),
        _ => return Err(Unfit::Type("an integer")),
    }
    Ok(())
}

fn moments(out: &mut BytesMut, kind: &Type, what: &'static str, moment: Option<i64>) -> Result<(), Unfit> {
    let moment = moment.ok_or(Unfit::Value("moment"))?;
    fixed(out, matches!(*kind, Type::TIMESTAMP | Type::TIMESTAMPTZ), what, moment.to_be_bytes())
}

fn range<T: Copy, const N: usize>(
    out: &mut BytesMut,
    fits: bool,
    what: &'static str,
    (lower, upper): &Range<T>,
    wire: impl Fn(T) -> [u8; N],
) -> Result<(), Unfit> {
    let flags = |end: &Option<(T, Bound)>, inclusive: u8, infinite: u8| match end {
        None => infinite,
        Some((_, Bound::Inclusive)) => inclusive,
        Some((_, Bound::Exclusive)) => 0,
    };
    fixed(out, fits, what, [flags(lower, 0x02, 0x08) | flags(upper, 0x04, 0x10)])?;
    for (value, _) in [lower, upper].into_iter().flatten() {
        out.put_i32(i32::try_from(N).unwrap_or_default());
        out.put_slice(&wire(*value));
    }
    Ok(())
}

fn array<'a, T, W: AsRef<[u8]> + 'a>(
    out: &mut BytesMut,
    kind: &Type,
    elements: &[Type],
    what: &'static str,
    values: &'a [Option<T>],
    wire: impl Fn(&'a T) -> W,
) -> Result<(), Unfit> {
    let element = match kind.kind() {
        Kind::Array(element) if elements.contains(element) => element,
        _ => return Err(Unfit::Type(what)),
    };
    let size = |length: usize| i32::try_from(length).map_err(|_| Unfit::Value("size"));
    out.put_i32(1);
    out.put_i32(i32::from(values.iter().any(Option::is_none)));
    out.put_u32(element.oid());
    out.put_i32(size(values.len())?);
    out.put_i32(1);
    for value in values {
        let Some(value) = value else {
            out.put_i32(-1);
            continue;
        };
        let wire = wire(value);
        out.put_i32(size(wire.as_ref().len())?);
        out.put_slice(wire.as_ref());
    }
    Ok(())
}

/// As SQL writes it, each value quoted, so that none can be more than a value.
fn text_of_range((lower, upper): &Range<String>) -> String {
    let mut text = String::new();
    text.push(if matches!(lower, Some((_, Bound::Inclusive))) { '[' } else { '(' });
    if let Some((value, _)) = lower {
        quote(&mut text, value);
    }
    text.push(',');
    if let Some((value, _)) = upper {
        quote(&mut text, value);
    }
    text.push(if matches!(upper, Some((_, Bound::Inclusive))) { ']' } else { ')' });
    text
}

fn text_of_array(values: &[Option<String>]) -> String {
    let mut text = "{".to_owned();
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        match value {
            Some(value) => quote(&mut text, value),
            None => text.push_str("NULL"),
        }
    }
    text.push('}');
    text
}

fn quote(text: &mut String, value: &str) {
    let _ = write!(text, "\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_no_more_than_a_value() {
        let values = [Some("1.5".to_owned()), None, Some("2\",\\3".to_owned())];
        assert_eq!(text_of_array(&values), r#"{"1.5",NULL,"2\",\\3"}"#);
        let range = (Some(("1".to_owned(), Bound::Inclusive)), None);
        assert_eq!(text_of_range(&range), r#"["1",)"#);
    }

    #[test]
    fn integers_go_where_they_fit() {
        let goes = |value: Value, kind: Type| encode(&value, &kind, &mut BytesMut::new()).is_ok();
        assert!(
            goes(Value::Int64(7), Type::INT2)
                && goes(Value::Int16(7), Type::INT8)
                && goes(Value::Int32(7), Type::NUMERIC)
        );
        assert!(
            !goes(Value::Int64(1 << 40), Type::INT4)
                && !goes(Value::Int32(200), Type::CHAR)
                && !goes(Value::Int32(1), Type::TEXT)
        );
        assert!(goes(Value::Floating32(0.5), Type::FLOAT8) && !goes(Value::Floating64(0.5), Type::FLOAT4));
    }
}
