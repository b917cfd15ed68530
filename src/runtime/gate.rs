//! Admission: how many sandboxes may be alive, and who waits for one.
//!
//! A function's [`Gate`] hands out permits, lets a bounded number of requests wait for a bounded time, and refuses the
//! rest. **Invariant:** a permit lives as long as its sandbox, so that a body which streams on after its handler
//! returned still counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The host's own bound: sandboxes alive at once, all functions together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HostGate(Arc<Semaphore>);

impl HostGate {
    /// At most `concurrency` sandboxes.
    pub fn new(concurrency: u32) -> Self {
        Self(Arc::new(Semaphore::new(concurrency as usize)))
    }

    /// Sandboxes that there may be besides those that are alive.
    pub fn free(&self) -> u32 {
        u32::try_from(self.0.available_permits()).unwrap_or(u32::MAX)
    }
}

/// One function's door.
#[derive(Debug)]
pub struct Gate {
    permits: Arc<Semaphore>,
    host: HostGate,
    waiting: AtomicU32,
    queue: u32,
    queue_wait: Duration,
}

/// The right to have one sandbox. Given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _function: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many requests wait as may.
    #[error("the queue is full")]
    QueueFull,
    /// None came free in time.
    #[error("no sandbox came free in time")]
    WaitedTooLong,
}

impl Gate {
    /// A door to at most `concurrency` sandboxes, within the host's own bound.
    pub fn new(host: HostGate, concurrency: u32, queue: u32, queue_wait: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(concurrency as usize));
        Self { permits, host, waiting: AtomicU32::new(0), queue, queue_wait }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for a permit, if it has to and may.
    pub async fn enter(&self) -> Result<Permit, Refused> {
        if let Some(permit) = self.try_enter() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting, self.queue).ok_or(Refused::QueueFull)?;
        let both = async {
            // The function's own permit first: whoever waits for the host's holds up nobody but its own function.
            let function = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            let host = Arc::clone(&self.host.0).acquire_owned().await.ok()?;
            Some(Permit { _function: function, _host: host })
        };
        match tokio::time::timeout(self.queue_wait, both).await {
            Ok(Some(permit)) => Ok(permit),
            // The semaphores are never closed, so `Ok(None)` does not happen; it would mean the same to the client.
            Ok(None) | Err(_) => Err(Refused::WaitedTooLong),
        }
    }

    fn try_enter(&self) -> Option<Permit> {
        let function = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let host = Arc::clone(&self.host.0).try_acquire_owned().ok()?;
        Some(Permit { _function: function, _host: host })
    }
}

/// A place in the queue, given up when its request is let in, refused, or gone.
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        let taken = waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < most).then_some(now + 1));
        taken.is_ok().then_some(Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrency: u32, queue: u32, wait: u64, host: u32) -> Gate {
        Gate::new(HostGate::new(host), concurrency, queue, Duration::from_millis(wait))
    }

    #[tokio::test]
    async fn a_full_gate_makes_wait_and_then_refuses() {
        let gate = gate(1, 1, 100, 10);
        let held = gate.enter().await.unwrap();
        let (first, second) = tokio::join!(gate.enter(), gate.enter());
        assert_eq!(first.unwrap_err(), Refused::WaitedTooLong);
        assert_eq!(second.unwrap_err(), Refused::QueueFull);
        drop(held);
        assert!(gate.enter().await.is_ok());
    }

    #[tokio::test]
    async fn a_permit_that_comes_free_goes_to_whoever_waits() {
        let gate = gate(1, 1, 100, 10);
        let held = gate.enter().await.unwrap();
        let (waited, ()) = tokio::join!(gate.enter(), async { drop(held) });
        assert!(waited.is_ok());
    }

    #[tokio::test]
    async fn the_host_s_bound_holds_for_all_functions_together() {
        let host = HostGate::new(1);
        let one = Gate::new(host.clone(), 5, 5, Duration::from_millis(10));
        let other = Gate::new(host, 5, 5, Duration::from_millis(10));
        let held = one.enter().await.unwrap();
        assert_eq!(other.enter().await.unwrap_err(), Refused::WaitedTooLong);
        drop(held);
        assert!(other.enter().await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_gave_up_leaves_its_place() {
        let gate = gate(1, 1, 1000, 10);
        let _held = gate.enter().await.unwrap();
        let gone = tokio::time::timeout(Duration::from_millis(1), gate.enter()).await;
        assert!(gone.is_err());
        assert_eq!(gate.waiting.load(Ordering::Acquire), 0);
    }
}
