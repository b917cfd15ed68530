//! The bytes of a connection of HTTP/1.1, through the whole edge and a guest that says what it was asked.
//!
//! Held: the host answers what a reader of RFC 9112 finds in the bytes, in that order and nothing else, each with the method,
//! target and upload that are its own; what is no request, or could be read in two ways, is refused, and nothing behind it is
//! read; what comes back can be read in one way only; an error of the host's is a problem (RFC 9457); and all of it in time.

#![no_main]

use fnhost_fuzz::answers::{self, Answer};
use fnhost_fuzz::edge::{From, Heard, REQUESTS_MAX, UPLOAD_BYTES_MAX, edge, pieces};
use fnhost_fuzz::number_of;
use fnhost_fuzz::requests::{self, Asked, Stop};
use libfuzzer_sys::fuzz_target;

/// That is HTTP/2, and another target's.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How a proxy begins.
const PROXY: [&[u8]; 2] = [b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];

fuzz_target!(|bytes: &[u8]| {
    let by_proxy = PROXY.iter().any(|begin| bytes.starts_with(begin));
    let asked_in = if by_proxy { behind_proxy(bytes) } else { bytes };
    if PREFACE.starts_with(asked_in) || asked_in.starts_with(PREFACE) {
        return;
    }
    let number = number_of(bytes);
    let from = match number >> 8 & 7 {
        _ if by_proxy => From::ProxyProtocol,
        0 => From::TrustedProxy,
        _ => From::Anywhere,
    };
    let (asked, stop) = requests::read(asked_in);
    let is_head = |at: usize| match asked.get(at) {
        Some(asked) => asked.method == b"HEAD",
        None => match &stop {
            Stop::InBody(asked) | Stop::BadBody(asked) => asked.method == b"HEAD",
            Stop::BadTrailers { next_is_head, .. } if at > asked.len() => *next_is_head,
            Stop::BadTrailers { asked, .. } => asked.method == b"HEAD",
            Stop::BadHead { is_head } => *is_head,
            Stop::Whole | Stop::Closed | Stop::Trailers | Stop::InHead => asked_in.ends_with(b"HEAD "),
        },
    };
    let ends_by_itself = match &stop {
        Stop::Closed | Stop::Trailers | Stop::BadHead { .. } | Stop::BadBody(_) => true,
        Stop::Whole | Stop::InHead | Stop::InBody(_) | Stop::BadTrailers { .. } => false,
    };
    let heard = edge().exchange(from, pieces(bytes, number), |bytes, _| {
        let answers = answers::read(bytes, is_head).answers;
        !ends_by_itself && answers.iter().filter(|answer| answer.is_whole).count() >= asked.len()
    });
    if by_proxy && heard.bytes.is_empty() && heard.ended_first {
        // What it says is not believed, so nothing was read.
        return;
    }
    let read = answers::read(&heard.bytes, is_head);
    assert_eq!(read.rest, 0, "a head that does not end: {}", heard.bytes.escape_ascii());
    check(&asked, &stop, &read, &heard, asked_in.windows(PREFACE.len()).any(|bytes| bytes == PREFACE));
});

/// What a proxy does not say for itself.
fn behind_proxy(bytes: &[u8]) -> &[u8] {
    if bytes.starts_with(PROXY[1]) {
        let length = bytes.get(14..16).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
        return bytes.get(16 + length..).unwrap_or_default();
    }
    bytes.windows(2).position(|two| two == b"\r\n").map_or(&[], |end| &bytes[end + 2..])
}

