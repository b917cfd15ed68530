//! Passes a request on, and the answer back, as they come and both at once: neither body is ever whole in memory, nor passes
//! through this code. Whom it may call is in functions.toml; `UPSTREAM` says whom it does.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Proxy);

struct Proxy;

/// The fields that belong to the connection that they came by (RFC 9110, 7.6.1), and the name of the server.
const NOT_PASSED_ON: [&str; 6] = ["host", "connection", "keep-alive", "te", "transfer-encoding", "upgrade"];

impl wasip3::exports::http::handler::Guest for Proxy {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let upstream = std::env::var("UPSTREAM").unwrap_or_default();
        match client::send(passed_on(request, &upstream)?).await {
            Ok(response) => Ok(passed_back(response)?),
            Err(error) => {
                eprintln!("{upstream}: {error:?}");
                bad_gateway()
            }
        }
    }
}

/// The request as `upstream` gets it.
fn passed_on(request: Request, upstream: &str) -> Result<Request, ErrorCode> {
    let (scheme, authority) = match upstream.split_once("://") {
        Some(("http", authority)) => (Scheme::Http, authority),
        Some(("https", authority)) => (Scheme::Https, authority),
        _ => return Err(ErrorCode::InternalError(Some("UPSTREAM is no http:// or https:// address".to_owned()))),
    };
    let method = request.get_method();
    let target = request.get_path_with_query().unwrap_or_default();
    let rest = target.strip_prefix("/proxy").unwrap_or(&target);
    let headers = end_to_end(&request.get_headers())?;
    let (received, received_reader) = wit_future::new(|| Ok(()));
    drop(received);
    let (body, trailers) = Request::consume_body(request, received_reader);
    let (request, _sent) = Request::new(headers, Some(body), trailers, None);
    let refused = |()| ErrorCode::HttpRequestUriInvalid;
    request.set_method(&method).map_err(refused)?;
    request.set_scheme(Some(&scheme)).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(rest)).map_err(refused)?;
    Ok(request)
}

/// The answer as the client gets it.
fn passed_back(response: Response) -> Result<Response, ErrorCode> {
    let status = response.get_status_code();
    let headers = end_to_end(&response.get_headers())?;
    let (received, received_reader) = wit_future::new(|| Ok(()));
    drop(received);
    let (body, trailers) = Response::consume_body(response, received_reader);
    let (response, _sent) = Response::new(headers, Some(body), trailers);
    response.set_status_code(status).map_err(|()| ErrorCode::HttpProtocolError)?;
    Ok(response)
}

fn end_to_end(headers: &Fields) -> Result<Fields, ErrorCode> {
    let passed: Vec<_> =
        headers.copy_all().into_iter().filter(|(name, _)| !NOT_PASSED_ON.contains(&name.as_str())).collect();
    Fields::from_list(&passed).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))
}

fn bad_gateway() -> Result<Response, ErrorCode> {
    let (mut body, body_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers_reader);
    response.set_status_code(502).map_err(|()| ErrorCode::HttpProtocolError)?;
    wasip3::wit_bindgen::spawn_local(async move {
        body.write_all(b"upstream does not answer\n".to_vec()).await;
    });
    Ok(response)
}
