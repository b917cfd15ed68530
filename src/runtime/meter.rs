//! What a request uses, counted while it runs: CPU time, memory, bytes, and the time it may still take.
//!
//! One [`Meter`] a request, shared by whoever drives the guest, the guest's limiter, its upload and the epoch callback.
//! All of them run in the task that polls the guest, one at a time; the atomics are there because the compiler cannot
//! know that, and are never contended.

use crate::limits::Limits;
use crate::platform;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The slowest upload whose every wait is forgiven.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// Counts for one request.
#[derive(Debug)]
pub(super) struct Meter {
    cpu_max: Duration,
    timeout: Option<Duration>,
    /// How long the guest waits for the next byte of its upload. That time is not billed to it, so it has its own bound.
    body_timeout: Duration,
    started: Instant,
    cpu_nanos: AtomicU64,
    /// The thread's CPU clock when the poll under way began.
    poll_began_nanos: AtomicU64,
    /// Whether a poll is being counted.
    counting: AtomicBool,
    /// What loading the function's code took: the host's time, not the guest's.
    loading_nanos: AtomicU64,
    store_nanos: AtomicU64,
    instantiate_nanos: AtomicU64,
    memory_peak_bytes: AtomicU64,
    memory_refused: AtomicBool,
    /// Whether the guest last stopped to give others a turn, and not to wait.
    gave_turn: AtomicBool,
    pub(super) upload: UploadMeter,
}

/// How an upload goes.
#[derive(Debug)]
pub(super) struct UploadMeter {
    bytes_read: AtomicU64,
    too_large: AtomicBool,
    broke_off: AtomicBool,
    malformed: AtomicBool,
    /// Nanoseconds in which the guest could not go on because the client had not sent yet.
    waited_nanos: AtomicU64,
    /// Nanoseconds after `started` at which the wait under way began, plus one; zero if there is none.
    waiting_since: AtomicU64,
}

/// What a request has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of the guest, its instantiation included.
    pub cpu: Duration,
    /// The most bytes its memories and tables had together.
    pub memory_peak_bytes: u64,
    /// Bytes of the upload that it read.
    pub bytes_in: u64,
}

/// Why a guest is stopped by the host. Travels through wasmtime as the cause of a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    /// It used up its CPU time.
    #[error("the guest used more CPU time than its limit")]
    CpuLimit,
    /// It ran longer than it may.
    #[error("the guest ran longer than its timeout")]
    Timeout,
    /// Its client sent more than it may.
    #[error("the upload is larger than the limit")]
    UploadTooLarge,
    /// Its client stopped sending.
    #[error("the client stopped sending")]
    UploadStalled,
}

impl Meter {
    pub(super) fn new(limits: &Limits, body_timeout: Duration) -> Self {
        Self {
            cpu_max: limits.cpu,
            timeout: limits.timeout,
            body_timeout,
            started: Instant::now(),
            cpu_nanos: AtomicU64::new(0),
            poll_began_nanos: AtomicU64::new(0),
            counting: AtomicBool::new(false),
            loading_nanos: AtomicU64::new(0),
            store_nanos: AtomicU64::new(0),
            instantiate_nanos: AtomicU64::new(0),
            memory_peak_bytes: AtomicU64::new(0),
            memory_refused: AtomicBool::new(false),
            gave_turn: AtomicBool::new(false),
            upload: UploadMeter {
                bytes_read: AtomicU64::new(0),
                too_large: AtomicBool::new(false),
                broke_off: AtomicBool::new(false),
                malformed: AtomicBool::new(false),
                waited_nanos: AtomicU64::new(0),
                waiting_since: AtomicU64::new(0),
            },
        }
    }

    /// Runs `poll`, which polls the guest, and adds what it took of the thread's CPU time. Inside of another such `poll`
    /// nothing is added: reading the clock is a system call, so what belongs together is counted as one.
    pub(super) fn count_cpu<R>(&self, poll: impl FnOnce() -> R) -> R {
        if self.counting.swap(true, Relaxed) {
            return poll();
        }
        let began = nanos(platform::thread_cpu_time());
        self.poll_began_nanos.store(began, Relaxed);
        let result = poll();
        let took = nanos(platform::thread_cpu_time()).saturating_sub(began);
        self.cpu_nanos.fetch_add(took, Relaxed);
        self.counting.store(false, Relaxed);
        result
    }

