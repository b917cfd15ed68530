//! `wasi:config/store`: a function's own `config` table, read-only.
//!
//! Offered at the two versions that published guests import; a prerelease matches only its own number.

use crate::runtime::sandbox::State;
use wasmtime::component::{HasData, Linker};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "fnhost:host/guest",
        imports: { default: trappable },
    });
}

use bindings::wasi::{config0_2_0_draft_2024_09_27 as draft, config0_2_0_rc_1 as rc};

/// A function's configuration, as its guest sees it.
pub(in crate::runtime) struct Config<'a>(pub(in crate::runtime) &'a [(String, String)]);

impl Config<'_> {
    fn value(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }
}

impl rc::store::Host for Config<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, rc::store::Error>> {
        Ok(Ok(self.value(&key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, rc::store::Error>> {
        Ok(Ok(self.0.to_vec()))
    }
}

impl draft::store::Host for Config<'_> {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, draft::store::Error>> {
        Ok(Ok(self.value(&key)))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, draft::store::Error>> {
        Ok(Ok(self.0.to_vec()))
    }
}

struct HasConfig;

impl HasData for HasConfig {
    type Data<'a> = Config<'a>;
}

/// Adds both versions to `linker`.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    rc::store::add_to_linker::<_, HasConfig>(linker, State::config)?;
    draft::store::add_to_linker::<_, HasConfig>(linker, State::config)
}
