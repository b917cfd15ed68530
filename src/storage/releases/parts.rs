//! What releases are made of: components, and what is composed of them.

use super::{RecordError, Releases, digest};
use crate::names::Name;
use crate::storage::artifacts::Digest256;
use crate::storage::sqlite::to_sql;
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};

/// What the releases need of what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Components.
    pub components: HashSet<Digest256>,
    /// What code was made of ([`Digest256::of_chain`]), and the kind that it was compiled as.
    pub codes: HashSet<(Digest256, String)>,
}

impl Releases {
    /// What all releases are made of.
    pub fn used(&self) -> Result<Used, RecordError> {
        self.read(|connection| {
            let mut before: HashMap<(String, i64, i64), Vec<Digest256>> = HashMap::new();
            let query = "SELECT app, number, position, component FROM middleware ORDER BY app, number, position, place";
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?, row.get(2)?), digest(row, 3)?)))?;
            for row in rows {
                let (function, component) = row?;
                before.entry(function).or_default().push(component);
            }
            let mut used = Used::default();
            let mut statement = connection.prepare("SELECT app, number, position, component, kind FROM functions")?;
            let rows = statement
                .query_map([], |row| Ok(((row.get(0)?, row.get(1)?, row.get(2)?), digest(row, 3)?, row.get(4)?)))?;
            for row in rows {
                let (function, component, kind) = row?;
                let before = before.remove(&function).unwrap_or_default();
                used.codes.insert((Digest256::of_chain(&before, component), kind));
                used.components.insert(component);
                used.components.extend(before);
            }
            Ok(used)
        })
    }
}

/// The components that stand before the functions of a release, each with the position of its function.
pub(super) fn middleware_of(
    connection: &Connection,
    app: &Name,
    number: u64,
) -> rusqlite::Result<Vec<(usize, Digest256)>> {
    let query = "SELECT position, component FROM middleware WHERE app = ?1 AND number = ?2 ORDER BY position, place";
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map(params![app.as_str(), to_sql(number)], |row| {
        Ok((usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), digest(row, 1)?))
    })?;
    rows.collect()
}
