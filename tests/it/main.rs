//! Everything that a user sees, entered by the front door: the real binary, real TOML, real components, real HTTP.
//!
//! One binary, one file for each promise. `support` has the words in which the tests speak; the guests are built once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test that fails panics, and its tasks end with it"
)]

mod admin;
mod bench;
mod cache;
mod canary;
mod cli;
mod clients;
mod composed;
mod dashboard;
mod deploy;
mod disconnect;
mod errors;
mod examples;
mod floods;
mod framing;
mod grants;
mod identity;
mod inspect;
mod install;
mod invoke;
mod isolation;
mod keyvalue;
mod languages;
mod limits;
mod logs;
mod manager;
mod manifest;
mod measuring;
mod metrics;
mod middleware;
mod new;
mod outbound;
mod postgres;
mod postgres_values;
mod protocol;
mod rebuild;
mod receipts;
mod residents;
mod routing;
mod schema;
mod sdks;
mod semantics;
mod shutdown;
mod sqlite;
mod stalls;
mod streaming;
mod support;
mod survival;
mod tidy;
mod tls;
mod traces;
mod usage;
mod wasi03;
mod watch;
