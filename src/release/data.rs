//! The data of the apps of a host: opened once, and shared by all releases that use it.
//!
//! Data belongs to an app, not to a release: it stays when another release becomes live, or an earlier one again. Owns
//! `data/APP` in the state folder, and the look-up of what functions.toml only refers to: environment variables, files, and
//! `.env` beside a functions.toml of this machine. **Invariants:** one embedded store or database is opened once in a process,
//! however many releases use it; a value that was looked up is kept in memory alone.

use crate::limits::show_size;
use crate::manifest::data::{
    DataGrants, DatabasePlace, DatabaseSpec, FilesSpec, StorePlace, StoreSpec, ValueSpec, VariableSpec,
};
use crate::manifest::{Diagnostic, Manifest};
use crate::names::Name;
use crate::platform;
use crate::runtime::data::{Database, Folder, FunctionData};
use crate::storage::kv::{Embedded, Memory, Store, StoreLimits};
use crate::storage::sql::migrations::{self, Migration, MigrationError};
use crate::storage::sql::{postgres, sqlite};
use std::collections::HashMap;
use std::hash::Hash;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The most bytes of a value that is read from a file.
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// What is open of the apps' data.
pub struct Data {
    folder: PathBuf,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    embedded: HashMap<PathBuf, Weak<Embedded>>,
    /// Kept for as long as the host is: there is nothing else that has it.
    memory: HashMap<(Name, Name), Arc<Memory>>,
    sqlite: HashMap<(PathBuf, u64), Weak<sqlite::Database>>,
    postgres: HashMap<PoolKey, Weak<postgres::Pool>>,
}

/// App, database, URL, connections.
type PoolKey = (Name, Name, String, u32);

/// The data of one app, open.
pub struct AppData {
    stores: Vec<(Name, Arc<Store>)>,
    databases: Vec<(Name, Database)>,
    variables: Vec<(String, String)>,
}

/// The migrations of an app's databases.
pub type Migrations = Vec<(Name, Vec<Migration>)>;

/// A migration that was not done.
#[derive(Debug, thiserror::Error)]
#[error("the database `{database}`: {cause}")]
pub struct AppMigrationError {
    /// Of which database.
    pub database: Name,
    /// Why.
    pub cause: MigrationError,
}

