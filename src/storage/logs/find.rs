//! Finding lines among those that are kept: the newest file first, until there are enough.

use crate::api::LogLine;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What a line begins with; the time stands behind it.
const TIME_KEY: &str = "{\"time\":\"";
/// Bytes of a time: RFC 3339, to the microsecond, in UTC. Such times sort as text.
const TIME_BYTES: usize = "2026-11-24T03:14:46.123456Z".len();
/// The most lines that one question is answered with.
pub(super) const LIMIT_MAX: usize = 10_000;

/// Which lines. What is not said does not matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogQuery {
    /// Of this app.
    pub app: Option<String>,
    /// Of this function.
    pub function: Option<String>,
    /// Of this request.
    pub request: Option<String>,
    /// Not older than this: RFC 3339.
    pub since: Option<String>,
    /// Of this level, or a more serious one: `info`, `warn`, `error`.
    pub level: Option<String>,
    /// With this text in them, wherever.
    pub text: Option<String>,
    /// At most so many, the last ones.
    pub limit: usize,
}

/// Why nothing can be found by a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// No such level.
    #[error("`{0}` is no level: there are info, warn and error")]
    Level(String),
    /// No such time.
    #[error("`{0}` is no time: write it as RFC 3339 has it, such as 2026-11-24T03:14:46Z")]
    Time(String),
}

impl LogQuery {
    /// The same with its bounds in the form in which they are compared, if it makes sense.
    pub fn checked(mut self) -> Result<Self, QueryError> {
        if let Some(level) = self.level.take() {
            let known = severity(&level.to_uppercase()).map(|_| level.to_uppercase());
            self.level = Some(known.ok_or(QueryError::Level(level))?);
        }
        if let Some(since) = self.since.take() {
            let time: SystemTime = humantime::parse_rfc3339_weak(&since).map_err(|_| QueryError::Time(since))?;
            self.since = Some(humantime::format_rfc3339_micros(time).to_string());
        }
        self.limit = self.limit.min(LIMIT_MAX);
        Ok(self)
    }

    /// Whether a line, as it is kept, is one of those; the line, if it is.
    pub fn accept(&self, line: &str) -> Option<LogLine> {
        let parsed: LogLine = self.may_accept(line).then(|| serde_json::from_str(line).ok()).flatten()?;
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let serious = self.level.as_ref().is_none_or(|level| severity(&parsed.level) >= severity(level));
        let has_text = self.text.as_ref().is_none_or(|text| parsed.has_text(text));
        let right = serious
            && has_text
            && is(&self.app, &parsed.app)
            && is(&self.function, &parsed.function)
            && is(&self.request, &parsed.request_id);
        right.then_some(parsed)
    }

    /// What can be said before a line is read as JSON: names and ids stand in it as they are.
    fn may_accept(&self, line: &str) -> bool {
        let has = |wanted: &Option<String>| wanted.as_ref().is_none_or(|wanted| line.contains(wanted.as_str()));
        self.since.as_ref().is_none_or(|since| time_of(line) >= since.as_str())
            && has(&self.request)
            && has(&self.function)
            && has(&self.app)
    }
}

/// How serious a level is.
fn severity(level: &str) -> Option<usize> {
    ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].iter().position(|known| *known == level)
}

fn time_of(line: &str) -> &str {
    line.strip_prefix(TIME_KEY).and_then(|rest| rest.get(..TIME_BYTES)).unwrap_or_default()
}

/// A file of lines.
pub(super) struct KeptFile {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The files, the oldest first.
pub(super) fn files(folder: &Path) -> io::Result<Vec<KeptFile>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // One that was removed meanwhile is no failure.
        if path.extension().is_some_and(|extension| extension == "jsonl")
            && let Ok(metadata) = std::fs::metadata(&path)
        {
            files.push(KeptFile { path, bytes: metadata.len() });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// The last lines that `query` asks for. Files of two hosts, of which one hands over, may overlap in time; the lines are
/// sorted by it at the end.
pub(super) fn last(folder: &Path, query: &LogQuery) -> io::Result<Vec<LogLine>> {
    let mut found: VecDeque<LogLine> = VecDeque::new();
    for file in files(folder)?.iter().rev() {
        if found.len() >= query.limit {
            break;
        }
        let text = match std::fs::read(&file.path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let room = query.limit - found.len();
        text.lines().rev().filter_map(|line| query.accept(line)).take(room).for_each(|line| found.push_front(line));
        let is_older = query
            .since
            .as_ref()
            .is_some_and(|since| text.lines().next().is_some_and(|line| time_of(line) < since.as_str()));
        if is_older {
            break;
        }
    }
    let mut found: Vec<LogLine> = found.into();
    found.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> String {
        let line = LogLine {
            time: "2026-11-24T03:14:46.123456Z".to_owned(),
            level: "WARN".to_owned(),
            target: "guest".to_owned(),
            message: "Something <script> fell".to_owned(),
            app: Some("demo".to_owned()),
            function: Some("hello".to_owned()),
            request_id: Some("01a207ad51c411fb5ee2d9ce3369901e".to_owned()),
            ..LogLine::default()
        };
        serde_json::to_string(&line).unwrap()
    }

    #[test]
    fn a_line_is_found_by_what_it_says() {
        let some = |text: &str| Some(text.to_owned());
        let good = [
            LogQuery::default(),
            LogQuery { app: some("demo"), function: some("hello"), ..LogQuery::default() },
            LogQuery { request: some("01a207ad51c411fb5ee2d9ce3369901e"), ..LogQuery::default() },
            LogQuery { since: some("2026-11-24T03:14:46Z"), level: some("warn"), ..LogQuery::default() },
            LogQuery { text: some("<SCRIPT>"), ..LogQuery::default() },
        ];
        for query in good {
            assert!(query.clone().checked().unwrap().accept(&line()).is_some(), "{query:?}");
        }
        let bad = [
            LogQuery { app: some("hello"), ..LogQuery::default() },
            LogQuery { function: some("hell"), ..LogQuery::default() },
            LogQuery { request: some("01a207ad51c411fb5ee2d9ce3369901f"), ..LogQuery::default() },
            LogQuery { since: some("2026-11-24T03:14:47Z"), ..LogQuery::default() },
            LogQuery { level: some("error"), ..LogQuery::default() },
            LogQuery { text: some("rose"), ..LogQuery::default() },
        ];
        for query in bad {
            assert!(query.clone().checked().unwrap().accept(&line()).is_none(), "{query:?}");
        }
        assert!(LogQuery { level: some("loud"), ..LogQuery::default() }.checked().is_err());
        assert!(LogQuery { since: some("yesterday"), ..LogQuery::default() }.checked().is_err());
    }
}
