//! What the host keeps in its state folder. Knows nothing of wasm or HTTP.

pub mod artifacts;
pub mod index;
