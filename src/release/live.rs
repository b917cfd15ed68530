//! The release that answers now: one pointer.
//!
//! **Invariant:** a request takes the pointer once and finishes on what it took.

use super::Release;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The pointer.
pub struct Live(ArcSwap<Release>);

impl Live {
    /// Begins with `release`.
    pub fn new(release: Release) -> Self {
        Self(ArcSwap::from_pointee(release))
    }

    /// The live release. Lock-free.
    pub fn current(&self) -> Arc<Release> {
        self.0.load_full()
    }
}
