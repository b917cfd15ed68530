//! Reads a key of a store, or with a query, sets the key that it is.

use spin_sdk::key_value::Store;
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let store = Store::open("default")?;
    match request.uri().query() {
        Some(key) => store.set(key, b"Hello, world!\n")?,
        None => drop(store.get("key")?),
    }
    Ok(Response::new("Hello, world!\n".to_owned().into()))
}
