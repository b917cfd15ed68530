//! The data of an app, as functions.toml describes it: stores, databases, variables, folders.
//!
//! They belong to the app; a function names those that it may use. Nothing is opened here, and no value is looked up.

use crate::names::Name;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// A value, or where it is to be had. What is had from elsewhere is not in the file, nor in a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSpec {
    /// This one.
    Plain(String),
    /// An environment variable of the host's.
    Env {
        /// Its name.
        name: String,
        /// What stands in for one that is not set.
        default: Option<String>,
    },
    /// What is in a file of the machine that serves, without the end of its last line.
    File(PathBuf),
}

/// `[variables]`, one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: ValueSpec,
    /// Whether it is shown to nobody but its functions.
    pub secret: bool,
    /// Where the file says so.
    pub span: Range<usize>,
}

/// `[stores.NAME]`: a key-value store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name.
    pub name: Name,
    /// Where it is kept.
    pub place: StorePlace,
    /// How long a value is kept that is not set again.
    pub ttl: Option<Duration>,
    /// The most bytes of its keys and values together, each entry with 128 bytes more. Not held against a server.
    pub size_bytes_max: u64,
    /// Where the file describes it.
    pub span: Range<usize>,
}

/// Where a key-value store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// In the state folder.
    Embedded,
    /// In the host's memory, and gone with it.
    Memory,
    /// By a Redis server.
    Redis {
        /// Its URL.
        url: ValueSpec,
        /// What the host writes before each key.
        prefix: String,
    },
}

/// `[databases.NAME]`: an SQL database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSpec {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub place: DatabasePlace,
    /// Where the file describes it.
    pub span: Range<usize>,
}

/// What a database is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabasePlace {
    /// SQLite, in the state folder.
    Sqlite {
        /// The folder of what is done to it, in order and once each, before a release is served.
        migrations: Option<PathBuf>,
        /// The most bytes of its file.
        size_bytes_max: u64,
    },
    /// A PostgreSQL server's.
    Postgres {
        /// Its URL.
        url: ValueSpec,
        /// Connections to it, of the whole host.
        pool: u32,
    },
}

/// An entry of `files`: a folder that a function sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSpec {
    /// The folder on the machine that serves.
    pub from: PathBuf,
    /// Its path in the sandbox.
    pub to: String,
    /// Whether the function may change it.
    pub writable: bool,
    /// Where the file says so.
    pub span: Range<usize>,
}

/// What a function may use of its app's data: each by a name that the app has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataGrants {
    /// Key-value stores.
    pub stores: Vec<Name>,
    /// Databases.
    pub databases: Vec<Name>,
    /// Variables.
    pub variables: Vec<String>,
    /// Folders.
    pub files: Vec<FilesSpec>,
}

/// The data of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSpec {
    /// Key-value stores.
    pub stores: Vec<StoreSpec>,
    /// Databases.
    pub databases: Vec<DatabaseSpec>,
    /// Variables.
    pub variables: Vec<VariableSpec>,
}
