//! Says hello as most authors would: a handler of the crate `wstd`.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(Response::new("Hello, world!\n".to_owned().into()))
}
