//! What a guest may touch: the list.
//!
//! A capability is one file here, one line in [`link`] and one field in `Sandbox`'s state. Which function is granted
//! what is decided when a release is installed; how a capability behaves is in its file.

pub(super) mod cgi;
mod config;
pub(super) mod outbound;
pub(super) mod stdio;

pub(super) use config::Config;

use super::sandbox::State;
use crate::receipt::Kind;
use wasmtime::component::Linker;

/// Everything that a component of `kind` may import. A 0.3 component has the 0.2 interfaces too: its language's
/// standard library imports them.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    config::link(linker)?;
    if kind == Kind::Http03 {
        wasmtime_wasi::p3::add_to_linker(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)?;
    }
    Ok(())
}
