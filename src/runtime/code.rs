//! The code of functions: compiled, kept on disk, mapped and linked. Whose is mapped is in `residents`.

use super::capability;
use super::component::{self, Component};
use super::compose::{Part, compose};
use super::engine::{Compilers, Engines};
use super::function::FunctionError;
use super::pool::Needs;
use super::sandbox::State;
use crate::receipt::Kind;
use crate::storage::artifacts::{ArtifactKey, Artifacts, Digest256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmtime::Engine;
use wasmtime::component::{InstancePre, Linker};

/// The bytes of one page of a linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// Mappings that one function's code takes: three, as seen in /proc/PID/maps, and one to spare.
pub const MAPPINGS_OF_CODE: usize = 4;

/// Code, linked: what a request instantiates.
pub(super) enum Code {
    Http02(Arc<wasmtime_wasi_http::p2::bindings::ProxyPre<State>>),
    Http03(Arc<wasmtime_wasi_http::p3::bindings::ServicePre<State>>),
    Command(Arc<wasmtime_wasi::p2::bindings::CommandPre<State>>),
}

impl Code {
    /// The bytes that it is mapped from.
    pub(super) fn bytes(&self) -> usize {
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

    /// A loader of the same for other engines.
    pub(super) fn of(&self, engines: Arc<Engines>) -> Result<Self, FunctionError> {
        Self::new(engines, Arc::clone(&self.compilers), self.artifacts.clone())
    }

    /// What its code runs on.
    pub(super) fn engines(&self) -> &Arc<Engines> {
        &self.engines
    }

    /// Maps and links the code of `source`. What is not on disk as it was kept there is compiled again.
    pub(super) fn load(&self, source: &CodeSource) -> Result<Code, FunctionError> {
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
