//! Asks a database for one row, over a connection of its own, as a guest would have to without the host's: just so much of
//! PostgreSQL's protocol as that takes (<https://www.postgresql.org/docs/current/protocol-message-formats.html>), with a user who
//! needs no password.

use std::io::{Read, Write};
use std::net::TcpStream;
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new(query()?.into()))
}

fn query() -> std::io::Result<String> {
    let address = std::env::var("DATABASE").map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(address)?;
    let parameters = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    stream.write_all(&[&(parameters.len() as u32 + 4).to_be_bytes(), &parameters[..]].concat())?;
    until_ready(&mut stream)?;
    let statement = b"SELECT text FROM greetings WHERE id = 1\0";
    stream.write_all(&[b"Q", &(statement.len() as u32 + 4).to_be_bytes()[..], &statement[..]].concat())?;
    let text = until_ready(&mut stream)?.ok_or_else(|| std::io::Error::other("no row"))?;
    stream.write_all(b"X\0\0\0\x04")?;
    Ok(text)
}

/// Reads until the server waits for a statement; the first value of the last row, if there was one.
fn until_ready(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut value = None;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        match head[0] {
            b'Z' => return Ok(value),
            b'E' => return Err(std::io::Error::other(String::from_utf8_lossy(&body).into_owned())),
            // The number of values, then each with its length before it.
            b'D' => value = Some(String::from_utf8_lossy(&body[6..]).into_owned()),
            _ => {}
        }
    }
}
