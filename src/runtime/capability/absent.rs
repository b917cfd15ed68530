//! Interfaces that published SDKs import whole, and that this host does not have.
//!
//! A component in Python imports all that its SDK knows, whatever its handler uses. So these link, for the components that
//! import them, and calling one is a trap that names it. Only interfaces listed here: anything else that is not offered is
//! refused when the component is installed.

use crate::runtime::sandbox::State;
use std::borrow::Cow;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceType};

/// How the names of those begin.
const ABSENT: [&str; 8] = [
    "fermyon:spin/llm@",
    "fermyon:spin/mqtt@",
    "fermyon:spin/mysql@",
    "fermyon:spin/redis@",
    "spin:mqtt/",
    "spin:mysql/",
    "spin:redis/",
    "wasi:otel/",
];

/// Whether this is one of them, or a draft of WASI 0.3, which SDKs import beside the version that it became, for hosts that have
/// only one of them.
pub(in crate::runtime) fn is_absent(name: &str) -> bool {
    let is_draft = name.starts_with("wasi:") && name.contains("@0.3.0-rc-");
    is_draft || ABSENT.iter().any(|absent| name.starts_with(absent))
}

/// What stands for their resources, of which there are none.
struct Nothing;

/// `linker`, with what `component` imports of these added.
pub(super) fn complete<'l>(
    linker: &'l Linker<State>,
    component: &Component,
) -> wasmtime::Result<Cow<'l, Linker<State>>> {
    let engine = component.engine();
    let mut completed = Cow::Borrowed(linker);
    for (name, item) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        if !is_absent(name) {
            continue;
        }
        let mut added = completed.to_mut().instance(name)?;
        for (member, item) in instance.exports(engine) {
            let absent = format!("this host does not have {name}, of which {member} was called");
            match item.ty {
                ComponentItem::ComponentFunc(function) if function.async_() => {
                    added.func_new_concurrent(member, move |_, _, _, _| {
                        let absent = absent.clone();
                        Box::pin(async move { Err(wasmtime::Error::msg(absent)) })
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    added.func_new(member, move |_, _, _, _| Err(wasmtime::Error::msg(absent.clone())))?;
                }
                ComponentItem::Resource(_) => added.resource(member, ResourceType::host::<Nothing>(), |_, _| Ok(()))?,
                // Types need no definition.
                _ => {}
            }
        }
    }
    Ok(completed)
}