    /// Called from inside a poll, when an epoch passes: whether the guest must stop; if not, it gives
    /// others a turn.
    pub(super) fn check_running(&self) -> Result<(), Stop> {
        let now_nanos = nanos(platform::thread_cpu_time());
        let this_poll = now_nanos.saturating_sub(self.poll_began_nanos.load(Relaxed));
        if self.cpu_nanos.load(Relaxed) + this_poll > nanos(self.cpu_max) {
            return Err(Stop::CpuLimit);
        }
        if self.time_left().is_some_and(|left| left.is_zero()) {
            return Err(Stop::Timeout);
        }
        self.gave_turn.store(true, Relaxed);
        Ok(())
    }

    /// Whether the guest gave others a turn since this was last asked.
    pub(super) fn take_turn(&self) -> bool {
        self.gave_turn.swap(false, Relaxed)
    }

    /// Of a guest that waits: whether it must stop, and if not, when to ask again, if ever.
    pub(super) fn check_waiting(&self) -> Result<Option<Duration>, Stop> {
        if self.upload.too_large() {
            return Err(Stop::UploadTooLarge);
        }
        let until_timeout = self.time_left();
        if until_timeout.is_some_and(|left| left.is_zero()) {
            return Err(if self.client_took_it() { Stop::UploadStalled } else { Stop::Timeout });
        }
        let until_stalled = self.upload.waiting(self.started).map(|waited| self.body_timeout.saturating_sub(waited));
        if until_stalled.is_some_and(|left| left.is_zero()) {
            return Err(Stop::UploadStalled);
        }
        Ok(until_timeout.into_iter().chain(until_stalled).min())
    }

    /// Whether a guest that is over its time waits for its upload, and would have some left had it not waited so long: then
    /// its client was too slow, and not the guest.
    fn client_took_it(&self) -> bool {
        let own = self.started.elapsed().saturating_sub(self.upload.waited(self.started));
        self.upload.waiting(self.started).is_some() && self.timeout.is_some_and(|timeout| own < timeout)
    }

    /// Wall time until the timeout; `None` if there is no timeout. Waiting for the client's upload does not count.
    fn time_left(&self) -> Option<Duration> {
        // A client that sends a byte now and then, or a guest that asks for one and does something else, gains no more
        // than an honest slow client would need.
        let bytes = self.upload.bytes_read.load(Relaxed);
        let patience = self.body_timeout + Duration::from_secs(bytes / UPLOAD_BYTES_PER_SECOND_MIN);
        let loading = Duration::from_nanos(self.loading_nanos.load(Relaxed));
        let allowed = self.timeout? + loading + self.upload.waited(self.started).min(patience);
        Some(allowed.saturating_sub(self.started.elapsed()))
    }

    pub(super) fn has_timeout(&self) -> bool {
        self.timeout.is_some()
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn set_store(&self, took: Duration) {
        self.store_nanos.store(nanos(took), Relaxed);
    }

    pub(super) fn set_loading(&self, took: Duration) {
        self.loading_nanos.store(nanos(took), Relaxed);
    }

    pub(super) fn store(&self) -> Duration {
        Duration::from_nanos(self.store_nanos.load(Relaxed))
    }

    pub(super) fn add_instantiate(&self, took: Duration) {
        self.instantiate_nanos.fetch_add(nanos(took), Relaxed);
    }

    pub(super) fn instantiate(&self) -> Duration {
        Duration::from_nanos(self.instantiate_nanos.load(Relaxed))
    }

    pub(super) fn note_memory(&self, bytes: u64) {
        self.memory_peak_bytes.fetch_max(bytes, Relaxed);
    }

    pub(super) fn note_memory_refused(&self) {
        self.memory_refused.store(true, Relaxed);
    }

    /// Whether a growth was ever refused for being over the limit.
    pub(super) fn memory_refused(&self) -> bool {
        self.memory_refused.load(Relaxed)
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            cpu: Duration::from_nanos(self.cpu_nanos.load(Relaxed)),
            memory_peak_bytes: self.memory_peak_bytes.load(Relaxed),
            bytes_in: self.upload.bytes_read.load(Relaxed),
        }
    }
}

impl UploadMeter {
    /// Adds `bytes` that the client sent, and says how many there are now.
    pub(super) fn add(&self, bytes: u64) -> u64 {
        self.bytes_read.fetch_add(bytes, Relaxed) + bytes
    }

    pub(super) fn note_too_large(&self) {
        self.too_large.store(true, Relaxed);
    }

    pub(super) fn too_large(&self) -> bool {
        self.too_large.load(Relaxed)
    }

    pub(super) fn note_malformed(&self) {
        self.malformed.store(true, Relaxed);
    }

