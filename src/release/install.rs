//! A manifest and what it names, to a release: all or nothing.
//!
//! Owns the order of things: find out what each component is, compile what was not compiled before, size the engines
//! to what was found, then load and link. **Invariant:** nothing that can be known beforehand is left to a request,
//! and every mistake in every function is reported, not the first alone.

use super::routes::RouteTable;
use super::{Release, Route};
use crate::manifest::{Diagnostic, FunctionSpec, Manifest, ManifestError, RoutePattern, Segment};
use crate::platform::{self, FileStamp};
use crate::receipt::Kind;
use crate::runtime::code::{self, CodeLoader, CodeSource, Residents};
use crate::runtime::component::{self, ComponentError};
use crate::runtime::engine::{Compilers, EngineError, Engines, Needs};
use crate::runtime::function::{Function, FunctionError, FunctionSettings, Loader};
use crate::runtime::gate::HostGate;
use crate::storage::artifacts::{ArtifactError, ArtifactKey, Artifacts, Digest256};
use crate::storage::index::{Index, Known};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

/// The largest file that is taken for a component.
const COMPONENT_BYTES_MAX: u64 = 512 << 20;

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// What the manifest names cannot be installed; the places are in the file.
    #[error("{0}")]
    Refused(ManifestError),
    /// The state folder cannot be written.
    #[error("{0}")]
    State(#[from] ArtifactError),
    /// There are no engines.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// The host's own interfaces could not be set up.
    #[error("{0}")]
    Link(FunctionError),
}

/// What is said on the way, for people who wait.
pub trait Progress {
    /// Compiling a function's component, `done` of `total` in.
    fn compiling(&self, function: &FunctionSpec, done: usize, total: usize);
}

/// Mappings that one function's code takes: three, as seen in /proc/PID/maps, and one to spare.
const MAPPINGS_EACH: usize = 4;
/// Functions whose code is kept mapped, whatever the system allows.
const LOADED_MIN: usize = 64;

/// Makes a release of `manifest`, all of the app: what the state folder has for other functions is theirs no more.
pub fn install(manifest: &Manifest, progress: &dyn Progress) -> Result<Release, InstallError> {
    install_with(manifest, progress, true)
}

/// Makes a release of a part of an app, and leaves what the state folder has for the others.
pub fn install_part(manifest: &Manifest, progress: &dyn Progress) -> Result<Release, InstallError> {
    install_with(manifest, progress, false)
}

fn install_with(manifest: &Manifest, progress: &dyn Progress, whole: bool) -> Result<Release, InstallError> {
    let artifacts = Artifacts::open(&manifest.host.state)?;
    let mut index = Index::open(&manifest.host.state);
    let compilers = Compilers::new()?;
    let CompiledAll { compiled, mut errors, read } = compile_all(manifest, &artifacts, &index, &compilers, progress)?;
    let needs: Vec<(Kind, Needs)> = compiled.iter().map(|(_, source)| (source.kind, source.needs)).collect();
    let memory_bytes_max = manifest.functions.iter().map(|spec| spec.limits.memory_bytes).max().unwrap_or_default();
    let engines = Arc::new(Engines::new(manifest.host.concurrency, memory_bytes_max, &needs)?);
    let code = CodeLoader::new(Arc::clone(&engines), compilers, artifacts.clone()).map_err(InstallError::Link)?;
    let residents = Residents::new(code, compiled.len(), loaded_max(manifest, &engines, compiled.len()));
    let loader = Loader::new(residents, HostGate::new(manifest.host.concurrency));
    let (functions, more) = load_all(manifest, &loader, &compiled);
    errors.extend(more);
    if !errors.is_empty() {
        return Err(InstallError::Refused(manifest.errors_at(errors)));
    }
    if whole {
        // Noted only now: what is noted has been compiled, linked and fitted.
        for (component, stamp, known) in read {
            index.note(&component, stamp, known);
        }
        index.save(compiled.iter().map(|(spec, _)| spec.component.clone()));
        artifacts.prune(compiled.iter().map(|(_, source)| &source.key));
    }
    Ok(Release { routes: route_table(manifest, &functions), functions, engines })
}

