//! The code of functions: where it is on disk, and whose is mapped.
//!
//! Up to a bound, all functions have their code mapped and linked from the start. A host with more of them has the code of
//! those that were called lately: it is loaded on the first call, and what was used least recently goes. Functions of the
//! same component share its code, in one release or in several. **Invariant:** a request holds the code that it runs, so
//! unloading never pulls it away.

use super::capability;
use super::component::{self, Component};
use super::compose::{Part, compose};
use super::engine::{Compilers, Engines};
use super::function::FunctionError;
use super::pool::Needs;
use super::sandbox::State;
use crate::receipt::Kind;
use crate::storage::artifacts::{ArtifactKey, Artifacts, Digest256};
use arc_swap::ArcSwapOption;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;
use wasmtime::Engine;
use wasmtime::component::{InstancePre, Linker};

/// The bytes of one page of a linear memory.
const PAGE_BYTES: u64 = 64 << 10;
/// When too much is loaded, this part of it goes at once, so that looking for the least recently used is rare.
const UNLOADED_PART: usize = 16;

/// Code, linked: what a request instantiates.
pub(super) enum Code {
    Http02(Arc<wasmtime_wasi_http::p2::bindings::ProxyPre<State>>),
    Http03(Arc<wasmtime_wasi_http::p3::bindings::ServicePre<State>>),
    Command(Arc<wasmtime_wasi::p2::bindings::CommandPre<State>>),
}

impl Code {
    /// The bytes that it is mapped from.
    fn bytes(&self) -> usize {
        let image = self.instance_pre().component().image_range();
        image.end.addr() - image.start.addr()
    }

    /// What it was loaded for, and runs on.
    pub(super) fn engine(&self) -> &Engine {
        self.instance_pre().engine()
    }

    fn instance_pre(&self) -> &InstancePre<State> {
        match self {
            Self::Http02(pre) => pre.instance_pre(),
            Self::Http03(pre) => pre.instance_pre(),
            Self::Command(pre) => pre.instance_pre(),
        }
    }
}

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

/// The file of a component, and its sha256.
#[derive(Debug, Clone)]
pub struct ComponentFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was found to be.
    pub digest: Digest256,
}

impl ComponentFile {
    /// Its bytes, if they are what they were.
    pub fn read(&self) -> Result<Vec<u8>, FunctionError> {
        let path = self.path.display();
        let bytes = std::fs::read(&self.path)
            .map_err(|error| FunctionError::Load(format!("{path} cannot be read: {error}")))?;
        if Digest256::of(&bytes) == self.digest {
            Ok(bytes)
        } else {
            Err(FunctionError::Load(format!("{path} has changed since it was installed")))
        }
    }
}

/// Where a function's code comes from.
#[derive(Debug, Clone)]
pub struct CodeSource {
    /// The component, should it have to be compiled again.
    pub component: ComponentFile,
    /// The middleware that is composed with it; the first sees a request first.
    pub before: Vec<ComponentFile>,
    /// What the compiled code is known by.
    pub key: ArtifactKey,
    /// What it was compiled as.
    pub kind: Kind,
    /// What each of its sandboxes needs.
    pub needs: Needs,
    /// Whether it is known to link and to fit.
    pub linked: bool,
}

impl CodeSource {
    /// What is compiled: the component, or what it is with those before it.
    fn read(&self) -> Result<Vec<u8>, FunctionError> {
        let function = self.component.read()?;
        if self.before.is_empty() {
            return Ok(function);
        }
        let before: Vec<Vec<u8>> = self.before.iter().map(ComponentFile::read).collect::<Result<_, _>>()?;
        let names: Vec<String> = self.before.iter().map(|part| part.path.display().to_string()).collect();
        let parts: Vec<Part<'_>> =
            names.iter().zip(&before).map(|(name, bytes)| Part { name, bytes: bytes.as_slice() }).collect();
        let name = self.component.path.display().to_string();
        compose(&parts, &Part { name: &name, bytes: &function }).map_err(|error| FunctionError::Load(error.to_string()))
    }
}

