//! The tables of an app's data as they are written: `[stores]`, `[databases]`, `[variables]`, and `files` of a function.

use super::{Table, as_string, owned};
use std::ops::Range;
use toml::Spanned;
use toml::de::DeValue;

/// A value, or a table that says where it is to be had.
#[derive(Debug)]
pub(in crate::manifest) enum ValueFile {
    Plain(Spanned<String>),
    Reference(ReferenceFile, Range<usize>),
}

/// `{ env = "…" }` or `{ file = "…" }`
#[derive(Debug, Default)]
pub(in crate::manifest) struct ReferenceFile {
    pub(in crate::manifest) env: Option<Spanned<String>>,
    pub(in crate::manifest) default: Option<Spanned<String>>,
    pub(in crate::manifest) file: Option<Spanned<String>>,
    pub(in crate::manifest) secret: Option<Spanned<bool>>,
}

/// `[stores.NAME]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct StoreFile {
    pub(in crate::manifest) url: Option<ValueFile>,
    pub(in crate::manifest) prefix: Option<Spanned<String>>,
    pub(in crate::manifest) ttl: Option<Spanned<String>>,
    pub(in crate::manifest) size: Option<Spanned<String>>,
}

/// `[databases.NAME]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct DatabaseFile {
    pub(in crate::manifest) url: Option<ValueFile>,
    pub(in crate::manifest) pool: Option<Spanned<i64>>,
    pub(in crate::manifest) migrations: Option<Spanned<String>>,
    pub(in crate::manifest) size: Option<Spanned<String>>,
}

/// An entry of `files`.
#[derive(Debug, Default)]
pub(in crate::manifest) struct FilesFile {
    pub(in crate::manifest) from: Option<Spanned<String>>,
    pub(in crate::manifest) to: Option<Spanned<String>>,
    pub(in crate::manifest) writable: Option<Spanned<bool>>,
    pub(in crate::manifest) span: Range<usize>,
}

/// The data of an app.
#[derive(Debug, Default)]
pub(in crate::manifest) struct DataFile {
    pub(in crate::manifest) stores: Vec<(Spanned<String>, StoreFile)>,
    pub(in crate::manifest) databases: Vec<(Spanned<String>, DatabaseFile)>,
    pub(in crate::manifest) variables: Vec<(Spanned<String>, ValueFile)>,
}

pub(super) fn read(table: &mut Table<'_>) -> DataFile {
    DataFile {
        stores: table.table("stores").map(|table| table.tables("stores", read_store)).unwrap_or_default(),
        databases: table.table("databases").map(|table| table.tables("databases", read_database)).unwrap_or_default(),
        variables: table.table("variables").map(|table| read_variables(&table)).unwrap_or_default(),
    }
}

fn read_store(mut table: Table<'_>) -> StoreFile {
    let store = StoreFile {
        url: table.value("url"),
        prefix: table.string("prefix"),
        ttl: table.string("ttl"),
        size: table.string("size"),
    };
    table.finish();
    store
}

fn read_database(mut table: Table<'_>) -> DatabaseFile {
    let database = DatabaseFile {
        url: table.value("url"),
        pool: table.integer("pool"),
        migrations: table.string("migrations"),
        size: table.string("size"),
    };
    table.finish();
    database
}

fn read_variables(table: &Table<'_>) -> Vec<(Spanned<String>, ValueFile)> {
    let mut variables: Vec<_> = table
        .entries
        .iter()
        .filter_map(|(key, value)| Some((owned(key), table.value_of(key.get_ref(), value, true)?)))
        .collect();
    variables.sort_by_key(|(name, _)| name.span().start);
    variables
}

impl Table<'_> {
    /// A string, or a table that says where it is to be had.
    fn value(&mut self, key: &'static str) -> Option<ValueFile> {
        let value = self.get(key)?;
        self.value_of(key, value, false)
    }

    pub(super) fn value_of(&self, key: &str, value: &Spanned<DeValue<'_>>, may_be_secret: bool) -> Option<ValueFile> {
        if let Some(text) = as_string(value) {
            return Some(ValueFile::Plain(text));
        }
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a string in quotes, `{ env = \"…\" }` or `{ file = \"…\" }`");
            return None;
        };
        let mut table = Table::new(format!("`{key}`"), entries, self.errors);
        let reference = ReferenceFile {
            env: table.string("env"),
            default: table.string("default"),
            file: table.string("file"),
            secret: if may_be_secret { table.boolean("secret") } else { None },
        };
        table.finish();
        Some(ValueFile::Reference(reference, value.span()))
    }

    /// The folders that a function sees.
    pub(super) fn files(&mut self, key: &'static str) -> Vec<FilesFile> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let wanted = "a list of tables, as in [{ from = \"static\", to = \"/\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, wanted);
            return Vec::new();
        };
        let mut folders = Vec::with_capacity(array.len());
        for item in array {
            let Some(entries) = item.get_ref().as_table() else {
                self.wrong_type(key, item, wanted);
                continue;
            };
            let mut table = Table::new(format!("`{key}` of {}", self.what), entries, self.errors);
            folders.push(FilesFile {
                from: table.string("from"),
                to: table.string("to"),
                writable: table.boolean("writable"),
                span: item.span(),
            });
            table.finish();
        }
        folders
    }
}
