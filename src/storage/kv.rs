//! Keys and values that functions keep: in a file, in memory, or by a Redis server.
//!
//! A [`Store`] is one of an app's, with its bounds; the app's functions share it. **Invariants:** each change is done whole or
//! not at all, and as if one after the other; a change of an embedded store that was answered is on the disk; a value whose
//! time is over is not there, whoever looks.

mod change;
mod embedded;
mod memory;
mod redis;

pub use embedded::Embedded;
pub use memory::Memory;

use change::{Answer, Change, Terms};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most bytes of a key; it has one at the least.
pub const KEY_BYTES_MAX: usize = 1024;
/// The most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 8 << 20;
/// The most keys that one call may be about.
pub const BATCH_MAX: usize = 4096;
/// The most bytes of one result: keys, values, and what they take up besides.
pub const RESULT_BYTES_MAX: usize = 16 << 20;
/// The most keys of a page.
pub const PAGE_KEYS: usize = 1000;
/// The most bytes of what waits to be written to one store, of all its functions' requests.
const WAITING_BYTES_MAX: usize = 256 << 20;

/// What a store may grow to, and for how long it keeps a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The most bytes of its keys and values together, where each entry counts as 128 bytes more. Not held against a Redis
    /// server.
    pub size_bytes_max: u64,
    /// How long a value is kept that is not written again.
    pub ttl: Option<Duration>,
}

/// Why a store did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It may not grow.
    #[error("the store is full")]
    NoSpace,
    /// A key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, and this one has {0}")]
    Key(usize),
    /// A value is too long.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes, and this one has {0}")]
    TooLarge(usize),
    /// A call is about too many keys.
    #[error("a call is about {BATCH_MAX} keys at most, and this one is about {0}")]
    TooMany(usize),
    /// The result is more than is given out at once.
    #[error("the result has more than {} MiB", RESULT_BYTES_MAX >> 20)]
    ResultTooLarge,
    /// A value cannot be added to.
    #[error("the value is no number: the decimal text of a whole number of 64 bits")]
    NotANumber,
    /// A sum is too large or too small.
    #[error("the sum does not fit a whole number of 64 bits")]
    Overflow,
    /// A page was asked for with something that no page said.
    #[error("no page of keys ended with this cursor")]
    Cursor,
    /// More waits to be written than is kept in memory.
    #[error("too much waits to be written to the store")]
    Busy,
    /// An address that cannot be one.
    #[error("this is no URL of a Redis server: write redis://HOST:PORT, or rediss:// for TLS")]
    Url,
    /// Nothing was done.
    #[error("the store cannot be used now: {0}")]
    Unavailable(String),
    /// A server went away before it answered.
    #[error("the store did not answer, and may have done this or not: {0}")]
    Unanswered(String),
}

/// What became of a swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The new value is there.
    Swapped,
    /// Another one was; this one, or none.
    Changed(Option<Vec<u8>>),
}

/// Some of the keys, and where the next begin; nothing after the last. A page may be empty and not the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<C> {
    /// The keys.
    pub keys: Vec<String>,
    /// What to ask for the next page with.
    pub next: Option<C>,
}

/// A key-value store of an app.
pub struct Store {
    place: Place,
    limits: StoreLimits,
    waiting_bytes: AtomicUsize,
}

