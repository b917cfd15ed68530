//! The entries of an embedded store, within one transaction.

use super::super::change::{Entries, Found, bytes_of};
use crate::storage::sqlite::{from_sql, to_sql};
use rusqlite::{OptionalExtension as _, Transaction};

/// The table, and how many bytes it has.
pub(super) struct Table<'a> {
    transaction: &'a Transaction<'a>,
    bytes: u64,
    /// What is noted in the file.
    noted_bytes: u64,
}

impl<'a> Table<'a> {
    pub(super) fn of(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        let mut total = transaction.prepare_cached("SELECT bytes FROM total")?;
        let bytes = from_sql(total.query_row([], |row| row.get(0))?);
        Ok(Self { transaction, bytes, noted_bytes: bytes })
    }

    /// Notes how many bytes there are now.
    pub(super) fn keep_bytes(&mut self) -> rusqlite::Result<()> {
        if self.bytes != self.noted_bytes {
            self.transaction.prepare_cached("UPDATE total SET bytes = ?1")?.execute([to_sql(self.bytes)])?;
            self.noted_bytes = self.bytes;
        }
        Ok(())
    }
}

impl Entries for Table<'_> {
    type Error = rusqlite::Error;

    fn find(&mut self, key: &str) -> rusqlite::Result<Option<Found>> {
        let query = "SELECT octet_length(value), expires_at FROM entries WHERE key = ?1";
        let mut statement = self.transaction.prepare_cached(query)?;
        let found = |row: &rusqlite::Row<'_>| {
            Ok(Found { value_bytes: from_sql(row.get(0)?), expires_at: row.get::<_, Option<i64>>(1)?.map(from_sql) })
        };
        statement.query_row([key], found).optional()
    }

    fn value(&mut self, key: &str) -> rusqlite::Result<Option<Vec<u8>>> {
        let mut statement = self.transaction.prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
        statement.query_row([key], |row| row.get(0)).optional()
    }

    fn put(&mut self, key: &str, value: Vec<u8>, expires_at: Option<u64>) -> rusqlite::Result<()> {
        let put = "INSERT INTO entries (key, value, expires_at) VALUES (?1, ?2, ?3)
            ON CONFLICT DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at";
        self.transaction.prepare_cached(put)?.execute((key, value, expires_at.map(to_sql)))?;
        Ok(())
    }

    fn remove(&mut self, key: &str) -> rusqlite::Result<()> {
        self.transaction.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key])?;
        Ok(())
    }

    fn forget(&mut self, now: u64, most: usize) -> rusqlite::Result<(usize, u64)> {
        let delete = "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires_at <= ?1 LIMIT ?2)
            RETURNING key, octet_length(value)";
        let mut statement = self.transaction.prepare_cached(delete)?;
        let mut rows = statement.query((to_sql(now), to_sql(most as u64)))?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            count += 1;
            bytes += bytes_of(row.get_ref(0)?.as_str()?, from_sql(row.get(1)?));
        }
        Ok((count, bytes))
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}
