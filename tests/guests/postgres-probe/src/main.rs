//! Does what a test asks of databases of a server, by each version of the interface, and answers with what came of it.

use spin_sdk::pg4::{Connection, Interval, ParameterValue as P, RangeBoundKind as Bound, RowSet};
use spin_sdk::{pg, pg3};
use std::time::Duration;
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, mut body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    // The name or address of the database; `main`, if none is given.
    let database = head.headers.get("x-database").and_then(|value| value.to_str().ok()).unwrap_or("main").to_owned();
    let body = body.str_contents().await?.to_owned();
    let answer = match head.uri.path() {
        "/sql" => statements(&database, &body, &query),
        "/execute" => execute(&database, &body),
        "/parameter" => parameter(&database, &body, &query),
        "/values-2" => values_2(&database),
        "/values-3" => values_3(&database),
        "/values-4" => values_4(&database),
        "/error-2" => pg::Connection::open(&database)
            .and_then(|connection| connection.query(&body, &[]))
            .map(|_| String::new())
            .map_err(|error| format!("{error:?}")),
        "/unsigned" => pg::Connection::open(&database)
            .and_then(|connection| connection.query("SELECT $1::int", &[pg::ParameterValue::Uint32(1)]))
            .map(|_| String::new())
            .map_err(|error| format!("{error:?}")),
        _ => Err("what?".to_owned()),
    };
    Ok(match answer {
        Ok(text) => Response::new(text.into()),
        Err(text) => Response::builder().status(422).body(text.into())?,
    })
}

/// Each line is a statement, all on one connection. The last one's result is the answer. A line that begins with `!` has to
/// fail.
fn statements(database: &str, body: &str, then: &str) -> Result<String, String> {
    let connection = Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut last = String::new();
    for line in body.lines() {
        if let Some(line) = line.strip_prefix('!') {
            match connection.query(line, &[]) {
                Ok(_) => return Err(format!("{line} did not fail")),
                Err(error) => last = format!("{error:?}"),
            }
            continue;
        }
        last = show(&connection.query(line, &[]).map_err(|error| format!("{error:?}"))?);
    }
    match then {
        "trap" => panic!("as asked"),
        "hang" => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        _ => Ok(last),
    }
}

fn execute(database: &str, body: &str) -> Result<String, String> {
    let connection = Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut touched = Vec::new();
    for line in body.lines() {
        touched.push(connection.execute(line, &[]).map_err(|error| format!("{error:?}"))?.to_string());
    }
    Ok(touched.join(" "))
}

/// One statement with one parameter, of the type that `kind` says.
fn parameter(database: &str, body: &str, kind: &str) -> Result<String, String> {
    let (value, statement) = body.split_once(' ').unwrap_or((body, ""));
    let value = match kind {
        "int64" => P::Int64(value.parse().map_err(|_| "no number")?),
        "str" => P::Str(value.to_owned()),
        "uuid" => P::Uuid(value.to_owned()),
        "decimal" => P::Decimal(value.to_owned()),
        "date" => P::Date((2023, 2, 29)),
        "timestamp" => P::Timestamp(value.parse().map_err(|_| "no number")?),
        _ => P::DbNull,
    };
    let connection = Connection::open(database).map_err(|error| format!("{error:?}"))?;
    connection.query(statement, &[value]).map(|rows| show(&rows)).map_err(|error| format!("{error:?}"))
}

fn show(rows: &RowSet) -> String {
    let columns = rows.columns.iter().map(|column| format!("{} {:?}", column.name, column.data_type));
    let mut text = columns.collect::<Vec<_>>().join(" | ");
    for row in &rows.rows {
        let values = row.iter().map(|value| format!("{value:?}").replace("DbValue::", ""));
        text = format!("{text}\n{}", values.collect::<Vec<_>>().join(" | "));
    }
    text.replace("DbDataType::", "")
}