enum Place {
    Embedded(Arc<Embedded>),
    Memory(Arc<Memory>),
    Redis(Box<redis::Redis>),
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Embedded(_) => "embedded",
            Place::Memory(_) => "memory",
            Place::Redis(_) => "redis",
        };
        f.debug_struct("Store").field("place", &place).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Store {
    /// A store in a file. Several may be of the same one, with other limits.
    pub fn embedded(backend: Arc<Embedded>, limits: StoreLimits) -> Self {
        Self::of(Place::Embedded(backend), limits)
    }

    /// A store in memory.
    pub fn memory(backend: Arc<Memory>, limits: StoreLimits) -> Self {
        Self::of(Place::Memory(backend), limits)
    }

    /// A store by a Redis server, each key of which begins with `prefix`. Connects when it is first used; that it cannot is
    /// told then.
    pub fn redis(url: &str, prefix: &str, ttl: Option<Duration>) -> Result<Self, StoreError> {
        let server = redis::Redis::new(url, prefix, ttl)?;
        Ok(Self::of(Place::Redis(Box::new(server)), StoreLimits { size_bytes_max: u64::MAX, ttl }))
    }

    fn of(place: Place, limits: StoreLimits) -> Self {
        Self { place, limits, waiting_bytes: AtomicUsize::new(0) }
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_key(key)?;
        match &self.place {
            Place::Embedded(file) => file.get(key),
            Place::Memory(memory) => Ok(memory.get(key)),
            Place::Redis(server) => server.get(key).await,
        }
    }

    /// Whether a key is there.
    pub async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        check_key(key)?;
        match &self.place {
            Place::Embedded(file) => file.exists(key),
            Place::Memory(memory) => Ok(memory.exists(key)),
            Place::Redis(server) => server.exists(key).await,
        }
    }

    /// The values of keys, in their order. They may be of different moments.
    pub async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        check_keys(keys)?;
        if let Place::Redis(server) = &self.place {
            return if keys.is_empty() { Ok(Vec::new()) } else { server.get_many(keys).await };
        }
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for (count, key) in keys.iter().enumerate() {
            let value = self.get(key).await?;
            bytes += value.as_ref().map_or(0, Vec::len) + size_of::<Option<Vec<u8>>>();
            if bytes > RESULT_BYTES_MAX {
                return Err(StoreError::ResultTooLarge);
            }
            values.push(value);
            give_way(count).await;
        }
        Ok(values)
    }

    /// Sets a value, also over one that is there.
    pub async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.set_many(vec![(key.to_owned(), value)]).await
    }

    /// Sets values, all or none. Of two for the same key, the last is set.
    pub async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        if pairs.len() > BATCH_MAX {
            return Err(StoreError::TooMany(pairs.len()));
        }
        for (key, value) in &pairs {
            check_key(key)?;
            check_value(value)?;
        }
        if pairs.is_empty() {
            return Ok(());
        }
        self.change(Change::Set(pairs)).await.map(drop)
    }

    /// Deletes a key. That it is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.delete_many(vec![key.to_owned()]).await
    }

    /// Deletes keys, all or none, and passes over those that are not there.
    pub async fn delete_many(&self, keys: Vec<String>) -> Result<(), StoreError> {
        check_keys(&keys)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.change(Change::Delete(keys)).await.map(drop)
    }

    /// Adds to a number, which is kept as decimal text, and returns the sum. A key that is not there counts as zero.
    pub async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        check_key(key)?;
        match self.change(Change::Increment { key: key.to_owned(), delta }).await? {
            Answer::Sum(sum) => Ok(sum),
            Answer::Done | Answer::Swap(_) => Err(unexpected()),
        }
    }

    /// Sets a value if the key has what is `expected`, or nothing.
    pub async fn swap(&self, key: &str, expected: Option<&[u8]>, value: Vec<u8>) -> Result<Swap, StoreError> {
        check_key(key)?;
        check_value(&value)?;
        let expected = expected.map(<[u8]>::to_vec);
        match self.change(Change::Swap { key: key.to_owned(), expected, value }).await? {
            Answer::Swap(swap) => Ok(swap),
            Answer::Done | Answer::Sum(_) => Err(unexpected()),
        }
    }

    async fn change(&self, change: Change) -> Result<Answer, StoreError> {
        let bytes = change.bytes();
        let _waiting = self.wait_with(bytes)?;
        let terms = Terms { size_bytes_max: self.limits.size_bytes_max, ttl: self.limits.ttl };
        match &self.place {
            Place::Embedded(file) => file.change(change, bytes, terms).await,
            Place::Memory(memory) => memory.change(change, terms),
            Place::Redis(server) => server.change(change).await,
        }
    }

    /// A page of keys, after the one that another page ended with. In the order of their bytes; a Redis server has an order of
    /// its own. A key that is there all the while is on one page, and by a Redis server on one at the least.
    pub async fn list(&self, after: Option<&str>) -> Result<Page<String>, StoreError> {
        match &self.place {
            Place::Embedded(file) => file.list(after),
            Place::Memory(memory) => Ok(memory.list(after)),
            Place::Redis(server) => {
                let after = after.map(str::parse).transpose().map_err(|_| StoreError::Cursor)?;
                let page = server.list(after).await?;
                Ok(Page { keys: page.keys, next: page.next.map(|next| next.to_string()) })
            }
        }
    }

    /// The same with numbers for cursors: keys in the order in which they were first set.
    pub async fn list_numbered(&self, after: Option<u64>) -> Result<Page<u64>, StoreError> {
        match &self.place {
            Place::Embedded(file) => file.list_numbered(after),
            Place::Memory(memory) => Ok(memory.list_numbered(after)),
            Place::Redis(server) => server.list(after).await,
        }
    }

    /// All keys, in the order of their bytes.
    pub async fn keys(&self) -> Result<Vec<String>, StoreError> {
        let mut keys: Vec<String> = Vec::new();
        let mut bytes = 0;
        let mut after = None;
        loop {
            let page = self.list(after.as_deref()).await?;
            bytes += page.keys.iter().map(|key| key.len() + size_of::<String>()).sum::<usize>();
            if bytes > RESULT_BYTES_MAX {
                return Err(StoreError::ResultTooLarge);
            }
            keys.extend(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        if matches!(self.place, Place::Redis(_)) {
            keys.sort_unstable();
            keys.dedup();
        }
        Ok(keys)
    }

    /// Notes that so many bytes are to be written, while the result lives.
    fn wait_with(&self, bytes: usize) -> Result<Waiting<'_>, StoreError> {
        let waiting = Waiting { of: &self.waiting_bytes, bytes };
        if waiting.of.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            return Err(StoreError::Busy);
        }
        Ok(waiting)
    }
}

struct Waiting<'a> {
    of: &'a AtomicUsize,
    bytes: usize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Others get their turn after so many look-ups.
async fn give_way(count: usize) {
    if count % 64 == 63 {
        tokio::task::yield_now().await;
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(StoreError::Key(key.len())) } else { Ok(()) }
}

fn check_keys(keys: &[String]) -> Result<(), StoreError> {
    if keys.len() > BATCH_MAX {
        return Err(StoreError::TooMany(keys.len()));
    }
    keys.iter().try_for_each(|key| check_key(key))
}

fn check_value(value: &[u8]) -> Result<(), StoreError> {
    if value.len() > VALUE_BYTES_MAX { Err(StoreError::TooLarge(value.len())) } else { Ok(()) }
}

fn unexpected() -> StoreError {
    StoreError::Unavailable("it answered something else".to_owned())
}

/// Milliseconds since the epoch of Unix.
fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
