//! Middleware by the crate wasip3 (WASI 0.3): it exports the handler of wasi:http and imports the next one, to whom it hands
//! requests on. This one logs each request, and marks the response.

use wasip3::http::types::{ErrorCode, Request, Response};
use wasip3::wit_future;

mod chain {
    wasip3::wit_bindgen::generate!({
        path: "wit",
        world: "next",
        with: { "wasi:http/handler@0.3.2": generate, "wasi:http/types@0.3.2": wasip3::http::types },
        runtime_path: "wasip3::wit_bindgen::rt",
    });
    pub use wasi::http::handler as next;
}

wasip3::http::service::export!(Middleware);

struct Middleware;

impl wasip3::exports::http::handler::Guest for Middleware {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let response = chain::next::handle(request).await?;
        eprintln!("{}", log_line(&path, response.get_status_code()));
        marked(response)
    }
}

/// What is logged of a request; its query may be nobody else's business.
fn log_line(path: &str, status: u16) -> String {
    let path = path.split('?').next().unwrap_or_default();
    format!("{path} was answered with {status}")
}

/// The same response with a header more. Its body is handed on, and not read.
fn marked(response: Response) -> Result<Response, ErrorCode> {
    let headers = response.get_headers().clone();
    headers
        .set("x-template-name", &[b"seen".to_vec()])
        .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let status = response.get_status_code();
    // Said when the body was read; that it was is all there is to say.
    let (_, read) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, read);
    let (marked, _sent) = Response::new(headers, Some(body), trailers);
    marked
        .set_status_code(status)
        .map_err(|()| ErrorCode::InternalError(None))?;
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_not_logged() {
        assert_eq!(
            log_line("/a/b?key=secret", 200),
            "/a/b was answered with 200"
        );
    }
}
