//! The memory limit: all linear memories and tables of a sandbox together.
//!
//! wasmtime asks before each growth, the first size included; there is no way around it for a guest.

use super::meter::Meter;
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Bytes that a table takes for each element: a pointer.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Adds up what one sandbox has, and refuses what is over its limit.
pub(super) struct Limiter {
    bytes_max: u64,
    bytes: u64,
    /// What the growth that was allowed last added, to be taken back should it fail.
    allowed_last: u64,
    meter: Arc<Meter>,
}

impl Limiter {
    pub(super) fn new(bytes_max: u64, meter: Arc<Meter>) -> Self {
        Self { bytes_max, bytes: 0, allowed_last: 0, meter }
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    fn grow(&mut self, current_bytes: usize, desired_bytes: usize) -> bool {
        let added = desired_bytes.saturating_sub(current_bytes) as u64;
        let total = self.bytes.saturating_add(added);
        if total > self.bytes_max {
            self.meter.note_memory_refused();
            self.allowed_last = 0;
            return false;
        }
        self.bytes = total;
        self.allowed_last = added;
        self.meter.note_memory(total);
        true
    }

    fn take_back(&mut self) {
        self.bytes = self.bytes.saturating_sub(self.allowed_last);
        self.allowed_last = 0;
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use std::time::Duration;

    #[test]
    fn memories_and_tables_count_together() {
        let meter = Arc::new(Meter::new(&Limits::default(), Duration::MAX));
        let mut limiter = Limiter::new(1000, Arc::clone(&meter));
        assert!(limiter.memory_growing(0, 600, None).unwrap());
        assert!(!limiter.memory_growing(0, 600, None).unwrap());
        assert!(meter.memory_refused());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        assert!(!limiter.table_growing(50, 51, None).unwrap());
        assert_eq!(meter.usage().memory_peak_bytes, 1000);
    }

    #[test]
    fn a_growth_that_failed_is_taken_back() {
        let mut limiter = Limiter::new(1000, Arc::new(Meter::new(&Limits::default(), Duration::MAX)));
        assert!(limiter.memory_growing(0, 1000, None).unwrap());
        limiter.memory_grow_failed(wasmtime::Error::msg("no memory")).unwrap();
        assert!(limiter.memory_growing(0, 1000, None).unwrap());
    }
}
