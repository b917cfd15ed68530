//! The streams of HTTP/2: each is a task, which ends if its client takes nothing of its answer.
//!
//! Whether the socket takes bytes is `progress`'s to see; this is about one stream among others, to which its client gives no
//! window. Nothing can be seen of that but this: what the stream was given last, it has not come back from.

use super::Host;
use hyper::rt::Executor;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

tokio::task_local! {
    /// Set where a stream of HTTP/2 is polled.
    static STREAM: Arc<Given>;
}

/// How often a stream was given something, and whether it has that still.
#[derive(Debug, Default)]
struct Given {
    times: AtomicU64,
    is_held: AtomicBool,
}

/// Notes whether the stream whose task this is, if it is one, was given a piece of its body, or is told to wait for one.
pub(super) fn note_given(is_given: bool) {
    let _ = STREAM.try_with(|given| {
        given.is_held.store(is_given, Relaxed);
        given.times.fetch_add(1, Relaxed);
    });
}

/// Where hyper has the streams of HTTP/2 answered: each is a task, which the host waits for at its end as for any other.
#[derive(Clone)]
pub(super) struct StreamTasks(pub(super) Arc<Host>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        let given = Arc::<Given>::default();
        let write_timeout = self.0.settings.write_timeout;
        let answer = Answer { stream: Box::pin(stream), given: Arc::clone(&given), write_timeout, wait: None };
        self.0.tasks.spawn(STREAM.scope(given, answer));
    }
}

/// A stream's work, and how long it waits for its client.
struct Answer<F> {
    stream: Pin<Box<F>>,
    given: Arc<Given>,
    write_timeout: Duration,
    /// Since it was given something for the so many-th time, it has waited.
    wait: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<F: Future<Output = ()>> Future for Answer<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, given, write_timeout, wait } = self.get_mut();
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !given.is_held.load(Relaxed) {
            *wait = None;
            return Poll::Pending;
        }
        let times = given.times.load(Relaxed);
        let until = Instant::now() + *write_timeout;
        let (noted, timer) = wait.get_or_insert_with(|| (times, Box::pin(tokio::time::sleep_until(until))));
        if *noted != times {
            *noted = times;
            timer.as_mut().reset(until);
        }
        // Dropped by who polls this, it is reset, and its guest ends.
        timer.as_mut().poll(cx)
    }
}
