//! What the host keeps in its state folder. Knows nothing of wasm or HTTP.

pub mod artifacts;
pub mod components;
pub mod index;
pub mod kv;
pub mod ledger;
pub mod logs;
pub mod releases;
pub mod sql;
mod sqlite;
