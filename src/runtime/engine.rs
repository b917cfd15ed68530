//! The engines: one configuration, twice, and the clock that interrupts guests.
//!
//! 0.2 components and commands run on an engine with `concurrency_support(false)`, which spares each request the state
//! of tasks that it cannot have; 0.3 components need it on. Code is compiled by engines that allocate nothing ([`Compilers`]),
//! because a pool is sized from what the compiled components need ([`Engines`]).

use super::response::Streams;
use crate::limits::MEMORY_BYTES_MAX;
use crate::platform;
use crate::receipt::Kind;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How often an epoch passes: the longest that a guest holds a thread before others get a turn.
pub(super) const EPOCH_TICK: Duration = Duration::from_millis(1);
/// Epochs that a guest computes through before it counts as one that computes for long.
const LONG_EPOCHS: u32 = 3;
/// Epochs without any sandbox after which the clock stands still, so that an idle host wakes nobody.
const IDLE_TICKS: u32 = 1000;

/// The most core instances of one component. Each is counted, not reserved, so the bound can be generous: Python's
/// components have about a dozen.
const CORE_INSTANCES_MAX: u32 = 256;
/// The most linear memories and tables of one component. Each takes address space for every sandbox there may be.
const MEMORIES_MAX: u32 = 16;
const TABLES_MAX: u32 = 64;
/// The most bytes of bookkeeping for one component, its core instances included; 1 MiB is too little for .NET.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Stacks for each sandbox: in 0.3, each task that waits in a synchronous call has its own. Elsewhere there is one, and
/// one to spare. Each takes two mappings, whether it is used or not, and the system bounds those of a process.
const STACKS_EACH: u32 = 2;
const STACKS_EACH_CONCURRENT: u32 = 4;
/// Mappings of one sandbox's memories, as seen in /proc/PID/maps, and of a stack: itself, and its guard.
const MAPPINGS_OF_MEMORY: usize = 4;
const MAPPINGS_OF_STACK: usize = 2;
/// The most elements of a table at its start.
pub(super) const TABLE_ELEMENTS_MAX: u64 = 1_000_000;
/// Elements of a table, if no component needs more.
const TABLE_ELEMENTS_MIN: u64 = 20_000;
/// How much of a memory, and of a table, stays mapped for the slot's next sandbox, and is cleared in place of being
/// given back to the kernel. With the page scan only what was written is touched, so the bound is memory; without it
/// all of it is cleared each time, so the bound is time.
const KEEP_MEMORY_BYTES_SCANNED: usize = 1 << 20;
const KEEP_MEMORY_BYTES_CLEARED: usize = 128 << 10;
const KEEP_TABLE_BYTES: usize = 64 << 10;

/// What a component needs of the pool for each of its sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Linear memories.
    pub memories: u32,
    /// Bytes of the largest of them at its start.
    pub memory_bytes: u64,
    /// Tables.
    pub tables: u32,
    /// Elements of the largest of them at its start.
    pub table_elements: u64,
}

impl Needs {
    /// As one line of four numbers.
    pub fn to_line(self) -> String {
        format!("{} {} {} {}", self.memories, self.memory_bytes, self.tables, self.table_elements)
    }

    /// From such a line.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            memories: u32::try_from(next()?).ok()?,
            memory_bytes: next()?,
            tables: u32::try_from(next()?).ok()?,
            table_elements: next()?,
        })
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the WebAssembly engine: {0:#}")]
pub struct EngineError(wasmtime::Error);

/// The engines that compile. They allocate nothing and run nothing.
pub struct Compilers {
    plain: Engine,
    concurrent: Engine,
}

impl Compilers {
    /// Compilers with the host's settings.
    pub fn new() -> Result<Self, EngineError> {
        let engine = |concurrent| Engine::new(&config(concurrent)).map_err(EngineError);
        Ok(Self { plain: engine(false)?, concurrent: engine(true)? })
    }

    pub(super) fn engine(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Http02 | Kind::Command => &self.plain,
            Kind::Http03 => &self.concurrent,
        }
    }

    /// What compiled code is keyed by besides its component: wasmtime's version, the target and every setting that
    /// changes code, hashed by wasmtime itself.
    pub fn compatibility(&self, kind: Kind) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.engine(kind).precompile_compatibility_hash().hash(&mut hasher);
        // Code is linked when it is first compiled, and another version of the host may offer something else.
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        hasher.finish()
    }
}

/// The engines that run, with their pools and their clock.
pub struct Engines {
    plain: Engine,
    concurrent: Engine,
    clock: Clock,
    streams: Arc<Streams>,
    allocation: Allocation,
    mappings: usize,
}

