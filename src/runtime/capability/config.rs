//! `wasi:config/store`: a function's own `config` table, and the variables that it was granted, read-only.
//!
//! Offered at the two versions that published guests import; a prerelease matches only its own number. Where both have a
//! name, it is the function's own that is meant.

use super::bindings::wasi::{config0_2_0_draft_2024_09_27 as draft, config0_2_0_rc_1 as rc};
use crate::runtime::sandbox::{DataView, HasDataView, State};
use wasmtime::component::Linker;

impl DataView<'_> {
    fn value(&self, key: &str) -> Option<String> {
        self.values().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn all_values(&self) -> Vec<(String, String)> {
        let mut values: Vec<(String, String)> = Vec::new();
        for (name, value) in self.values() {
            if values.iter().all(|(known, _)| known != name) {
                values.push((name.clone(), value.clone()));
            }
        }
        values
    }

    fn values(&self) -> impl Iterator<Item = &(String, String)> {
        self.config.iter().chain(&self.data.variables)
    }
}

impl rc::store::Host for DataView<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, rc::store::Error>> {
        Ok(Ok(self.value(&key)))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, rc::store::Error>> {
        Ok(Ok(self.all_values()))
    }
}

impl draft::store::Host for DataView<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, draft::store::Error>> {
        Ok(Ok(self.value(&key)))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, draft::store::Error>> {
        Ok(Ok(self.all_values()))
    }
}

/// Adds both versions to `linker`.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    rc::store::add_to_linker::<_, HasDataView>(linker, State::data_view)?;
    draft::store::add_to_linker::<_, HasDataView>(linker, State::data_view)
}