impl Data {
    /// For a host with this state folder.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("data"), open: Mutex::default() }
    }

    /// Opens what `manifest` describes, and looks up what it refers to. Says of each thing that cannot be had where the file
    /// asks for it.
    pub fn open(&self, manifest: &Manifest) -> Result<AppData, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let values = Values::of(manifest);
        let data = &manifest.data;
        let mut note = |found: Result<_, Diagnostic>| found.map_err(|error| errors.push(error)).ok();
        let variables = data.variables.iter().filter_map(|spec| note(variable(spec, &values)));
        let variables = variables.collect();
        let mut note = |found: Result<_, Diagnostic>| found.map_err(|error| errors.push(error)).ok();
        let stores = data.stores.iter().filter_map(|spec| note(self.store(&manifest.name, spec, &values)));
        let stores = stores.collect();
        let mut note = |found: Result<_, Diagnostic>| found.map_err(|error| errors.push(error)).ok();
        let databases = data.databases.iter().filter_map(|spec| note(self.database(&manifest.name, spec, &values)));
        let databases = databases.collect();
        if errors.is_empty() { Ok(AppData { stores, databases, variables }) } else { Err(errors) }
    }

    fn store(&self, app: &Name, spec: &StoreSpec, values: &Values) -> Result<(Name, Arc<Store>), Diagnostic> {
        let limits = StoreLimits { size_bytes_max: spec.size_bytes_max, ttl: spec.ttl };
        let refuse = |cause: String| {
            Diagnostic::new(spec.span.clone(), format!("the store `{}` cannot be opened: {cause}", spec.name))
        };
        let store = match &spec.place {
            StorePlace::Memory => {
                let key = (app.clone(), spec.name.clone());
                Store::memory(Arc::clone(self.opened().memory.entry(key).or_default()), limits)
            }
            StorePlace::Embedded => {
                let file = self.file(app, "stores", &spec.name).map_err(|cause| refuse(cause.to_string()))?;
                let backend = shared(&mut self.opened().embedded, file, |file| Embedded::open(file));
                let backend = backend.map_err(|cause| refuse(cause.to_string()))?;
                Store::embedded(backend, limits)
            }
            StorePlace::Redis { url, prefix } => {
                let url = values.find(url).map_err(&refuse)?;
                Store::redis(&url, prefix, spec.ttl).map_err(|cause| refuse(cause.to_string()))?
            }
        };
        Ok((spec.name.clone(), Arc::new(store)))
    }

    fn database(&self, app: &Name, spec: &DatabaseSpec, values: &Values) -> Result<(Name, Database), Diagnostic> {
        let refuse = |cause: String| {
            Diagnostic::new(spec.span.clone(), format!("the database `{}` cannot be opened: {cause}", spec.name))
        };
        let database = match &spec.place {
            DatabasePlace::Sqlite { size_bytes_max, .. } => {
                let file = self.file(app, "databases", &spec.name).map_err(|cause| refuse(cause.to_string()))?;
                let open = |(file, size): &(PathBuf, u64)| sqlite::Database::open(file, *size);
                let database = shared(&mut self.opened().sqlite, (file, *size_bytes_max), open);
                let database = database.map_err(|cause| refuse(cause.to_string()))?;
                Database::Sqlite(database)
            }
            DatabasePlace::Postgres { url, pool } => {
                let url = values.find(url).map_err(&refuse)?;
                let key = (app.clone(), spec.name.clone(), url, *pool);
                let open = |(_, _, url, size): &PoolKey| postgres::Pool::new(url, *size);
                let connected = shared(&mut self.opened().postgres, key, open);
                let connected = connected.map_err(|cause| refuse(cause.to_string()))?;
                Database::Postgres(connected)
            }
        };
        Ok((spec.name.clone(), database))
    }

    /// Where an embedded thing of an app is.
    fn file(&self, app: &Name, kind: &str, name: &Name) -> std::io::Result<PathBuf> {
        let folder = self.folder.join(app.as_str()).join(kind);
        platform::create_private_folder(&folder)?;
        Ok(folder.join(format!("{name}.db")))
    }

    fn opened(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppData {
    /// The part that a function is granted, and the folders that it sees.
    pub fn granted(&self, grants: &DataGrants, is_upload: bool) -> Result<FunctionData, Diagnostic> {
        let folders = grants.files.iter().map(|spec| folder(spec, is_upload));
        let stores = self.stores.iter().filter(|(name, _)| grants.stores.contains(name));
        let databases = self.databases.iter().filter(|(name, _)| grants.databases.contains(name));
        let variables = self.variables.iter().filter(|(name, _)| grants.variables.contains(name));
        Ok(FunctionData {
            stores: stores.cloned().collect(),
            databases: databases.cloned().collect(),
            variables: variables.cloned().collect(),
            folders: folders.collect::<Result<_, _>>()?,
        })
    }

    /// Does what `migrations` say and was not done before. May wait for a disk.
    pub fn migrate(&self, migrations: &Migrations) -> Result<(), AppMigrationError> {
        for (name, wanted) in migrations {
            let found = self.databases.iter().find(|(known, _)| known == name);
            let Some((_, Database::Sqlite(database))) = found else { continue };
            let done = migrations::apply(database, wanted)
                .map_err(|cause| AppMigrationError { database: name.clone(), cause })?;
            if done > 0 {
                tracing::info!(database = name.as_str(), migrations = done, "the database was migrated");
            }
        }
        Ok(())
    }
}

/// What is open by this key, or is opened now. What nobody uses any more is forgotten.
fn shared<K: Hash + Eq, T, E>(
    open: &mut HashMap<K, Weak<T>>,
    key: K,
    make: impl FnOnce(&K) -> Result<T, E>,
) -> Result<Arc<T>, E> {
    if let Some(found) = open.get(&key).and_then(Weak::upgrade) {
        return Ok(found);
    }
    open.retain(|_, known| known.strong_count() > 0);
    let made = Arc::new(make(&key)?);
    open.insert(key, Arc::downgrade(&made));
    Ok(made)
}

/// Reads the migrations that `manifest` names as folders of this machine.
pub fn migrations_of(manifest: &Manifest) -> Result<Migrations, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for spec in &manifest.data.databases {
        let DatabasePlace::Sqlite { migrations: Some(folder), .. } = &spec.place else { continue };
        match migrations::read(folder) {
            Ok(migrations) => found.push((spec.name.clone(), migrations)),
            Err(cause) => {
                let told = format!("the migrations of `{}`: {cause}", spec.name);
                errors.push(Diagnostic::new(spec.span.clone(), told));
            }
        }
    }
    if errors.is_empty() { Ok(found) } else { Err(errors) }
}

