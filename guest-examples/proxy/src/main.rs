//! Passes a request on, and the answer back, as they come: neither body is ever whole in memory. Whom it may call is in
//! functions.toml; `UPSTREAM` says whom it does.

use wstd::http::{Body, Client, Error, Request, Response, StatusCode, Uri};

#[wstd::http_server]
async fn main(mut request: Request<Body>) -> Result<Response<Body>, Error> {
    let upstream = std::env::var("UPSTREAM").unwrap_or_default();
    let prefix = "/proxy";
    let rest = request.uri().path_and_query().map_or("/", |target| target.as_str().trim_start_matches(prefix));
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let Ok(uri) = format!("{upstream}{slash}{rest}").parse::<Uri>() else {
        return Ok(Response::builder().status(StatusCode::BAD_GATEWAY).body("no such place\n".to_owned().into())?);
    };
    *request.uri_mut() = uri;
    // These belong to the connection that the request came by (RFC 9110, 7.6.1).
    for name in ["host", "connection", "te", "transfer-encoding", "upgrade"] {
        request.headers_mut().remove(name);
    }
    match Client::new().send(request).await {
        Ok(mut response) => {
            for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
                response.headers_mut().remove(name);
            }
            Ok(response)
        }
        Err(error) => {
            eprintln!("{upstream}: {error:#}");
            Ok(Response::builder()
                .status(StatusCode::BAD_GATEWAY)
                .body("upstream does not answer\n".to_owned().into())?)
        }
    }
}
