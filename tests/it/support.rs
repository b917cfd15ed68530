//! The words of the tests: a host under test, a client, guests.

mod admin;
mod browser;
mod client;
pub(crate) mod frames;
mod guests;
mod host;
mod languages;
mod postgres;
mod raw;
mod redis;

pub(crate) use admin::{Project, ask, ask_openly, bare_host, hello, token_of};
pub(crate) use browser::Browser;
pub(crate) use client::{Answer, Connection, Request, body_of, body_of_channel};
pub(crate) use guests::{component_of_wat, guest};
pub(crate) use host::{TestHost, fnhost, wait_for, wait_for_async, with_guests};
pub(crate) use languages::{missing_javascript, missing_python};
pub(crate) use postgres::{Database, HOST_CONNECTIONS, PASSWORD, Postgres, ask as ask_database};
pub(crate) use raw::RawClient;
pub(crate) use redis::Redis;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long anything may take before a test gives up on it. Generous: it bounds a failure, not a success.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Whether a test that lacks `what` is to be passed over, which it says; not where everything is to be there.
pub(crate) fn skipped(what: &str) {
    assert!(std::env::var_os("FNHOST_TEST_NO_SKIP").is_none(), "{what}");
    eprintln!("skipped: {what}");
}

/// The project's own folder.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
