//! A manifest and its components, to a release: all or nothing.
//!
//! Owns the order of things: find out what each component is, compile what was not compiled before, see whether the pool
//! holds it, then load and link. **Invariant:** nothing that can be known beforehand is left to a request, and every
//! mistake in every function is reported, not the first alone.

mod load;
mod parts;

use super::data::{AppData, Data};
use super::middleware::{BuiltIns, Limits};
use super::routes::RouteTable;
use super::{Release, Route};
use crate::manifest::{Diagnostic, FunctionSpec, HostConfig, Manifest, ManifestError, RoutePattern, Segment};
use crate::names::Name;
use crate::platform::FileStamp;
use crate::receipt::Kind;
use crate::receipt::totals::FunctionTotals;
use crate::runtime::code::{self, CodeSource, ComponentFile};
use crate::runtime::component::{self, ComponentError};
use crate::runtime::engine::{Compilers, EngineError, Engines, Haste};
use crate::runtime::function::{Function, FunctionError};
use crate::runtime::gate::HostGate;
use crate::runtime::pool::Needs;
use crate::runtime::residents::{Mapped, Residents};
use crate::storage::artifacts::{ArtifactError, ArtifactKey, Artifacts, Digest256};
use crate::storage::components::{ComponentStoreError, Components};
use crate::storage::index::{Index, Known};
use parts::Parts;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Why there is no release.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// What the manifest names cannot be installed; the places are in the file.
    #[error("{0}")]
    Refused(ManifestError),
    /// The state folder cannot be written.
    #[error("{0}")]
    State(#[from] ArtifactError),
    /// A component cannot be kept there.
    #[error("{0}")]
    Components(#[from] ComponentStoreError),
    /// A component that was there is not, or was damaged.
    #[error("the component {0} is not in the state folder, or was damaged there")]
    Missing(Digest256),
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

    /// That was done, and took so long.
    fn compiled(&self, took: Duration) {
        let _ = took;
    }
}

/// Says nothing: nobody waits, or the log tells when it is done.
pub struct Silent;

impl Progress for Silent {
    fn compiling(&self, _function: &FunctionSpec, _done: usize, _total: usize) {}
}

/// Makes a release of `manifest` from the files that it names, to be looked at or measured: it is not recorded.
pub fn install(manifest: &Manifest, progress: &dyn Progress) -> Result<Release, InstallError> {
    let installer = Installer::open(&manifest.host, Haste::SomebodyWaits)?;
    let found = installer.find_files(manifest, None, progress)?;
    installer.prepare(manifest, 0, found)
}

/// Makes releases for one host. They share its engines, its gate, and the code of components that they have in common.
pub struct Installer {
    settings: HostConfig,
    artifacts: Artifacts,
    data: Data,
    limits: Limits,
    compilers: Arc<Compilers>,
    host_gate: HostGate,
    /// What the next release runs on, unless it needs more.
    residents: Mutex<Option<Arc<Residents>>>,
    /// All that there ever were.
    all_residents: Mutex<Vec<Weak<Residents>>>,
    mapped: Arc<Mapped>,
    totals: Mutex<BTreeMap<(Name, Name), Arc<FunctionTotals>>>,
}

/// What came of the components of a manifest, beside what is wrong with them.
pub struct Found<'m> {
    compiled: Vec<(&'m FunctionSpec, CodeSource)>,
    errors: Vec<Diagnostic>,
    /// Files that were read, and what they were found to be.
    read: Vec<(PathBuf, FileStamp, Known)>,
}

impl Found<'_> {
    /// What is wrong; with middleware, it is so for every function behind it, and told once.
    fn note(&mut self, diagnostics: Vec<Diagnostic>) {
        for diagnostic in diagnostics {
            if !self.errors.contains(&diagnostic) {
                self.errors.push(diagnostic);
            }
        }
    }

    /// Where the code of each function is, in the order of the manifest, if there is nothing wrong.
    pub fn sources(&self) -> impl Iterator<Item = &CodeSource> {
        self.compiled.iter().map(|(_, source)| source)
    }
}

