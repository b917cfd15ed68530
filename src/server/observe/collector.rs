//! Where receipts go when their requests have ended: counted, kept, billed, written and traced, off the way of requests.
//!
//! A request leaves its receipt in a queue; a thread takes what is there, a hundred times a second at the most, and enters
//! it into the [`Books`]. What was used is added to the ledger twice a second. **Invariant:** no receipt is lost while the
//! process lives: if the queue is longer than it may be, whoever comes with another works it off first.

use super::recent::Recent;
use super::spans::{Spans, Traced};
use super::ticks::Ticks;
use crate::manifest::ObserveConfig;
use crate::receipt::totals::FunctionTotals;
use crate::receipt::{Outcome, Receipt};
use crate::server::ReceiptSink;
use crate::storage::ledger::Ledger;
use crate::usage::{Account, Amounts};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long receipts wait for others to be entered with them.
const BATCH_TIME: Duration = Duration::from_millis(10);
/// How often what was used is added to the ledger, if there is anything: a host that is killed loses no more than that.
const LEDGER_INTERVAL: Duration = Duration::from_millis(500);
/// The most receipts that wait; about 4 MiB.
const WAITING_MAX: usize = 16_384;

/// A request that has ended.
pub(super) struct Ended {
    pub(super) receipt: Receipt,
    /// Those of its function, if it reached one.
    pub(super) totals: Option<Arc<FunctionTotals>>,
    /// What its spans tell, if its trace is recorded.
    pub(super) traced: Option<Box<Traced>>,
}

