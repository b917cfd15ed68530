//! What a guest may touch: the list.
//!
//! A capability is one file here, one line in [`link`] and one field in `Sandbox`'s state. Which function is granted
//! what is decided when a release is installed; how a capability behaves is in its file.

mod absent;
mod bindings;
pub(super) mod cgi;
mod config;
pub(super) mod connections;
mod keyvalue;
pub(super) mod outbound;
mod postgres;
pub(super) mod sockets;
mod spin_key_value;
mod sqlite;
pub(super) mod stdio;
mod variables;

use super::sandbox::State;
use crate::receipt::Kind;
pub(super) use absent::is_absent;
use std::borrow::Cow;
use wasmtime::component::{Component, Linker};

/// Everything that a component of `kind` may import. A 0.3 component has the 0.2 interfaces too: its language's
/// standard library imports them.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    if kind == Kind::Http03 {
        wasmtime_wasi::p3::add_to_linker(linker)?;
        wasmtime_wasi_http::p3::add_to_linker(linker)?;
    }
    config::link(linker)?;
    variables::link(linker, kind)?;
    keyvalue::link(linker)?;
    spin_key_value::link(linker, kind)?;
    sqlite::link(linker, kind)?;
    postgres::link(linker, kind)
}

/// `linker`, and what `component` needs besides: what depends on the component cannot stand in the linker of all.
pub(super) fn complete<'l>(
    linker: &'l Linker<State>,
    component: &Component,
) -> wasmtime::Result<Cow<'l, Linker<State>>> {
    let mut completed = absent::complete(linker, component)?;
    if keyvalue::wants_other_get_many(component) {
        keyvalue::link_other_get_many(completed.to_mut())?;
    }
    Ok(completed)
}
