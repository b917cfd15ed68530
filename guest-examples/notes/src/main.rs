//! A small REST service: axum in the guest, SQLite through the host. The tables are made by `migrations/`, before the
//! release is served.

use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use spin_sdk::sqlite3::{Connection, QueryResult, Value};

#[wstd_axum::http_server]
fn main() -> Router {
    let notes = Router::new().route("/", get(list).post(write)).route("/{id}", get(read).delete(remove));
    Router::new().nest("/notes", notes)
}

#[derive(Serialize)]
struct Note {
    id: i64,
    text: String,
    tag: String,
}

#[derive(Deserialize)]
struct NewNote {
    text: String,
    #[serde(default)]
    tag: String,
}

#[derive(Deserialize)]
struct Filter {
    tag: Option<String>,
}

/// What a handler answers when something went wrong.
type Failure = (StatusCode, String);

/// Runs one statement. Each request opens the database; the connection behind it is the host's.
fn run(statement: &str, parameters: &[Value]) -> Result<(Connection, QueryResult), Failure> {
    let failed = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("the database: {error}\n"));
    let connection = Connection::open("notes").map_err(failed)?;
    let result = connection.execute(statement, parameters).map_err(failed)?;
    Ok((connection, result))
}

fn notes(result: &QueryResult) -> Vec<Note> {
    let note = |row: spin_sdk::sqlite3::Row<'_>| Note {
        id: row.get("id").unwrap_or_default(),
        text: row.get::<&str>("text").unwrap_or_default().to_owned(),
        tag: row.get::<&str>("tag").unwrap_or_default().to_owned(),
    };
    result.rows().map(note).collect()
}

async fn list(Query(filter): Query<Filter>) -> Result<Json<Vec<Note>>, Failure> {
    let tag = filter.tag.map_or(Value::Null, Value::Text);
    let query = "SELECT id, text, tag FROM notes WHERE ?1 IS NULL OR tag = ?1 ORDER BY id LIMIT 100";
    Ok(Json(notes(&run(query, &[tag])?.1)))
}

async fn read(Path(id): Path<i64>) -> Result<Json<Note>, Failure> {
    let (_, result) = run("SELECT id, text, tag FROM notes WHERE id = ?1", &[Value::Integer(id)])?;
    notes(&result).pop().map(Json).ok_or((StatusCode::NOT_FOUND, format!("there is no note {id}\n")))
}

async fn write(Json(NewNote { text, tag }): Json<NewNote>) -> Result<(StatusCode, Json<Note>), Failure> {
    let insert = "INSERT INTO notes (text, tag) VALUES (?1, ?2)";
    let (connection, _) = run(insert, &[Value::Text(text.clone()), Value::Text(tag.clone())])?;
    Ok((StatusCode::CREATED, Json(Note { id: connection.last_insert_rowid(), text, tag })))
}

async fn remove(Path(id): Path<i64>) -> Result<StatusCode, Failure> {
    let (connection, _) = run("DELETE FROM notes WHERE id = ?1", &[Value::Integer(id)])?;
    Ok(if connection.changes() == 0 { StatusCode::NOT_FOUND } else { StatusCode::NO_CONTENT })
}
