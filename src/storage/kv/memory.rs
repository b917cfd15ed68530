//! A store in the host's memory: gone with it.

use super::change::{self, Answer, Change, Entries, Found, Terms};
use super::{PAGE_KEYS, Page, StoreError, now_millis};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a store in memory has. There is one for each store of an app, as long as the host is there.
#[derive(Default)]
pub struct Memory(Mutex<Table>);

#[derive(Default)]
struct Table {
    entries: BTreeMap<Arc<str>, Entry>,
    /// In the order in which they were first set.
    by_id: BTreeMap<u64, Arc<str>>,
    by_expiry: BTreeSet<(u64, u64)>,
    last_id: u64,
    bytes: u64,
}

struct Entry {
    id: u64,
    value: Bytes,
    expires_at: Option<u64>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let now = now_millis();
        let value = self.locked().entries.get(key).filter(|entry| !entry.is_over(now)).map(|entry| entry.value.clone());
        // Copied when the others can go on.
        value.map(|value| value.to_vec())
    }

    pub(super) fn exists(&self, key: &str) -> bool {
        let now = now_millis();
        self.locked().entries.get(key).is_some_and(|entry| !entry.is_over(now))
    }

    pub(super) fn list(&self, after: Option<&str>) -> Page<String> {
        let table = self.locked();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        page(
            table
                .entries
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(key, entry)| (key, entry, String::from(&**key))),
        )
    }

    pub(super) fn list_numbered(&self, after: Option<u64>) -> Page<u64> {
        let table = self.locked();
        let from = (Bound::Excluded(after.unwrap_or_default()), Bound::Unbounded);
        let found = table.by_id.range(from).filter_map(|(id, key)| Some((key, table.entries.get(key)?, *id)));
        page(found)
    }

    pub(super) fn change(&self, change: Change, terms: Terms) -> Result<Answer, StoreError> {
        let now = now_millis();
        let mut table = self.locked();
        let Ok(done) = change::apply(&mut *table, change, &terms, now);
        let Ok(_) = change::forget(&mut *table, now);
        done
    }

    fn locked(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn page<'a, C>(found: impl Iterator<Item = (&'a Arc<str>, &'a Entry, C)>) -> Page<C> {
    let now = now_millis();
    let mut found = found.peekable();
    let mut keys = Vec::new();
    let mut last = None;
    for (key, entry, cursor) in found.by_ref().take(PAGE_KEYS) {
        if !entry.is_over(now) {
            keys.push(key.to_string());
        }
        last = Some(cursor);
    }
    Page { keys, next: last.filter(|_| found.peek().is_some()) }
}

impl Entry {
    fn is_over(&self, now: u64) -> bool {
        self.found().is_over(now)
    }

    fn found(&self) -> Found {
        Found { value_bytes: self.value.len() as u64, expires_at: self.expires_at }
    }
}

impl Table {
    fn take(&mut self, key: &str) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.by_id.remove(&entry.id);
        if let Some(at) = entry.expires_at {
            self.by_expiry.remove(&(at, entry.id));
        }
        Some(entry)
    }
}

impl Entries for Table {
    type Error = Infallible;

    fn find(&mut self, key: &str) -> Result<Option<Found>, Infallible> {
        Ok(self.entries.get(key).map(Entry::found))
    }

    fn value(&mut self, key: &str) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.entries.get(key).map(|entry| entry.value.to_vec()))
    }

    fn put(&mut self, key: &str, value: Vec<u8>, expires_at: Option<u64>) -> Result<(), Infallible> {
        let id = self.take(key).map_or_else(
            || {
                self.last_id += 1;
                self.last_id
            },
            |replaced| replaced.id,
        );
        let key: Arc<str> = key.into();
        self.by_id.insert(id, Arc::clone(&key));
        self.by_expiry.extend(expires_at.map(|at| (at, id)));
        self.entries.insert(key, Entry { id, value: value.into(), expires_at });
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), Infallible> {
        self.take(key);
        Ok(())
    }

    fn forget(&mut self, now: u64, most: usize) -> Result<(usize, u64), Infallible> {
        let over = self.by_expiry.iter().take_while(|(at, _)| *at <= now).take(most);
        let over: Vec<Arc<str>> = over.filter_map(|(_, id)| self.by_id.get(id).cloned()).collect();
        let entries = over.iter().filter_map(|key| Some(change::bytes_of(key, self.take(key)?.found().value_bytes)));
        let bytes = entries.sum();
        Ok((over.len(), bytes))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}