/// How many functions have their code mapped at once. The system bounds mappings, and a process that has none left fails
/// in ways that nobody can mend, so a part of them is left for everything else.
fn loaded_max(manifest: &Manifest, engines: &Engines, functions: usize) -> usize {
    let wanted = manifest.host.loaded_functions as usize;
    let Some(mappings) = platform::mappings_max() else { return wanted };
    let possible = (mappings - mappings / 16).saturating_sub(engines.mappings()) / MAPPINGS_EACH;
    // What sandboxes may take is the most that they ever would, so a few functions always have room.
    let possible = possible.max(LOADED_MIN);
    if wanted.min(functions) > possible {
        tracing::warn!(
            "the code of {possible} functions at the most is kept mapped, for the system allows {mappings} mappings \
             (vm.max_map_count)",
        );
    }
    wanted.min(possible)
}

/// What came of some functions, and what is wrong with the others.
type Partly<T> = (Vec<T>, Vec<Diagnostic>);

/// What came of the components, beside what is wrong with them.
struct CompiledAll<'m> {
    compiled: Vec<(&'m FunctionSpec, CodeSource)>,
    errors: Vec<Diagnostic>,
    /// Files that were read, and what they were found to be.
    read: Vec<(PathBuf, FileStamp, Known)>,
}

fn compile_all<'m>(
    manifest: &'m Manifest,
    artifacts: &Artifacts,
    index: &Index,
    compilers: &Compilers,
    progress: &dyn Progress,
) -> Result<CompiledAll<'m>, InstallError> {
    let mut compiled = Vec::with_capacity(manifest.functions.len());
    let mut errors = Vec::new();
    let mut read = Vec::new();
    for (done, spec) in manifest.functions.iter().enumerate() {
        if let Some(known) = known_source(&spec.component, artifacts, index, compilers) {
            compiled.push((spec, known));
            continue;
        }
        let notify = || progress.compiling(spec, done, manifest.functions.len());
        let stamp = std::fs::metadata(&spec.component).ok().and_then(|metadata| FileStamp::of(&metadata));
        let stamp = stamp.filter(Index::is_settled);
        match compile_one(spec, artifacts, compilers, notify) {
            Ok(source) => {
                if let Some(stamp) = stamp {
                    read.push((spec.component.clone(), stamp, known(&source)));
                }
                compiled.push((spec, source));
            }
            Err(CompileError::Refused(diagnostic)) => errors.push(diagnostic),
            Err(CompileError::State(error)) => return Err(error.into()),
        }
    }
    Ok(CompiledAll { compiled, errors, read })
}

/// What a component that has not changed was found to be, if it was compiled as well.
fn known_source(component: &Path, artifacts: &Artifacts, index: &Index, compilers: &Compilers) -> Option<CodeSource> {
    let known = index.find(component)?;
    let kind = Kind::from_name(&known.kind)?;
    let key = ArtifactKey { component: known.component, kind: kind.as_str(), engine: compilers.compatibility(kind) };
    let needs = Needs::from_line(&known.note)?;
    artifacts.has(&key).then(|| CodeSource { component: component.to_owned(), key, kind, needs, linked: true })
}

fn known(source: &CodeSource) -> Known {
    Known { component: source.key.component, kind: source.kind.as_str().to_owned(), note: source.needs.to_line() }
}

enum CompileError {
    Refused(Diagnostic),
    State(ArtifactError),
}

fn compile_one(
    spec: &FunctionSpec,
    artifacts: &Artifacts,
    compilers: &Compilers,
    notify: impl FnOnce(),
) -> Result<CodeSource, CompileError> {
    let refuse = |message: String| Diagnostic::new(spec.component_span.clone(), message);
    let bytes = read_component(spec).map_err(CompileError::Refused)?;
    let component = component::inspect(&bytes).map_err(|error: ComponentError| {
        let message = format!("{} cannot be a function: {error}", spec.component.display());
        CompileError::Refused(refuse(message).help(error.help()))
    })?;
    let kind = component.kind;
    let key =
        ArtifactKey { component: Digest256::of(&bytes), kind: kind.as_str(), engine: compilers.compatibility(kind) };
    let source = |needs| CodeSource { component: spec.component.clone(), key: key.clone(), kind, needs, linked: false };
    if let Some(found) = artifacts.find(&key)
        && let Some(needs) = Needs::from_line(&found.note)
    {
        return Ok(source(needs));
    }
    notify();
    let (code, needs) = code::compile(compilers, &component)
        .map_err(|error| CompileError::Refused(refuse(format!("{}: {error}", spec.component.display()))))?;
    artifacts.keep(&key, &code, &needs.to_line()).map_err(CompileError::State)?;
    Ok(source(needs))
}

