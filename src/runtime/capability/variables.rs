//! `fermyon:spin/variables` and `spin:variables`: the variables that a function was granted, by name.

use super::bindings::fermyon::spin::variables as v2;
use super::bindings::spin::variables::variables as v3;
use crate::receipt::Kind;
use crate::runtime::sandbox::{DataView, HasDataView, State};
use wasmtime::component::{Accessor, Linker};

enum Missing {
    /// No variable can have such a name.
    Invalid(String),
    /// The function was not granted one of this name.
    Undefined(String),
}

fn find(view: &DataView<'_>, name: &str) -> Result<String, Missing> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !starts_well || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        let rule = "a variable's name is made of a-z, 0-9 and `_`, a letter first";
        return Err(Missing::Invalid(format!("{name:?}: {rule}")));
    }
    let found = view.data.variables.iter().find(|(granted, _)| granted == name);
    let value = found.map(|(_, value)| value.clone());
    value.ok_or_else(|| Missing::Undefined(format!("the function was granted no variable {name}")))
}

impl v2::Host for DataView<'_> {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<String, v2::Error>> {
        Ok(find(self, &name).map_err(|missing| match missing {
            Missing::Invalid(text) => v2::Error::InvalidName(text),
            Missing::Undefined(text) => v2::Error::Undefined(text),
        }))
    }
}

impl v3::HostWithStore<State> for HasDataView {
    async fn get(accessor: &Accessor<State, Self>, name: String) -> wasmtime::Result<Result<String, v3::Error>> {
        Ok(accessor.with(|mut access| find(&access.get(), &name)).map_err(|missing| match missing {
            Missing::Invalid(text) => v3::Error::InvalidName(text),
            Missing::Undefined(text) => v3::Error::Undefined(text),
        }))
    }
}

impl v3::Host for DataView<'_> {}

/// Adds what a component of `kind` may import.
pub(super) fn link(linker: &mut Linker<State>, kind: Kind) -> wasmtime::Result<()> {
    v2::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    if kind == Kind::Http03 {
        v3::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    }
    Ok(())
}
