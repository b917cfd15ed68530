//! Server-sent events: `/stream?count=5&interval-ms=100`.

use futures_lite::stream;
use std::convert::Infallible;
use wstd::http::body::Bytes;
use wstd::http::{Body, Error, Request, Response};
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let query = request.uri().query().unwrap_or_default();
    let number = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
    let count: u64 = number("count").unwrap_or(5);
    let interval = Duration::from_millis(number("interval-ms").unwrap_or(100));
    let events = stream::unfold(0, move |event| async move {
        if event == count {
            return None;
        }
        if event > 0 {
            wstd::task::sleep(interval).await;
        }
        Some((Ok::<_, Infallible>(Bytes::from(format!("id: {event}\ndata: event {event}\n\n"))), event + 1))
    });
    Ok(Response::builder().header("content-type", "text/event-stream").body(Body::from_try_stream(events))?)
}
