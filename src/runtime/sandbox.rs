//! What exists for one request and is never used twice.
//!
//! A [`Sandbox`] is a wasmtime store with everything that its guest can reach, so [`State`] is the whole answer to
//! "what can a function touch?". Made when a request is admitted, dropped when its response has ended.
//!
//! **Invariant:** the permit is given back after the store is gone: its slot in the pool is free before anyone else
//! may ask for one.

use super::capability::{outbound::OutboundHooks, stdio::Stdio};
use super::clock::Alive;
use super::data::FunctionData;
use super::function::Function;
use super::gate::Permit;
use super::limiter::Limiter;
use super::meter::Meter;
use crate::storage::sql::postgres::AddressPools;
use std::sync::Arc;
use wasmtime::component::HasData;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::filesystem::FsPerms;
use wasmtime_wasi::{ResourceTable, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The most things of the host that a guest may hold at once: streams, bodies, headers, requests.
const RESOURCES_MAX: usize = 512;
/// The most bytes of one set of headers, as they lie in memory.
const FIELDS_BYTES_MAX: usize = 64 << 10;
/// The most bytes of lists and strings that one call may bring into the host.
const CALL_BYTES_MAX: usize = 16 << 20;

/// One request's sandbox. The order of the fields is the order in which they go.
pub(super) struct Sandbox {
    pub(super) store: Store<State>,
    _permit: Permit,
}

/// What a guest can reach.
pub(super) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outbound: OutboundHooks,
    config: Arc<[(String, String)]>,
    data: Arc<FunctionData>,
    postgres: Arc<AddressPools>,
    limiter: Limiter,
    alive: Alive,
}

impl Sandbox {
    /// A fresh one for `function`, of the engine that its code runs on. Fails only if a folder that the function sees is gone.
    pub(super) fn new(
        function: &Function,
        engine: &Engine,
        permit: Permit,
        meter: &Arc<Meter>,
        stdio: Stdio,
        outbound: OutboundHooks,
    ) -> wasmtime::Result<Self> {
        let mut wasi = WasiCtx::builder();
        wasi.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
        wasi.envs(&function.env).envs(&stdio.env).args(&stdio.args);
        function.sockets.grant(&mut wasi, function.limits.outbound_requests);
        for folder in &function.data.folders {
            let may = if folder.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&folder.from, &folder.to, may)?;
        }
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let state = State {
            wasi: wasi.build(),
            http,
            table,
            outbound,
            config: Arc::clone(&function.config),
            data: Arc::clone(&function.data),
            postgres: Arc::clone(&function.postgres),
            limiter: Limiter::new(function.limits.memory_bytes, Arc::clone(meter)),
            alive: function.clock.alive(),
        };
        let mut store = Store::new(engine, state);
        store.set_hostcall_fuel(CALL_BYTES_MAX);
        store.limiter(|state| &mut state.limiter);
        // At each epoch the guest gives others a turn, and ends if it used up its time.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|mut context| {
            let state = context.data_mut();
            state.limiter.meter().check_running()?;
            state.alive.note_epoch();
            // Not `Yield`, which only queues the task again: a runtime looks for what clients sent when it has nothing queued,
            // or after some sixty turns, which for guests that compute would be as many milliseconds.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        Ok(Self { store, _permit: permit })
    }
}

/// What a capability of the app's data works with: what was granted, and the guest's handles.
pub(super) struct DataView<'a> {
    pub(super) data: &'a Arc<FunctionData>,
    pub(super) config: &'a [(String, String)],
    pub(super) postgres: &'a AddressPools,
    pub(super) table: &'a mut ResourceTable,
}

/// By which bindings find a [`DataView`].
pub(super) struct HasDataView;

impl HasData for HasDataView {
    type Data<'a> = DataView<'a>;
}

impl State {
    /// For the capabilities of the app's data.
    pub(super) fn data_view(&mut self) -> DataView<'_> {
        DataView { data: &self.data, config: &self.config, postgres: &self.postgres, table: &mut self.table }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outbound }
    }
}