/// Sends each value as a parameter of its type, and shows what comes back, and a NULL of that type.
fn values_4(database: &str) -> Result<String, String> {
    let end = |value: i32, bound| Some((value, bound));
    let decimal = |value: &str| value.to_owned();
    let values = [
        ("bool", P::Boolean(true)),
        ("\"char\"", P::Int8(65)),
        ("int2", P::Int16(-2)),
        ("int4", P::Int32(-4)),
        ("int8", P::Int64(i64::MIN)),
        ("float4", P::Floating32(0.5)),
        ("float8", P::Floating64(-0.1)),
        ("text", P::Str("text, “quoted”".to_owned())),
        ("varchar", P::Str("varchar".to_owned())),
        ("bpchar", P::Str("bpchar".to_owned())),
        ("name", P::Str("name".to_owned())),
        ("bytea", P::Binary(vec![0, 255])),
        ("date", P::Date((-43, 3, 15))),
        ("time", P::Time((23, 59, 58, 123_456_000))),
        ("timestamp", P::Datetime((1999, 12, 31, 23, 59, 59, 999_999_000))),
        ("timestamptz", P::Datetime((2024, 2, 29, 12, 0, 0, 0))),
        ("timestamptz", P::Timestamp(1_000_000_000)),
        ("uuid", P::Uuid("{A0EEBC99-9c0b4ef8bb6d6bb9bd380a11}".to_owned())),
        ("jsonb", P::Jsonb(b"{\"b\":[1, 2.50], \"a\":null}".to_vec())),
        ("json", P::Jsonb(b"[1]".to_vec())),
        ("numeric", P::Decimal("-12345678901234567890123456789.00000001230".to_owned())),
        ("numeric", P::Decimal("NaN".to_owned())),
        ("int4range", P::RangeInt32((end(1, Bound::Inclusive), end(5, Bound::Exclusive)))),
        ("int4range", P::RangeInt32((None, end(5, Bound::Inclusive)))),
        ("int4range", P::RangeInt32((end(1, Bound::Exclusive), end(1, Bound::Exclusive)))),
        ("int8range", P::RangeInt64((Some((-1, Bound::Inclusive)), None))),
        (
            "numrange",
            P::RangeDecimal((Some((decimal("0.5"), Bound::Exclusive)), Some((decimal("1.50"), Bound::Inclusive)))),
        ),
        ("int4[]", P::ArrayInt32(vec![Some(1), None, Some(-1)])),
        ("int8[]", P::ArrayInt64(vec![])),
        ("numeric[]", P::ArrayDecimal(vec![Some(decimal("1.5")), None])),
        ("text[]", P::ArrayStr(vec![Some("a\"\\,{}".to_owned()), None, Some(String::new())])),
        ("varchar[]", P::ArrayStr(vec![Some("NULL".to_owned())])),
        ("interval", P::Interval(Interval { micros: -1, days: 2, months: -3 })),
    ];
    let connection = Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut text = String::new();
    for (kind, value) in values {
        let statement = format!("SELECT $1::{kind} AS a, $2::{kind} AS b");
        let rows = connection.query(&statement, &[value, P::DbNull]).map_err(|error| format!("{kind}: {error:?}"))?;
        text = format!("{text}{kind}: {}\n", show(&rows).replace("a ", "").replace('\n', ": "));
    }
    Ok(text)
}

fn values_3(database: &str) -> Result<String, String> {
    use pg3::ParameterValue as P;
    let values = [
        ("bool", P::Boolean(true)),
        ("\"char\"", P::Int8(65)),
        ("int2", P::Int16(-2)),
        ("int4", P::Int32(-4)),
        ("int8", P::Int64(i64::MIN)),
        ("float4", P::Floating32(0.5)),
        ("float8", P::Floating64(-0.1)),
        ("text", P::Str("text".to_owned())),
        ("bytea", P::Binary(vec![0, 255])),
        ("date", P::Date((2024, 2, 29))),
        ("time", P::Time((0, 0, 0, 1000))),
        ("timestamp", P::Datetime((2024, 2, 29, 12, 0, 0, 0))),
        ("timestamptz", P::Timestamp(0)),
        ("uuid", P::Str("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".to_owned())),
    ];
    let connection = pg3::Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut text = String::new();
    for (kind, value) in values {
        let statement = format!("SELECT $1::{kind} AS a, $2::{kind} AS b");
        let rows = connection.query(&statement, &[value, P::DbNull]).map_err(|error| format!("{kind}: {error:?}"))?;
        text = format!("{text}{kind}: {:?} {:?}\n", rows.columns[0].data_type, rows.rows[0]);
    }
    Ok(text.replace("DbDataType::", "").replace("DbValue::", ""))
}

fn values_2(database: &str) -> Result<String, String> {
    use pg::ParameterValue as P;
    let values = [
        ("bool", P::Boolean(true)),
        ("\"char\"", P::Int8(65)),
        ("int2", P::Int16(-2)),
        ("int4", P::Int32(-4)),
        ("int8", P::Int64(i64::MIN)),
        ("float4", P::Floating32(0.5)),
        ("float8", P::Floating64(-0.1)),
        ("text", P::Str("text".to_owned())),
        ("bytea", P::Binary(vec![0, 255])),
        ("date", P::Str("2024-02-29".to_owned())),
    ];
    let connection = pg::Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut text = String::new();
    for (kind, value) in values {
        let statement = format!("SELECT $1::{kind} AS a, $2::{kind} AS b");
        let rows = connection.query(&statement, &[value, P::DbNull]).map_err(|error| format!("{kind}: {error:?}"))?;
        text = format!("{text}{kind}: {:?} {:?}\n", rows.columns[0].data_type, rows.rows[0]);
    }
    Ok(text.replace("DbDataType::", "").replace("DbValue::", ""))
}
