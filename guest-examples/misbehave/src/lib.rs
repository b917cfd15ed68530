//! A route for each sin, to show that the host survives them all. Not an example of how to write a function.

mod secret;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wasip2::clocks::monotonic_clock;
use wasip2::http::types::{ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::OutputStream;

wasip2::http::proxy::export!(Misbehave);

struct Misbehave;

impl wasip2::exports::http::incoming_handler::Guest for Misbehave {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let number: u64 = query.split_once('=').and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        match path.strip_prefix("/misbehave/").unwrap_or_default() {
            "spin" => spin(answer, number),
            "spin-after-head" => spin_after_head(answer),
            "grow" => grow(answer),
            "grow-and-survive" => grow_and_survive(answer),
            "trap" => core::arch::wasm32::unreachable(),
            "panic" => panic!("on purpose"),
            "exit" => std::process::exit(i32::try_from(number).unwrap_or(1)),
            "silent" => drop(answer),
            "error-code" => ResponseOutparam::set(answer, Err(ErrorCode::InternalError(Some("on purpose".to_owned())))),
            "hang" => hang(),
            "hang-after-head" => hang_after_head(answer),
            "hoard-and-hang" => {
                std::mem::forget(std::hint::black_box(vec![1_u8; usize::try_from(number).unwrap_or(0)]));
                hang_after_head(answer);
            }
            "panic-in-mid-stream" => panic_in_mid_stream(answer),
            "unfinished" => unfinished(answer),
            "short" => short(answer),
            "pour" => pour(answer),
            "status" => status(answer, number),
            "forgotten" => forgotten(answer),
            "long-error" => {
                ResponseOutparam::set(answer, Err(ErrorCode::InternalError(Some("x".repeat(8 << 20)))));
            }
            "hoard-bodies" => hoard_bodies(answer),

            "flood" => flood(answer, number),
            "markup" => {
                println!("<script>document.title = \"owned\"</script><img src=x onerror=\"document.title = 'owned'\">");
                respond(answer, "said\n");
            }
            "endless-line" => endless_line(answer, number),
            "counter" => counter(answer),
            "fill" => {
                secret::fill();
                respond(answer, "filled\n");
            }
            "scan" => respond(answer, &format!("{}\n", secret::scan())),
            "fill-and-scan" => {
                secret::fill();
                respond(answer, &format!("{}\n", secret::scan()));
            }
            "work-on" => work_on(answer, number, 200),
            "work-on-without-a-body" => work_on(answer, number, 204),
            "host-headers" => host_headers(answer),
            "request-headers" => request_headers(&request, answer),
            other => respond(answer, &format!("no such sin: {other}\n")),
        }
    }
}

