//! Where log lines go: stderr, through a thread of their own.
//!
//! There is a line for each request, so a line must cost little: it is formatted where it is made and put into a buffer,
//! and the thread is woken for a batch of them, not for each.
//!
//! **Invariant:** nobody waits for the log. If whoever reads stderr stops reading, lines that do not fit into
//! [`WAITING_BYTES_MAX`] any more are dropped, and counted, and the host goes on.

mod kept;

use crate::receipt::Receipt;
use crate::server::ReceiptSink;
use crate::storage::logs::LogStore;
use anyhow::Context as _;
use clap::ValueEnum;
use kept::Kept;
use std::cell::RefCell;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{self, Duration, UNIX_EPOCH};
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The target of receipts: `FNHOST_LOG=info,receipt=off` leaves them out.
const RECEIPTS: &str = "receipt";
/// The target of what can only be told where it is seen at once: that log lines cannot be kept.
const UNKEPT: &str = "unkept";

/// The most bytes that wait to be written.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// How long lines wait for others to be written with them.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// What is kept for the next batch of the room that one took.
const BATCH_BYTES_KEPT: usize = 16 << 10;
/// How long the end of the process waits for a reader that does not read.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// What is logged: lines, by the thread that writes them, and receipts, if they are wanted.
pub(super) struct Logging {
    /// Where receipts go; nowhere, if `FNHOST_LOG` leaves them out.
    pub(super) receipts: Option<ReceiptSink>,
    kept: Kept,
    _thread: LogThread,
}

impl Logging {
    /// Has lines kept in `store` as well, from here on.
    pub(super) fn keep(&self, store: &Arc<LogStore>) {
        self.kept.begin(store);
    }
}