fn read_component(spec: &FunctionSpec) -> Result<Vec<u8>, Diagnostic> {
    let path = spec.component.display();
    let refuse = |message: String| Diagnostic::new(spec.component_span.clone(), message);
    let metadata = std::fs::metadata(&spec.component).map_err(|error| {
        let missing = refuse(format!("the component {path} cannot be read: {error}"));
        missing.help(if spec.build.is_some() { "`fnhost build` makes it" } else { "build it, or correct the path" })
    })?;
    if !metadata.is_file() {
        return Err(refuse(format!("the component {path} is no file")));
    }
    if metadata.len() > COMPONENT_BYTES_MAX {
        let size = metadata.len();
        return Err(refuse(format!("the component {path} has {size} bytes, and {COMPONENT_BYTES_MAX} are allowed")));
    }
    std::fs::read(&spec.component).map_err(|error| refuse(format!("the component {path} cannot be read: {error}")))
}

/// Loads all, on every core: it is reading files and checking sums.
fn load_all(manifest: &Manifest, loader: &Loader, compiled: &[(&FunctionSpec, CodeSource)]) -> Partly<Arc<Function>> {
    let loaded: Vec<OnceLock<Result<Arc<Function>, Diagnostic>>> = compiled.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((slot, (spec, source))) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            loaded.get(at).zip(compiled.get(at))
        } {
            let function = loader.load(source.clone(), settings(manifest, spec)).map(Arc::new);
            // Each slot is one thread's alone.
            let _ = slot.set(function.map_err(|error| explain(spec, &error)));
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(compiled.len());
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut functions = Vec::with_capacity(compiled.len());
    let mut errors = Vec::new();
    for result in loaded.into_iter().filter_map(OnceLock::into_inner) {
        match result {
            Ok(function) => functions.push(function),
            Err(diagnostic) => errors.push(diagnostic),
        }
    }
    (functions, errors)
}

fn settings(manifest: &Manifest, spec: &FunctionSpec) -> FunctionSettings {
    FunctionSettings {
        name: spec.name.clone(),
        limits: spec.limits.clone(),
        body_timeout: manifest.host.body_timeout,
        env: spec.env.clone(),
        config: spec.config.clone(),
        outbound: spec.outbound.clone(),
    }
}

fn explain(spec: &FunctionSpec, error: &FunctionError) -> Diagnostic {
    let message = format!("{} cannot be installed: {error}", spec.component.display());
    match error {
        FunctionError::Memory { .. } => {
            Diagnostic::new(spec.memory_span.clone(), message).help("raise `memory` in its limits")
        }
        FunctionError::Import(_) => {
            Diagnostic::new(spec.component_span.clone(), message).help("wit/world.wit lists what a function may import")
        }
        FunctionError::Pool(_) => Diagnostic::new(spec.component_span.clone(), message)
            .help("split the component: fewer instances, memories or tables in one"),
        FunctionError::Compile(_) | FunctionError::Load(_) => Diagnostic::new(spec.component_span.clone(), message),
    }
}

fn route_table(manifest: &Manifest, functions: &[Arc<Function>]) -> RouteTable<Route> {
    let mut table = RouteTable::default();
    for (function_index, (spec, function)) in manifest.functions.iter().zip(functions).enumerate() {
        for route in &spec.routes {
            table.insert(&route.pattern, make_route(&route.pattern, function, function_index));
        }
    }
    table
}

fn make_route(pattern: &RoutePattern, function: &Arc<Function>, function_index: usize) -> Route {
    // Names of parameters were checked to be tokens, and a pattern holds nothing but visible ASCII.
    let header = |name: &str| format!("fnhost-param-{}", name.to_ascii_lowercase()).parse::<http::HeaderName>();
    let static_segments = pattern.segments.iter().map_while(|segment| match segment {
        Segment::Static(text) => Some(text.len() + 1),
        Segment::Param(_) | Segment::Rest(_) => None,
    });
    Route {
        function: Arc::clone(function),
        function_index,
        label: http::HeaderValue::from_str(&pattern.to_string()).unwrap_or(http::HeaderValue::from_static("")),
        param_headers: pattern.params().filter_map(|name| header(name).ok()).collect(),
        prefix_bytes: static_segments.sum(),
        pattern: pattern.clone(),
    }
}
