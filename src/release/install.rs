//! A manifest and what it names, to a release: all or nothing.
//!
//! Owns the order of things: find out what each component is, compile what was not compiled before, size the engines
//! to what was found, then load and link. **Invariant:** nothing that can be known beforehand is left to a request,
//! and every mistake in every function is reported, not the first alone.

use super::routes::RouteTable;
use super::{Release, Route};
use crate::manifest::{Diagnostic, FunctionSpec, Manifest, ManifestError, RoutePattern, Segment};
use crate::receipt::Kind;
use crate::runtime::component::{self, ComponentError};
use crate::runtime::engine::{Compilers, EngineError, Engines, Needs};
use crate::runtime::function::{self, Function, FunctionError, FunctionSettings, Loader};
use crate::runtime::gate::HostGate;
use crate::storage::artifacts::{ArtifactError, ArtifactKey, Artifacts, Digest256};
use std::path::PathBuf;
use std::sync::Arc;

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

/// A function's component, compiled and on disk.
struct Compiled {
    key: ArtifactKey,
    code: PathBuf,
    kind: Kind,
    needs: Needs,
}

/// Makes a release of `manifest`.
pub fn install(manifest: &Manifest, progress: &dyn Progress) -> Result<Release, InstallError> {
    let artifacts = Artifacts::open(&manifest.host.state)?;
    let compilers = Compilers::new()?;
    let (compiled, mut errors) = compile_all(manifest, &artifacts, &compilers, progress)?;
    let needs: Vec<(Kind, Needs)> = compiled.iter().map(|(_, compiled)| (compiled.kind, compiled.needs)).collect();
    let memory_bytes_max = manifest.functions.iter().map(|spec| spec.limits.memory_bytes).max().unwrap_or_default();
    let engines = Arc::new(Engines::new(manifest.host.concurrency, memory_bytes_max, &needs)?);
    let (functions, more) = load_all(manifest, &artifacts, &compilers, &engines, &compiled)?;
    errors.extend(more);
    if !errors.is_empty() {
        return Err(InstallError::Refused(manifest.errors_at(errors)));
    }
    let used: Vec<PathBuf> = compiled.into_iter().map(|(_, compiled)| compiled.code).collect();
    artifacts.prune(&used);
    Ok(Release { routes: route_table(manifest, &functions), functions, engines })
}

/// What came of some functions, and what is wrong with the others.
type Partly<T> = (Vec<T>, Vec<Diagnostic>);

fn compile_all<'m>(
    manifest: &'m Manifest,
    artifacts: &Artifacts,
    compilers: &Compilers,
    progress: &dyn Progress,
) -> Result<Partly<(&'m FunctionSpec, Compiled)>, InstallError> {
    let mut compiled = Vec::with_capacity(manifest.functions.len());
    let mut errors = Vec::new();
    for (done, spec) in manifest.functions.iter().enumerate() {
        let notify = || progress.compiling(spec, done, manifest.functions.len());
        match compile_one(spec, artifacts, compilers, notify) {
            Ok(one) => compiled.push((spec, one)),
            Err(CompileError::Refused(diagnostic)) => errors.push(diagnostic),
            Err(CompileError::State(error)) => return Err(error.into()),
        }
    }
    Ok((compiled, errors))
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
) -> Result<Compiled, CompileError> {
    let refuse = |message: String| Diagnostic::new(spec.component_span.clone(), message);
    let bytes = read_component(spec).map_err(CompileError::Refused)?;
    let component = component::inspect(&bytes).map_err(|error: ComponentError| {
        let message = format!("{} cannot be a function: {error}", spec.component.display());
        CompileError::Refused(refuse(message).help(error.help()))
    })?;
    let kind = component.kind;
    let key =
        ArtifactKey { component: Digest256::of(&bytes), kind: kind.as_str(), engine: compilers.compatibility(kind) };
    if let Some(found) = artifacts.find(&key)
        && let Some(needs) = Needs::from_line(&found.note)
    {
        return Ok(Compiled { key, code: found.path, kind, needs });
    }
    notify();
    let (code, needs) = function::compile(compilers, &component)
        .map_err(|error| CompileError::Refused(refuse(format!("{}: {error}", spec.component.display()))))?;
    let kept = artifacts.keep(&key, &code, &needs.to_line()).map_err(CompileError::State)?;
    Ok(Compiled { key, code: kept.path, kind, needs })
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

fn load_all(
    manifest: &Manifest,
    artifacts: &Artifacts,
    compilers: &Compilers,
    engines: &Engines,
    compiled: &[(&FunctionSpec, Compiled)],
) -> Result<Partly<Arc<Function>>, InstallError> {
    let host_gate = HostGate::new(manifest.host.concurrency);
    let loader = Loader::new(engines, host_gate).map_err(InstallError::Link)?;
    let mut functions = Vec::with_capacity(compiled.len());
    let mut errors = Vec::new();
    for (spec, compiled) in compiled {
        let loaded = load_one(&loader, manifest, spec, compiled).or_else(|error| {
            let FunctionError::Load(reason) = &error else { return Err(CompileError::Refused(explain(spec, &error))) };
            // Whole by its checksum, and still not what this engine makes: somebody else put it there.
            tracing::warn!(file = %compiled.code.display(), reason, "compiled code on disk is foreign; compiling again");
            artifacts.discard(&compiled.key);
            let again = compile_one(spec, artifacts, compilers, || ())?;
            load_one(&loader, manifest, spec, &again).map_err(|error| CompileError::Refused(explain(spec, &error)))
        });
        match loaded {
            Ok(function) => functions.push(Arc::new(function)),
            Err(CompileError::Refused(diagnostic)) => errors.push(diagnostic),
            Err(CompileError::State(error)) => return Err(error.into()),
        }
    }
    Ok((functions, errors))
}

fn load_one(
    loader: &Loader<'_>,
    manifest: &Manifest,
    spec: &FunctionSpec,
    compiled: &Compiled,
) -> Result<Function, FunctionError> {
    let settings = FunctionSettings {
        name: spec.name.clone(),
        limits: spec.limits.clone(),
        body_timeout: manifest.host.body_timeout,
        env: spec.env.clone(),
        config: spec.config.clone(),
        outbound: spec.outbound.clone(),
    };
    loader.load(&compiled.code, compiled.kind, compiled.needs, settings)
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