/// Compiles `component`: the machine code and what it needs of the pool.
pub fn compile(compilers: &Compilers, component: &Component<'_>) -> Result<(Vec<u8>, Needs), FunctionError> {
    let engine = compilers.engine(component.kind);
    let failed = |error: wasmtime::Error| FunctionError::Compile(format!("{error:#}"));
    let compile = || wasmtime::component::Component::from_binary(engine, &component.bytes);
    let compiled = compilers.run(compile).map_err(failed)?;
    // `None` is a component that imports modules, which nothing here could link.
    let needs = compiled.resources_required().map_or(
        Needs { memories: 1, memory_bytes: 0, tables: 1, table_elements: 0 },
        |needs| Needs {
            memories: needs.num_memories,
            memory_bytes: needs.max_initial_memory_size.unwrap_or(0).saturating_mul(PAGE_BYTES),
            tables: needs.num_tables,
            table_elements: needs.max_initial_table_size.unwrap_or(0),
        },
    );
    Ok((compiled.serialize().map_err(failed)?, needs))
}

/// Code from disk, for one set of engines: a linker for each kind, filled once.
pub struct CodeLoader {
    engines: Arc<Engines>,
    compilers: Arc<Compilers>,
    artifacts: Artifacts,
    linkers: HashMap<Kind, Linker<State>>,
}

impl CodeLoader {
    /// A loader of what `compilers` made and `artifacts` keeps.
    pub fn new(engines: Arc<Engines>, compilers: Arc<Compilers>, artifacts: Artifacts) -> Result<Self, FunctionError> {
        let linker = |kind| {
            let mut linker = Linker::new(engines.engine(kind));
            capability::link(&mut linker, kind).map_err(|error| FunctionError::Load(format!("{error:#}")))?;
            Ok((kind, linker))
        };
        let linkers = [Kind::Http02, Kind::Http03, Kind::Command].into_iter().map(linker).collect::<Result<_, _>>()?;
        Ok(Self { engines, compilers, artifacts, linkers })
    }

    /// Maps and links the code of `source`. What is not on disk as it was kept there is compiled again.
    fn load(&self, source: &CodeSource) -> Result<Code, FunctionError> {
        if let Some(found) = self.artifacts.find(&source.key) {
            match self.link(&found.path, source.kind) {
                Err(FunctionError::Load(reason)) => {
                    // Whole by its checksum, and still not what this engine makes: somebody else put it there.
                    let file = found.path.display();
                    tracing::warn!(%file, reason, "compiled code on disk is foreign; compiling again");
                    self.artifacts.discard(&source.key);
                }
                linked => return linked,
            }
        }
        let failed = |reason: String| FunctionError::Load(reason);
        let bytes = source.read()?;
        let component = component::inspect(&bytes).map_err(|error| failed(error.to_string()))?;
        let (code, needs) = compile(&self.compilers, &component)?;
        let kept =
            self.artifacts.keep(&source.key, &code, &needs.to_line()).map_err(|error| failed(error.to_string()))?;
        self.link(&kept.path, source.kind)
    }

    fn link(&self, path: &Path, kind: Kind) -> Result<Code, FunctionError> {
        #[expect(unsafe_code, reason = "`storage::artifacts` hands out only files that this program wrote, unchanged")]
        // SAFETY: the bytes were made by `serialize` for a component of ours, and match the checksum that was kept with
        // them; wasmtime itself checks that version, target and settings are the same. The checksum is against
        // accidents: whoever may write to the state folder, which is closed to other users, is trusted as this user is.
        let loaded = unsafe { wasmtime::component::Component::deserialize_file(self.engines.engine(kind), path) };
        let component = loaded.map_err(|error| {
            let text = format!("{error:#}");
            if text.contains("pooling allocator") { FunctionError::Pool(text) } else { FunctionError::Load(text) }
        })?;
        let linker = self.linkers.get(&kind).ok_or_else(|| FunctionError::Load("no linker for its kind".to_owned()))?;
        let linked = |error: wasmtime::Error| FunctionError::Import(format!("{error:#}"));
        let linker = capability::complete(linker, &component).map_err(linked)?;
        let pre = linker.instantiate_pre(&component).map_err(linked)?;
        let code = match kind {
            Kind::Http02 => wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre).map(|pre| Code::Http02(Arc::new(pre))),
            Kind::Http03 => {
                wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map(|pre| Code::Http03(Arc::new(pre)))
            }
            Kind::Command => wasmtime_wasi::p2::bindings::CommandPre::new(pre).map(|pre| Code::Command(Arc::new(pre))),
        };
        code.map_err(linked)
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
        &self.loader.engines
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
