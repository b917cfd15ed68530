//! Changes of a store that the host itself keeps, in a file or in memory: what each of them does, bounds and times included.
//!
//! **Invariant:** a change that is refused has done nothing. So each is checked before anything is written, and what could not
//! be written after that is undone by whoever keeps the entries.

use super::{StoreError, Swap};
use std::collections::HashSet;
use std::time::Duration;

/// What an entry counts as besides its key and its value: a store of many small ones takes up more than what is in them.
pub(super) const ENTRY_BYTES: u64 = 128;
/// The most entries that are forgotten at once because their time is over.
pub(super) const FORGOTTEN_MAX: usize = 256;

/// A change.
#[derive(Debug)]
pub(super) enum Change {
    Set(Vec<(String, Vec<u8>)>),
    Delete(Vec<String>),
    Increment { key: String, delta: i64 },
    Swap { key: String, expected: Option<Vec<u8>>, value: Vec<u8> },
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    Sum(i64),
    Swap(Swap),
}

/// What it is held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) size_bytes_max: u64,
    pub(super) ttl: Option<Duration>,
}

/// An entry that is there, though its time may be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) value_bytes: u64,
    /// Milliseconds since the epoch of Unix.
    pub(super) expires_at: Option<u64>,
}

/// Where entries are kept. What they take up is counted ([`bytes_of`]).
pub(super) trait Entries {
    /// Why they cannot be reached. All that was done with them is to be undone then.
    type Error;

    fn find(&mut self, key: &str) -> Result<Option<Found>, Self::Error>;
    fn value(&mut self, key: &str) -> Result<Option<Vec<u8>>, Self::Error>;
    fn put(&mut self, key: &str, value: Vec<u8>, expires_at: Option<u64>) -> Result<(), Self::Error>;
    fn remove(&mut self, key: &str) -> Result<(), Self::Error>;
    /// Removes some whose time is over at `now`, at most `most`: how many, and their bytes.
    fn forget(&mut self, now: u64, most: usize) -> Result<(usize, u64), Self::Error>;
    /// The bytes of all.
    fn bytes(&self) -> u64;
    fn set_bytes(&mut self, bytes: u64);
}

impl Found {
    pub(super) fn is_over(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl Change {
    /// Bytes of keys and values that it keeps in memory until it is done.
    pub(super) fn bytes(&self) -> usize {
        let own = size_of::<Self>();
        own + match self {
            Self::Set(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Delete(keys) => keys.iter().map(String::len).sum(),
            Self::Increment { key, .. } => key.len(),
            Self::Swap { key, expected, value } => key.len() + expected.as_ref().map_or(0, Vec::len) + value.len(),
        }
    }

    /// How many entries it is about.
    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Set(pairs) => pairs.len(),
            Self::Delete(keys) => keys.len(),
            Self::Increment { .. } | Self::Swap { .. } => 1,
        }
    }
}

/// Does `change`, or refuses it.
pub(super) fn apply<E: Entries>(
    entries: &mut E,
    change: Change,
    terms: &Terms,
    now: u64,
) -> Result<Result<Answer, StoreError>, E::Error> {
    match change {
        Change::Set(pairs) => {
            let set = set(entries, last_of_each(pairs), terms, now)?;
            Ok(set.map(|()| Answer::Done))
        }
        Change::Delete(keys) => {
            for key in &keys {
                if let Some(found) = entries.find(key)? {
                    entries.remove(key)?;
                    entries.set_bytes(entries.bytes().saturating_sub(bytes_of(key, found.value_bytes)));
                }
            }
            Ok(Ok(Answer::Done))
        }
        Change::Increment { key, delta } => {
            let number = match current(entries, &key, now)? {
                None => Ok(0),
                Some(value) => number_of(&value),
            };
            let sum = number.and_then(|number| number.checked_add(delta).ok_or(StoreError::Overflow));
            let sum = match sum {
                Ok(sum) => sum,
                Err(refused) => return Ok(Err(refused)),
            };
            let set = set(entries, vec![(key, sum.to_string().into_bytes())], terms, now)?;
            Ok(set.map(|()| Answer::Sum(sum)))
        }
        Change::Swap { key, expected, value } => {
            let current = current(entries, &key, now)?;
            if current != expected {
                return Ok(Ok(Answer::Swap(Swap::Changed(current))));
            }
            let set = set(entries, vec![(key, value)], terms, now)?;
            Ok(set.map(|()| Answer::Swap(Swap::Swapped)))
        }
    }
}

/// Sets values for keys that are all different.
fn set<E: Entries>(
    entries: &mut E,
    pairs: Vec<(String, Vec<u8>)>,
    terms: &Terms,
    now: u64,
) -> Result<Result<(), StoreError>, E::Error> {
    let written = pairs.iter().map(|(key, value)| bytes_of(key, value.len() as u64)).sum::<u64>();
    let bytes = loop {
        let mut replaced = 0;
        for (key, _) in &pairs {
            replaced += entries.find(key)?.map_or(0, |found| bytes_of(key, found.value_bytes));
        }
        let bytes = (entries.bytes() + written).saturating_sub(replaced);
        // One that has more than it may, because it was allowed more once, may still shrink.
        if bytes <= terms.size_bytes_max || written <= replaced {
            break bytes;
        }
        if forget(entries, now)? == 0 {
            return Ok(Err(StoreError::NoSpace));
        }
    };
    let expires_at = terms.ttl.map(|ttl| now.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
    for (key, value) in pairs {
        entries.put(&key, value, expires_at)?;
    }
    entries.set_bytes(bytes);
    Ok(Ok(()))
}

/// Forgets some entries whose time is over; says how many.
pub(super) fn forget<E: Entries>(entries: &mut E, now: u64) -> Result<usize, E::Error> {
    let (count, bytes) = entries.forget(now, FORGOTTEN_MAX)?;
    entries.set_bytes(entries.bytes().saturating_sub(bytes));
    Ok(count)
}

fn current<E: Entries>(entries: &mut E, key: &str, now: u64) -> Result<Option<Vec<u8>>, E::Error> {
    match entries.find(key)? {
        Some(found) if !found.is_over(now) => entries.value(key),
        Some(_) | None => Ok(None),
    }
}

/// What an entry counts as.
pub(super) fn bytes_of(key: &str, value_bytes: u64) -> u64 {
    ENTRY_BYTES + key.len() as u64 + value_bytes
}

/// As Redis has it: no sign but `-`, no zeros before, nothing around.
pub(super) fn number_of(value: &[u8]) -> Result<i64, StoreError> {
    let text = std::str::from_utf8(value).map_err(|_| StoreError::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| StoreError::NotANumber)?;
    if number.to_string() == text { Ok(number) } else { Err(StoreError::NotANumber) }
}

fn last_of_each(pairs: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    if pairs.len() < 2 {
        return pairs;
    }
    let mut known = HashSet::with_capacity(pairs.len());
    let last: Vec<bool> = pairs.iter().rev().map(|(key, _)| known.insert(key.as_str())).collect();
    let last: Vec<bool> = last.into_iter().rev().collect();
    pairs.into_iter().zip(last).filter_map(|(pair, is_last)| is_last.then_some(pair)).collect()
}
