//! Problems (RFC 9457), of the edge and of the admin API: whatever somebody has written, they are JSON.
//!
//! Held: what a problem says is what went in, no more and no less; its status is the one that it goes out with; its size is
//! bounded by what went in; its headers are headers.

#![no_main]

use fnhost::api::ProblemInfo;
use fnhost::names::{Name, RequestId};
use fnhost::receipt::Outcome;
use fnhost::server::{self, fuzzing};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::sync::OnceLock;
use tokio::runtime::{Builder, Runtime};

#[derive(Debug, Arbitrary)]
enum Input {
    /// Of the edge.
    Outcome { outcome: u8, function: String, id: u128 },
    /// Of the admin API.
    Text { kind: u8, text: String },
}

/// All of a problem but what goes in; and the most bytes that JSON writes for one: `\u0000`.
const OWN_BYTES_MAX: usize = 512;
const ESCAPED_BYTES_MAX: usize = 6;

fuzz_target!(|input: Input| match input {
    Input::Outcome { outcome, function, id } => {
        let outcome = Outcome::ALL[usize::from(outcome) % Outcome::ALL.len()];
        let function = Name::new(&function).ok();
        let id = RequestId::of_u128(id);
        let bytes = fuzzing::problem(outcome, function.as_ref(), id);
        let problem: Value = serde_json::from_slice(&bytes).expect("a problem is JSON");
        assert_eq!(problem["status"], server::status_of(outcome).as_u16());
        assert_eq!(problem["code"], outcome.as_str());
        assert_eq!(problem.get("function").and_then(Value::as_str), function.as_ref().map(Name::as_str));
        assert_eq!(problem["request_id"], format!("{:032x}", id.as_u128()));
        assert_eq!(RequestId::parse(problem["request_id"].as_str().expect("a text")), Some(id));
        assert!(bytes.len() <= OWN_BYTES_MAX, "{}", String::from_utf8_lossy(&bytes));
    }
    Input::Text { kind, text } => {
        let (head, bytes) = runtime().block_on(fuzzing::admin_problem(kind, text.clone())).into_parts();
        let problem: ProblemInfo = serde_json::from_slice(&bytes).expect("a problem is JSON");
        assert_eq!(problem.status, head.status.as_u16());
        assert!(head.status.as_u16() >= 400 && !problem.title.is_empty() && !problem.code.is_empty(), "{problem:?}");
        assert!(kind % 8 > 4 || problem.detail.contains(&text), "{problem:?}");
        assert_eq!(head.headers["content-type"], "application/problem+json");
        assert!(head.headers.values().all(|value| value.to_str().is_ok()), "{:?}", head.headers);
        assert!(bytes.len() <= OWN_BYTES_MAX + text.len() * ESCAPED_BYTES_MAX, "{} of {}", bytes.len(), text.len());
    }
});

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_current_thread().build().expect("a runtime"))
}
