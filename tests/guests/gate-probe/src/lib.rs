//! Middleware of WASI 0.2 that does what the header `x-gate` says: `refuse`, `error`, `trap`; else it hands the request on.

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "fnhost:gate/middleware", generate_all });
}

use bindings::exports::wasi::http::incoming_handler::Guest;
use bindings::wasi::http::incoming_handler as next;
use bindings::wasi::http::types::{ErrorCode, Fields, IncomingRequest, OutgoingResponse, ResponseOutparam};

struct Gate;

bindings::export!(Gate with_types_in bindings);

impl Guest for Gate {
    fn handle(request: IncomingRequest, response: ResponseOutparam) {
        let asked = request.headers().get("x-gate");
        match asked.first().map(Vec::as_slice) {
            Some(b"refuse") => {
                let refusal = OutgoingResponse::new(Fields::new());
                let _ = refusal.set_status_code(403);
                ResponseOutparam::set(response, Ok(refusal));
            }
            Some(b"error") => ResponseOutparam::set(response, Err(ErrorCode::ConfigurationError)),
            Some(b"trap") => core::arch::wasm32::unreachable(),
            _ => next::handle(request, response),
        }
    }
}
