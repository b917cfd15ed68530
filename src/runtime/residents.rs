//! Whose code is mapped.
//!
//! Up to a bound, all functions have their code mapped and linked from the start. A host with more of them has the code of
//! those that were called lately: it is loaded on the first call, and what was used least recently goes. Functions of the
//! same component share its code, in one release or in several. **Invariant:** a request holds the code that it runs, so
//! unloading never pulls it away.

use super::code::{Code, CodeLoader, CodeSource};
use super::engine::Engines;
use super::function::FunctionError;
use crate::receipt::Kind;
use crate::storage::artifacts::ArtifactKey;
use arc_swap::ArcSwapOption;
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

    fn set(&self, code: Arc<Code>) {
        self.mapped.add(&code);
        if let Some(before) = self.code.swap(Some(code)) {
            self.mapped.take(&before);
        }
    }

    fn unset(&self) -> Option<Arc<Code>> {
        let code = self.code.swap(None)?;
        self.mapped.take(&code);
        Some(code)
    }
}

impl Drop for CodeCell {
    fn drop(&mut self) {
        drop(self.unset());
    }
}

/// Whose code is mapped.
pub struct Residents {
    loader: CodeLoader,
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
            loader,
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
    pub fn engines(&self) -> &Arc<Engines> {
        self.loader.engines()
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
        if cell.source.linked { Ok(()) } else { self.loader.load(&cell.source).map(drop) }
    }

    /// Loads the code of `cell`, now, if nobody did. What was used least recently makes room.
    pub(super) fn load(&self, cell: &Arc<CodeCell>) -> Result<Arc<Code>, FunctionError> {
        if let Some(code) = cell.code.load_full() {
            return Ok(code);
        }
        let code = Arc::new(self.loader.load(&cell.source)?);
        let mut loaded = lock(&self.loaded);
        let unloaded = self.unload_for_one_more(&mut loaded);
        loaded.push(Arc::downgrade(cell));
        cell.set(Arc::clone(&code));
        drop(loaded);
        if !unloaded.is_empty() {
            tracing::debug!(functions = unloaded.len(), "unloaded the code of those that were used least recently");
        }
        // Outside of the lock: unmapping takes its time.
        drop(unloaded);
        Ok(code)
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
