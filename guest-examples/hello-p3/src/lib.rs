//! Says hello by WASI 0.3: the handler is `async`, and its body is a stream that a spawned task writes.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Hello);

struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::from_list(&[("content-type".to_owned(), b"text/plain".to_vec())])
            .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
        let (mut body, body_reader) = wit_stream::new();
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        drop(trailers);
        let (response, _sent) = Response::new(headers, Some(body_reader), trailers_reader);
        wit_bindgen::spawn_local(async move {
            body.write_all(b"Hello, WASI 0.3!\n".to_vec()).await;
        });
        Ok(response)
    }
}
