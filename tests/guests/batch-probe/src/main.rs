//! Sets two keys and reads three, by the `get-many` that the proposal's own text has.

mod bindings {
    wit_bindgen::generate!({ path: "wit", generate_all });
}

use bindings::wasi::keyvalue::{batch, store};
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    let bucket = store::open("")?;
    bucket.set("a", b"1")?;
    bucket.set("b", b"2")?;
    let pairs = batch::get_many(&bucket, &["b".to_owned(), "none".to_owned(), "a".to_owned()])?;
    let shown = |pair: Option<(String, Vec<u8>)>| {
        pair.map_or_else(|| "-".to_owned(), |(key, value)| format!("{key}={}", String::from_utf8_lossy(&value)))
    };
    Ok(Response::new(pairs.into_iter().map(shown).collect::<Vec<_>>().join(" ").into()))
}
