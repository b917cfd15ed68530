//! A store by a Redis server: what each call is in commands. **Invariant:** all that a store reads or writes begins with its
//! prefix.

mod link;

use super::change::{Answer, Change};
use super::{PAGE_KEYS, Page, RESULT_BYTES_MAX, StoreError, Swap, VALUE_BYTES_MAX};
use ::redis::{FromRedisValue, Value, cmd};
use link::{Effect, Link, Message};
use std::time::Duration;

/// How often a server is asked for keys that has many, and none that match, before an empty page is given out.
const SCANS: usize = 16;

/// Adds, and counts the time anew. The numbers of Lua are not whole ones, so the sum is read as text.
const INCREMENT: &str = "redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('GET', KEYS[1])";

/// Arguments: whether something is expected, what, the new value, its time.
const SWAP: &str = "local found = redis.call('GET', KEYS[1])
if (ARGV[1] == '1' and found ~= ARGV[2]) or (ARGV[1] == '0' and found) then return {0, found} end
if ARGV[4] == '' then redis.call('SET', KEYS[1], ARGV[3]) else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end
return {1, false}";

/// Returns nothing, if it would be too much.
const GET_MANY: &str = "local bytes = 0
for _, key in ipairs(KEYS) do bytes = bytes + redis.call('STRLEN', key) end
if bytes > tonumber(ARGV[1]) then return false end
return redis.call('MGET', unpack(KEYS))";

/// A server, and a part of its keys.
pub(super) struct Redis {
    link: Link,
    prefix: String,
    ttl_millis: Option<u64>,
}

impl Redis {
    pub(super) fn new(url: &str, prefix: &str, ttl: Option<Duration>) -> Result<Self, StoreError> {
        let ttl_millis = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        Ok(Self { link: Link::new(url)?, prefix: prefix.to_owned(), ttl_millis })
    }

    pub(super) async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut command = cmd("GET");
        command.arg(self.key(key));
        let value: Option<Vec<u8>> = self.read(command).await?;
        // Somebody else may have set it.
        match value {
            Some(value) if value.len() > VALUE_BYTES_MAX => Err(StoreError::TooLarge(value.len())),
            value => Ok(value),
        }
    }

    pub(super) async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let mut command = cmd("EXISTS");
        command.arg(self.key(key));
        self.read(command).await
    }

    pub(super) async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let keys: Vec<String> = keys.iter().map(|key| self.key(key)).collect();
        let arguments = [RESULT_BYTES_MAX.to_string().into_bytes()];
        let script = script(GET_MANY, &keys, &arguments);
        let values: Option<Vec<Option<Vec<u8>>>> = self.link.ask(&script, Effect::Reads).await?;
        values.ok_or(StoreError::ResultTooLarge)
    }

    pub(super) async fn change(&self, change: Change) -> Result<Answer, StoreError> {
        match change {
            Change::Set(pairs) => {
                let _ok: Value = self.link.ask(&self.setting(pairs), Effect::Changes).await?;
                Ok(Answer::Done)
            }
            Change::Delete(keys) => {
                let mut command = cmd("DEL");
                for key in &keys {
                    command.arg(self.key(key));
                }
                let _count: u64 = self.link.ask(&Message::Command(command), Effect::Changes).await?;
                Ok(Answer::Done)
            }
            Change::Increment { key, delta } => self.increment(&key, delta).await.map(Answer::Sum),
            Change::Swap { key, expected, value } => {
                let is_expected = if expected.is_some() { "1" } else { "0" };
                let ttl = self.ttl_millis.map(|ttl| ttl.to_string()).unwrap_or_default();
                let arguments = [is_expected.into(), expected.unwrap_or_default(), value, ttl.into_bytes()];
                let script = script(SWAP, &[self.key(&key)], &arguments);
                let (swapped, found): (bool, Option<Vec<u8>>) = self.link.ask(&script, Effect::Changes).await?;
                Ok(Answer::Swap(if swapped { Swap::Swapped } else { Swap::Changed(found) }))
            }
        }
    }

    /// What sets values, all or none: one command, where the server has one for that.
    fn setting(&self, pairs: Vec<(String, Vec<u8>)>) -> Message {
        let Some(ttl) = self.ttl_millis else {
            let mut command = cmd("MSET");
            for (key, value) in pairs {
                command.arg(self.key(&key)).arg(value);
            }
            return Message::Command(command);
        };
        let is_one = pairs.len() == 1;
        let mut transaction = ::redis::pipe();
        transaction.atomic();
        for (key, value) in pairs {
            let mut command = cmd("SET");
            command.arg(self.key(&key)).arg(value).arg("PX").arg(ttl);
            if is_one {
                return Message::Command(command);
            }
            transaction.add_command(command);
        }
        Message::Transaction(transaction)
    }

    async fn increment(&self, key: &str, delta: i64) -> Result<i64, StoreError> {
        let key = self.key(key);
        let message = if let Some(ttl) = self.ttl_millis {
            script(INCREMENT, &[key], &[delta.to_string().into_bytes(), ttl.to_string().into_bytes()])
        } else {
            let mut command = cmd("INCRBY");
            command.arg(key).arg(delta);
            Message::Command(command)
        };
        self.link.ask(&message, Effect::Changes).await
    }

    /// Keys of the prefix, in no order, by the server's own cursor. One may be there twice.
    pub(super) async fn list(&self, after: Option<u64>) -> Result<Page<u64>, StoreError> {
        let pattern = format!("{}*", escape(&self.prefix));
        let mut cursor = after.unwrap_or_default();
        let mut keys = Vec::new();
        for _ in 0..SCANS {
            let mut command = cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(PAGE_KEYS);
            let (next, found): (u64, Vec<Vec<u8>>) = self.read(command).await?;
            cursor = next;
            // What is no text was not set through a host, and could not be told to a function.
            let found = found.into_iter().filter_map(|key| String::from_utf8(key).ok());
            keys.extend(found.filter_map(|key| key.strip_prefix(&self.prefix).map(str::to_owned)));
            if cursor == 0 || !keys.is_empty() {
                break;
            }
        }
        Ok(Page { keys, next: (cursor != 0).then_some(cursor) })
    }

    async fn read<T: FromRedisValue>(&self, command: ::redis::Cmd) -> Result<T, StoreError> {
        self.link.ask(&Message::Command(command), Effect::Reads).await
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// A script with what it is told. Its text goes along each time: a server that was restarted does not know it any more.
fn script(text: &str, keys: &[String], arguments: &[Vec<u8>]) -> Message {
    let mut command = cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys).arg(arguments);
    Message::Command(command)
}

/// For a pattern that means the text itself.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn a_prefix_means_itself() {
        assert_eq!(escape(r"a*[b]?\:ä"), r"a\*\[b\]\?\\:ä");
    }
}
