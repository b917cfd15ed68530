//! The engines: one configuration, twice.
//!
//! 0.2 components and commands run on an engine with `concurrency_support(false)`, which spares each request the state
//! of tasks that it cannot have; 0.3 components need it on. Code is compiled by engines that allocate nothing ([`Compilers`]),
//! because a pool is sized from what the compiled components need ([`Engines`]).

use super::clock::{Clock, ClockHandle};
use super::pool::{Needs, Pool};
use super::recompiled::Recompiled;
use super::response::Streams;
use crate::platform;
use crate::receipt::Kind;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use wasmtime::{Config, Engine, InstanceAllocationStrategy};

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// By wasmtime.
    #[error("cannot set up the WebAssembly engine: {0:#}")]
    Wasmtime(wasmtime::Error),
    /// There is no room for another pool beside the one that there is.
    #[error("there is no room for a pool of sandboxes: {0:#}")]
    NoRoom(wasmtime::Error),
    /// There are no threads that could compile.
    #[error("cannot start the threads that compile: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Who goes before whom while something is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Requests are served meanwhile, and go first.
    BesideRequests,
    /// A person waits for nothing else.
    SomebodyWaits,
    /// The same, again and again: somebody edits, and most of what is compiled was compiled before.
    SomebodyEdits,
}

/// The engines that compile. They allocate nothing and run nothing.
pub struct Compilers {
    plain: Engine,
    concurrent: Engine,
    /// Beside requests, threads that anybody else goes before.
    threads: rayon::ThreadPool,
}

impl Compilers {
    /// Compilers with the host's settings.
    pub fn new(haste: Haste) -> Result<Self, EngineError> {
        let recompiled = (haste == Haste::SomebodyEdits).then(Arc::<Recompiled>::default);
        let engine = |concurrent| {
            let mut config = config(concurrent);
            if let Some(recompiled) = &recompiled {
                config.enable_incremental_compilation(Arc::<Recompiled>::clone(recompiled))?;
            }
            Engine::new(&config)
        };
        let engine = |concurrent| engine(concurrent).map_err(EngineError::Wasmtime);
        let threads = rayon::ThreadPoolBuilder::new()
            .thread_name(|number| format!("compiler-{number}"))
            .start_handler(move |_| match haste {
                Haste::BesideRequests => platform::yield_to_other_threads(),
                Haste::SomebodyWaits | Haste::SomebodyEdits => {}
            })
            .build()?;
        Ok(Self { plain: engine(false)?, concurrent: engine(true)?, threads })
    }

    /// Runs `work`, and all that it does in parallel, on the threads that compile.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.threads.install(work)
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
    pools: Pools,
    clock: Arc<Clock>,
    streams: Arc<Streams>,
    allocation: Allocation,
}

#[derive(Clone, Copy)]
struct Pools {
    plain: Pool,
    concurrent: Pool,
}

impl Pools {
    /// An engine for each.
    fn engines(&self) -> wasmtime::Result<((Engine, Engine), Allocation)> {
        let pooled = |scan| {
            let engine = |concurrent, pool: &Pool| {
                let mut config = config(concurrent);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool.configuration(scan)));
                Engine::new(&config)
            };
            Ok((engine(false, &self.plain)?, engine(true, &self.concurrent)?))
        };
        let scan_is_safe = !platform::swap_possible();
        let scanned = if scan_is_safe {
            // An old kernel has no page scan (it came with Linux 6.7), so failing is not final.
            pooled(true).map(|pair| (pair, Allocation::PoolScanned))
        } else {
            Err(wasmtime::Error::msg("pages could be swapped out"))
        };
        scanned.or_else(|reason| {
            tracing::info!(reason = %format!("{reason:#}"), "sandboxes are cleared without the page scan");
            pooled(false).map(|pair| (pair, Allocation::PoolCleared))
        })
    }
}

/// How full a pool is, in linear memories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolUsage {
    /// Those that it has room for.
    pub slots: u64,
    /// Those that are in use.
    pub used: u64,
    /// Those that were used, and are kept ready.
    pub warm: u64,
    /// What of those, and of as many tables, stays resident.
    pub warm_bytes: u64,
}

