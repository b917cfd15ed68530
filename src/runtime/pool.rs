//! How large a pool of sandboxes is: what components need, and what a host has room for.
//!
//! **Invariant:** a component that was found to fit ([`Pool::holds`]) never fails to instantiate for want of a slot of the right
//! size; how many there are at once is for the gate to say.

use crate::limits::MEMORY_BYTES_MAX;
use wasmtime::{Enabled, PoolingAllocationConfig};

/// The most core instances of one component. Each is counted, not reserved, so the bound can be generous: Python's
/// components have about a dozen.
const CORE_INSTANCES_MAX: u32 = 256;
/// The most linear memories and tables of one component. Each takes address space for every sandbox there may be.
const MEMORIES_MAX: u32 = 16;
const TABLES_MAX: u32 = 64;
/// The most bytes of bookkeeping for one component, its core instances included; 1 MiB is too little for .NET.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Stacks for each sandbox: in 0.3, each task that waits in a synchronous call has its own. Elsewhere there is one, and
/// one to spare. Each takes two mappings, whether it is used or not, and the system bounds those of a process.
const STACKS_EACH: u32 = 2;
const STACKS_EACH_CONCURRENT: u32 = 4;
/// Mappings of one sandbox's memories, as seen in /proc/PID/maps, and of a stack: itself, and its guard.
const MAPPINGS_OF_MEMORY: usize = 4;
const MAPPINGS_OF_STACK: usize = 2;
/// The most elements of a table at its start.
pub(super) const TABLE_ELEMENTS_MAX: u64 = 1_000_000;
/// Elements of a table, if no component needs more.
const TABLE_ELEMENTS_MIN: u64 = 20_000;
/// How much of a memory, and of a table, stays mapped for the slot's next sandbox, and is cleared in place of being
/// given back to the kernel. With the page scan only what was written is touched, so the bound is memory; without it
/// all of it is cleared each time, so the bound is time.
const KEEP_MEMORY_BYTES_SCANNED: usize = 1 << 20;
const KEEP_MEMORY_BYTES_CLEARED: usize = 128 << 10;
const KEEP_TABLE_BYTES: usize = 64 << 10;

/// What a component needs of the pool for each of its sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Linear memories.
    pub memories: u32,
    /// Bytes of the largest of them at its start.
    pub memory_bytes: u64,
    /// Tables.
    pub tables: u32,
    /// Elements of the largest of them at its start.
    pub table_elements: u64,
}

impl Needs {
    /// Within what any pool has; whoever needs more is refused when it is loaded.
    fn bounded(self) -> Self {
        Self {
            memories: self.memories.min(MEMORIES_MAX),
            memory_bytes: self.memory_bytes,
            tables: self.tables.min(TABLES_MAX),
            table_elements: self.table_elements.min(TABLE_ELEMENTS_MAX),
        }
    }

    /// As one line of four numbers.
    pub fn to_line(self) -> String {
        format!("{} {} {} {}", self.memories, self.memory_bytes, self.tables, self.table_elements)
    }

    /// From such a line.
    pub fn from_line(line: &str) -> Option<Self> {
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            memories: u32::try_from(next()?).ok()?,
            memory_bytes: next()?,
            tables: u32::try_from(next()?).ok()?,
            table_elements: next()?,
        })
    }
}

/// The size of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pool {
    /// Sandboxes at once; nothing where no function runs on its engine.
    concurrency: Option<u32>,
    memories: u32,
    tables: u32,
    table_elements: u64,
    stacks_each: u32,
}

impl Pool {
    /// A pool of `concurrency` sandboxes, each of which needs as much as the neediest of `needs`.
    pub(super) fn fitting(concurrency: u32, concurrent: bool, needs: impl Iterator<Item = Needs>) -> Self {
        let stacks_each = if concurrent { STACKS_EACH_CONCURRENT } else { STACKS_EACH };
        let least = Self { concurrency: None, memories: 1, tables: 1, table_elements: TABLE_ELEMENTS_MIN, stacks_each };
        needs.map(Needs::bounded).fold(least, |pool, needs| Self {
            concurrency: Some(concurrency),
            memories: pool.memories.max(needs.memories),
            tables: pool.tables.max(needs.tables),
            table_elements: pool.table_elements.max(needs.table_elements),
            ..pool
        })
    }