fn respond(answer: ResponseOutparam, text: &str) {
    let (body, stream) = begin(answer, Fields::new());
    write(&stream, text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn begin(answer: ResponseOutparam, headers: Fields) -> (OutgoingBody, OutputStream) {
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the first time");
    ResponseOutparam::set(answer, Ok(response));
    let stream = body.write().expect("the first time");
    (body, stream)
}

fn write(stream: &OutputStream, bytes: &[u8]) {
    for chunk in bytes.chunks(4096) {
        // A client that went away is found out about elsewhere.
        let _ = stream.blocking_write_and_flush(chunk);
    }
}

fn spin_for(millis: u64) {
    let began = Instant::now();
    while millis == 0 || began.elapsed() < Duration::from_millis(millis) {
        std::hint::black_box(began);
    }
}

/// For `?ms=`, or for ever.
fn spin(answer: ResponseOutparam, millis: u64) {
    if millis == 0 {
        println!("spinning");
        // No call to the host at all.
        let mut turns = 0_u64;
        loop {
            turns = std::hint::black_box(turns.wrapping_add(1));
        }
    }
    spin_for(millis);
    respond(answer, "spun\n");
}

fn spin_after_head(answer: ResponseOutparam) {
    let (_body, stream) = begin(answer, Fields::new());
    write(&stream, b"a beginning\n");
    spin_for(0);
}

fn grow(answer: ResponseOutparam) {
    let mut hoard = Vec::new();
    loop {
        hoard.push(vec![1_u8; 1 << 20]);
        if hoard.len() > 1 << 16 {
            break;
        }
    }
    respond(answer, &format!("{} MiB\n", hoard.len()));
}

fn grow_and_survive(answer: ResponseOutparam) {
    let mut pages = 0;
    while core::arch::wasm32::memory_grow::<0>(16) != usize::MAX {
        pages += 16;
    }
    respond(answer, &format!("refused after {} KiB\n", pages * 64));
}

fn wait(millis: u64) {
    monotonic_clock::subscribe_duration(millis * 1_000_000).block();
}

fn hang() {
    println!("hanging");
    loop {
        wait(3_600_000);
    }
}

fn hang_after_head(answer: ResponseOutparam) {
    let (_body, stream) = begin(answer, Fields::new());
    write(&stream, b"a beginning\n");
    hang();
}

fn panic_in_mid_stream(answer: ResponseOutparam) {
    let (_body, stream) = begin(answer, Fields::new());
    for part in 0..3 {
        write(&stream, format!("part {part}\n").as_bytes());
        wait(10);
    }
    panic!("in mid-stream, on purpose");
}

fn status(answer: ResponseOutparam, code: u64) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(u16::try_from(code).unwrap_or(500));
    ResponseOutparam::set(answer, Ok(response));
}

/// Returns with a body that was begun, and neither finished nor dropped.
fn forgotten(answer: ResponseOutparam) {
    let (body, stream) = begin(answer, Fields::new());
    write(&stream, b"a beginning\n");
    drop(stream);
    std::mem::forget(body);
}

/// Fills as many bodies as it may have, and sends none.
fn hoard_bodies(answer: ResponseOutparam) {
    let mut hoard = Vec::new();
    for _ in 0..400 {
        let request = wasip2::http::types::OutgoingRequest::new(Fields::new());
        let body = request.body().expect("the first time");
        let stream = body.write().expect("the first time");
        while let Ok(room) = stream.check_write() {
            if room == 0 || stream.write(&vec![b'x'; usize::try_from(room).unwrap_or(4096).min(1 << 20)]).is_err() {
                break;
            }
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
        hoard.push(request);
    }
    respond(answer, "hoarded\n");
}

/// Writes for as long as anybody takes it.
fn pour(answer: ResponseOutparam) {
    let (_body, stream) = begin(answer, Fields::new());
    while stream.blocking_write_and_flush(&[b'x'; 4096]).is_ok() {}
}

/// Returns with a body that was begun and dropped.
fn unfinished(answer: ResponseOutparam) {
    let (body, stream) = begin(answer, Fields::new());
    write(&stream, b"a beginning\n");
    drop(stream);
    drop(body);
}

/// Promises more bytes than it sends.
fn short(answer: ResponseOutparam) {
    let headers = Fields::from_list(&[("content-length".to_owned(), b"100".to_vec())]).expect("a header");
    let (body, stream) = begin(answer, headers);
    write(&stream, b"a beginning\n");
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

fn flood(answer: ResponseOutparam, lines: u64) {
    for line in 0..lines {
        println!("line {line} of a flood that nobody wants to read to its end");
    }
    respond(answer, "flooded\n");
}

fn endless_line(answer: ResponseOutparam, kibibytes: u64) {
    for _ in 0..kibibytes {
        print!("{}", "x".repeat(1024));
    }
    respond(answer, "written\n");
}

/// Counts requests in a static: in a fresh sandbox, this is the first.
fn counter(answer: ResponseOutparam) {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    respond(answer, &format!("{}\n", COUNTER.fetch_add(1, Ordering::Relaxed) + 1));
}

/// Answers, and then works on for `?ms=`.
fn work_on(answer: ResponseOutparam, millis: u64, code: u16) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(code);
    let body = response.body().expect("the first time");
    ResponseOutparam::set(answer, Ok(response));
    if code == 200 {
        let stream = body.write().expect("the first time");
        write(&stream, b"answered\n");
        drop(stream);
    }
    let _ = OutgoingBody::finish(body, None);
    wait(millis);
    println!("worked on for {millis} ms");
}

fn host_headers(answer: ResponseOutparam) {
    let list =
        [("fnhost-release", "forged"), ("x-request-id", "forged"), ("server-timing", "own;dur=1"), ("x-own", "kept")];
    let list: Vec<_> = list.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into();
    let (body, stream) = begin(answer, Fields::from_list(&list).expect("headers"));
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}

/// Shows the request as this guest sees it.
fn request_headers(request: &IncomingRequest, answer: ResponseOutparam) {
    let mut text = format!(
        "scheme {:?}\nauthority {}\npath {}\n",
        request.scheme(),
        request.authority().unwrap_or_default(),
        request.path_with_query().unwrap_or_default()
    );
    for (name, value) in request.headers().entries() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    respond(answer, &text);
}
