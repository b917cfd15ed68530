//! What a statement of a guest may do, and what is seen of it.
//!
//! `SQLite` asks an authorizer about everything that a statement would touch, when it is prepared
//! (<https://sqlite.org/c3ref/set_authorizer.html>). Here it allows what stays in the database's own file and in what every
//! session may see, and denies all else: other files, settings of the connection, temporary things that the next session
//! would find, and the host's own table.

use super::Tallies;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the host keeps in the database for itself: which migrations were done.
pub(in crate::storage::sql) const MIGRATIONS_TABLE: &str = "_fnhost_migrations";

const TEMPORARY: &str = "a temporary table, view, index or trigger";

/// Kinds of virtual table whose data is in the database's own file.
const MODULES: [&str; 7] = ["fts3", "fts4", "fts5", "fts4aux", "fts5vocab", "rtree", "rtree_i32"];

/// What tells of the database, or is kept in it; without a value it is a question.
const PRAGMAS: [&str; 24] = [
    "application_id",
    "collation_list",
    "compile_options",
    "data_version",
    "encoding",
    "foreign_key_check",
    "foreign_key_list",
    "foreign_keys",
    "freelist_count",
    "function_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "journal_mode",
    "max_page_count",
    "page_count",
    "page_size",
    "quick_check",
    "schema_version",
    "synchronous",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Of those, the ones whose value says what is asked about.
const PRAGMAS_ABOUT: [&str; 10] = [
    "foreign_key_check",
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "integrity_check",
    "quick_check",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// What is seen of a connection's statements.
#[derive(Debug, Default)]
pub(super) struct Seen {
    denied: Mutex<Option<String>>,
    /// The row that was inserted last in the statement under way, if any was.
    inserted: Mutex<Option<i64>>,
    /// What SQL functions tell of the session that has the connection now.
    last_insert_rowid: AtomicI64,
    changes: AtomicI64,
    total_changes: AtomicI64,
    /// The connection's own counts, before the statement.
    rowid_before: AtomicI64,
    total_before: AtomicI64,
    /// Whether it is the host that asks.
    trusted: AtomicBool,
}

impl Seen {
    /// A statement of a session begins.
    pub(super) fn begin(&self, connection: &Connection, session: Tallies) {
        self.rowid_before.store(connection.last_insert_rowid(), Ordering::Relaxed);
        self.total_before.store(total_changes(connection), Ordering::Relaxed);
        *lock(&self.denied) = None;
        *lock(&self.inserted) = None;
        self.last_insert_rowid.store(session.last_insert_rowid, Ordering::Relaxed);
        self.changes.store(session.changes, Ordering::Relaxed);
        self.total_changes.store(session.total_changes, Ordering::Relaxed);
    }

    /// What was denied last.
    pub(super) fn denied(&self) -> Option<String> {
        lock(&self.denied).take()
    }

    /// What the session has then. `SQLite` counts by connection, and whoever had this one before has left its counts there.
    pub(super) fn tallies(&self, connection: &Connection, mut session: Tallies, is_change: bool) -> Tallies {
        let changed = total_changes(connection) - self.total_before.load(Ordering::Relaxed);
        let rowid = connection.last_insert_rowid();
        let moved = self.rowid_before.load(Ordering::Relaxed) != rowid;
        // A trigger's inserts are told of as well, and are not what counts.
        if lock(&self.inserted).is_some_and(|inserted| moved || inserted == rowid) {
            session.last_insert_rowid = rowid;
        }
        if is_change {
            session.changes = if changed == 0 { 0 } else { i64::try_from(connection.changes()).unwrap_or(i64::MAX) };
        }
        session.total_changes += changed;
        session
    }

    /// What follows is the host's own, or no longer.
    pub(super) fn trust(&self, trusted: bool) {
        self.trusted.store(trusted, Ordering::Relaxed);
    }

    fn deny(&self, what: impl Into<String>) -> Authorization {
        *lock(&self.denied) = Some(what.into());
        Authorization::Deny
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        if self.trusted.load(Ordering::Relaxed) {
            return Authorization::Allow;
        }
        match context.action {
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => self.deny("another file"),
            AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
            | AuthAction::DropTempIndex { .. }
            | AuthAction::DropTempTable { .. }
            | AuthAction::DropTempTrigger { .. }
            | AuthAction::DropTempView { .. } => self.deny(TEMPORARY),
            // By its schema's name, and not by the word TEMP.
            AuthAction::Insert { .. } | AuthAction::CreateTable { .. } | AuthAction::CreateView { .. }
                if context.database_name == Some("temp") =>
            {
                self.deny(TEMPORARY)
            }
            AuthAction::Pragma { pragma_name, pragma_value } => {
                let name = pragma_name.to_ascii_lowercase();
                let kept = matches!(name.as_str(), "user_version" | "application_id");
                let about = PRAGMAS_ABOUT.contains(&name.as_str());
                if kept || about || (pragma_value.is_none() && PRAGMAS.contains(&name.as_str())) {
                    Authorization::Allow
                } else {
                    self.deny(format!("PRAGMA {name}"))
                }
            }
            AuthAction::CreateVtable { module_name, .. } if !MODULES.contains(&module_name) => {
                self.deny(format!("a table of kind {module_name}"))
            }
            AuthAction::Function { function_name } if function_name.eq_ignore_ascii_case("load_extension") => {
                self.deny("load_extension")
            }
            AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::DropTable { table_name }
            | AuthAction::AlterTable { table_name, .. }
                if table_name.eq_ignore_ascii_case(MIGRATIONS_TABLE) =>
            {
                self.deny(format!("changing {MIGRATIONS_TABLE}"))
            }
            AuthAction::Unknown { .. } => self.deny("what the host does not know"),
            _ => Authorization::Allow,
        }
    }
}

/// Puts the guard before `connection`.
pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<Arc<Seen>> {
    // What could damage the file is off, and a schema runs no function that was not made for that.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    let seen = Arc::new(Seen::default());
    // What SQLite remembers by connection is the session's here.
    let tell = |name: &str, count: fn(&Seen) -> &AtomicI64| {
        let seen = Arc::clone(&seen);
        connection.create_scalar_function(name, 0, FunctionFlags::SQLITE_UTF8, move |_| {
            Ok(count(&seen).load(Ordering::Relaxed))
        })
    };
    tell("last_insert_rowid", |seen| &seen.last_insert_rowid)?;
    tell("changes", |seen| &seen.changes)?;
    tell("total_changes", |seen| &seen.total_changes)?;
    let hooked = Arc::clone(&seen);
    connection.update_hook(Some(move |action: Action, _: &str, _: &str, rowid: i64| {
        if action == Action::SQLITE_INSERT {
            *lock(&hooked.inserted) = Some(rowid);
        }
    }))?;
    guard(connection, &seen)?;
    Ok(seen)
}

fn guard(connection: &mut Connection, seen: &Arc<Seen>) -> rusqlite::Result<()> {
    let judge = Arc::clone(seen);
    connection.authorizer(Some(move |context: AuthContext<'_>| judge.judge(&context)))
}

/// Whether a statement looks as if it needed the connection that writes. One that does and does not look like it is found
/// out when it is prepared; but those that only begin or end a transaction count as reading there.
pub(super) fn writes(statement: &str) -> bool {
    const WORDS: [&str; 15] = [
        "ALTER",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "CREATE",
        "DELETE",
        "DROP",
        "END",
        "INSERT",
        "REINDEX",
        "RELEASE",
        "REPLACE",
        "ROLLBACK",
        "SAVEPOINT",
        "UPDATE",
    ];
    let word = first_word(statement);
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Whether it is one that `changes()` tells of.
pub(super) fn is_change(statement: &str) -> bool {
    let word = first_word(statement);
    ["DELETE", "INSERT", "REPLACE", "UPDATE", "WITH"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// The first word, behind spaces and comments.
fn first_word(statement: &str) -> &str {
    let mut rest = statement;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '\u{feff}');
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, behind)| behind);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, behind)| behind);
        } else {
            break;
        }
    }
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

fn total_changes(connection: &Connection) -> i64 {
    i64::try_from(connection.total_changes()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_is_found_behind_comments() {
        assert_eq!(first_word("  -- a note\n /* and\nmore */ ;select 1"), "select");
        assert_eq!(first_word("/* never ends"), "");
        assert!(
            writes("begin immediate") && writes("\u{feff}INSERT INTO t VALUES (1)") && !writes("WITH x AS (SELECT 1)")
        );
        assert!(is_change("with x as (select 1) insert into t select * from x") && !is_change("CREATE TABLE t (a)"));
    }
}
