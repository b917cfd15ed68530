//! The only floor that names wasmtime: engines, functions ready to run, sandboxes, and what crosses their boundary.
//!
//! **Invariant:** a sandbox serves one request. Everything that a request can do without is done when its function is
//! loaded: compiling, linking, type checks, fitting into the pool.

mod capability;
mod clock;
pub mod code;
pub mod component;
pub mod compose;
pub mod data;
pub mod engine;
pub mod function;
pub mod gate;
mod gather;
pub mod guest;
pub mod inspect;
pub mod invoke;
mod limiter;
mod meter;
pub mod pool;
pub mod probe;
mod recompiled;
mod renewal;
pub mod residents;
pub mod response;
mod sandbox;
mod text;
mod upload;

pub use meter::Usage;
pub use upload::MalformedUpload;
