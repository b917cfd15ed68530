//! Finding lines among those that are kept: the files that were written last first, until there are enough.

use crate::api::LogLine;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What a line begins with; the time stands behind it.
const TIME_KEY: &str = "{\"time\":\"";
/// Bytes of a time: RFC 3339, to the microsecond, in UTC. Such times sort as text.
const TIME_BYTES: usize = "2026-11-24T03:14:46.123456Z".len();
/// The most lines that one question is answered with.
pub const LIMIT_MAX: u32 = 10_000;
/// How far the time that a file was written may lie before that of its last line: systems note it in ticks of some milliseconds.
const WRITTEN_SLACK: Duration = Duration::from_secs(1);

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
        self.limit = self.limit.min(LIMIT_MAX as usize);
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

    /// Whether every line is one of those.
    pub fn accepts_all(&self) -> bool {
        [&self.app, &self.function, &self.request, &self.since, &self.level, &self.text]
            .iter()
            .all(|said| said.is_none())
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
    /// When it was last written, as lines have it, or a little later.
    written: String,
}

/// How much of this process's files belongs to what is asked for.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// The last of the files.
    pub(super) name: String,
    /// As much of it.
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
            let written = metadata.modified()? + WRITTEN_SLACK;
            let written = humantime::format_rfc3339_micros(written).to_string();
            files.push(KeptFile { path, bytes: metadata.len(), written });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// The last lines that `query` asks for, by their times: files of two hosts, of which one hands over, overlap. Of those that
/// this process writes, whose names end with `own`, what lies behind the mark is left out.
pub(super) fn last(folder: &Path, query: &LogQuery, own: (&str, Option<&Mark>)) -> io::Result<Vec<LogLine>> {
    let mut files = files(folder)?;
    files.sort_by(|one, other| other.written.cmp(&one.written));
    let mut found: Vec<LogLine> = Vec::new();
    for file in files {
        // When so many were found, only what is later than the first of them can be among the last ones.
        let first = (found.len() >= query.limit).then(|| found.first().map(|line| line.time.as_str())).flatten();
        if first.max(query.since.as_deref()).is_some_and(|time| file.written.as_str() < time) {
            break;
        }
        let Some(text) = read(&file.path, own)? else { continue };
        let before = found.len();
        found.extend(text.lines().rev().filter_map(|line| query.accept(line)).take(query.limit));
        // In the order in which they were written, where their times are the same.
        found.get_mut(before..).unwrap_or_default().reverse();
        found.sort_by(|one, other| one.time.cmp(&other.time));
        found.drain(..found.len().saturating_sub(query.limit));
    }
    Ok(found)
}

/// What a file has up to the mark; nothing, if that is all behind it, or if the file was removed meanwhile.
fn read(path: &Path, (own, mark): (&str, Option<&Mark>)) -> io::Result<Option<String>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bytes = if !name.ends_with(own) {
        u64::MAX
    } else if let Some(mark) = mark.filter(|mark| name <= mark.name.as_str()) {
        if name == mark.name { mark.bytes } else { u64::MAX }
    } else {
        return Ok(None);
    };
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(bytes).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
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