impl PoolUsage {
    /// Adds another pool.
    pub fn add(&mut self, other: &Self) {
        self.slots += other.slots;
        self.used += other.used;
        self.warm += other.warm;
        self.warm_bytes += other.warm_bytes;
    }
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
    /// kind.
    pub fn new(concurrency: u32, needs: &[(Kind, Needs)]) -> Result<Self, EngineError> {
        let pool = |concurrent| {
            let of_this_engine = needs.iter().filter(|(kind, _)| (*kind == Kind::Http03) == concurrent);
            Pool::fitting(concurrency, concurrent, of_this_engine.map(|(_, needs)| *needs))
        };
        let pools = Pools { plain: pool(false), concurrent: pool(true) };
        let made = pools.engines().or_else(|error| {
            tracing::warn!(
                error = %format!("{error:#}"),
                "no room for a pool of {concurrency} sandboxes: each gets its memory from the kernel, which is slower",
            );
            let engine = |concurrent| Engine::new(&config(concurrent)).map_err(EngineError::Wasmtime);
            Ok::<_, EngineError>(((engine(false)?, engine(true)?), Allocation::OnDemand))
        })?;
        Ok(Self::with(made, pools, Arc::new(Clock::start()), Arc::default()))
    }

    /// The same again, with pools that nothing was in yet. What runs on either is interrupted by the same clock.
    pub(super) fn again(&self) -> Result<Self, EngineError> {
        let made = self.pools.engines().map_err(EngineError::NoRoom)?;
        Ok(Self::with(made, self.pools, Arc::clone(&self.clock), Arc::clone(&self.streams)))
    }

    fn with(
        ((plain, concurrent), allocation): ((Engine, Engine), Allocation),
        pools: Pools,
        clock: Arc<Clock>,
        streams: Arc<Streams>,
    ) -> Self {
        clock.add([&plain, &concurrent]);
        Self { plain, concurrent, pools, clock, streams, allocation }
    }

    /// Whether sandboxes of such needs have room here, or else nowhere.
    pub fn hold(&self, needs: &[(Kind, Needs)]) -> bool {
        let held = |(kind, needs): &(Kind, Needs)| match kind {
            Kind::Http02 | Kind::Command => self.pools.plain.holds(*needs),
            Kind::Http03 => self.pools.concurrent.holds(*needs),
        };
        self.allocation == Allocation::OnDemand || needs.iter().all(held)
    }

    /// What they were made for.
    pub fn needs(&self) -> impl Iterator<Item = (Kind, Needs)> {
        let plain = self.pools.plain.needs().map(|needs| (Kind::Http02, needs));
        plain.into_iter().chain(self.pools.concurrent.needs().map(|needs| (Kind::Http03, needs)))
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

    /// Whether a guest has computed for long since this was last asked.
    pub fn take_computed(&self) -> bool {
        self.clock.take_computed()
    }

    /// Whether sandboxes are cleared in a way that has become unsafe since the start: pages could be swapped out now.
    pub fn clearing_is_unsafe(&self) -> bool {
        self.allocation == Allocation::PoolScanned && platform::swap_possible()
    }

    /// Mappings that sandboxes take of those that the system lets a process have.
    pub fn mappings(&self) -> usize {
        self.pools.plain.mappings() + self.pools.concurrent.mappings()
    }

    /// How full the pools are: of 0.2 and commands, and of 0.3. Empty where memory comes from the kernel.
    pub fn pool_usage(&self) -> [PoolUsage; 2] {
        [(&self.plain, &self.pools.plain), (&self.concurrent, &self.pools.concurrent)].map(|(engine, pool)| {
            engine.pooling_allocator_metrics().map_or(PoolUsage::default(), |metrics| PoolUsage {
                slots: pool.memory_slots(),
                used: metrics.memories() as u64,
                warm: metrics.unused_warm_memories().into(),
                warm_bytes: (metrics.unused_memory_bytes_resident() + metrics.unused_table_bytes_resident()) as u64,
            })
        })
    }

    /// Whether there is no sandbox in the pools.
    pub(super) fn are_empty(&self) -> bool {
        let metrics = [&self.plain, &self.concurrent].map(Engine::pooling_allocator_metrics);
        metrics.iter().flatten().all(|metrics| metrics.component_instances() == 0 && metrics.memories() == 0)
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
