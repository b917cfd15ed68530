//! The sins of `misbehave` that are another matter in WASI 0.3, where a guest's tasks and streams run in the host's own
//! event loop. Not an example of how to write a function.

#[path = "../../misbehave/src/secret.rs"]
mod secret;

use std::sync::atomic::{AtomicU32, Ordering};
use wasip3::clocks::monotonic_clock;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::wit_bindgen::{self, StreamReader, StreamResult, StreamWriter};
use wasip3::{wit_future, wit_stream};

wasip3::http::service::export!(Misbehave);

struct Misbehave;

impl wasip3::exports::http::handler::Guest for Misbehave {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number: u64 = query.split_once('=').and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        match path.strip_prefix("/misbehave-p3/").unwrap_or_default() {
            "spin" => {
                println!("spinning");
                spin()
            }
            "hang" => {
                println!("hanging");
                hang().await
            }
            "trap" => core::arch::wasm32::unreachable(),
            "grow" => grow(),
            "error-code" => Err(ErrorCode::InternalError(Some("on purpose".to_owned()))),
            "counter" => counter(),
            "fill" => {
                secret::fill();
                answer("filled\n".to_owned())
            }
            "scan" => answer(format!("{}\n", secret::scan())),
            "fetch" => fetch(query.strip_prefix("url=").unwrap_or_default()).await,
            "echo" => Ok(echo(request)),
            "request" => show(&request),
            "panic-in-mid-stream" => streaming(async |body| {
                say(body, "a beginning\n").await;
                monotonic_clock::wait_for(10_000_000).await;
                panic!("in mid-stream, on purpose");
            }),
            "spin-after-head" => streaming(async |body| {
                say(body, "a beginning\n").await;
                monotonic_clock::wait_for(10_000_000).await;
                spin()
            }),
            "hang-after-head" => streaming(async |body| {
                say(body, "a beginning\n").await;
                hang().await
            }),
            "pour" => streaming(async |body| {
                let chunk = "x".repeat(64 << 10);
                while say(body, &chunk).await {}
            }),
            "work-on" => work_on(number),
            other => answer(format!("no such sin: {other}\n")),
        }
    }
}

/// Calls out, and shows the status or the error.
async fn fetch(url: &str) -> Result<Response, ErrorCode> {
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap_or((url, ""));
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, trailers_reader, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(&format!("/{path}")));
    match wasip3::http::client::send(request).await {
        Ok(response) => answer(format!("status {}\n", response.get_status_code())),
        Err(error) => answer(format!("{error:?}\n")),
    }
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

async fn hang() -> ! {
    loop {
        monotonic_clock::wait_for(3_600_000_000_000).await;
    }
}

fn grow() -> Result<Response, ErrorCode> {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&hoard);
    }
}

fn counter() -> Result<Response, ErrorCode> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    answer(format!("{}\n", COUNTER.fetch_add(1, Ordering::Relaxed) + 1))
}

async fn say(body: &mut StreamWriter<u8>, text: &str) -> bool {
    body.write_all(text.as_bytes().to_vec()).await.is_empty()
}

/// A response whose body `write` makes, in a task of its own.
fn streaming(write: impl AsyncFnOnce(&mut StreamWriter<u8>) + 'static) -> Result<Response, ErrorCode> {
    let (mut body, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move { write(&mut body).await });
    Ok(respond(reader))
}

fn respond(body: StreamReader<u8>) -> Response {
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    Response::new(Fields::new(), Some(body), trailers_reader).0
}

fn answer(text: String) -> Result<Response, ErrorCode> {
    streaming(async move |body| {
        say(body, &text).await;
    })
}

/// Answers, and then works on for `?ms=`.
fn work_on(millis: u64) -> Result<Response, ErrorCode> {
    let (mut body, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        say(&mut body, "answered\n").await;
        drop(body);
        monotonic_clock::wait_for(millis * 1_000_000).await;
        println!("worked on for {millis} ms");
    });
    Ok(respond(reader))
}

/// Sends the upload back through the guest, trailers too.
fn echo(request: Request) -> Response {
    let headers = Fields::new();
    if let Some(trailer) = request.get_headers().get("trailer").into_iter().next() {
        let _ = headers.append("trailer", &trailer);
    }
    let (result, result_reader) = wit_future::new(|| Ok(()));
    drop(result);
    let (mut upload, trailers) = Request::consume_body(request, result_reader);
    let (mut body, reader) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        loop {
            let (status, chunk) = upload.read(Vec::with_capacity(64 << 10)).await;
            if !chunk.is_empty() && !body.write_all(chunk).await.is_empty() {
                break;
            }
            if matches!(status, StreamResult::Dropped) {
                break;
            }
        }
    });
    Response::new(headers, Some(reader), trailers).0
}

/// Shows the request as this guest sees it.
fn show(request: &Request) -> Result<Response, ErrorCode> {
    let mut text = format!(
        "scheme {:?}\nauthority {}\npath {}\n",
        request.get_scheme(),
        request.get_authority().unwrap_or_default(),
        request.get_path_with_query().unwrap_or_default()
    );
    for (name, value) in request.get_headers().copy_all() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    answer(text)
}