/// The databases of `manifest` that have migrations.
pub fn migrated(manifest: &Manifest) -> impl Iterator<Item = &Name> {
    let migrates = |spec: &&DatabaseSpec| matches!(&spec.place, DatabasePlace::Sqlite { migrations: Some(_), .. });
    manifest.data.databases.iter().filter(migrates).map(|spec| &spec.name)
}

fn variable(spec: &VariableSpec, values: &Values) -> Result<(String, String), Diagnostic> {
    let value = values.find(&spec.value).map_err(|cause| {
        Diagnostic::new(spec.span.clone(), format!("the variable `{}` has no value: {cause}", spec.name))
    })?;
    Ok((spec.name.clone(), value))
}

fn folder(spec: &FilesSpec, is_upload: bool) -> Result<Folder, Diagnostic> {
    let refuse = |cause: String| {
        let from = spec.from.display();
        Diagnostic::new(spec.span.clone(), format!("the folder {from} cannot be seen by a function: {cause}"))
    };
    if is_upload && spec.from.is_relative() {
        let told = refuse("it is of the machine that the app was deployed from".to_owned());
        return Err(told.help("name a folder of the host's machine by its whole path"));
    }
    match std::fs::metadata(&spec.from) {
        Ok(found) if found.is_dir() => {
            Ok(Folder { from: spec.from.clone(), to: spec.to.clone(), writable: spec.writable })
        }
        Ok(_) => Err(refuse("it is no folder".to_owned())),
        Err(cause) => Err(refuse(cause.to_string())),
    }
}

/// Where values come from.
pub(super) struct Values {
    is_upload: bool,
    /// What `.env` has, beside a functions.toml of this machine; or why it cannot be read.
    dotenv: Result<HashMap<String, String>, String>,
}

impl Values {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let is_upload = manifest.is_upload();
        let file = manifest.path().with_file_name(".env");
        let dotenv = if is_upload || !file.exists() {
            Ok(HashMap::new())
        } else {
            let read = dotenvy::from_path_iter(&file).and_then(Iterator::collect::<Result<HashMap<_, _>, _>>);
            // What stands in a line is not told: it may be a secret.
            read.map_err(|_| format!("{} cannot be read as lines of NAME=value", file.display()))
        };
        Self { is_upload, dotenv }
    }

    pub(super) fn find(&self, value: &ValueSpec) -> Result<String, String> {
        match value {
            ValueSpec::Plain(text) => Ok(text.clone()),
            ValueSpec::Env { name, default } => match std::env::var(name) {
                Ok(text) => Ok(text),
                Err(std::env::VarError::NotUnicode(_)) => Err(format!("the environment variable {name} is no text")),
                Err(std::env::VarError::NotPresent) => {
                    let found = self.dotenv.as_ref().map_err(String::clone)?.get(name).or(default.as_ref());
                    found.cloned().ok_or_else(|| format!("the environment variable {name} is not set"))
                }
            },
            ValueSpec::File(path) if self.is_upload && path.is_relative() => {
                let path = path.display();
                Err(format!("{path} is of the machine that the app was deployed from; write its whole path"))
            }
            ValueSpec::File(path) => {
                read_value(path).map_err(|cause| format!("{} cannot be read: {cause}", path.display()))
            }
        }
    }
}

fn read_value(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > VALUE_BYTES_MAX {
        return Err(std::io::Error::other(format!("a value has {} at the most", show_size(VALUE_BYTES_MAX))));
    }
    // Editors end the last line, and secrets that are mounted often have such an end.
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}