/// Starts logging. Lines that still wait are written when it is dropped.
pub(super) fn start(format: Format) -> anyhow::Result<Logging> {
    let filter = match std::env::var("FNHOST_LOG") {
        Ok(wanted) => EnvFilter::builder().parse(&wanted).with_context(|| format!("FNHOST_LOG is `{wanted}`"))?,
        Err(_) => EnvFilter::new("info"),
    };
    let lines = Lines::default();
    let thread = LogThread::start(lines.clone())?;
    let colours = format == Format::Text && io::stderr().is_terminal();
    let shown = tracing_subscriber::fmt::layer().with_writer(lines.clone());
    let shown = match format {
        Format::Text => shown.with_ansi(colours).boxed(),
        Format::Json => shown.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let kept = Kept::default();
    // What is kept does not depend on what is shown; but that it cannot be kept, or that spans are sent, is only shown.
    let keeps = filter_fn(|metadata| metadata.target() != UNKEPT && *metadata.level() <= Level::INFO);
    let receipts_are_shown = shows_receipts(&filter);
    let registry = tracing_subscriber::registry().with(shown.with_filter(filter)).with(kept.clone().with_filter(keeps));
    let started = registry.try_init();
    // A process has one subscriber, and this is the only place that sets it.
    debug_assert!(started.is_ok());
    let receipts = receipts_are_shown
        .then(|| -> ReceiptSink { Box::new(move |receipt| lines.write_receipt(receipt, format, colours)) });
    Ok(Logging { receipts, kept, _thread: thread })
}

/// Whether receipts are among what `filter` lets through. They are not events, so nobody else asks it.
fn shows_receipts(filter: &EnvFilter) -> bool {
    let parse = |text: String| EnvFilter::builder().parse(text).ok();
    let Some(same) = parse(filter.to_string()) else { return true };
    let alone = tracing_subscriber::registry().with(same);
    tracing::subscriber::with_default(alone, || tracing::enabled!(target: RECEIPTS, Level::INFO))
}

thread_local! {
    /// The line that is being made.
    static LINE: RefCell<(String, Second)> = const { RefCell::new((String::new(), Second::new())) };
}

/// The text of one second, kept until the next: a date costs more to write than the rest of a line.
struct Second {
    unix_seconds: u64,
    /// As RFC 3339 has it, up to the point in front of the fraction.
    text: String,
}

impl Second {
    const fn new() -> Self {
        Self { unix_seconds: 0, text: String::new() }
    }

    /// Writes the time, as the subscriber does.
    fn write_now(&mut self, line: &mut String) {
        let since_epoch = || time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut now = since_epoch();
        while self.unix_seconds != now.as_secs() {
            self.text.clear();
            // Writing to a string cannot fail.
            let _ = SystemTime.format_time(&mut format::Writer::new(&mut self.text));
            self.text.truncate(self.text.find('.').map_or(self.text.len(), |point| point + 1));
            // It was this second, if it still is.
            self.unix_seconds = now.as_secs();
            now = since_epoch();
        }
        line.push_str(&self.text);
        // With a digit in front that is cut off, so that zeros behind the point stay.
        line.push_str(itoa::Buffer::new().format(1_000_000 + now.subsec_micros()).get(1..).unwrap_or_default());
        line.push('Z');
    }
}

/// Lines on their way out. Cheap to clone; the clones are one.
#[derive(Clone, Default)]
struct Lines(Arc<LinesState>);

#[derive(Default)]
struct LinesState {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
    /// The thread sleeps until somebody has a line.
    asleep: bool,
    stopping: bool,
    stopped: bool,
}

impl Lines {
    /// The line of a receipt. There is one for each request, so it is made without the subscriber, whose lines cost some
    /// microseconds each; it looks like those, but for colours in its fields.
    fn write_receipt(&self, receipt: &Receipt, format: Format, colours: bool) {
        LINE.with_borrow_mut(|(line, second)| {
            line.clear();
            line.push_str(match (format, colours) {
                (Format::Json, _) => "{\"timestamp\":\"",
                (Format::Text, true) => "\x1b[2m",
                (Format::Text, false) => "",
            });
            second.write_now(line);
            line.push_str(match (format, colours) {
                (Format::Json, _) => "\",\"level\":\"INFO\",",
                (Format::Text, true) => "\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mreceipt\x1b[0m\x1b[2m:\x1b[0m ",
                (Format::Text, false) => "  INFO receipt: ",
            });
            match format {
                Format::Json => {
                    receipt.write_json(line);
                    line.push_str(",\"target\":\"receipt\"}\n");
                }
                Format::Text => {
                    receipt.write_text(line);
                    line.push('\n');
                }
            }
            self.put(line.as_bytes());
        });
    }

    /// Puts a whole line among those that wait.
    fn put(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > WAITING_BYTES_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does: writes batches until it is to stop and nothing waits.
    fn write_out(&self) {
        let mut batch = Vec::new();
        loop {
            let mut waiting = self.lock();
            while waiting.bytes.is_empty() && !waiting.stopping {
                waiting.asleep = true;
                waiting = self.wait(waiting);
            }
            if waiting.bytes.is_empty() {
                break;
            }
            if !waiting.stopping {
                drop(waiting);
                thread::sleep(BATCH_TIME);
                waiting = self.lock();
            }
            std::mem::swap(&mut batch, &mut waiting.bytes);
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            // There is nowhere to tell that there is nowhere to tell.
            let _ = io::stderr().write_all(&batch);
            batch.clear();
            batch.shrink_to(BATCH_BYTES_KEPT);
            if dropped > 0 {
                tracing::warn!(dropped, "log lines were dropped: whoever reads them is too slow");
            }
        }
        self.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

impl Write for Lines {
    /// A whole line at a time, as the formatter has it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The thread that writes. Dropped, it writes what waits, and joins if there is somebody who reads.
pub(super) struct LogThread {
    lines: Lines,
    thread: Option<thread::JoinHandle<()>>,
}

impl LogThread {
    fn start(lines: Lines) -> io::Result<Self> {
        let writer = lines.clone();
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out())?;
        Ok(Self { lines, thread: Some(thread) })
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        let mut waiting = self.lines.lock();
        waiting.stopping = true;
        self.lines.0.changed.notify_all();
        let timed = self.lines.0.changed.wait_timeout_while(waiting, LAST_WORDS_TIME, |waiting| !waiting.stopped);
        let stopped = timed.is_ok_and(|(waiting, _)| waiting.stopped);
        if stopped && let Some(thread) = self.thread.take() {
            // It has nothing left to do, and panics nowhere.
            let _ = thread.join();
        }
    }
}
