//! What a developer's machine needs: something to begin with, building guests, and seeing that files have changed.

pub mod build;
pub mod editor;
pub mod sources;
pub mod templates;
mod tools;
pub mod watch;
