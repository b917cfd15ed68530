//! A function ready to run: its code, its limits, its grants, its door.
//!
//! **Invariant:** once a [`Function`] exists, its code was compiled, linked and fitted; a request only makes a store,
//! instantiates and calls, unless the host has more functions than it keeps mapped (see `residents`).

use super::capability::connections::Connections;
use super::capability::outbound::Outbound;
use super::capability::sockets::Sockets;
use super::clock::ClockHandle;
use super::code::{Code, CodeSource};
use super::data::FunctionData;
use super::gate::{Gate, HostGate};
use super::pool::TABLE_ELEMENTS_MAX;
use super::residents::{CodeCell, Residents};
use super::response::Streams;
use crate::grants::OutboundGrants;
use crate::limits::{Limits, show_size};
use crate::names::Name;
use crate::receipt::Kind;
use crate::storage::sql::postgres::AddressPools;
use crate::trickle::Trickle;
use std::sync::Arc;
use std::time::Duration;

/// One function of the live release.
pub struct Function {
    /// Its app.
    pub app: Name,
    /// Its name.
    pub name: Name,
    /// What it may use.
    pub limits: Limits,
    /// Its door.
    pub gate: Gate,
    /// The log lines of requests that did not get through it.
    pub refusals: Trickle,
    pub(super) body_timeout: Duration,
    residents: Arc<Residents>,
    cell: Arc<CodeCell>,
    pub(super) clock: ClockHandle,
    pub(super) streams: Arc<Streams>,
    pub(super) env: Vec<(String, String)>,
    pub(super) config: Arc<[(String, String)]>,
    pub(super) data: Arc<FunctionData>,
    pub(super) outbound: Outbound,
    /// Databases by address.
    pub(super) postgres: Arc<AddressPools>,
    pub(super) sockets: Sockets,
}

impl Function {
    /// The kind of its component.
    pub fn kind(&self) -> Kind {
        self.cell.kind()
    }

    /// Its code; loaded now, if it is not.
    pub(super) async fn code(&self) -> Result<Arc<Code>, FunctionError> {
        self.residents.code(&self.cell).await
    }
}

/// What a function is given when it is installed.
pub struct FunctionSettings {
    /// Its app.
    pub app: Name,
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
    /// What it may use of its app's data.
    pub data: Arc<FunctionData>,
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

impl Function {
    /// A function that runs the code of `source`, which `residents` keep; it shares `host_gate` with all others. With
    /// `eager`, its code is mapped now.
    pub fn load(
        residents: &Arc<Residents>,
        host_gate: HostGate,
        source: CodeSource,
        settings: FunctionSettings,
        eager: bool,
    ) -> Result<Self, FunctionError> {
        let needs = source.needs;
        let limit_bytes = settings.limits.memory_bytes;
        if needs.memory_bytes > limit_bytes {
            return Err(FunctionError::Memory { needs_bytes: needs.memory_bytes, limit_bytes });
        }
        if needs.table_elements > TABLE_ELEMENTS_MAX {
            let (needs, most) = (needs.table_elements, TABLE_ELEMENTS_MAX);
            return Err(FunctionError::Pool(format!("it has a table of {needs} elements, and {most} are allowed")));
        }
        let cell = residents.cell(source);
        if eager {
            residents.load(&cell)?;
        } else {
            // No request should be the first to find out.
            residents.check(&cell)?;
        }
        let engines = residents.engines();
        let limits = settings.limits;
        let connections = Connections::new(limits.outbound_connections);
        let (app, name) = (settings.app.clone(), settings.name.clone());
        let outbound = Outbound::new(app, name, settings.outbound, Arc::clone(&connections));
        Ok(Self {
            gate: Gate::new(host_gate, limits.concurrency, limits.queue, limits.queue_wait),
            refusals: Trickle::default(),
            postgres: Arc::new(AddressPools::new(Arc::clone(outbound.grants()))),
            sockets: Sockets::new(Arc::clone(outbound.grants()), connections),
            outbound,
            app: settings.app,
            name: settings.name,
            limits,
            body_timeout: settings.body_timeout,
            clock: engines.clock(),
            streams: engines.streams(),
            residents: Arc::clone(residents),
            cell,
            env: settings.env,
            config: settings.config.into(),
            data: settings.data,
        })
    }
}
