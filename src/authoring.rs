//! What a developer's machine needs: building guests, and seeing that files have changed.

pub mod build;
pub mod sources;
pub mod watch;
