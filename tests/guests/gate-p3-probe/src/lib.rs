//! Middleware of WASI 0.3 that does what the header `x-gate` says: `refuse`, `error`, `trap`; else it lets the request pass.
//! What comes back has `x-gated`, once for each of these that it came through.

mod bindings {
    wit_bindgen::generate!({
        inline: "package fnhost:gate; world middleware { import wasi:http/handler@0.3.0; export wasi:http/handler@0.3.0; }",
        path: "../../../guest-examples/auth/wit/deps/http",
        world: "fnhost:gate/middleware",
        generate_all,
    });
}

use bindings::wasi::http::handler as next;
use bindings::wasi::http::types::{ErrorCode, Fields, Request, Response};
use bindings::{exports::wasi::http::handler::Guest, wit_future};

struct Gate;

bindings::export!(Gate with_types_in bindings);

impl Guest for Gate {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match request.get_headers().get("x-gate").first().map(Vec::as_slice) {
            Some(b"refuse") => {
                let (trailers, no_trailers) = wit_future::new(|| Ok(None));
                drop(trailers);
                let (response, _sent) = Response::new(Fields::new(), None, no_trailers);
                let _ = response.set_status_code(403);
                Ok(response)
            }
            Some(b"error") => Err(ErrorCode::ConfigurationError),
            Some(b"trap") => core::arch::wasm32::unreachable(),
            _ => Ok(gated(next::handle(request).await?)),
        }
    }
}

/// The same response with one header more, and its body as it is.
fn gated(response: Response) -> Response {
    let headers = response.get_headers().clone();
    let _ = headers.append("x-gated", b"yes");
    let status = response.get_status_code();
    let (done, body_done) = wit_future::new(|| Ok(()));
    drop(done);
    let (body, trailers) = Response::consume_body(response, body_done);
    let (gated, _sent) = Response::new(headers, Some(body), trailers);
    let _ = gated.set_status_code(status);
    gated
}