/// The thread, and what it works on.
pub(in crate::server) struct Collector {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    books: Mutex<Books>,
    /// Taken before the books, where both are needed.
    ledger: Mutex<Option<Ledger>>,
    ledger_file: Option<PathBuf>,
    /// Why the ledger could not be written, the last time.
    ledger_trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct Waiting {
    ended: Vec<Ended>,
    /// The thread sleeps until somebody comes.
    asleep: bool,
    stopping: bool,
}

/// What is known of requests that have ended.
pub(in crate::server) struct Books {
    /// Whether there is more than totals.
    metrics: bool,
    /// Requests that reached no function, by their outcome, in the order of [`Outcome::ALL`].
    pub(in crate::server) unrouted: [u64; Outcome::ALL.len()],
    pub(in crate::server) recent: Recent,
    pub(in crate::server) ticks: Ticks,
    /// What the ledger does not have yet; nothing, if there is no ledger.
    used: Option<HashMap<Account, Amounts>>,
    sink: Option<ReceiptSink>,
    spans: Option<Spans>,
}

impl Collector {
    /// Begins. Receipts also go to `sink` and to `spans`, and what they come to, to `ledger`.
    pub(super) fn start(
        config: &ObserveConfig,
        sink: Option<ReceiptSink>,
        ledger: Option<Ledger>,
        spans: Option<Spans>,
    ) -> io::Result<Self> {
        let books = Books {
            metrics: config.metrics,
            unrouted: [0; Outcome::ALL.len()],
            recent: Recent::new(config.receipts as usize),
            ticks: Ticks::default(),
            used: ledger.is_some().then(HashMap::new),
            sink,
            spans,
        };
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            books: Mutex::new(books),
            ledger_file: ledger.as_ref().map(|ledger| ledger.file().to_owned()),
            ledger: Mutex::new(ledger),
            ledger_trouble: Mutex::default(),
        });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new().name("receipts".to_owned()).spawn(move || worker.work())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes a request that has ended.
    pub(super) fn take(&self, ended: Ended) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.ended.push(ended);
        let too_many = waiting.ended.len() >= WAITING_MAX;
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.shared.changed.notify_all();
        }
        if too_many {
            drop(self.shared.enter());
        }
    }

    /// Looks at the books, with all in them that has ended by now.
    pub(in crate::server) fn read<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.shared.enter())
    }

    /// Has all in the ledger that has ended by now. It may have to wait for a disk.
    pub(in crate::server) fn settle(&self) {
        drop(self.shared.enter());
        self.shared.write_ledger();
    }

    /// Requests that are not in the ledger, as far as is known.
    pub(in crate::server) fn unwritten(&self) -> u64 {
        let unsettled = lock(&self.shared.ledger).as_ref().map_or(0, Ledger::unsettled);
        let used: u64 = self.read(|books| books.used.iter().flatten().map(|(_, amounts)| amounts.requests).sum());
        unsettled + used
    }

    /// Hands over the spans of all that has ended by now, and none after that.
    pub(super) fn close_spans(&self) {
        self.shared.enter().spans = None;
    }

    /// Where the ledger is, if there is one.
    pub(in crate::server) fn ledger(&self) -> Option<&Path> {
        self.shared.ledger_file.as_deref()
    }

    /// Why usage could not be written, if so.
    pub(in crate::server) fn trouble(&self) -> Option<String> {
        lock(&self.shared.ledger_trouble).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        lock(&self.shared.waiting).stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends once it has entered what waits; if it panicked, that was told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Enters what waits, in the order in which it came.
    fn enter(&self) -> MutexGuard<'_, Books> {
        // The books first: whoever has them has taken all that came before.
        let mut books = lock(&self.books);
        let ended = std::mem::take(&mut lock(&self.waiting).ended);
        books.enter(ended);
        books
    }

    /// What the thread does.
    fn work(&self) {
        let mut written = Instant::now();
        let mut unwritten = false;
        loop {
            let mut waiting = lock(&self.waiting);
            while waiting.ended.is_empty() && !waiting.stopping {
                let due = LEDGER_INTERVAL.saturating_sub(written.elapsed());
                if unwritten && due.is_zero() {
                    break;
                }
                waiting.asleep = true;
                waiting = if unwritten {
                    self.changed.wait_timeout(waiting, due).unwrap_or_else(PoisonError::into_inner).0
                } else {
                    self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner)
                };
            }
            waiting.asleep = false;
            let (stopping, has_ended) = (waiting.stopping, !waiting.ended.is_empty());
            drop(waiting);
            if has_ended {
                if !stopping {
                    thread::sleep(BATCH_TIME);
                }
                unwritten |= self.enter().used.as_ref().is_some_and(|used| !used.is_empty());
            }
            if unwritten && (stopping || written.elapsed() >= LEDGER_INTERVAL) {
                unwritten = !self.write_ledger();
                written = Instant::now();
            }
            if stopping {
                return;
            }
        }
    }

    /// Adds what was used to the ledger; whether that went well. What was not added stays, and is added the next time.
    fn write_ledger(&self) -> bool {
        let mut ledger = lock(&self.ledger);
        let Some(ledger) = &mut *ledger else { return true };
        let mut used = lock(&self.books).used.as_mut().map(std::mem::take).unwrap_or_default();
        let added = ledger.add(&mut used);
        if !used.is_empty()
            && let Some(kept) = &mut lock(&self.books).used
        {
            for (account, amounts) in used {
                kept.entry(account).or_default().add(&amounts);
            }
        }
        let trouble = added.err().map(|error| format!("usage is not written, and kept in memory: {error}"));
        let mut last = lock(&self.ledger_trouble);
        if *last != trouble {
            if let Some(trouble) = &trouble {
                tracing::error!("{trouble}");
            } else {
                tracing::info!("usage is written again");
            }
            last.clone_from(&trouble);
        }
        trouble.is_none()
    }
}

impl Books {
    fn enter(&mut self, ended: Vec<Ended>) {
        for Ended { receipt, totals, traced } in ended {
            if let Some(totals) = totals {
                totals.add(&receipt, self.metrics);
            } else {
                let at = Outcome::ALL.iter().position(|outcome| *outcome == receipt.outcome);
                if let Some(count) = at.and_then(|at| self.unrouted.get_mut(at)) {
                    *count += 1;
                }
            }
            if let Some(used) = &mut self.used {
                used.entry(Account::of(&receipt)).or_default().add(&Amounts::of(&receipt));
            }
            if let (Some(spans), Some(traced)) = (&mut self.spans, traced) {
                spans.add(&receipt, &traced);
            }
            if self.metrics {
                self.ticks.add(&receipt);
            }
            // Last: what is shown there is in the books.
            self.recent.add(&receipt);
            if let Some(sink) = &self.sink {
                sink(&receipt);
            }
        }
        if let Some(spans) = &mut self.spans {
            spans.send();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