fn check(asked: &[Asked], stop: &Stop, read: &answers::Read, heard: &Heard, has_preface: bool) {
    let ended_first = heard.ended_first;
    let last_closes = read.answers.last().is_some_and(|answer| answer.closes);
    for (at, answer) in read.answers.iter().enumerate() {
        check_alone(answer);
        let expects = |asked: &Asked| asked.expects_continue();
        if let Some(asked) = asked.get(at) {
            assert!(read.interim[at] <= usize::from(expects(asked)), "{asked:?}\n{answer:?}");
            check_answer(asked, answer);
            continue;
        }
        // Where hyper sees an end of broken trailers, what is behind that is refused, by it or by the host: as behind good ones.
        if matches!(stop, Stop::BadTrailers { .. }) && at == asked.len() + 1 {
            assert!(answer.status == 400 && answer.closes, "{answer:?}");
            continue;
        }
        // One more than the requests that are whole, at the most.
        assert_eq!(at, asked.len(), "something was answered that nobody asked: {answer:?}\n{asked:?}\n{stop:?}");
        match stop {
            Stop::Whole | Stop::Closed => panic!("something was answered that nobody asked: {answer:?}\n{asked:?}"),
            Stop::Trailers | Stop::InHead | Stop::BadHead { .. } => {
                assert!(answer.status >= 400 && answer.closes, "{answer:?}")
            }
            Stop::InBody(asked) | Stop::BadBody(asked) => {
                assert!(read.interim[at] <= usize::from(expects(asked)), "{asked:?}\n{answer:?}");
                check_partly(asked, answer, heard.was_reset);
            }
            Stop::BadTrailers { asked, .. } => {
                assert!(read.interim[at] <= usize::from(expects(asked)), "{asked:?}\n{answer:?}");
                assert!(
                    !answer.is_whole || echoed(answer).is_none_or(|(_, body)| body == asked.body),
                    "{asked:?}\n{answer:?}"
                );
            }
        }
    }
    // Nothing is left out, unless the host said before that it would be, or did not want all of an upload.
    let answered = read.answers.len();
    let last = answered.checked_sub(1).and_then(|at| Some((asked.get(at)?, &read.answers[at])));
    let unread = last.is_some_and(|(asked, answer)| {
        !asked.body.is_empty() && (answer.value("x-echo").is_none() || asked.body.len() > UPLOAD_BYTES_MAX)
    });
    let ended = last_closes || (unread && ended_first);
    // Of a head that is none to it, and has the beginning of HTTP/2 behind it or a request for another protocol before it, hyper
    // says nothing.
    let has_upgrade = asked.iter().take(answered).any(|asked| asked.values("upgrade").next().is_some());
    let is_told_nothing = heard.ended_first && (has_preface || has_upgrade);
    if answered < asked.len() && !is_told_nothing {
        assert!(ended, "not answered: {:?}", asked[answered]);
        let refused = last.is_some_and(|(_, answer)| answer.status >= 400);
        assert!(refused || unread || answered == REQUESTS_MAX, "it closes for nothing: {last:?}");
    }
    if matches!(stop, Stop::BadHead { .. }) {
        // Behind a request for another protocol, hyper closes without a word.
        assert!(ended || ended_first, "what is no request was not refused: {read:?}\n{asked:?}");
    }
    // What answers an upload that is not at its end goes on as that does, or, where it is whole, closes when the host has waited
    // for the rest: for seconds, which are not waited for here.
    let waits = match stop {
        Stop::InBody(_) => answered > asked.len() || read.answers.last().is_some_and(|last| !last.is_whole),
        Stop::BadTrailers { .. } => true,
        Stop::Whole | Stop::Closed | Stop::Trailers | Stop::InHead | Stop::BadHead { .. } | Stop::BadBody(_) => false,
    };
    if last_closes && !waits {
        assert!(ended_first, "it says that it closes, and does not");
    }
}

/// What holds of any answer.
fn check_alone(answer: &Answer) {
    let id = answer.value("x-request-id");
    let Some(id) = id else {
        // The server below the host says of some heads that they are none, and has no words for it.
        assert!(answer.status >= 400 && answer.body.is_empty() && answer.closes, "{answer:?}");
        return;
    };
    assert!(id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit), "{answer:?}");
    assert_ne!(answer.status, 500, "{answer:?}");
    if answer.value("content-type") != Some(b"application/problem+json") {
        assert!(answer.status < 400 || matches!(answer.status, 412 | 416), "{answer:?}");
        return;
    }
    assert!(answer.status >= 400 && answer.is_whole, "{answer:?}");
    if answer.body.is_empty() {
        return;
    }
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem is JSON");
    assert_eq!(problem["status"], answer.status, "{answer:?}");
    assert_eq!(problem["type"], "about:blank", "{answer:?}");
    assert_eq!(problem["request_id"].as_str().map(str::as_bytes), Some(id), "{answer:?}");
    for key in ["title", "detail", "code"] {
        assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {answer:?}");
    }
    assert!(answer.body.len() < 1024, "{answer:?}");
}

