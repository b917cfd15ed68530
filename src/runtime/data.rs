//! What a function may use of its app's data, opened: it is all that its sandboxes can reach of it.

use crate::names::Name;
use crate::storage::kv::Store;
use crate::storage::sql::postgres;
use crate::storage::sql::sqlite;
use std::path::PathBuf;
use std::sync::Arc;

/// A function's part of its app's data.
#[derive(Debug, Default)]
pub struct FunctionData {
    /// Key-value stores, by name.
    pub stores: Vec<(Name, Arc<Store>)>,
    /// Databases, by name.
    pub databases: Vec<(Name, Database)>,
    /// Variables, secret ones among them.
    pub variables: Vec<(String, String)>,
    /// Folders.
    pub folders: Vec<Folder>,
}

/// A database of one kind or the other.
#[derive(Debug, Clone)]
pub enum Database {
    /// Embedded.
    Sqlite(Arc<sqlite::Database>),
    /// A server's.
    Postgres(Arc<postgres::Pool>),
}

/// A folder that a function sees.
#[derive(Debug, Clone)]
pub struct Folder {
    /// On this machine.
    pub from: PathBuf,
    /// In the sandbox.
    pub to: String,
    /// Whether it may be changed.
    pub writable: bool,
}

impl FunctionData {
    /// A store by its name; the empty name is that of `default`.
    pub(super) fn store(&self, name: &str) -> Option<&Arc<Store>> {
        let name = if name.is_empty() { "default" } else { name };
        self.stores.iter().find(|(granted, _)| granted.as_str() == name).map(|(_, store)| store)
    }

    /// An embedded database by its name.
    pub(super) fn sqlite(&self, name: &str) -> Option<&Arc<sqlite::Database>> {
        self.databases.iter().find_map(|(granted, database)| match database {
            Database::Sqlite(database) if granted.as_str() == name => Some(database),
            Database::Sqlite(_) | Database::Postgres(_) => None,
        })
    }

    /// A server's database by its name.
    pub(super) fn postgres(&self, name: &str) -> Option<&Arc<postgres::Pool>> {
        self.databases.iter().find_map(|(granted, database)| match database {
            Database::Postgres(pool) if granted.as_str() == name => Some(pool),
            Database::Sqlite(_) | Database::Postgres(_) => None,
        })
    }
}
