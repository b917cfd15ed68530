//! Does what a test asks of databases of a server, by the calls during which a guest goes on, and by the builder of connections.

use bindings::spin::postgres::postgres::{Connection, ConnectionBuilder};
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_future, wit_stream};

mod bindings {
    wit_bindgen::generate!({
        inline: "package test:probe; world probe { import spin:postgres/postgres@4.2.0; }",
        path: "../../../wit/deps/spin-postgres-4.2",
        world: "test:probe/probe",
        features: ["concurrent"],
        generate_all,
    });
}

wasip3::http::service::export!(Probe);

struct Probe;

impl wasip3::exports::http::handler::Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, statement) = target.split_once('?').unwrap_or((&target, ""));
        let statement = statement.replace('+', " ");
        let headers = request.get_headers();
        let header = |name: &str| headers.get(name).into_iter().next().and_then(|value| String::from_utf8(value).ok());
        let database = header("x-database").unwrap_or_else(|| "main".to_owned());
        let answer = match path {
            "/query" => query(&database, &statement).await,
            "/side-by-side" => side_by_side(&database, &statement).await,
            "/given-up" => given_up(&database).await,
            "/build" => build(database, header("x-root"), &statement).await,
            _ => Err("what?".to_owned()),
        };
        let (status, text) = answer.map_or_else(|text| (422, text), |text| (200, text));
        let (mut body, body_reader) = wit_stream::new();
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers_reader);
        let _ = response.set_status_code(status);
        wasip3::wit_bindgen::spawn_local(async move {
            body.write_all(text.into_bytes()).await;
        });
        Ok(response)
    }
}

async fn query(database: &str, statement: &str) -> Result<String, String> {
    let connection = Connection::open_async(database.to_owned()).await.map_err(|error| format!("{error:?}"))?;
    show(&connection, statement).await
}

/// Runs a statement on a connection; its columns, how many rows it has, and the first.
async fn show(connection: &Connection, statement: &str) -> Result<String, String> {
    let answer = connection.query_async(statement.to_owned(), Vec::new()).await;
    let (columns, rows, ended) = answer.map_err(|error| format!("{error:?}"))?;
    let rows = rows.collect().await;
    ended.await.map_err(|error| format!("{error:?}"))?;
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    Ok(format!("{} {} {:?}", names.join(","), rows.len(), rows.first()))
}

/// Two statements at the same time, each on a connection of its own; and two on one, which go one after the other.
async fn side_by_side(database: &str, statement: &str) -> Result<String, String> {
    let open = async || Connection::open_async(database.to_owned()).await.map_err(|error| format!("{error:?}"));
    let (first, second) = (open().await?, open().await?);
    let (one, two) = join(show(&first, statement), show(&second, statement)).await;
    let (three, four) = join(
        first.execute_async("CREATE TEMP TABLE t AS SELECT 1 AS a".to_owned(), Vec::new()),
        first.execute_async("INSERT INTO t VALUES (2), (3)".to_owned(), Vec::new()),
    )
    .await;
    Ok(format!("{} {} {three:?} {four:?}", one?, two?))
}

/// A statement that the guest gives up, and what becomes of its connection.
async fn given_up(database: &str) -> Result<String, String> {
    let connection = Connection::open_async(database.to_owned()).await.map_err(|error| format!("{error:?}"))?;
    {
        let mut sleeping = Box::pin(connection.execute_async("SELECT pg_sleep(61)".to_owned(), Vec::new()));
        let mut waiting = Box::pin(wasip3::clocks::monotonic_clock::wait_for(200_000_000));
        std::future::poll_fn(|cx| {
            let _ = sleeping.as_mut().poll(cx);
            waiting.as_mut().poll(cx)
        })
        .await;
    }
    show(&connection, "SELECT 1").await
}

async fn build(address: String, root: Option<String>, statement: &str) -> Result<String, String> {
    let builder = ConnectionBuilder::new(&address);
    if let Some(root) = root {
        // A header has no lines.
        builder.set_ca_root(&root.replace('~', "\n")).map_err(|error| format!("{error:?}"))?;
    }
    let connection = builder.build_async().await.map_err(|error| format!("{error:?}"))?;
    show(&connection, statement).await
}

async fn join<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (Box::pin(first), Box::pin(second));
    let (mut one, mut two) = (None, None);
    std::future::poll_fn(|cx| {
        if one.is_none()
            && let std::task::Poll::Ready(done) = first.as_mut().poll(cx)
        {
            one = Some(done);
        }
        if two.is_none()
            && let std::task::Poll::Ready(done) = second.as_mut().poll(cx)
        {
            two = Some(done);
        }
        if one.is_some() && two.is_some() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    (one.unwrap(), two.unwrap())
}