/// Where sandboxes get their memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// From the pool; pages that were written are found by scanning (`PAGEMAP_SCAN`, `ioctl_pagemap_scan(2)`).
    PoolScanned,
    /// From the pool; what is kept is cleared whole.
    PoolCleared,
    /// From the kernel each time, because the address space was too small for a pool.
    OnDemand,
}

impl Allocation {
    /// The name used in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PoolScanned => "pool-scanned",
            Self::PoolCleared => "pool-cleared",
            Self::OnDemand => "on-demand",
        }
    }
}

impl Engines {
    /// Engines for `concurrency` sandboxes at once, each of which needs as much as the neediest in `needs` of its
    /// kind and grows to `memory_bytes_max` at the most.
    pub fn new(concurrency: u32, memory_bytes_max: u64, needs: &[(Kind, Needs)]) -> Result<Self, EngineError> {
        let pool = |concurrent: bool, scan| {
            let of_this_engine = needs.iter().filter(|(kind, _)| (*kind == Kind::Http03) == concurrent);
            let stacks_each = if concurrent { STACKS_EACH_CONCURRENT } else { STACKS_EACH };
            Pool::fitting(concurrency, memory_bytes_max, stacks_each, of_this_engine.map(|(_, needs)| *needs), scan)
        };
        let pooled = |scan| {
            let engine = |concurrent| {
                let mut config = config(concurrent);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(concurrent, scan).configuration()));
                Engine::new(&config)
            };
            Ok((engine(false)?, engine(true)?))
        };
        let scan_is_safe = !platform::swap_possible();
        let attempt = if scan_is_safe {
            // An old kernel has no page scan (it came with Linux 6.7), so failing is not final.
            pooled(true).map(|pair| (pair, Allocation::PoolScanned))
        } else {
            Err(wasmtime::Error::msg("pages could be swapped out"))
        };
        let attempt = attempt.or_else(|reason| {
            tracing::info!(reason = %format!("{reason:#}"), "sandboxes are cleared without the page scan");
            pooled(false).map(|pair| (pair, Allocation::PoolCleared))
        });
        let ((plain, concurrent), allocation) = match attempt {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(
                    error = %format!("{error:#}"),
                    "no room for a pool of {concurrency} sandboxes: each gets its memory from the kernel, which is slower",
                );
                let engine = |concurrent| Engine::new(&config(concurrent)).map_err(EngineError);
                ((engine(false)?, engine(true)?), Allocation::OnDemand)
            }
        };
        let clock = Clock::start(vec![plain.clone(), concurrent.clone()]);
        let mappings = pool(false, false).mappings() + pool(true, false).mappings();
        Ok(Self { plain, concurrent, clock, streams: Arc::default(), allocation, mappings })
    }

    pub(super) fn engine(&self, kind: Kind) -> &Engine {
        match kind {
            Kind::Http02 | Kind::Command => &self.plain,
            Kind::Http03 => &self.concurrent,
        }
    }

    pub(super) fn clock(&self) -> ClockHandle {
        self.clock.handle()
    }

    pub(super) fn streams(&self) -> Arc<Streams> {
        Arc::clone(&self.streams)
    }

    /// Ends the bodies whose time is over and that nobody reads. To be called several times a second, in a runtime.
    pub fn sweep(&self) {
        self.streams.sweep();
    }

    /// Whether a guest has computed for [`LONG_EPOCHS`] or more since this was last asked.
    pub fn take_computed(&self) -> bool {
        self.clock.shared.turns.swap(0, Ordering::Relaxed) > 0
    }

    /// Whether sandboxes are cleared in a way that has become unsafe since the start: pages could be swapped out now.
    pub fn clearing_is_unsafe(&self) -> bool {
        self.allocation == Allocation::PoolScanned && platform::swap_possible()
    }

    /// Mappings that sandboxes take of those that the system lets a process have.
    pub fn mappings(&self) -> usize {
        self.mappings
    }

    /// Where sandboxes get their memory from.
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }
}

/// What compiling and running engines share: everything that changes code.
fn config(concurrent: bool) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_component_model_async(concurrent)
        .concurrency_support(concurrent)
        .epoch_interruption(true)
        // The limiter takes back what a failed growth was allowed, and with 64-bit memories and tables wasmtime reports
        // failures of growths that it never asked about.
        .wasm_memory64(false)
        // Backtraces walk frame pointers. The tables are for native unwinders, and registering them costs each load.
        .native_unwind_info(false)
        // JavaScript and Python come with a heap of some ten MiB that was filled at build time.
        .memory_guaranteed_dense_image_size(128 << 20);
    config
}

