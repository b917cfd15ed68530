//! Middleware of WASI 0.3 that lets everything pass: what a link of a chain costs that does nothing.

mod bindings {
    wit_bindgen::generate!({
        inline: "package fnhost:pass; world middleware { import wasi:http/handler@0.3.0; export wasi:http/handler@0.3.0; }",
        path: "../../../guest-examples/auth/wit/deps/http",
        world: "fnhost:pass/middleware",
        generate_all,
    });
}

use bindings::exports::wasi::http::handler::Guest;
use bindings::wasi::http::handler as next;
use bindings::wasi::http::types::{ErrorCode, Request, Response};

struct Pass;

bindings::export!(Pass with_types_in bindings);

impl Guest for Pass {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        next::handle(request).await
    }
}
