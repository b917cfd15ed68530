//! The connections to one database, for all who use it.
//!
//! Whoever wants one takes the last that was left, or waits in line, and a connection is made if there may be another. What is
//! made belongs to the pool, not to the one for whom it was made, who may have gone. **Invariants:** first come, first served;
//! a place is free again when the task that drove its connection has ended.

use super::PostgresError;
use super::address::Address;
use super::connection::{self, Connected};
use super::lease::Lease;
use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_mins(5);
/// How often that is looked after.
const IDLE_LOOK: Duration = Duration::from_mins(1);
/// How long nobody tries again after an attempt to connect has failed.
const PAUSE: Duration = Duration::from_millis(100);
/// Whoever waits may go; after so many came, those are counted out.
const WAITING_LOOK: usize = 64;

/// The connections to one database, as many as there may be at once.
pub struct Pool {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    address: Arc<Address>,
    size: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Connected>,
    waiting: VecDeque<Waiting>,
    came: usize,
    /// Connections that are made, there, or being closed.
    places: u32,
    /// Those that are being made.
    connecting: u32,
    /// Those that are there.
    live: u32,
    failed_at: Option<Instant>,
}

struct Waiting {
    since: Instant,
    sender: oneshot::Sender<Result<Lease, PostgresError>>,
}

impl Pool {
    /// For the database at `url`, with at most `size` connections to it. Nothing is connected to until somebody uses it.
    pub fn new(url: &str, size: u32) -> Result<Self, PostgresError> {
        Ok(Self::of(Address::of_host(url)?, size))
    }

    pub(super) fn of(address: Address, size: u32) -> Self {
        Self { shared: Arc::new(Shared { address: Arc::new(address), size: size.max(1), state: Mutex::default() }) }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { address, size, .. } = &*self.shared;
        f.debug_struct("Pool").field("server", &address.to_string()).field("size", size).finish_non_exhaustive()
    }
}

impl Shared {
    /// A connection of one's own. Whoever stops waiting just goes.
    pub(super) async fn lease(self: &Arc<Self>, first_in_line: bool) -> Result<Lease, PostgresError> {
        let receiver = {
            let mut state = self.state();
            while let Some(connected) = state.idle.pop() {
                if !connected.client.is_closed() {
                    return Ok(Lease::new(self, connected));
                }
            }
            let (sender, receiver) = oneshot::channel();
            let waiting = Waiting { since: Instant::now(), sender };
            if first_in_line {
                state.waiting.push_front(waiting);
            } else {
                state.waiting.push_back(waiting);
            }
            state.came += 1;
            if state.came.is_multiple_of(WAITING_LOOK) {
                state.waiting.retain(|waiting| !waiting.sender.is_closed());
            }
            self.connect_if_due(&mut state);
            receiver
        };
        receiver.await.unwrap_or_else(|_| Err(PostgresError::Unreachable("the host is about to end".to_owned())))
    }

    fn connect_if_due(self: &Arc<Self>, state: &mut State) {
        let wanted = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        if state.places < self.size && state.connecting < wanted {
            state.places += 1;
            state.connecting += 1;
            let pause = state.failed_at.map(|at| PAUSE.saturating_sub(at.elapsed()));
            let driving = drive(Arc::downgrade(self), Place(Arc::downgrade(self)), pause.unwrap_or_default());
            #[expect(clippy::disallowed_methods, reason = "it ends with the connection, and that with the pool")]
            tokio::spawn(driving);
        }
    }

    fn arrived(self: &Arc<Self>, connected: Connected) {
        let recovered = {
            let mut state = self.state();
            state.connecting -= 1;
            state.live += 1;
            state.failed_at.take()
        };
        if recovered.is_some() {
            tracing::info!(server = %self.address, "a database is reached again");
        }
        self.give(connected);
    }

    /// Tells those who waited before the attempt began, unless there are connections that will serve them.
    fn failed(&self, began: Instant, error: &PostgresError) {
        let mut told = Vec::new();
        let was_well = {
            let mut state = self.state();
            state.connecting -= 1;
            while state.live == 0 && state.waiting.front().is_some_and(|waiting| waiting.since <= began) {
                told.extend(state.waiting.pop_front());
            }
            state.failed_at.replace(Instant::now()).is_none()
        };
        if was_well {
            tracing::warn!(server = %self.address, "{error}");
        }
        for waiting in told {
            let _ = waiting.sender.send(Err(error.clone()));
        }
    }

    /// Gives a connection to whoever waits first, or keeps it.
    pub(super) fn give(self: &Arc<Self>, mut connected: Connected) {
        connected.idle_since = Instant::now();
        loop {
            let waiting = {
                let mut state = self.state();
                match state.waiting.pop_front() {
                    Some(waiting) => waiting,
                    None => return state.idle.push(connected),
                }
            };
            match waiting.sender.send(Ok(Lease::new(self, connected))) {
                Err(Ok(lease)) => match lease.untouched() {
                    Some(back) => connected = back,
                    None => return,
                },
                Ok(()) | Err(Err(_)) => return,
            }
        }
    }

    /// Closes what nobody has used for long.
    fn look_after_idle(&self) {
        let old: Vec<_> =
            self.state().idle.extract_if(.., |connected| connected.idle_since.elapsed() > IDLE_MAX).collect();
        drop(old);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the connections that there may be.
struct Place(Weak<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state();
        state.places -= 1;
        state.idle.retain(|connected| !connected.client.is_closed());
        if tokio::runtime::Handle::try_current().is_ok() {
            shared.connect_if_due(&mut state);
        }
    }
}

/// A connection's life. The pool may be gone before it.
async fn drive(pool: Weak<Shared>, place: Place, pause: Duration) {
    tokio::time::sleep(pause).await;
    let Some(shared) = pool.upgrade() else { return };
    let address = Arc::clone(&shared.address);
    let began = Instant::now();
    let (connected, driver) = match connection::connect(&address).await {
        Ok(made) => made,
        Err(error) => return shared.failed(began, &error),
    };
    shared.arrived(connected);
    drop(shared);
    let mut driving = pin!(driver.run(&address));
    while timeout(IDLE_LOOK, &mut driving).await.is_err() {
        if let Some(shared) = pool.upgrade() {
            shared.look_after_idle();
        }
    }
    if let Some(shared) = pool.upgrade() {
        shared.state().live -= 1;
    }
    drop(place);
}
