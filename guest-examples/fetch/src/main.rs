//! Calls out: to `?url=…`, or to this host's own `/hello/fetch`. Whom it may call is in functions.toml.

use wstd::http::{Body, Client, Error, Request, Response, StatusCode};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let query = request.uri().query().unwrap_or_default();
    let url = match query.split('&').find_map(|pair| pair.strip_prefix("url=")) {
        Some(url) => url.to_owned(),
        None => format!("http://{}/hello/fetch", request.uri().authority().map_or("", |authority| authority.as_str())),
    };
    let calls = query.split('&').find_map(|pair| pair.strip_prefix("calls=")?.parse().ok()).unwrap_or(1);
    let mut last = None;
    for _ in 0..calls {
        match Client::new().send(Request::get(&url).body(Body::empty())?).await {
            Ok(response) => last = Some(response),
            Err(error) => {
                let text = format!("{url}: {error:?}\n");
                return Ok(Response::builder().status(StatusCode::BAD_GATEWAY).body(text.into())?);
            }
        }
    }
    let response = last.ok_or_else(|| Error::msg("no call was asked for"))?;
    let (parts, body) = response.into_parts();
    Ok(Response::builder().status(parts.status).header("x-fetched", &url).body(body)?)
}
