//! What happens on a developer's machine before anything is installed.

pub mod build;
