//! Log lines that are kept: the latest of them, in the state folder, and found again.
//!
//! Owns the folder `logs`: files of JSON lines, named by when they were begun and by whom. The oldest is removed when all
//! together would pass the bound. Not in `SQLite`: a guest may print a hundred thousand lines a second, each is written once and
//! most are never read, and a bound in bytes is a file that is removed. **Invariant:** nobody waits for the disk: lines are
//! written by a thread of their own, and what is more than it can take is dropped, and counted.

mod find;

pub use find::{LIMIT_MAX, LogQuery, QueryError};

use crate::api::LogLine;
use crate::platform;
use crate::trickle::{LeftOut, Trickle};
use find::Mark;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Into how many files the bound is cut, if they are not too large then: whoever looks for something reads them whole.
const FILES: u64 = 16;
const FILE_BYTES_MAX: u64 = 16 << 20;
/// The most bytes that wait to be written.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// How long lines wait for others to be written with them.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// What is kept for the next batch of the room that one took.
const BATCH_BYTES_KEPT: usize = 16 << 10;
/// The latest lines, for those who follow the log.
const RECENT_LINES_MAX: usize = 4096;
const RECENT_BYTES_MAX: usize = 4 << 20;

/// The log of a host, on disk. Cheap to share; the last one to go writes what waits.
pub struct LogStore {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    /// What the names of its files end with, and no other process's do.
    suffix: String,
    bytes_max: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that did not fit among those.
    dropped: u64,
    asleep: bool,
    stopping: bool,
    /// How many follow the log. Lines are remembered while somebody does: most are never read.
    followers: usize,
    recent: VecDeque<Arc<str>>,
    recent_bytes: usize,
    /// How many lines there ever were, and how many of them are written, or given up.
    lines: u64,
    written: u64,
    /// Where the last of those that are written ends.
    mark: Option<Mark>,
}

/// Somebody who follows the log.
pub struct Follower {
    shared: Arc<Shared>,
    /// How many lines there were before the next one for them.
    seen: u64,
}

