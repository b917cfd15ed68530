//! Middleware as a component: whoever has the token passes, with a header that says so, and all others are refused. The token
//! is the variable `auth_token` of the function behind it. The body of a request goes through as the stream that it is: it is
//! handed on, and not read.

mod bindings {
    wit_bindgen::generate!({ path: ["../../wit/deps/config-rc", "wit"], world: "fnhost:auth/middleware", generate_all });
}

use bindings::wasi::config::store;
use bindings::wasi::http::handler as next;
use bindings::wasi::http::types::{ErrorCode, Fields, Request, Response};
use bindings::{exports::wasi::http::handler::Guest, wit_future};

struct Auth;

bindings::export!(Auth with_types_in bindings);

impl Guest for Auth {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let token = store::get("auth_token").ok().flatten();
        let given = request.get_headers().get("authorization");
        let knows_it = match (token, given.as_slice()) {
            (Some(token), [given]) => is_same(given, format!("Bearer {token}").as_bytes()),
            _ => false,
        };
        if knows_it { next::handle(marked(request)).await } else { Ok(refusal()) }
    }
}

/// Takes the same time wherever the first difference is.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

/// The same request with one header more. A request that came in cannot be changed, so this is another one, with its body.
fn marked(request: Request) -> Request {
    let headers = request.get_headers().clone();
    let _ = headers.set("x-authenticated", &[b"yes".to_vec()]);
    let (method, path) = (request.get_method(), request.get_path_with_query());
    let (scheme, authority) = (request.get_scheme(), request.get_authority());
    let (done, body_done) = wit_future::new(|| Ok(()));
    drop(done);
    let (body, trailers) = Request::consume_body(request, body_done);
    let (marked, _sent) = Request::new(headers, Some(body), trailers, None);
    let _ = marked.set_method(&method);
    let _ = marked.set_path_with_query(path.as_deref());
    let _ = marked.set_scheme(scheme.as_ref());
    let _ = marked.set_authority(authority.as_deref());
    marked
}

fn refusal() -> Response {
    let headers = Fields::new();
    let _ = headers.append("www-authenticate", b"Bearer realm=\"auth\"");
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (response, _sent) = Response::new(headers, None, no_trailers);
    let _ = response.set_status_code(401);
    response
}
