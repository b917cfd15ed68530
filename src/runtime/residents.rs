//! Whose code is mapped.
//!
//! Up to a bound, all functions have their code mapped and linked from the start. A host with more of them has the code of
//! those that were called lately: it is loaded on the first call, and what was used least recently goes. Functions of the
//! same component share its code, in one release or in several. **Invariant:** a request holds the code that it runs, so
//! unloading never pulls it away.

use super::code::{Code, CodeLoader, CodeSource, MAPPINGS_OF_CODE};
use super::engine::{Engines, PoolUsage};
use super::function::FunctionError;
use super::renewal::{self, Renewal, Watch};
use crate::platform;
use crate::receipt::Kind;
use crate::storage::artifacts::ArtifactKey;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// When too much is loaded, this part of it goes at once, so that looking for the least recently used is rare.
const UNLOADED_PART: usize = 16;

/// How much code is mapped.
#[derive(Debug, Default)]
pub struct Mapped {
    components: AtomicUsize,
    bytes: AtomicUsize,
}

impl Mapped {
    /// The code of so many components.
    pub fn components(&self) -> usize {
        self.components.load(Ordering::Relaxed)
    }

    /// Its bytes, as they are on disk.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, code: &Code) {
        self.components.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(code.bytes(), Ordering::Relaxed);
    }

    fn take(&self, code: &Code) {
        self.components.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(code.bytes(), Ordering::Relaxed);
    }
}

/// The code of one component, mapped or not.
pub(super) struct CodeCell {
    source: CodeSource,
    code: ArcSwapOption<Code>,
    /// Nanoseconds from the start of its [`Residents`] to its last use.
    last_used: AtomicU64,
    /// Held by whoever loads it, so that a burst of first calls loads it once.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// What all cells have mapped.
    mapped: Arc<Mapped>,
}

impl CodeCell {
    pub(super) fn kind(&self) -> Kind {
        self.source.kind
    }

    /// Gives back what it had before.
    fn set(&self, code: Arc<Code>) -> Option<Arc<Code>> {
        self.mapped.add(&code);
        self.code.swap(Some(code)).inspect(|before| self.mapped.take(before))
    }

    fn unset(&self) -> Option<Arc<Code>> {
        self.code.swap(None).inspect(|code| self.mapped.take(code))
    }
}

impl Drop for CodeCell {
    fn drop(&mut self) {
        drop(self.unset());
    }
}

/// Whose code is mapped.
pub struct Residents {
    /// Another, once its engines were made anew.
    loader: ArcSwap<CodeLoader>,
    renewal: Mutex<Renewal>,
    /// The most cells that have their code mapped.
    loaded_max: usize,
    /// Whether there was more code than that.
    crowded: AtomicBool,
    began: Instant,
    mapped: Arc<Mapped>,
    /// Those that were loaded.
    loaded: Mutex<Vec<Weak<CodeCell>>>,
    /// Those that somebody has.
    cells: Mutex<HashMap<ArtifactKey, Weak<CodeCell>>>,
}

impl Residents {
    /// Keeps the code of `loaded_max` components mapped, at the most; `mapped` counts those of all engines of a host.
    pub fn new(loader: CodeLoader, loaded_max: usize, mapped: Arc<Mapped>) -> Self {
        Self {
            loader: ArcSwap::from_pointee(loader),
            renewal: Mutex::new(Renewal::Watching(Watch::begin(Instant::now()))),
            loaded_max,
            crowded: AtomicBool::new(false),
            began: Instant::now(),
            mapped,
            loaded: Mutex::default(),
            cells: Mutex::default(),
        }
    }

