//! Asks a database for one row, over a connection of the host's.

use spin_sdk::pg4::{Connection, Decode as _, ParameterValue};
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    let connection = Connection::open("main")?;
    let rows = connection.query("SELECT text FROM greetings WHERE id = $1", &[ParameterValue::Int32(1)])?;
    let text = String::decode(&rows.rows[0][0])?;
    Ok(Response::new(text.into()))
}
