//! A small REST service on a database of a PostgreSQL server. It is opened by its name: the address and the password stay with
//! the host, and so do the connections.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use spin_sdk::pg4::{Connection, ParameterValue, PgError, QueryError, Row, RowSet};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    quantity integer NOT NULL CHECK (quantity > 0),
    created_at timestamptz NOT NULL DEFAULT now()
)";

#[wstd_axum::http_server]
fn main() -> Router {
    let orders = Router::new().route("/", get(list).post(order)).route("/{id}", get(read));
    Router::new().nest("/orders", orders)
}

#[derive(Serialize)]
struct Order {
    id: i64,
    item: String,
    quantity: i32,
    created_at: String,
}

#[derive(Deserialize)]
struct NewOrder {
    item: String,
    quantity: i32,
}

/// What a handler answers when something went wrong.
type Failure = (StatusCode, String);

/// Runs one statement whose rows are orders. The first one that finds no table makes it.
fn run(statement: &str, parameters: &[ParameterValue]) -> Result<Vec<Order>, Failure> {
    let connection = Connection::open("orders").map_err(explain)?;
    let rows = match connection.query(statement, parameters) {
        Err(error) if code(&error) == Some("42P01") => {
            connection.execute(TABLE, &[]).map_err(explain)?;
            connection.query(statement, parameters)
        }
        done => done,
    };
    let rows: RowSet = rows.map_err(explain)?;
    Ok(rows.rows().map(|row| read_row(&row)).collect())
}

fn read_row(row: &Row<'_>) -> Order {
    Order {
        id: row.get("id").unwrap_or_default(),
        item: row.get("item").unwrap_or_default(),
        quantity: row.get("quantity").unwrap_or_default(),
        created_at: row.get("created").unwrap_or_default(),
    }
}

/// The database's own code of an error (SQLSTATE).
fn code(error: &PgError) -> Option<&str> {
    match error {
        PgError::QueryFailed(QueryError::DbError(error)) => Some(&error.code),
        _ => None,
    }
}

fn explain(error: PgError) -> Failure {
    if code(&error) == Some("23514") {
        return (StatusCode::UNPROCESSABLE_ENTITY, "a quantity is more than 0\n".to_owned());
    }
    let status = match error {
        PgError::ConnectionFailed(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("the database: {error}\n"))
}

/// The columns of an order. A moment comes as text, the way JSON has it.
macro_rules! columns {
    () => {
        r#"id, item, quantity, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS created"#
    };
}

async fn list() -> Result<Json<Vec<Order>>, Failure> {
    run(concat!("SELECT ", columns!(), " FROM orders ORDER BY id DESC LIMIT 100"), &[]).map(Json)
}

async fn read(Path(id): Path<i64>) -> Result<Json<Order>, Failure> {
    let mut found = run(concat!("SELECT ", columns!(), " FROM orders WHERE id = $1"), &[id.into()])?;
    found.pop().map(Json).ok_or((StatusCode::NOT_FOUND, format!("there is no order {id}\n")))
}

async fn order(Json(new): Json<NewOrder>) -> Result<(StatusCode, Json<Order>), Failure> {
    let insert = concat!("INSERT INTO orders (item, quantity) VALUES ($1, $2) RETURNING ", columns!());
    let mut made = run(insert, &[new.item.into(), new.quantity.into()])?;
    let made = made.pop().ok_or((StatusCode::INTERNAL_SERVER_ERROR, "nothing was ordered\n".to_owned()))?;
    Ok((StatusCode::CREATED, Json(made)))
}
