//! Answers that go on: server-sent events (WHATWG HTML, 9.2), for those who follow what happens.
//!
//! **Invariant:** nothing is kept for a reader. It is asked several times a second what is new, and only when the
//! connection has taken what there was before; who reads too slowly is told how much was missed.

use super::Admin;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};

/// How often there is a word, if there is nothing else to say: proxies close what is silent.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// An answer of events: `next` is asked each `interval`, and adds what is new.
pub(super) fn answer(
    admin: Arc<Admin>,
    interval: Duration,
    next: impl FnMut(&mut Events) + Send + 'static,
) -> Response {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = Stream { admin, ticks, interval, silent: Duration::ZERO, next: Box::new(next) };
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    (headers, Body::new(body)).into_response()
}

/// Events under construction.
#[derive(Default)]
pub(super) struct Events(String);

impl Events {
    /// Adds one; `data` is JSON, which has no line ends.
    pub(super) fn add(&mut self, name: &str, data: &str) {
        for part in ["event: ", name, "\ndata: ", data, "\n\n"] {
            self.0.push_str(part);
        }
    }

    /// Adds one of a value.
    pub(super) fn add_json(&mut self, name: &str, value: &impl serde::Serialize) {
        // What is sent here cannot fail to become JSON.
        self.add(name, &serde_json::to_string(value).unwrap_or_default());
    }

    /// Adds what was made elsewhere.
    pub(super) fn append(&mut self, others: &Self) {
        self.0.push_str(&others.0);
    }

    /// Adds how much was missed, if anything was.
    pub(super) fn add_missed(&mut self, missed: u64) {
        if missed > 0 {
            self.add("missed", &missed.to_string());
        }
    }
}

struct Stream {
    admin: Arc<Admin>,
    ticks: Interval,
    interval: Duration,
    silent: Duration,
    next: Box<dyn FnMut(&mut Events) + Send>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            ready!(this.ticks.poll_tick(cx));
            if this.admin.stopping.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            let mut events = Events::default();
            (this.next)(&mut events);
            this.silent += this.interval;
            if events.0.is_empty() && this.silent >= SILENCE_MAX {
                // A comment, which readers pass over.
                events.0.push_str(":\n\n");
            }
            if !events.0.is_empty() {
                this.silent = Duration::ZERO;
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from(events.0)))));
            }
        }
    }
}
