//! Does what a test asks of embedded databases, variables, folders and sockets, and answers with what came of it.

use spin_sdk::sqlite3::{Connection, Value};
use std::io::{Read as _, Write as _};
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, mut body) = request.into_parts();
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let body = body.str_contents().await?.to_owned();
    let answer = match path.as_str() {
        // Each line of the body is a statement; all on one connection. The last one's result is the answer.
        "/sql" => statements(&query, &body),
        "/old-sql" => old(&query, &body),
        "/variable" => spin_sdk::variables::get(&query).map_err(|error| format!("{error:?}")),
        "/read" => std::fs::read_to_string(&query).map_err(|error| error.to_string()),
        "/write" => std::fs::write(&query, &body).map(|()| "written".to_owned()).map_err(|error| error.to_string()),
        "/link" => link(body.trim(), &query).map(|()| "linked".to_owned()).map_err(|error| error.to_string()),
        "/list" => list(&query).map_err(|error| error.to_string()),
        "/tcp" => tcp(&query, &body).map_err(|error| error.to_string()),
        "/udp" => udp(&query, &body).map_err(|error| error.to_string()),
        "/listen" => listen(&query).map_err(|error| error.to_string()),
        _ => Err("what?".to_owned()),
    };
    Ok(match answer {
        Ok(text) => Response::new(text.into()),
        Err(text) => Response::builder().status(422).body(text.into())?,
    })
}

fn statements(database: &str, body: &str) -> Result<String, String> {
    let (database, then) = database.split_once(',').unwrap_or((database, ""));
    let connection = Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let mut last = String::new();
    for line in body.lines() {
        let result = connection.execute(line, &[]).map_err(|error| format!("{error:?}"))?;
        let rows = result.rows.iter().map(|row| row.values.iter().map(show).collect::<Vec<_>>().join("|"));
        last = format!(
            "{}\n{}\nrowid {} changes {}",
            result.columns.join("|"),
            rows.collect::<Vec<_>>().join("\n"),
            connection.last_insert_rowid(),
            connection.changes()
        );
    }
    match then {
        "trap" => panic!("as asked"),
        "hang" => loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        },
        _ => Ok(last),
    }
}

fn old(database: &str, statement: &str) -> Result<String, String> {
    let connection = spin_sdk::sqlite::Connection::open(database).map_err(|error| format!("{error:?}"))?;
    let result = connection.execute(statement, &[]).map_err(|error| format!("{error:?}"))?;
    Ok(format!("{:?} {:?}", result.columns, result.rows))
}

fn show(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => format!("{number:?}"),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => format!("{bytes:?}"),
        Value::Null => "NULL".to_owned(),
    }
}

#[expect(deprecated, reason = "WASI has no other name for it that is stable")]
fn link(to: &str, at: &str) -> std::io::Result<()> {
    std::fs::soft_link(to, at)
}

fn list(folder: &str) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names.join(" "))
}

fn tcp(addresses: &str, text: &str) -> std::io::Result<String> {
    let (first, second) = addresses.split_once(',').unwrap_or((addresses, ""));
    let mut stream = std::net::TcpStream::connect(first)?;
    if !second.is_empty() {
        std::net::TcpStream::connect(second)?;
    }
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn udp(address: &str, text: &str) -> std::io::Result<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(text.as_bytes(), address)?;
    let mut buffer = [0; 1024];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn listen(address: &str) -> std::io::Result<String> {
    Ok(std::net::TcpListener::bind(address)?.local_addr()?.to_string())
}