    /// Whether its client broke the framing.
    pub(super) fn malformed(&self) -> bool {
        self.malformed.load(Relaxed)
    }

    pub(super) fn note_broke_off(&self) {
        self.broke_off.store(true, Relaxed);
    }

    /// Whether the client went away in the middle of it.
    pub(super) fn broke_off(&self) -> bool {
        self.broke_off.load(Relaxed)
    }

    /// The guest asked for more and the client had sent nothing.
    pub(super) fn wait_begins(&self, started: Instant) {
        if self.waiting_since.load(Relaxed) == 0 {
            self.waiting_since.store(nanos(started.elapsed()) + 1, Relaxed);
        }
    }

    /// The client sent, or ended.
    pub(super) fn wait_ends(&self, started: Instant) {
        let since = self.waiting_since.swap(0, Relaxed);
        if since > 0 {
            self.waited_nanos.fetch_add(nanos(started.elapsed()).saturating_sub(since - 1), Relaxed);
        }
    }

    /// All waits so far.
    fn waited(&self, started: Instant) -> Duration {
        Duration::from_nanos(self.waited_nanos.load(Relaxed)) + self.waiting(started).unwrap_or_default()
    }

    /// The wait under way.
    fn waiting(&self, started: Instant) -> Option<Duration> {
        let since = self.waiting_since.load(Relaxed).checked_sub(1)?;
        Some(started.elapsed().saturating_sub(Duration::from_nanos(since)))
    }
}

/// Nanoseconds in 64 bits: enough for 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(timeout: u64, cpu: u64) -> Meter {
        let limits = Limits {
            timeout: Some(Duration::from_millis(timeout)),
            cpu: Duration::from_millis(cpu),
            ..Limits::default()
        };
        Meter::new(&limits, Duration::from_millis(50))
    }

    fn spin(duration: Duration) {
        let until = platform::thread_cpu_time() + duration;
        while platform::thread_cpu_time() < until {}
    }

    #[test]
    fn cpu_time_is_counted_in_polls_alone() {
        let meter = meter(60_000, 60_000);
        meter.count_cpu(|| spin(Duration::from_millis(5)));
        spin(Duration::from_millis(20));
        let counted = meter.usage().cpu;
        assert!(counted >= Duration::from_millis(5) && counted < Duration::from_millis(20), "{counted:?}");
    }

    #[test]
    fn a_poll_inside_of_another_is_counted_once() {
        let meter = meter(60_000, 60_000);
        meter.count_cpu(|| meter.count_cpu(|| spin(Duration::from_millis(20))));
        meter.count_cpu(|| spin(Duration::from_millis(5)));
        let counted = meter.usage().cpu;
        assert!(counted >= Duration::from_millis(25) && counted < Duration::from_millis(40), "{counted:?}");
    }

    #[test]
    fn a_poll_under_way_counts_against_the_limit() {
        let meter = meter(60_000, 10);
        meter.count_cpu(|| {
            assert_eq!(meter.check_running(), Ok(()));
            spin(Duration::from_millis(11));
            assert_eq!(meter.check_running(), Err(Stop::CpuLimit));
        });
    }

    #[test]
    fn waiting_for_the_upload_is_not_billed() {
        let meter = meter(10, 60_000);
        meter.upload.wait_begins(meter.started());
        std::thread::sleep(Duration::from_millis(15));
        assert!(meter.check_waiting().is_ok());
        meter.upload.wait_ends(meter.started());
        std::thread::sleep(Duration::from_millis(15));
        assert_eq!(meter.check_waiting(), Err(Stop::Timeout));
    }

    #[test]
    fn a_client_that_drips_uses_up_the_time_and_not_its_guest() {
        let meter = meter(10, 60_000);
        // Each wait is shorter than `body-timeout`; all together are longer than what a slow client is given.
        for _ in 0..4 {
            meter.upload.wait_ends(meter.started());
            meter.upload.wait_begins(meter.started());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(meter.check_waiting(), Err(Stop::UploadStalled));
        // One that waits for something else has used up its own.
        meter.upload.wait_ends(meter.started());
        assert_eq!(meter.check_waiting(), Err(Stop::Timeout));
    }

    #[test]
    fn a_client_that_stops_sending_is_not_waited_for_for_ever() {
        let meter = meter(60_000, 60_000);
        meter.upload.wait_begins(meter.started());
        assert!(meter.check_waiting().unwrap().is_some_and(|left| left <= Duration::from_millis(50)));
        std::thread::sleep(Duration::from_millis(55));
        assert_eq!(meter.check_waiting(), Err(Stop::UploadStalled));
    }
}