impl LogStore {
    /// The log in `state`, which must be there, of `bytes_max` at the most.
    pub fn open(state: &Path, bytes_max: u64) -> io::Result<Self> {
        let folder = state.join("logs");
        platform::create_private_folder(&folder)?;
        let suffix = format!("-{:08x}.jsonl", fastrand::u32(..));
        let shared = Arc::new(Shared { folder, suffix, bytes_max, state: Mutex::default(), changed: Condvar::new() });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new().name("kept-log".to_owned()).spawn(move || writer.write_out())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps a line: an object of JSON that begins with its time, as [`LogLine`] has it, without a line end.
    pub fn append(&self, line: &str) {
        let mut state = self.shared.lock();
        if state.waiting.len() + line.len() >= WAITING_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        state.waiting.extend_from_slice(line.as_bytes());
        state.waiting.push(b'\n');
        state.note(line);
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// The last lines that `query` asks for, in their order, and who goes on from there: what is written meanwhile comes
    /// behind that, and is not among them.
    pub fn find(&self, query: &LogQuery) -> io::Result<(Vec<LogLine>, Follower)> {
        let mut follower = self.follow();
        let (written, mark) = self.shared.settle();
        follower.seen = written;
        Ok((find::last(&self.shared.folder, query, (&self.shared.suffix, mark.as_ref()))?, follower))
    }

    /// Waits until all lines that there are have been written.
    pub fn settle(&self) {
        self.shared.settle();
    }

    /// Follows the log from now on.
    pub fn follow(&self) -> Follower {
        let mut state = self.shared.lock();
        state.followers += 1;
        Follower { shared: Arc::clone(&self.shared), seen: state.lines }
    }
}

impl Follower {
    /// The next lines, `lines_max` at the most; and how many were missed: they came too fast.
    pub fn next_lines(&mut self, lines_max: usize) -> (Vec<Arc<str>>, u64) {
        let state = self.shared.lock();
        let oldest = state.lines - state.recent.len() as u64;
        let missed = oldest.saturating_sub(self.seen);
        let known = usize::try_from(self.seen.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let lines: Vec<Arc<str>> = state.recent.iter().skip(known).take(lines_max).cloned().collect();
        self.seen = self.seen.max(oldest) + lines.len() as u64;
        (lines, missed)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.followers -= 1;
        let forgotten = if state.followers == 0 { state.forget() } else { VecDeque::new() };
        drop(state);
        drop(forgotten);
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing left to do, and panics nowhere.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Counts a line, and remembers it for those who follow.
    fn note(&mut self, line: &str) {
        self.lines += 1;
        if self.followers == 0 {
            return;
        }
        self.recent_bytes += line.len();
        self.recent.push_back(line.into());
        while self.recent.len() > RECENT_LINES_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.recent_bytes -= oldest.len();
        }
    }

    /// Has none remembered; they are given to be dropped where nobody waits for it.
    fn forget(&mut self) -> VecDeque<Arc<str>> {
        self.recent_bytes = 0;
        std::mem::take(&mut self.recent)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what there is now is written; how many lines are then, and where they end.
    fn settle(&self) -> (u64, Option<Mark>) {
        let mut state = self.lock();
        let lines = state.lines;
        // Not until nothing waits: while a guest prints without a pause, that would be never.
        while state.written < lines && !state.stopping {
            state = self.wait(state);
        }
        (state.written, state.mark.clone())
    }

    /// What the thread does: writes until it is to stop and nothing waits.
    fn write_out(&self) {
        let mut batch = Vec::new();
        let mut file = LogFile::default();
        let (failures, losses) = (Trickle::seldom(), Trickle::seldom());
        let mut dropped = 0;
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() && !state.stopping {
                state.asleep = true;
                state = self.wait(state);
            }
            if state.waiting.is_empty() {
                drop(state);
                tell_dropped(dropped);
                return;
            }
            if !state.stopping {
                drop(state);
                thread::sleep(BATCH_TIME);
                state = self.lock();
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            dropped += std::mem::take(&mut state.dropped);
            let taken = state.lines;
            drop(state);
            let written = self.write(&mut file, &batch);
            let mut state = self.lock();
            state.written = taken;
            state.mark = file.mark();
            drop(state);
            self.changed.notify_all();
            batch.clear();
            batch.shrink_to(BATCH_BYTES_KEPT);
            // Told where it can be read: on stderr.
            if let Err(error) = written
                && let Some(LeftOut(left_out)) = failures.admit()
            {
                let folder = self.folder.display();
                tracing::warn!(target: "unkept", %error, %folder, left_out, "log lines cannot be kept");
            }
            if dropped > 0 && losses.admit().is_some() {
                tell_dropped(std::mem::take(&mut dropped));
            }
        }
    }

    /// Writes lines, as many into each file as it may have.
    fn write(&self, file: &mut LogFile, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            let room = self.file_bytes_max().saturating_sub(file.bytes);
            let mut fitting = whole_lines(lines, usize::try_from(room).unwrap_or(usize::MAX));
            if file.handle.is_none() || fitting.is_empty() {
                *file = LogFile::create(&self.folder, &self.suffix)?;
                fitting = whole_lines(lines, usize::try_from(self.file_bytes_max()).unwrap_or(usize::MAX));
                if fitting.is_empty() {
                    // A line that is longer than a file may be has one of its own.
                    fitting = lines.split_inclusive(|byte| *byte == b'\n').next().unwrap_or(lines);
                }
                self.remove_oldest(self.file_bytes_max().max(fitting.len() as u64))?;
            }
            if let Some(handle) = &mut file.handle {
                file.bytes += fitting.len() as u64;
                // One that cannot be written to now may be full for ever.
                handle.write_all(fitting).inspect_err(|_| file.bytes = u64::MAX)?;
            }
            lines = lines.get(fitting.len()..).unwrap_or_default();
        }
        Ok(())
    }

    fn file_bytes_max(&self) -> u64 {
        (self.bytes_max / FILES).min(FILE_BYTES_MAX)
    }

    /// Makes room for one more file, of `wanted` bytes.
    fn remove_oldest(&self, wanted: u64) -> io::Result<()> {
        let files = find::files(&self.folder)?;
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        for file in &files {
            if bytes + wanted <= self.bytes_max {
                break;
            }
            // Another host, to which this one hands over, may have removed it.
            let _ = std::fs::remove_file(&file.path);
            bytes -= file.bytes;
        }
        Ok(())
    }
}

fn tell_dropped(dropped: u64) {
    if dropped > 0 {
        tracing::warn!(target: "unkept", dropped, "log lines were not kept: there were too many at once");
    }
}

/// The file that is written now.
#[derive(Default)]
struct LogFile {
    handle: Option<File>,
    name: String,
    bytes: u64,
}

impl LogFile {
    /// A new one, whose name sorts behind those that there are.
    fn create(folder: &Path, suffix: &str) -> io::Result<Self> {
        let name = format!("{}{suffix}", humantime::format_rfc3339_micros(std::time::SystemTime::now()));
        let mut options = File::options();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let handle = options.append(true).create_new(true).open(folder.join(&name))?;
        Ok(Self { handle: Some(handle), name, bytes: 0 })
    }

    /// Where it ends; nothing, where there is none.
    fn mark(&self) -> Option<Mark> {
        self.handle.as_ref().map(|_| Mark { name: self.name.clone(), bytes: self.bytes })
    }
}

/// As many lines from the front as `bytes_max` bytes hold.
fn whole_lines(lines: &[u8], bytes_max: usize) -> &[u8] {
    let front = lines.get(..bytes_max).unwrap_or(lines);
    let end = front.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    front.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> String {
        let message = format!("{number} {}", "x".repeat(100));
        serde_json::to_string(&LogLine {
            time: humantime::format_rfc3339_micros(std::time::SystemTime::now()).to_string(),
            level: "INFO".to_owned(),
            target: "guest".to_owned(),
            message,
            ..LogLine::default()
        })
        .unwrap()
    }

    fn all() -> LogQuery {
        LogQuery { limit: 100_000, ..LogQuery::default() }
    }

    #[test]
    fn lines_are_found_again_and_the_oldest_go_first() {
        let state = tempfile::tempdir().unwrap();
        let store = LogStore::open(state.path(), 1 << 20).unwrap();
        for number in 0..20_000 {
            store.append(&line(number));
            if number % 200 == 0 {
                store.find(&LogQuery { limit: 1, ..LogQuery::default() }).unwrap();
            }
        }
        let (found, _) = store.find(&all()).unwrap();
        let number = |line: &LogLine| line.message.split(' ').next().unwrap().parse::<u64>().unwrap();
        assert!(found.windows(2).all(|pair| number(&pair[0]) + 1 == number(&pair[1])));
        assert_eq!(number(found.last().unwrap()), 19_999);
        assert!(number(&found[0]) > 10_000, "{}", number(&found[0]));
        let bytes: u64 = find::files(&state.path().join("logs")).unwrap().iter().map(|file| file.bytes).sum();
        assert!(bytes <= 1 << 20, "{bytes}");
        drop(store);
        let again = LogStore::open(state.path(), 1 << 20).unwrap();
        assert_eq!(again.find(&all()).unwrap().0.len(), found.len());
    }

    #[test]
    fn whoever_follows_sees_each_line_once_or_hears_how_many_were_missed() {
        let state = tempfile::tempdir().unwrap();
        let store = LogStore::open(state.path(), 1 << 20).unwrap();
        store.append(&line(0));
        let (found, mut follower) = store.find(&all()).unwrap();
        assert_eq!(found.len(), 1);
        (1..4).for_each(|number| store.append(&line(number)));
        let (lines, missed) = follower.next_lines(10_000);
        assert_eq!((lines.len(), missed), (3, 0));
        assert_eq!(follower.next_lines(10_000).0.len(), 0);
        (0..5000).for_each(|number| store.append(&line(number)));
        let (lines, missed) = follower.next_lines(10_000);
        assert_eq!((lines.len() as u64 + missed, missed), (5000, 5000 - 4096));
    }

    #[test]
    fn lines_are_remembered_only_while_somebody_follows() {
        let state = tempfile::tempdir().unwrap();
        let store = LogStore::open(state.path(), 1 << 20).unwrap();
        let remembered = || store.shared.lock().recent.len();
        (0..9).for_each(|number| store.append(&line(number)));
        assert_eq!(remembered(), 0);
        let (mut first, second) = (store.follow(), store.follow());
        store.append(&line(9));
        drop(second);
        assert_eq!(remembered(), 1);
        assert_eq!((first.next_lines(10).0.len(), first.next_lines(10).1), (1, 0));
        drop(first);
        assert_eq!(remembered(), 0);
        store.append(&line(10));
        let (lines, missed) = store.follow().next_lines(10);
        assert_eq!((lines.len(), missed), (0, 0), "what came before is none of theirs");
        assert_eq!(store.find(&all()).unwrap().0.len(), 11, "and all of it is kept");
    }

    #[test]
    fn a_batch_larger_than_a_file_is_cut_and_no_file_is_larger_than_it_may_be() {
        let state = tempfile::tempdir().unwrap();
        let store = LogStore::open(state.path(), 1 << 20).unwrap();
        (0..30_000).for_each(|number| store.append(&line(number)));
        store.append(&line(30_000).replace("xxx", &"y".repeat(3 << 10)));
        let (found, _) = store.find(&all()).unwrap();
        assert!(found.last().unwrap().message.starts_with("30000 "));
        let sizes: Vec<u64> = find::files(&state.path().join("logs")).unwrap().iter().map(|file| file.bytes).collect();
        assert!(sizes.iter().sum::<u64>() <= 1 << 20, "{sizes:?}");
        assert!(sizes.iter().all(|bytes| *bytes <= 110 << 10), "{sizes:?}");
    }

    #[test]
    fn a_line_that_was_cut_by_a_crash_is_passed_over() {
        let state = tempfile::tempdir().unwrap();
        let store = LogStore::open(state.path(), 1 << 20).unwrap();
        store.append(&line(1));
        store.find(&all()).unwrap();
        let file = find::files(&state.path().join("logs")).unwrap().remove(0);
        File::options().append(true).open(file.path).unwrap().write_all(b"{\"time\":\"2026").unwrap();
        assert_eq!(store.find(&all()).unwrap().0.len(), 1);
    }
}
