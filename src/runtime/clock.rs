//! The clock that interrupts guests: it makes epochs pass for as long as there is a sandbox.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use wasmtime::{Engine, EngineWeak};

/// How often an epoch passes: the longest that a guest holds a thread before others get a turn.
const EPOCH_TICK: Duration = Duration::from_millis(1);
/// Epochs that a guest computes through before it counts as one that computes for long.
const LONG_EPOCHS: u32 = 3;
/// Epochs without any sandbox after which the clock stands still, so that an idle host wakes nobody.
const IDLE_TICKS: u32 = 1000;

/// The thread that makes epochs pass. A plain thread, because a guest that never yields can starve a runtime's timers.
/// Stops and joins when dropped.
pub(super) struct Clock {
    shared: Arc<ClockState>,
    thread: Option<thread::JoinHandle<()>>,
}

struct ClockState {
    /// Those whose epochs pass, for as long as there is somebody else who has them.
    engines: Mutex<Vec<EngineWeak>>,
    /// Sandboxes alive now.
    alive: AtomicUsize,
    /// How often guests that compute for long gave others a turn.
    turns: AtomicUsize,
    /// Whether the thread sleeps until somebody wakes it.
    parked: AtomicBool,
    stop: AtomicBool,
    thread: std::sync::OnceLock<thread::Thread>,
}

impl Clock {
    pub(super) fn start() -> Self {
        let shared = Arc::new(ClockState {
            engines: Mutex::default(),
            alive: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let state = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("epochs".to_owned())
            .spawn(move || state.run())
            .inspect(|handle| {
                let _ = shared.thread.set(handle.thread().clone());
            })
            .inspect_err(|error| tracing::error!(%error, "no thread for the epochs: guests cannot be interrupted"))
            .ok();
        Self { shared, thread }
    }

    /// Has the epochs of these pass as well.
    pub(super) fn add<'e>(&self, engines: impl IntoIterator<Item = &'e Engine>) {
        let mut all = self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(engines.into_iter().map(Engine::weak));
    }

    pub(super) fn handle(&self) -> ClockHandle {
        ClockHandle(Arc::clone(&self.shared))
    }

    /// Whether a guest has computed for [`LONG_EPOCHS`] or more since this was last asked.
    pub(super) fn take_computed(&self) -> bool {
        self.shared.turns.swap(0, Ordering::Relaxed) > 0
    }
}

impl ClockState {
    fn run(&self) {
        let mut idle_ticks = 0;
        while !self.stop.load(Ordering::Acquire) {
            thread::sleep(EPOCH_TICK);
            self.tick();
            idle_ticks = if self.alive.load(Ordering::Relaxed) == 0 { idle_ticks + 1 } else { 0 };
            if idle_ticks > IDLE_TICKS {
                idle_ticks = 0;
                // First the flag, then a second look: whoever makes a sandbox counts first and looks at the flag then
                // (both sequentially consistent), so one of the two sees the other.
                self.parked.store(true, Ordering::SeqCst);
                while self.alive.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::Acquire) {
                    thread::park();
                }
                self.parked.store(false, Ordering::SeqCst);
            }
        }
    }

    fn tick(&self) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|engine| engine.upgrade().inspect(Engine::increment_epoch).is_some());
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics nowhere; were it to, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Where sandboxes report that they live. Cheap to clone.
#[derive(Clone)]
pub(super) struct ClockHandle(Arc<ClockState>);

/// Keeps epochs passing while it lives.
pub(super) struct Alive {
    clock: Arc<ClockState>,
    epochs: u32,
}

impl ClockHandle {
    pub(super) fn alive(&self) -> Alive {
        self.0.alive.fetch_add(1, Ordering::SeqCst);
        if self.0.parked.load(Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
        Alive { clock: Arc::clone(&self.0), epochs: 0 }
    }
}

impl Alive {
    /// The guest computed until an epoch passed. The first of them says little, for it may have begun just before.
    pub(super) fn note_epoch(&mut self) {
        self.epochs += 1;
        if self.epochs >= LONG_EPOCHS {
            self.clock.turns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.clock.alive.fetch_sub(1, Ordering::SeqCst);
    }
}
