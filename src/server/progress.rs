//! Whether a connection gets on: what it waits for, since when, and until when it may.
//!
//! Times are noted as they pass, by whoever reads, writes and answers; nobody sets a timer for them. The connection's task keeps
//! one timer, for whatever is due first ([`Watch`]). **Invariant:** there is no state of a connection in which its client alone
//! can hold it for ever: before its first request and in a head it is held to `header-timeout`, between requests to
//! `idle-timeout`, where it takes no bytes to `write-timeout`, and in a request to the limits of that.

use crate::manifest::HostConfig;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// How long a connection may wait, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the whole of a head.
    header: Duration,
    /// For the next request.
    idle: Duration,
    /// For room to write into.
    pub(super) write: Duration,
}

impl Patience {
    pub(super) fn of(settings: &HostConfig) -> Self {
        Self { header: settings.header_timeout, idle: settings.idle_timeout, write: settings.write_timeout }
    }
}

/// What one connection waits for. Moments are nanoseconds from its beginning, plus one; zero for none.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// Whether there was a request.
    asked: AtomicBool,
    /// Requests whose answer is not whole yet.
    answering: AtomicUsize,
    /// When a head began that is not whole yet.
    head_since: AtomicU64,
    /// When bytes were first not taken that are to be written now.
    blocked_since: AtomicU64,
    /// When the last request ended that was under way.
    quiet_since: AtomicU64,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// It did not finish a head.
    Head,
    /// It asked for nothing more.
    Idle,
    /// It did not take what was written.
    Write,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Self {
            began: Instant::now(),
            asked: AtomicBool::new(false),
            answering: AtomicUsize::new(0),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            quiet_since: AtomicU64::new(0),
        }
    }

    fn moment(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn since(&self, moment: &AtomicU64) -> Option<Instant> {
        moment.load(Relaxed).checked_sub(1).map(|nanos| self.began + Duration::from_nanos(nanos))
    }

    /// A head is whole.
    pub(super) fn note_request(&self) {
        self.asked.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Something was read, and a head is not whole for it, or is.
    pub(super) fn note_head(&self, is_begun: bool) {
        if !is_begun {
            self.head_since.store(0, Relaxed);
        } else if self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.moment(Instant::now()), Relaxed);
        }
    }

    /// Whether a head has begun and is not whole.
    pub(super) fn is_in_head(&self) -> bool {
        self.head_since.load(Relaxed) != 0
    }

    /// There was no room to write into, or there was.
    pub(super) fn note_blocked(&self, is_blocked: bool) {
        if !is_blocked {
            self.blocked_since.store(0, Relaxed);
        } else if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_since.store(self.moment(Instant::now()), Relaxed);
        }
    }

    /// A request is to be answered.
    pub(super) fn note_answering(&self) {
        self.answering.fetch_add(1, Relaxed);
    }

    /// One was, at this moment.
    pub(super) fn note_answered(&self, at: Instant) {
        if self.answering.fetch_sub(1, Relaxed) == 1 {
            self.quiet_since.store(self.moment(at), Relaxed);
        }
    }

    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Relaxed) > 0
    }

    /// What it will be closed for, and when, if nothing happens before that.
    fn due(&self, patience: Patience) -> Option<(Instant, Stall)> {
        let blocked = self.since(&self.blocked_since);
        let head = self.since(&self.head_since).map(|since| (since + patience.header, Stall::Head));
        let write = blocked.map(|since| (since + patience.write, Stall::Write));
        let rest = match self.since(&self.quiet_since) {
            _ if self.is_answering() || blocked.is_some() => None,
            _ if !self.asked.load(Relaxed) => Some((self.began + patience.header, Stall::Head)),
            Some(since) => Some((since + patience.idle, Stall::Idle)),
            None => None,
        };
        [head, write, rest].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

/// The one timer of a connection. It is set anew only if it would ring too late: on a connection that gets on, that is once in
/// `idle-timeout`.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Patience,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    pub(super) fn over(patience: Patience) -> Self {
        Self { patience, timer: Box::pin(tokio::time::sleep(patience.header)) }
    }

    /// Ready when the connection has waited for too long. To be polled whenever something may have happened.
    pub(super) fn poll(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Stall> {
        loop {
            let due = progress.due(self.patience);
            if let Some((at, _)) = due
                && at < self.timer.deadline().into_std()
            {
                self.timer.as_mut().reset(at.into());
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let next = match due {
                Some((at, stall)) if at <= now => return Poll::Ready(stall),
                Some((at, _)) => at,
                None => now + self.patience.idle,
            };
            self.timer.as_mut().reset(next.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { header: Duration::from_secs(1), idle: Duration::from_secs(7), write: Duration::from_secs(3) };

    fn due(progress: &Progress) -> Option<(u64, Stall)> {
        let (at, stall) = progress.due(PATIENCE)?;
        Some((at.duration_since(progress.began).as_secs(), stall))
    }

    #[test]
    fn each_wait_has_its_own_end() {
        let progress = Progress::begin();
        assert_eq!(due(&progress), Some((1, Stall::Head)), "nothing was said");
        progress.note_request();
        progress.note_answering();
        assert_eq!(due(&progress), None, "an answer is under way");
        progress.note_blocked(true);
        assert_eq!(due(&progress), Some((3, Stall::Write)));
        progress.note_answered(Instant::now());
        assert_eq!(due(&progress), Some((3, Stall::Write)), "the answer was not taken yet");
        progress.note_blocked(false);
        assert_eq!(due(&progress), Some((7, Stall::Idle)));
        progress.note_head(true);
        assert_eq!(due(&progress), Some((1, Stall::Head)), "the next head has begun");
        progress.note_head(false);
        assert_eq!(due(&progress), Some((7, Stall::Idle)));
    }

    #[test]
    fn a_wait_that_goes_on_keeps_its_beginning() {
        let progress = Progress::begin();
        progress.note_head(true);
        let first = progress.due(PATIENCE);
        std::thread::sleep(Duration::from_millis(2));
        progress.note_head(true);
        assert_eq!(progress.due(PATIENCE), first, "one byte now and then gains nothing");
    }
}
