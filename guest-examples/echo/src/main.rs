//! Streams the upload back: nothing is held that the client has not read.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    let mut response = Response::builder();
    if let Some(kind) = parts.headers.get("content-type") {
        response = response.header("content-type", kind);
    }
    Ok(response.body(body)?)
}
