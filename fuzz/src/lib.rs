//! What the targets share: the edge that they knock at, and readers of their own for what goes in and what comes out.
//!
//! **Invariant:** nothing here asks the host, or a library that the host reads by, what bytes mean. What is held against the
//! host would otherwise be its own opinion.

pub mod answers;
pub mod edge;
pub mod frames;
pub mod requests;
pub mod routes;

/// A number of the bytes themselves: what an input does not say, such as where it is cut, is the same each time it is tried.
#[must_use]
pub fn number_of(bytes: &[u8]) -> u64 {
    // FNV-1a.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