/// An answer to a request that is whole.
fn check_answer(asked: &Asked, answer: &Answer) {
    // What is too much may be seen behind the head.
    let is_large = asked.body.len() > UPLOAD_BYTES_MAX;
    assert!(answer.is_whole || is_large, "cut off: {asked:?}\n{answer:?}");
    if asked.is_refused {
        assert!(answer.status >= 400 && answer.closes, "{asked:?}\n{answer:?}");
    }
    if !asked.persists && answer.is_whole {
        assert!(answer.closes, "{asked:?}\n{answer:?}");
    }
    assert!(asked.method != b"HEAD" || answer.body.is_empty(), "{asked:?}\n{answer:?}");
    let Some((environment, body)) = echoed(answer) else { return };
    if asked.method != b"HEAD" {
        check_environment(asked, &environment, answer);
        let is_its = if is_large { asked.body.starts_with(&body) } else { body == asked.body };
        assert!(is_its, "another upload: {asked:?}\n{answer:?}");
        assert!(body.len() <= UPLOAD_BYTES_MAX && is_large != answer.is_whole, "{asked:?}\n{answer:?}");
    }
}

/// An answer to a request whose upload did not come to its end.
fn check_partly(asked: &Asked, answer: &Answer, was_reset: bool) {
    if asked.method == b"HEAD" {
        return;
    }
    if let Some((environment, body)) = echoed(answer) {
        check_environment(asked, &environment, answer);
        // A body to the end of the connection is whole unless that is a reset.
        let is_whole = answer.is_whole && !(was_reset && answer.is_to_the_end());
        assert!(!is_whole, "an upload that is not whole was taken for one: {asked:?}\n{answer:?}");
        assert!(asked.body.starts_with(&body), "{asked:?}\n{answer:?}");
    }
}

/// What the guest was told, and what it read.
fn echoed(answer: &Answer) -> Option<(Vec<(String, String)>, Vec<u8>)> {
    if answer.value("x-echo").is_none() || answer.value("content-encoding").is_some() {
        return None;
    }
    let mut rest = answer.body.as_slice();
    let mut environment = Vec::new();
    while !rest.starts_with(b"\n") {
        let end = rest.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&rest[..end]).expect("an environment is text");
        let (name, value) = text.split_once('=').expect("a name and a value");
        environment.push((name.to_owned(), value.to_owned()));
        rest = &rest[end + 1..];
    }
    Some((environment, rest[1..].to_vec()))
}

fn check_environment(asked: &Asked, environment: &[(String, String)], answer: &Answer) {
    let told = |name: &str| {
        let mut all = environment.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = all.next();
        assert!(all.next().is_none(), "{name} twice: {environment:?}");
        first
    };
    assert_eq!(told("REQUEST_METHOD").map(str::as_bytes), Some(asked.method.as_slice()), "{asked:?}");
    let uri = told("REQUEST_URI").expect("it is always told");
    // A target in absolute form has more before it, and what is behind `#` is never sent on.
    let target = asked.target.split(|byte| *byte == b'#').next().unwrap_or_default();
    let is_its =
        target.ends_with(uri.as_bytes()) || uri.strip_prefix('/').is_some_and(|rest| target.ends_with(rest.as_bytes()));
    assert!(is_its, "another target: {asked:?}\n{environment:?}");
    let forwarded = told("HTTP_FORWARDED").expect("the host says it");
    assert!(forwarded.starts_with("for=") && !forwarded.contains(','), "{forwarded}");
    assert_eq!(told("HTTP_FNHOST_REQUEST_ID"), None, "{environment:?}");
    let route = told("HTTP_FNHOST_ROUTE").expect("the host says it");
    assert!(route.contains('/'), "{route}");
    assert!(answer.value("x-own") == Some(b"yes"), "{answer:?}");
}
