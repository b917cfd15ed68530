//! Does what a test asks of an embedded database by `spin:sqlite@3.1.0`, and of variables by `spin:variables@3.0.0`, whose
//! functions wait for nothing: `/sql?DATABASE` runs each line of the body, `/together?DATABASE` all at once, and `/mixed?DATABASE`
//! the first, and while that is at work, the second by a call during which it does nothing else.

use futures::future::join_all;
use spin_sdk::http::{IntoResponse, Request, StatusCode, body::IncomingBodyExt as _};
use spin_sdk::http_service;
use spin_sdk::sqlite::{Connection, Error};
use std::pin::pin;
use std::task::{Context, Waker};

mod bindings {
    wit_bindgen::generate!({
        inline: "package test:probe; world probe { import spin:sqlite/sqlite@3.1.0; }",
        path: "../../../wit/deps/spin-sqlite-3.1",
        world: "test:probe/probe",
        features: ["concurrent"],
        generate_all,
    });
}

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    let body = request.into_body().bytes().await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    let answer = match path.as_str() {
        "/mixed" => mixed(&query, &text).await,
        "/variable" => spin_sdk::variables::get(&query).await.map_err(|error| format!("{error:?}")),
        path => statements(path, &query, &text).await.map_err(|error| format!("{error:?}")),
    };
    match answer {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
    }
}

async fn statements(path: &str, database: &str, text: &str) -> Result<String, Error> {
    let connection = Connection::open(database).await?;
    let mut last = String::new();
    if path == "/together" {
        for done in join_all(text.lines().map(|line| connection.execute(line, []))).await {
            done?.collect().await?;
        }
    } else {
        for line in text.lines() {
            let result = connection.execute(line, []).await?;
            let columns = result.columns().join("|");
            let rows = result.collect().await?;
            last = format!("{columns} {rows:?}");
        }
    }
    Ok(format!("{last} rowid {} changes {}", connection.last_insert_rowid().await, connection.changes().await))
}

async fn mixed(database: &str, text: &str) -> Result<String, String> {
    use bindings::spin::sqlite::sqlite::Connection;
    let connection = Connection::open_async(database.to_owned()).await.map_err(|error| format!("{error:?}"))?;
    let (first, second) = text.split_once('\n').ok_or("two lines")?;
    let mut working = pin!(connection.execute_async(first.to_owned(), Vec::new()));
    // Begun, and not waited for.
    let begun = working.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let told = connection.execute(second, &[]).map(|_| "done").map_err(|error| format!("{error:?}"));
    if begun.is_pending() {
        working.await.map_err(|error| format!("{error:?}"))?;
    }
    told.map(str::to_owned)
}