/// A component that is kept in the state folder.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Its sha256.
    pub digest: Digest256,
    /// That of each component that is composed with it; the first sees a request first.
    pub before: Vec<Digest256>,
    /// What it was found to be, if that is known.
    pub known: Option<(Kind, Needs)>,
}

impl Installer {
    /// For a host of these settings.
    pub fn open(settings: &HostConfig, haste: Haste) -> Result<Self, InstallError> {
        Ok(Self {
            artifacts: Artifacts::open(&settings.state)?,
            data: Data::new(&settings.state),
            limits: Limits::default(),
            compilers: Arc::new(Compilers::new(haste)?),
            host_gate: HostGate::new(settings.concurrency),
            settings: settings.clone(),
            residents: Mutex::default(),
            all_residents: Mutex::default(),
            mapped: Arc::default(),
            totals: Mutex::default(),
        })
    }

    /// Compiles what the files are that `manifest` names, where that was not done before. With `keep`, the components are
    /// kept there, and the release needs those files no more.
    pub fn find_files<'m>(
        &self,
        manifest: &'m Manifest,
        keep: Option<&Components>,
        progress: &dyn Progress,
    ) -> Result<Found<'m>, InstallError> {
        let index = Index::open(&self.settings.state);
        let total = manifest.functions.len();
        let mut found = Found { compiled: Vec::with_capacity(total), errors: Vec::new(), read: Vec::new() };
        for (done, spec) in manifest.functions.iter().enumerate() {
            let is_composed = manifest.composed(spec).next().is_some();
            if !is_composed && let Some(source) = self.known_source(spec, &index, keep) {
                found.compiled.push((spec, source));
                continue;
            }
            let stamp = std::fs::metadata(&spec.component).ok().and_then(|metadata| FileStamp::of(&metadata));
            let stamp = stamp.filter(Index::is_settled);
            let parts = match Parts::read(manifest, spec) {
                Ok(parts) => parts,
                Err(diagnostics) => {
                    found.note(diagnostics);
                    continue;
                }
            };
            match self.compile(spec, &parts, progress, (done, total)) {
                Ok(mut source) => {
                    if let Some(components) = keep {
                        parts.keep(components)?;
                        source.keep_in(components);
                    }
                    if let Some(stamp) = stamp.filter(|_| !is_composed) {
                        found.read.push((spec.component.clone(), stamp, known(&source)));
                    }
                    found.compiled.push((spec, source));
                }
                Err(CompileError::Refused(diagnostic)) => found.note(vec![diagnostic]),
                Err(CompileError::State(error)) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Compiles what `kept` are, which stand for the components of `manifest` in its order, where that was not done
    /// before. No file that the manifest names is looked at.
    pub fn find_kept<'m>(
        &self,
        manifest: &'m Manifest,
        kept: &[Kept],
        components: &Components,
        progress: &dyn Progress,
    ) -> Result<Found<'m>, InstallError> {
        let total = manifest.functions.len();
        let mut found = Found { compiled: Vec::with_capacity(total), errors: Vec::new(), read: Vec::new() };
        for (done, (spec, kept)) in manifest.functions.iter().zip(kept).enumerate() {
            let file = |digest: &Digest256| ComponentFile { path: components.path(digest), digest: *digest };
            let (component, before) = (file(&kept.digest), kept.before.iter().map(file).collect());
            if let Some((kind, needs)) = kept.known {
                let key = self.key(Digest256::of_chain(&kept.before, kept.digest), kind);
                if self.artifacts.has(&key) {
                    found.compiled.push((spec, CodeSource { component, before, key, kind, needs, linked: true }));
                    continue;
                }
            }
            let parts = Parts::kept(manifest, spec, kept, components)?;
            match self.compile(spec, &parts, progress, (done, total)) {
                Ok(source) => found.compiled.push((spec, CodeSource { component, before, ..source })),
                Err(CompileError::Refused(diagnostic)) => found.note(vec![diagnostic]),
                Err(CompileError::State(error)) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    /// Makes release `number` of `manifest` from what was found.
    pub fn prepare(&self, manifest: &Manifest, number: u64, found: Found<'_>) -> Result<Release, InstallError> {
        let Found { compiled, mut errors, read } = found;
        let (data, built_ins) = match (self.data.open(manifest), BuiltIns::of(manifest, &self.limits)) {
            (Ok(data), Ok(built_ins)) => (data, built_ins),
            (data, built_ins) => {
                errors.extend(data.err().into_iter().chain(built_ins.err()).flatten());
                return Err(InstallError::Refused(manifest.errors_at(errors)));
            }
        };
        let needs: Vec<(Kind, Needs)> = compiled.iter().map(|(_, source)| (source.kind, source.needs)).collect();
        let residents = self.residents_for(&needs)?;
        let (functions, more) = self.load_all(manifest, &data, &residents, &compiled);
        errors.extend(more);
        if !errors.is_empty() {
            return Err(InstallError::Refused(manifest.errors_at(errors)));
        }
        // Noted only now: what is noted has been compiled, linked and fitted.
        if !read.is_empty() {
            let mut index = Index::open(&self.settings.state);
            for (component, stamp, known) in read {
                index.note(&component, stamp, known);
            }
            index.save();
        }
        Ok(Release {
            app: manifest.name.clone(),
            number,
            config: manifest.release.clone(),
            routes: self.route_table(manifest, number, &functions, &built_ins),
            functions,
            data,
            residents,
        })
    }

    /// What keeps the code of releases that are served now, or were until lately.
    pub fn residents(&self) -> Vec<Arc<Residents>> {
        let mut residents = lock(&self.all_residents);
        residents.retain(|residents| residents.strong_count() > 0);
        residents.iter().filter_map(Weak::upgrade).collect()
    }

    /// The engines that run those.
    pub fn engines(&self) -> Vec<Arc<Engines>> {
        self.residents().iter().flat_map(|residents| residents.all_engines()).collect()
    }

    /// What each function has done so far, by app and name.
    pub fn totals(&self) -> Vec<(Name, Name, Arc<FunctionTotals>)> {
        let totals = lock(&self.totals);
        totals.iter().map(|((app, function), totals)| (app.clone(), function.clone(), Arc::clone(totals))).collect()
    }

    /// Forgets what functions of `app` have done but for those of these names. What requests of theirs that are under way
    /// will add is seen by nobody.
    pub fn forget_totals(&self, app: &Name, kept: &HashSet<String>) {
        lock(&self.totals).retain(|(of, function), _| of != app || kept.contains(function.as_str()));
    }

    /// Sandboxes alive now, of how many there may be.
    pub fn sandboxes(&self) -> (u32, u32) {
        (self.settings.concurrency.saturating_sub(self.host_gate.free()), self.settings.concurrency)
    }

    /// How much code is mapped.
    pub fn mapped(&self) -> &Mapped {
        &self.mapped
    }

    /// Removes compiled code of other components than these.
    pub fn prune(&self, used: &HashSet<(Digest256, String)>) {
        let kinds = used.iter().filter_map(|(digest, kind)| Some((*digest, Kind::from_name(kind)?)));
        self.artifacts.prune(kinds.map(|(digest, kind)| self.key(digest, kind)));
    }

    fn key(&self, component: Digest256, kind: Kind) -> ArtifactKey {
        ArtifactKey { component, kind: kind.as_str(), engine: self.compilers.compatibility(kind) }
    }

    /// What a component that has not changed was found to be, if it was compiled as well, and kept if it has to be.
    fn known_source(&self, spec: &FunctionSpec, index: &Index, keep: Option<&Components>) -> Option<CodeSource> {
        let known = index.find(&spec.component)?;
        let kind = Kind::from_name(&known.kind)?;
        let key = self.key(known.component, kind);
        let needs = Needs::from_line(&known.note)?;
        let path = match keep {
            Some(components) if components.has(&known.component) => components.path(&known.component),
            Some(_) => return None,
            None => spec.component.clone(),
        };
        let component = ComponentFile { path, digest: known.component };
        let has_code = self.artifacts.has(&key);
        has_code.then_some(CodeSource { component, before: Vec::new(), key, kind, needs, linked: true })
    }

    fn compile(
        &self,
        spec: &FunctionSpec,
        parts: &Parts<'_>,
        progress: &dyn Progress,
        (done, total): (usize, usize),
    ) -> Result<CodeSource, CompileError> {
        let refuse = |message: String| Diagnostic::new(spec.component_span.clone(), message);
        let bytes = parts.composed(spec).map_err(CompileError::Refused)?;
        let component = component::inspect(&bytes).map_err(|error: ComponentError| {
            let message = format!("{} cannot be a function: {error}", spec.component.display());
            CompileError::Refused(refuse(message).help(error.help()))
        })?;
        let kind = component.kind;
        let key = self.key(parts.digest(), kind);
        let (component_file, before) = parts.files(spec);
        let source =
            |needs| CodeSource { component: component_file, before, key: key.clone(), kind, needs, linked: false };
        if let Some(found) = self.artifacts.find(&key)
            && let Some(needs) = Needs::from_line(&found.note)
        {
            return Ok(source(needs));
        }
        progress.compiling(spec, done, total);
        let began = Instant::now();
        let (code, needs) = code::compile(&self.compilers, &component)
            .map_err(|error| CompileError::Refused(refuse(format!("{}: {error}", spec.component.display()))))?;
        progress.compiled(began.elapsed());
        self.artifacts.keep(&key, &code, &needs.to_line()).map_err(CompileError::State)?;
        Ok(source(needs))
    }

    /// Opens the data of an app.
    pub fn open_data(&self, manifest: &Manifest) -> Result<AppData, InstallError> {
        self.data.open(manifest).map_err(|errors| InstallError::Refused(manifest.errors_at(errors)))
    }

    fn route_table(
        &self,
        manifest: &Manifest,
        number: u64,
        functions: &[Arc<Function>],
        built_ins: &BuiltIns,
    ) -> RouteTable<Arc<Route>> {
        let mut table = RouteTable::default();
        for (spec, function) in manifest.functions.iter().zip(functions) {
            let totals = self.totals_of(&manifest.name, &spec.name);
            let chain = built_ins.chain(spec);
            for route in &spec.routes {
                let made = make_route(&manifest.name, number, &route.pattern, function, &totals);
                table.insert(&route.pattern, Arc::new(Route { chain: Arc::clone(&chain), ..made }));
            }
        }
        table
    }

    fn totals_of(&self, app: &Name, function: &Name) -> Arc<FunctionTotals> {
        Arc::clone(lock(&self.totals).entry((app.clone(), function.clone())).or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known(source: &CodeSource) -> Known {
    Known { component: source.component.digest, kind: source.kind.as_str().to_owned(), note: source.needs.to_line() }
}

enum CompileError {
    Refused(Diagnostic),
    State(ArtifactError),
}

fn make_route(
    app: &Name,
    release: u64,
    pattern: &RoutePattern,
    function: &Arc<Function>,
    totals: &Arc<FunctionTotals>,
) -> Route {
    // Names of parameters were checked to be tokens, and a pattern holds nothing but visible ASCII.
    let header = |name: &str| format!("fnhost-param-{}", name.to_ascii_lowercase()).parse::<http::HeaderName>();
    let static_segments = pattern.segments.iter().map_while(|segment| match segment {
        Segment::Static(text) => Some(text.len() + 1),
        Segment::Param(_) | Segment::Rest(_) => None,
    });
    Route {
        app: app.clone(),
        release,
        function: Arc::clone(function),
        chain: Arc::default(),
        totals: Arc::clone(totals),
        label: http::HeaderValue::from_str(&pattern.to_string()).unwrap_or(http::HeaderValue::from_static("")),
        release_label: http::HeaderValue::from(release),
        param_headers: pattern.params().filter_map(|name| header(name).ok()).collect(),
        prefix_bytes: static_segments.sum(),
        pattern: pattern.clone(),
    }
}
