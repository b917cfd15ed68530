//! A function ready to run: compiled, mapped, linked, fitted.
//!
//! Owns the way from a component's bytes to code that can be instantiated, and the one `unsafe` block of the host:
//! running code from its own disk. **Invariant:** once a [`Function`] exists, a request only makes a store,
//! instantiates and calls.

use super::capability;
use super::component::Component;
use super::engine::{ClockHandle, Compilers, Engines, Needs, TABLE_ELEMENTS_MAX};
use super::gate::{Gate, HostGate};
use super::response::Streams;
use super::sandbox::State;
use crate::grants::OutboundGrants;
use crate::limits::{Limits, show_size};
use crate::names::Name;
use crate::receipt::Kind;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Engine;
use wasmtime::component::Linker;

/// The bytes of one page of a linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// One function of the live release.
pub struct Function {
    /// Its name.
    pub name: Name,
    /// What it may use.
    pub limits: Limits,
    /// Its door.
    pub gate: Gate,
    pub(super) body_timeout: Duration,
    pub(super) code: Code,
    pub(super) engine: Engine,
    pub(super) clock: ClockHandle,
    pub(super) streams: Arc<Streams>,
    pub(super) env: Vec<(String, String)>,
    pub(super) config: Arc<[(String, String)]>,
    pub(super) outbound: capability::outbound::Outbound,
}

impl Function {
    /// The kind of its component.
    pub fn kind(&self) -> Kind {
        match self.code {
            Code::Http02(_) => Kind::Http02,
            Code::Http03(_) => Kind::Http03,
            Code::Command(_) => Kind::Command,
        }
    }
}

/// Code, linked: what a request instantiates.
pub(super) enum Code {
    Http02(wasmtime_wasi_http::p2::bindings::ProxyPre<State>),
    Http03(wasmtime_wasi_http::p3::bindings::ServicePre<State>),
    Command(wasmtime_wasi::p2::bindings::CommandPre<State>),
}

/// What a function is given when it is installed.
pub struct FunctionSettings {
    /// Its name.
    pub name: Name,
    /// What it may use.
    pub limits: Limits,
    /// How long it waits for the next byte of an upload.
    pub body_timeout: Duration,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its configuration.
    pub config: Vec<(String, String)>,
    /// Whom it may call.
    pub outbound: OutboundGrants,
}

/// Why a component cannot become a function.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The compiler refused it.
    #[error("it cannot be compiled: {0}")]
    Compile(String),
    /// Code from disk is not what this engine makes.
    #[error("its compiled code cannot be loaded: {0}")]
    Load(String),
    /// It needs more of the pool than there is.
    #[error("it does not fit the pool: {0}")]
    Pool(String),
    /// It starts with more memory than its limit.
    #[error("it starts with {} of memory, and its limit is {}", show_size(*needs_bytes), show_size(*limit_bytes))]
    Memory {
        /// What it starts with.
        needs_bytes: u64,
        /// What it may have.
        limit_bytes: u64,
    },
    /// It imports what this host does not have, or has with another type.
    #[error("it imports what this host does not offer: {0}")]
    Import(String),
}

/// Compiles `component`: the machine code and what it needs of the pool.
pub fn compile(compilers: &Compilers, component: &Component<'_>) -> Result<(Vec<u8>, Needs), FunctionError> {
    let engine = compilers.engine(component.kind);
    let failed = |error: wasmtime::Error| FunctionError::Compile(format!("{error:#}"));
    let compiled = wasmtime::component::Component::from_binary(engine, &component.bytes).map_err(failed)?;
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

/// Makes functions for one set of engines: a linker for each kind, filled once.
pub struct Loader<'e> {
    engines: &'e Engines,
    linkers: HashMap<Kind, Linker<State>>,
    host_gate: HostGate,
}

impl<'e> Loader<'e> {
    /// A loader whose functions share `host_gate`.
    pub fn new(engines: &'e Engines, host_gate: HostGate) -> Result<Self, FunctionError> {
        let linker = |kind| {
            let mut linker = Linker::new(engines.engine(kind));
            capability::link(&mut linker, kind).map_err(|error| FunctionError::Load(format!("{error:#}")))?;
            Ok((kind, linker))
        };
        let linkers = [Kind::Http02, Kind::Http03, Kind::Command].into_iter().map(linker).collect::<Result<_, _>>()?;
        Ok(Self { engines, linkers, host_gate })
    }

    /// A function that runs the code at `path`, which [`compile`] made of a component of `kind` with these `needs`,
    /// and which has been checked to be whole.
    pub fn load(
        &self,
        path: &Path,
        kind: Kind,
        needs: Needs,
        settings: FunctionSettings,
    ) -> Result<Function, FunctionError> {
        let limit_bytes = settings.limits.memory_bytes;
        if needs.memory_bytes > limit_bytes {
            return Err(FunctionError::Memory { needs_bytes: needs.memory_bytes, limit_bytes });
        }
        if needs.table_elements > TABLE_ELEMENTS_MAX {
            let (needs, most) = (needs.table_elements, TABLE_ELEMENTS_MAX);
            return Err(FunctionError::Pool(format!("it has a table of {needs} elements, and {most} are allowed")));
        }
        let engine = self.engines.engine(kind);
        #[expect(unsafe_code, reason = "`storage::artifacts` hands out only files that this program wrote, unchanged")]
        // SAFETY: the bytes were made by `serialize` for a component of ours, and match the checksum that was kept with
        // them; wasmtime itself checks that version, target and settings are the same. The checksum is against
        // accidents: whoever may write to the state folder, which is closed to other users, is trusted as this user is.
        let loaded = unsafe { wasmtime::component::Component::deserialize_file(engine, path) };
        let component = loaded.map_err(|error| {
            let text = format!("{error:#}");
            if text.contains("pooling allocator") { FunctionError::Pool(text) } else { FunctionError::Load(text) }
        })?;
        let linker = self.linkers.get(&kind).ok_or_else(|| FunctionError::Load("no linker for its kind".to_owned()))?;
        let linked = |error: wasmtime::Error| FunctionError::Import(format!("{error:#}"));
        let pre = linker.instantiate_pre(&component).map_err(linked)?;
        let code = match kind {
            Kind::Http02 => wasmtime_wasi_http::p2::bindings::ProxyPre::new(pre).map(Code::Http02),
            Kind::Http03 => wasmtime_wasi_http::p3::bindings::ServicePre::new(pre).map(Code::Http03),
            Kind::Command => wasmtime_wasi::p2::bindings::CommandPre::new(pre).map(Code::Command),
        };
        let limits = settings.limits;
        Ok(Function {
            gate: Gate::new(self.host_gate.clone(), limits.concurrency, limits.queue, limits.queue_wait),
            name: settings.name,
            limits,
            body_timeout: settings.body_timeout,
            code: code.map_err(linked)?,
            engine: engine.clone(),
            clock: self.engines.clock(),
            streams: self.engines.streams(),
            env: settings.env,
            config: settings.config.into(),
            outbound: capability::outbound::Outbound::new(settings.outbound),
        })
    }
}
