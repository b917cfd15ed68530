//! What was compiled while somebody edits: of each function of WebAssembly, what Cranelift made of it.
//!
//! A saved source changes a few functions of a component, and an edited script changes none. Cranelift finds what it made of a
//! function by a hash of all that goes into it (its `incremental_cache`), and compiles what is not to be found here. In the
//! memory of one process alone, so that nobody else has a say in what is run. **Invariant:** bounded in bytes; what was asked
//! for lately stays.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use wasmtime::CacheStore;

/// The most that is kept: some five components of JavaScript or Python.
const BYTES_MAX: usize = 256 << 20;

/// What was compiled, by its hash. Half of the bound each for what was asked for lately, and for what was before that.
#[derive(Debug)]
pub(super) struct Recompiled {
    generations: Mutex<Generations>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Box<[u8]>, Vec<u8>>,
    young_bytes: usize,
    old: HashMap<Box<[u8]>, Vec<u8>>,
}

impl Generations {
    fn insert(&mut self, key: &[u8], code: Vec<u8>, bytes_max: usize) {
        let bytes = key.len() + code.len();
        if self.young_bytes + bytes > bytes_max / 2 {
            self.old = mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(key.into(), code);
    }
}

impl Default for Recompiled {
    fn default() -> Self {
        Self { generations: Mutex::default(), bytes_max: BYTES_MAX }
    }
}

impl Recompiled {
    fn locked(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CacheStore for Recompiled {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut generations = self.locked();
        if let Some(code) = generations.old.remove(key) {
            generations.insert(key, code, self.bytes_max);
        }
        generations.young.get(key).map(|code| Cow::Owned(code.clone()))
    }

    fn insert(&self, key: &[u8], code: Vec<u8>) -> bool {
        let mut generations = self.locked();
        // Two threads may have compiled the same.
        if !generations.young.contains_key(key) {
            generations.insert(key, code, self.bytes_max);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use wasmtime::{Config, Engine};

    /// Two functions that call each other, of which one says this number.
    fn component(number: i32) -> Vec<u8> {
        let text = format!(
            "(component (core module
                (func (export \"one\") (param i32) (result i32) (i32.mul (local.get 0) (call $two (local.get 0))))
                (func $two (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))))"
        );
        wat::parse_str(text).unwrap()
    }

    /// How often something was found.
    #[derive(Debug, Default)]
    struct Counted(Recompiled, AtomicUsize);

    impl CacheStore for Counted {
        fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
            let found = self.0.get(key);
            self.1.fetch_add(found.is_some().into(), Ordering::Relaxed);
            found
        }

        fn insert(&self, key: &[u8], code: Vec<u8>) -> bool {
            self.0.insert(key, code)
        }
    }

    #[test]
    fn what_is_found_again_is_what_would_be_compiled() {
        let counted = Arc::<Counted>::default();
        let found = || counted.1.load(Ordering::Relaxed);
        let mut config = Config::new();
        config.enable_incremental_compilation(Arc::<Counted>::clone(&counted)).unwrap();
        let (fresh, editing) = (Engine::default(), Engine::new(&config).unwrap());
        let compile = |number| {
            let component = component(number);
            let compiled = editing.precompile_component(&component).unwrap();
            assert!(compiled == fresh.precompile_component(&component).unwrap(), "{number}");
        };
        compile(1);
        assert_eq!(found(), 0);
        // Cranelift does not know each function again: it depends a little on what was compiled on the same thread before.
        for number in [1, 2, 1, 2, 1] {
            compile(number);
        }
        assert!(found() > 0);
    }

    #[test]
    fn what_was_asked_for_lately_stays_within_the_bound() {
        let recompiled = Recompiled { bytes_max: 1000, ..Recompiled::default() };
        for number in 0_u8..100 {
            recompiled.insert(&[number], vec![number; 99]);
            assert_eq!(recompiled.get(&[0]).as_deref(), Some([0; 99].as_slice()), "asked for at {number}");
            let generations = recompiled.locked();
            assert!(generations.young.len() + generations.old.len() <= 10);
        }
        assert_eq!(recompiled.get(&[1]), None);
    }
}
