//! Whose code is mapped.
//!
//! Up to a bound, all functions have their code mapped and linked from the start. A host with more of them has the code of
//! those that were called lately: it is loaded on the first call, and what was used least recently goes. Functions of the
//! same component share its code, in one release or in several. **Invariant:** a request holds the code that it runs, so
//! unloading never pulls it away.

use super::code::{Code, CodeLoader, CodeSource, MAPPINGS_OF_CODE};
use super::engine::{Engines, PoolUsage};
use super::function::FunctionError;
use super::renewal::{self, Former, Renewal, Watch};
use crate::platform;
use crate::receipt::Kind;
use crate::storage::artifacts::ArtifactKey;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// When too much is loaded, this part of it goes at once, so that looking for the least recently used is rare.
const UNLOADED_PART: usize = 16;
/// How often what was loaded meanwhile is loaded for new engines as well, before they are used.
const ROUNDS_MAX: usize = 3;

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
            renewal: Mutex::new(Renewal::Watching(Watch::new(Instant::now()))),
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
            Renewal::UnderWay(engines) | Renewal::Emptying(Former { engines, .. }) => Some(Arc::clone(engines)),
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

    /// Whether there is more than one set of engines for its code, or will be.
    pub fn is_renewing(&self) -> bool {
        !matches!(*lock(&self.renewal), Renewal::Watching(_))
    }

    /// Looks at how many sandboxes there are, and says what is to be done on a thread that may wait, if anything is: engines made
    /// anew, if there may be others, or former ones given up. To be called several times a second. `mappings` are those that the
    /// engines of the host take.
    pub fn tend(
        self: &Arc<Self>,
        now: Instant,
        may_renew: bool,
        mappings: usize,
    ) -> Option<Box<dyn FnOnce() + Send + 'static>> {
        let mut renewal = lock(&self.renewal);
        match &mut *renewal {
            Renewal::UnderWay(_) => None,
            Renewal::Emptying(former) => {
                let next = former.is_over().then(|| Renewal::Watching(former.watch(now)))?;
                let former = std::mem::replace(&mut *renewal, next);
                Some(Box::new(move || drop(former)))
            }
            Renewal::Watching(watch) => {
                let engines = self.engines();
                let usage = usage(&engines);
                watch.note(usage.used, now);
                let (surplus_bytes, wait) = (watch.surplus(&usage)?, watch.next_wait());
                let is_worth = surplus_bytes >= renewal::worth(self.mapped.bytes());
                if !is_worth || !may_renew || !self.has_mappings_for(mappings + engines.mappings()) {
                    return None;
                }
                *renewal = Renewal::UnderWay(engines);
                let residents = Arc::clone(self);
                Some(Box::new(move || residents.renew(surplus_bytes, wait)))
            }
        }
    }

    /// Whether the system lets the process have so many mappings for its engines, and all code twice.
    fn has_mappings_for(&self, engines: usize) -> bool {
        let taken = engines + 2 * self.mapped.components() * MAPPINGS_OF_CODE;
        platform::mappings_max().is_none_or(|most| taken <= most - most / 16)
    }

    /// Has requests run on other engines from here on, if there can be others.
    fn renew(&self, surplus_bytes: u64, wait: usize) {
        let began = Instant::now();
        let engines = self.engines();
        let next = match self.move_to_engines_anew() {
            Ok(code) => {
                let (functions, took) = (code.len(), began.elapsed());
                tracing::info!(
                    functions,
                    surplus_bytes,
                    ?took,
                    "memory that sandboxes had is given back: the next have new engines",
                );
                Renewal::Emptying(Former::new(engines, code, wait))
            }
            Err(error) => {
                tracing::warn!(%error, surplus_bytes, "memory that sandboxes had is kept: there are no new engines");
                Renewal::Watching(Watch::begin(Instant::now(), wait))
            }
        };
        *lock(&self.renewal) = next;
    }

    /// Loads all that is mapped for other engines, and has requests use that. Gives back what they used before.
    fn move_to_engines_anew(&self) -> Result<Vec<Arc<Code>>, FunctionError> {
        let loader = self.loader.load_full();
        let engines = loader.engines().again().map_err(|error| FunctionError::Load(error.to_string()))?;
        let loader = Arc::new(loader.of(Arc::new(engines))?);
        let mut anew: HashMap<ArtifactKey, Arc<Code>> = HashMap::new();
        let mut rounds_left = ROUNDS_MAX;
        loop {
            let mut loaded = lock(&self.loaded);
            let cells = loaded.iter().filter_map(Weak::upgrade).filter(|cell| cell.code.load().is_some());
            let mapped: HashMap<ArtifactKey, Arc<CodeCell>> =
                cells.map(|cell| (cell.source.key.clone(), cell)).collect();
            if rounds_left == 0 || mapped.keys().all(|key| anew.contains_key(key)) {
                self.loader.store(loader);
                // What was called for the first time only now is loaded once more by its next call.
                let move_on = |(key, cell): (&ArtifactKey, &Arc<CodeCell>)| match anew.remove(key) {
                    Some(code) => cell.set(code),
                    None => cell.unset(),
                };
                let former = mapped.iter().filter_map(move_on).collect();
                *loaded = mapped.values().filter(|cell| cell.code.load().is_some()).map(Arc::downgrade).collect();
                return Ok(former);
            }
            rounds_left -= 1;
            // Without the lock, as it takes its time. What is loaded or unloaded meanwhile is seen in the next round.
            drop(loaded);
            anew.retain(|key, _| mapped.contains_key(key));
            for (key, cell) in mapped {
                if let Entry::Vacant(missing) = anew.entry(key) {
                    missing.insert(Arc::new(loader.load(&cell.source)?));
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