/// The size of a pool.
struct Pool {
    concurrency: u32,
    memory_bytes_max: u64,
    memories: u32,
    tables: u32,
    table_elements: u64,
    stacks_each: u32,
    scan: bool,
}

impl Pool {
    fn fitting(
        concurrency: u32,
        memory_bytes_max: u64,
        stacks_each: u32,
        needs: impl Iterator<Item = Needs>,
        scan: bool,
    ) -> Self {
        let least = Self {
            // An engine that no function runs on still needs a pool, and not a large one.
            concurrency: 1,
            memory_bytes_max,
            memories: 1,
            tables: 1,
            table_elements: TABLE_ELEMENTS_MIN,
            stacks_each,
            scan,
        };
        needs.fold(least, |pool, needs| Self {
            concurrency,
            memories: pool.memories.max(needs.memories.min(MEMORIES_MAX)),
            tables: pool.tables.max(needs.tables.min(TABLES_MAX)),
            table_elements: pool.table_elements.max(needs.table_elements.min(TABLE_ELEMENTS_MAX)),
            ..pool
        })
    }

    /// Mappings that it takes at the most, once every slot was used.
    fn mappings(&self) -> usize {
        let each = self.memories as usize * MAPPINGS_OF_MEMORY + self.stacks_each as usize * MAPPINGS_OF_STACK;
        self.concurrency as usize * each
    }

    fn configuration(&self) -> PoolingAllocationConfig {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(self.concurrency)
            .total_core_instances(self.concurrency.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(self.concurrency.saturating_mul(self.memories))
            .total_tables(self.concurrency.saturating_mul(self.tables))
            .total_stacks(self.concurrency.saturating_mul(self.stacks_each))
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(self.memories)
            .max_tables_per_component(self.tables)
            .max_memories_per_module(self.memories)
            .max_tables_per_module(self.tables)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .table_elements(usize::try_from(self.table_elements).unwrap_or(usize::MAX))
            .max_memory_size(usize::try_from(self.memory_bytes_max.min(MEMORY_BYTES_MAX)).unwrap_or(usize::MAX))
            // Every slot keeps its pages for the component that had it last.
            .max_unused_warm_slots(self.concurrency)
            .linear_memory_keep_resident(if self.scan { KEEP_MEMORY_BYTES_SCANNED } else { KEEP_MEMORY_BYTES_CLEARED })
            .table_keep_resident(KEEP_TABLE_BYTES)
            // HAZARD: the scan passes over pages that were swapped out, and the next sandbox would read what the last
            // one wrote there. `Engines::new` asks for it only where nothing can be swapped.
            .pagemap_scan(if self.scan { Enabled::Yes } else { Enabled::No });
        pool
    }
}

/// The thread that makes epochs pass. A plain thread, because a guest that never yields can starve a runtime's timers.
/// Stops and joins when dropped.
struct Clock {
    shared: Arc<ClockState>,
    thread: Option<thread::JoinHandle<()>>,
}

struct ClockState {
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
    fn start(engines: Vec<Engine>) -> Self {
        let shared = Arc::new(ClockState {
            alive: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let state = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("epochs".to_owned())
            .spawn(move || state.run(&engines))
            .inspect(|handle| {
                let _ = shared.thread.set(handle.thread().clone());
            })
            .inspect_err(|error| tracing::error!(%error, "no thread for the epochs: guests cannot be interrupted"))
            .ok();
        Self { shared, thread }
    }

    fn handle(&self) -> ClockHandle {
        ClockHandle(Arc::clone(&self.shared))
    }
}

impl ClockState {
    fn run(&self, engines: &[Engine]) {
        let mut idle_ticks = 0;
        while !self.stop.load(Ordering::Acquire) {
            thread::sleep(EPOCH_TICK);
            engines.iter().for_each(Engine::increment_epoch);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_written_and_read_as_a_line() {
        let needs = Needs { memories: 1, memory_bytes: 1 << 20, tables: 3, table_elements: 40_000 };
        assert_eq!(Needs::from_line(&needs.to_line()), Some(needs));
        for bad in ["", "1 2 3", "a b c d", "1 2 3 -4"] {
            assert_eq!(Needs::from_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pool_holds_the_neediest_component() {
        let small = Needs { memories: 1, memory_bytes: 1, tables: 1, table_elements: 10 };
        let wide = Needs { memories: 2, memory_bytes: 1, tables: 4, table_elements: 50_000 };
        let pool = Pool::fitting(10, 1 << 20, 2, [small, wide].into_iter(), false);
        assert_eq!((pool.concurrency, pool.memories, pool.tables, pool.table_elements), (10, 2, 4, 50_000));
        assert_eq!(Pool::fitting(10, 1 << 20, 2, std::iter::empty(), false).concurrency, 1);
    }
}
