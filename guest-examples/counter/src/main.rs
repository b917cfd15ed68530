//! Counts, in a key-value store, through `wasi:keyvalue`: `GET` shows the number, `POST` adds one and shows it. The host
//! adds, so that two who count at once do not overwrite each other.

mod bindings {
    wit_bindgen::generate!({ path: "wit", generate_all });
}

use bindings::wasi::keyvalue::{atomics, store};
use wstd::http::{Body, Error, Method, Request, Response, StatusCode};

const KEY: &str = "count";

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    // The empty name is that of the store `default`.
    let bucket = store::open("")?;
    let number = match *request.method() {
        Method::GET => match bucket.get(KEY)? {
            Some(number) => String::from_utf8(number)?,
            None => "0".to_owned(),
        },
        Method::POST => atomics::increment(&bucket, KEY, 1)?.to_string(),
        _ => return Ok(Response::builder().status(StatusCode::METHOD_NOT_ALLOWED).body(().into())?),
    };
    Ok(Response::new(format!("{number}\n").into()))
}
