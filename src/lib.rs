//! fnhost: one binary that serves functions written as WebAssembly components. Every request gets a brand-new
//! sandbox, made in microseconds from code that was compiled once, and the host can say what that cost.
//!
//! # Floors
//!
//! One package, no crate walls: the modules below stand bottom-up, and a module imports only from floors beneath its
//! own. `tests/it/tidy.rs` holds this list against the sources.
//!
//! # The way of a request
//!
//! ```text
//! server::ingress::handle          one flat function: every branch is here, helpers do not decide
//!   Observation::begin             request id, the clock
//!   live.current().find            host, method, path -> function, parameters | 404 | 405; a lot, where there is a canary
//!   route.chain.pass               middleware that is built in: on it goes, or here is the answer
//!   function.gate.enter            Permit | refused (503 + Retry-After)
//!   runtime::invoke                Sandbox::new -> instantiate -> call; the guest is driven by the task that serves
//!                                  the connection: polled until the head is there, then by the response body
//!      <-> capability::*           plain impls on the sandbox
//!   respond::answer / failure      the one place where an outcome becomes a status
//!   Observation::end               receipt -> the queue of the collector, which counts, keeps, bills and tells it; then the
//!                                  sandbox is taken apart
//! ```

// Floor 0: words.
pub mod api;
pub mod grants;
pub mod limits;
pub mod names;
pub mod network;
pub mod platform;
pub mod receipt;
pub mod trace;
pub mod trickle;
pub mod usage;

// Floor 1: functions.toml in, a checked `Manifest` or errors that point into the file out.
pub mod manifest;

// Floor 2: what is kept on disk.
pub mod storage;

// Floor 3: the only floor that names wasmtime; and beside it what needs no sandbox. Neither uses the other.
pub mod middleware;
pub mod runtime;

// Floor 4: which functions are live.
pub mod release;

// Floor 5, the same releases on many nodes, is not built yet.

// Floor 6: HTTP, on hyper, and the admin API; the only floor that names axum.
pub mod server;

// Floor 7: what a developer's machine needs.
pub mod authoring;

// Floor 8: one file per command.
pub mod cli;
