//! Streams the upload back: nothing is held that the client has not read.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let mut response = Response::builder();
    // HTTP/1.1 sends the trailers that `trailer` announces.
    for name in ["content-type", "trailer"] {
        if let Some(value) = parts.headers.get(name) {
            response = response.header(name, value);
        }
    }
    Ok(response.body(body)?)
}