    /// Whether a sandbox of such needs has room here, or else nowhere.
    pub(super) fn holds(&self, needs: Needs) -> bool {
        let needs = needs.bounded();
        self.concurrency.is_some()
            && needs.memories <= self.memories
            && needs.tables <= self.tables
            && needs.table_elements <= self.table_elements
    }

    /// What it was made for, if it was made for anything.
    pub(super) fn needs(&self) -> Option<Needs> {
        let Self { memories, tables, table_elements, .. } = *self;
        self.concurrency.map(|_| Needs { memories, memory_bytes: 0, tables, table_elements })
    }

    /// An engine that no function runs on still needs a pool, and not a large one.
    fn slots(&self) -> u32 {
        self.concurrency.unwrap_or(1)
    }

    /// Linear memories that it has room for.
    pub(super) fn memory_slots(&self) -> u64 {
        u64::from(self.slots()) * u64::from(self.memories)
    }

    /// Mappings that it takes at the most, once every slot was used.
    pub(super) fn mappings(&self) -> usize {
        let each = self.memories as usize * MAPPINGS_OF_MEMORY + self.stacks_each as usize * MAPPINGS_OF_STACK;
        self.slots() as usize * each
    }

    /// With `scan`, pages that were written are found by the page scan.
    pub(super) fn configuration(&self, scan: bool) -> PoolingAllocationConfig {
        let slots = self.slots();
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(slots)
            .total_core_instances(slots.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(slots.saturating_mul(self.memories))
            .total_tables(slots.saturating_mul(self.tables))
            .total_stacks(slots.saturating_mul(self.stacks_each))
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(self.memories)
            .max_tables_per_component(self.tables)
            .max_memories_per_module(self.memories)
            .max_tables_per_module(self.tables)
            .max_core_instance_size(INSTANCE_BYTES_MAX)
            .max_component_instance_size(INSTANCE_BYTES_MAX)
            .table_elements(usize::try_from(self.table_elements).unwrap_or(usize::MAX))
            // A slot has address space for all that 32 bits can address anyway; how much of it a sandbox may use is for its
            // limits to say.
            .max_memory_size(usize::try_from(MEMORY_BYTES_MAX).unwrap_or(usize::MAX))
            // Every slot keeps its pages for the component that had it last.
            .max_unused_warm_slots(slots)
            .linear_memory_keep_resident(if scan { KEEP_MEMORY_BYTES_SCANNED } else { KEEP_MEMORY_BYTES_CLEARED })
            .table_keep_resident(KEEP_TABLE_BYTES)
            // HAZARD: the scan passes over pages that were swapped out, and the next sandbox would read what the last
            // one wrote there. `Engines::new` asks for it only where nothing can be swapped.
            .pagemap_scan(if scan { Enabled::Yes } else { Enabled::No });
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_written_and_read_as_a_line() {
        let needs = Needs { memories: 1, memory_bytes: 1 << 20, tables: 3, table_elements: 40_000 };
        assert_eq!(Needs::from_line(&needs.to_line()), Some(needs));
        for bad in ["", "1 2 3", "a b c d", "1 2 3 -4"] {
            assert_eq!(Needs::from_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_pool_holds_the_neediest_component() {
        let small = Needs { memories: 1, memory_bytes: 1, tables: 1, table_elements: 10 };
        let wide = Needs { memories: 2, memory_bytes: 1, tables: 4, table_elements: 50_000 };
        let pool = Pool::fitting(10, false, [small, wide].into_iter());
        assert_eq!((pool.slots(), pool.memories, pool.tables, pool.table_elements), (10, 2, 4, 50_000));
        assert!(pool.holds(small) && pool.holds(wide));
        assert!(!pool.holds(Needs { memories: 3, ..small }));
        assert_eq!(pool.needs().map(|needs| pool.holds(needs)), Some(true));
        // What no pool holds is no reason for another one.
        assert!(
            Pool::fitting(10, false, std::iter::once(Needs { memories: 99, ..small }))
                .holds(Needs { memories: 100, ..small })
        );
    }

    #[test]
    fn a_pool_for_nobody_holds_nobody() {
        let pool = Pool::fitting(10, true, std::iter::empty());
        assert_eq!((pool.slots(), pool.needs()), (1, None));
        assert!(!pool.holds(Needs { memories: 1, memory_bytes: 0, tables: 1, table_elements: 1 }));
    }
}