    /// Whether all of this code can stay mapped. If not, functions load it when they are called.
    pub fn make_room_for<'s>(&self, sources: impl Iterator<Item = &'s CodeSource>) -> bool {
        let cells = lock(&self.cells);
        let is_mapped =
            |key: &&ArtifactKey| cells.get(*key).and_then(Weak::upgrade).is_some_and(|cell| cell.code.load().is_some());
        let more: HashSet<&ArtifactKey> = sources.map(|source| &source.key).filter(|key| !is_mapped(key)).collect();
        let room = self.mapped.components() + more.len() <= self.loaded_max;
        if !room {
            self.crowded.store(true, Ordering::Relaxed);
        }
        room
    }

    /// What its code runs on.
    pub fn engines(&self) -> Arc<Engines> {
        Arc::clone(self.loader.load().engines())
    }

    /// Those, and those that ran it before, for as long as requests are under way there.
    pub fn all_engines(&self) -> Vec<Arc<Engines>> {
        let engines = self.engines();
        let former = match &*lock(&self.renewal) {
            Renewal::Emptying(former) | Renewal::UnderWay(former) => Some(Arc::clone(former)),
            Renewal::Watching(_) => None,
        };
        let former = former.filter(|former| !Arc::ptr_eq(former, &engines));
        former.into_iter().chain([engines]).collect()
    }

    /// Where the code of `source` is, or will be.
    pub(super) fn cell(&self, source: CodeSource) -> Arc<CodeCell> {
        let mut cells = lock(&self.cells);
        if let Some(cell) = cells.get(&source.key).and_then(Weak::upgrade) {
            return cell;
        }
        // Those of releases that are gone go when there is more of them than of others.
        if cells.len() == cells.capacity() {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let key = source.key.clone();
        let cell = Arc::new(CodeCell {
            source,
            code: ArcSwapOption::empty(),
            last_used: AtomicU64::new(0),
            loading: Arc::default(),
            mapped: Arc::clone(&self.mapped),
        });
        cells.insert(key, Arc::downgrade(&cell));
        cell
    }

    /// The code of `cell`, loaded if need be.
    pub(super) async fn code(self: &Arc<Self>, cell: &Arc<CodeCell>) -> Result<Arc<Code>, FunctionError> {
        if self.crowded.load(Ordering::Relaxed) {
            let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            cell.last_used.store(now, Ordering::Relaxed);
        }
        if let Some(code) = cell.code.load_full() {
            return Ok(code);
        }
        // Whoever asked first may go away: the lock stays with the loading, and the next one finds what it made.
        let loading = Arc::clone(&cell.loading).lock_owned().await;
        let (residents, wanted) = (Arc::clone(self), Arc::clone(cell));
        // It reads a file, and may have to compile.
        let loading = tokio::task::spawn_blocking(move || {
            let _loading = loading;
            residents.load(&wanted)
        });
        loading.await.unwrap_or_else(|error| Err(FunctionError::Load(error.to_string())))
    }

    /// Finds out whether the code of `cell` links and fits, without keeping it.
    pub(super) fn check(&self, cell: &CodeCell) -> Result<(), FunctionError> {
        // What is known to need no check is not read.
        if cell.source.linked { Ok(()) } else { self.loader.load().load(&cell.source).map(drop) }
    }

    /// Loads the code of `cell`, now, if nobody did. What was used least recently makes room.
    pub(super) fn load(&self, cell: &Arc<CodeCell>) -> Result<Arc<Code>, FunctionError> {
        loop {
            if let Some(code) = cell.code.load_full() {
                return Ok(code);
            }
            let loader = self.loader.load_full();
            let code = Arc::new(loader.load(&cell.source)?);
            let mut loaded = lock(&self.loaded);
            if !Arc::ptr_eq(&loader, &self.loader.load()) {
                // The engines were made anew meanwhile, and what is loaded from here on is for those.
                continue;
            }
            let unloaded = self.unload_for_one_more(&mut loaded);
            loaded.push(Arc::downgrade(cell));
            cell.set(Arc::clone(&code));
            drop(loaded);
            if !unloaded.is_empty() {
                tracing::debug!(functions = unloaded.len(), "unloaded the code of those that were used least recently");
            }
            // Outside of the lock: unmapping takes its time.
            drop(unloaded);
            return Ok(code);
        }
    }

    fn unload_for_one_more(&self, loaded: &mut Vec<Weak<CodeCell>>) -> Vec<Arc<Code>> {
        if loaded.len() < self.loaded_max {
            return Vec::new();
        }
        let mut cells: Vec<Arc<CodeCell>> = loaded.iter().filter_map(Weak::upgrade).collect();
        let mut unloaded = Vec::new();
        if cells.len() >= self.loaded_max {
            cells.sort_by_key(|cell| std::cmp::Reverse(cell.last_used.load(Ordering::Relaxed)));
            let stay = self.loaded_max - self.loaded_max.div_ceil(UNLOADED_PART);
            unloaded = cells.split_off(stay).iter().filter_map(|cell| cell.unset()).collect();
        }
        *loaded = cells.iter().map(Arc::downgrade).collect();
        unloaded
    }

    /// Looks at how many sandboxes there are, and says what is to be done on a thread that may wait, if anything is: engines made
    /// anew, or former ones given up. To be called several times a second.
    pub fn tend(self: &Arc<Self>, now: Instant) -> Option<impl FnOnce() + Send + 'static> {
        let mut renewal = lock(&self.renewal);
        let (engines, surplus_bytes) = match &mut *renewal {
            Renewal::UnderWay(_) => return None,
            Renewal::Emptying(former) => (Arc::clone(former), None),
            Renewal::Watching(watch) => {
                let engines = self.engines();
                let usage = usage(&engines);
                watch.note(usage.used, now);
                (engines, Some(watch.surplus(&usage)?))
            }
        };
        let is_due = match surplus_bytes {
            None => usage(&engines).used == 0,
            Some(bytes) => bytes >= renewal::worth(self.mapped.bytes()) && self.has_mappings_for_two(&engines),
        };
        if !is_due {
            return None;
        }
        *renewal = Renewal::UnderWay(engines);
        let residents = Arc::clone(self);
        Some(move || {
            let former = surplus_bytes.and_then(|bytes| residents.renew(bytes));
            let next = former.map_or_else(|| Renewal::Watching(Watch::begin(Instant::now())), Renewal::Emptying);
            let before = std::mem::replace(&mut *lock(&residents.renewal), next);
            // Whoever has engines last gives back all that their pools keep, which takes its time.
            drop(before);
        })
    }

    /// Whether the system lets the process have as many mappings as two sets of engines take at the most.
    fn has_mappings_for_two(&self, engines: &Engines) -> bool {
        let taken = 2 * (engines.mappings() + self.mapped.components() * MAPPINGS_OF_CODE);
        platform::mappings_max().is_none_or(|most| taken <= most - most / 16)
    }

    /// Has requests run on other engines from here on, all or none. Gives back the former, if there are others.
    fn renew(&self, surplus_bytes: u64) -> Option<Arc<Engines>> {
        let began = Instant::now();
        let former = self.engines();
        match self.move_to_engines_anew() {
            Ok(functions) => {
                let took = began.elapsed();
                tracing::info!(
                    functions,
                    surplus_bytes,
                    ?took,
                    "memory that sandboxes had is given back: the next have new engines",
                );
                Some(former)
            }
            Err(error) => {
                tracing::warn!(%error, surplus_bytes, "memory that sandboxes had is kept: there are no new engines");
                None
            }
        }
    }

    /// Loads all that is mapped for other engines, and has requests use that. Gives back how much it is.
    fn move_to_engines_anew(&self) -> Result<usize, FunctionError> {
        let loader = self.loader.load_full();
        let engines = loader.engines().again().map_err(|error| FunctionError::Load(error.to_string()))?;
        let loader = Arc::new(loader.of(Arc::new(engines))?);
        let mut anew: HashMap<ArtifactKey, Arc<Code>> = HashMap::new();
        loop {
            let loaded = lock(&self.loaded);
            let mapped: Vec<Arc<CodeCell>> =
                loaded.iter().filter_map(Weak::upgrade).filter(|cell| cell.code.load().is_some()).collect();
            if mapped.iter().all(|cell| anew.contains_key(&cell.source.key)) {
                self.loader.store(loader);
                let codes = mapped.iter().filter_map(|cell| Some((cell, anew.remove(&cell.source.key)?)));
                let former: Vec<_> = codes.map(|(cell, code)| cell.set(code)).collect();
                drop(loaded);
                return Ok(former.len());
            }
            // Without the lock, as it takes its time. What is called for the first time meanwhile is loaded in the next round.
            drop(loaded);
            for cell in mapped {
                if !anew.contains_key(&cell.source.key) {
                    anew.insert(cell.source.key.clone(), Arc::new(loader.load(&cell.source)?));
                }
            }
        }
    }
}

/// Both pools of `engines`.
fn usage(engines: &Engines) -> PoolUsage {
    let mut sum = PoolUsage::default();
    engines.pool_usage().iter().for_each(|pool| sum.add(pool));
    sum
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
