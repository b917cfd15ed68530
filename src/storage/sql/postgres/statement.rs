//! What a statement's text tells of it, and the statements that a connection has prepared.
//!
//! Nothing here parses SQL: it looks at words, and where it errs, it errs on the side of taking more care.

use std::collections::HashMap;
use std::sync::Arc;
use tokio_postgres::Statement;

/// The most statements that a connection keeps prepared.
const PREPARED_MAX: usize = 256;
/// The longest text that is kept: what is longer is hardly sent twice.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// What a statement may do to its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) leaves: Trace,
    /// It is `COPY` with the client.
    pub(super) copies: bool,
}

/// What it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trace {
    /// Nothing, as its text has it: to the session, texts go on to mean what they mean to others.
    None,
    /// Settings, tables of the session's own, and the like.
    Session,
    /// What is taken away with the connection alone.
    Indelible,
}

/// First words of statements that leave the session as it was.
const PLAIN: &[&str] = &[
    "abort",
    "begin",
    "commit",
    "delete",
    "end",
    "explain",
    "insert",
    "lock",
    "merge",
    "release",
    "rollback",
    "savepoint",
    "select",
    "show",
    "start",
    "table",
    "update",
    "values",
    "with",
];
/// Words of statements of these that may not.
const NOT_PLAIN: &[&str] = &["set_config", "temp", "temporary", "pg_temp"];
/// Functions whose work nothing takes away: the seed of `random()`, connections of the database's own.
const LASTING: &[&str] = &["dblink_connect", "dblink_connect_u", "setseed"];
/// Statements that cannot be undone: what SQL prepares or forgets, and libraries.
const INDELIBLE: &[&str] = &["deallocate", "discard", "load", "prepare"];

impl Effect {
    pub(super) fn of(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let text = skip_to_word(&text);
        let mut words = text.split(|at: char| !at.is_alphanumeric() && at != '_').filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let has = |wanted: &[&str]| rest.iter().any(|word| wanted.contains(word));
        // Code in a string may do what a statement may.
        let has_code = matches!(first, "do" | "create");
        let may_outlast = has(LASTING) || (first == "set" && has(&["seed"]));
        Self {
            leaves: match first {
                _ if INDELIBLE.contains(&first) || (has_code && has(INDELIBLE)) || may_outlast => Trace::Indelible,
                _ if PLAIN.contains(&first) && !has(NOT_PLAIN) => Trace::None,
                _ => Trace::Session,
            },
            copies: first == "copy" && has(&["stdin", "stdout"]),
        }
    }
}

/// What is behind blanks, comments, brackets and empty statements. Nothing, where that is no ASCII letter.
fn skip_to_word(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(|at: char| at.is_whitespace() || at.is_control() || at == ';' || at == '(');
        if let Some(comment) = text.strip_prefix("--") {
            text = comment.split_once(['\n', '\r']).map_or("", |(_, rest)| rest);
        } else if let Some(comment) = text.strip_prefix("/*") {
            text = skip_comment(comment);
        } else if text.starts_with(|at: char| at.is_ascii_alphabetic()) {
            return text;
        } else {
            return "";
        }
    }
}

/// What is behind the end of a comment, in which there may be others.
fn skip_comment(mut text: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(at) = text.find(['*', '/']) else { return "" };
        let (_, rest) = text.split_at(at);
        text = if let Some(rest) = rest.strip_prefix("*/") {
            depth -= 1;
            rest
        } else if let Some(rest) = rest.strip_prefix("/*") {
            depth += 1;
            rest
        } else {
            rest.strip_prefix(['*', '/']).unwrap_or_default()
        };
    }
    text
}

/// The statements that a connection keeps prepared, by their text.
#[derive(Default)]
pub(super) struct Statements {
    kept: HashMap<Arc<str>, (Statement, u64)>,
    uses: u64,
}

impl Statements {
    pub(super) fn find(&mut self, text: &str) -> Option<Statement> {
        self.uses += 1;
        let (statement, used) = self.kept.get_mut(text)?;
        *used = self.uses;
        Some(statement.clone())
    }

    /// Keeps one, in place of the one that was not used for the longest time.
    pub(super) fn keep(&mut self, text: &str, statement: Statement) {
        if text.len() > TEXT_BYTES_MAX {
            return;
        }
        if self.kept.len() >= PREPARED_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used).map(|(text, _)| Arc::clone(text));
            if let Some(oldest) = oldest {
                self.kept.remove(&oldest);
            }
        }
        self.kept.insert(text.into(), (statement, self.uses));
    }

    pub(super) fn forget(&mut self, text: &str) {
        self.kept.remove(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_a_session_is_not_plain() {
        for text in [
            "SELECT a, temperature FROM t",
            "(select 1)",
            "-- a\n/* b /* c */ * / **/ ; Select 1",
            "with a as (select 1) select * from a",
            "BEGIN",
            "INSERT INTO t VALUES ($1)",
        ] {
            assert!(Effect::of(text).leaves == Trace::None, "{text}");
        }
        for text in [
            "SET a.b = 'c'",
            "SELECT set_config('a.b', $1, false)",
            "SELECT 1 INTO TEMP t",
            "CREATE TABLE t (a int)",
            "LISTEN x",
            "",
        ] {
            assert!(Effect::of(text).leaves == Trace::Session, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_undone_spoils() {
        for text in [
            "PREPARE a AS SELECT 1",
            "deallocate all",
            "DISCARD PLANS",
            "LOAD 'x'",
            "SELECT setseed(0)",
            "SELECT dblink_connect('a', 'dbname=b')",
            "SET seed TO 0",
            "DO $$ BEGIN EXECUTE 'PREPARE a AS SELECT 1'; END $$",
        ] {
            assert!(Effect::of(text).leaves == Trace::Indelible, "{text}");
        }
        for text in ["SELECT load, prepare FROM hosts", "INSERT INTO t VALUES ('discard')", "EXECUTE a"] {
            assert!(Effect::of(text).leaves < Trace::Indelible, "{text}");
        }
        assert!(Effect::of("copy t from stdin").copies && !Effect::of("COPY t TO '/x'").copies);
    }
}
