//! The way of spans to their receiver: a queue, and a task that empties it.
//!
//! **Invariant:** nobody waits for the receiver. No more than [`SPANS_MAX`] spans wait for it, and those that it did not get
//! are counted, and told: while the host runs, and at its end.

use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The most spans that wait for the receiver, or are on their way to it: some 30 MB.
const SPANS_MAX: usize = 32_768;
/// The most spans of a batch, and about as many as are sent at once. With the longest paths, twice as many are 3 MB;
/// receivers take messages of 4 MiB (the default of gRPC).
pub(super) const BATCH_SPANS_MAX: usize = 2048;
/// How long spans wait for others to be sent with them, if they are fewer than that.
const LINGER_TIME: Duration = Duration::from_millis(200);
/// How long the receiver may take over what is sent at once.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the receiver may take over what still waits when the host ends.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether spans were lost, and how often that is told at the most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const TELL_INTERVAL: Duration = Duration::from_mins(1);

/// Where spans wait. The task ends once this is gone and what waits is sent.
pub(super) struct SpanQueue {
    sender: mpsc::UnboundedSender<Vec<SpanData>>,
    counts: Arc<Counts>,
}

/// The task that sends; it stops with this.
pub(super) struct Exporter {
    task: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    /// Those of which it was not told yet.
    lost: AtomicU64,
}

/// Begins to send to `receiver`, from a task of the runtime that this is called in. Headers, if it wants some, are told by
/// `OTEL_EXPORTER_OTLP_HEADERS`, and attributes of the host by `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn start(receiver: &http::Uri) -> Result<(SpanQueue, Exporter), ExporterBuildError> {
    let builder = SpanExporter::builder().with_tonic().with_endpoint(receiver.to_string()).with_timeout(EXPORT_TIMEOUT);
    let mut exporter = builder.build()?;
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name("fnhost");
    }
    exporter.set_resource(&resource.build());
    let (queue, batches) = SpanQueue::new();
    let counts = Arc::clone(&queue.counts);
    let mut task = JoinSet::new();
    let shared = Arc::clone(&counts);
    task.spawn(async move {
        tokio::select! {
            () = export(exporter, batches, &shared) => {}
            () = tell(&shared) => {}
        }
    });
    Ok((queue, Exporter { task, counts }))
}

impl SpanQueue {
    fn new() -> (Self, mpsc::UnboundedReceiver<Vec<SpanData>>) {
        // Bounded by what was reserved.
        let (sender, batches) = mpsc::unbounded_channel();
        (Self { sender, counts: Arc::default() }, batches)
    }

    /// Whether `spans` more may wait, which then have their place. If not, they are lost.
    pub(super) fn reserve(&mut self, spans: usize) -> bool {
        let has_room = self.counts.waiting.load(Ordering::Relaxed) + spans <= SPANS_MAX;
        if has_room {
            self.counts.waiting.fetch_add(spans, Ordering::Relaxed);
        } else {
            self.counts.lost.fetch_add(spans as u64, Ordering::Relaxed);
        }
        has_room
    }

    /// Has spans sent that have their places.
    pub(super) fn send(&self, batch: Vec<SpanData>) {
        // The task ends after this; if it panicked, what waits is found lost in the end.
        let _ = self.sender.send(batch);
    }
}

impl Exporter {
    /// Has sent what waits, once its queue is gone, as far as the receiver takes it soon, and tells what was lost.
    pub(super) async fn finish(mut self) {
        let _ = timeout(FINISH_TIMEOUT, self.task.join_next()).await;
        self.task.shutdown().await;
        self.counts.lose(self.counts.waiting.load(Ordering::Relaxed));
        self.counts.tell();
    }
}

impl Counts {
    /// So many that waited will not be sent.
    fn lose(&self, spans: usize) {
        self.lost.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// Tells how many were lost since it was last told; whether there were any.
    fn tell(&self) -> bool {
        let spans = self.lost.swap(0, Ordering::Relaxed);
        if spans > 0 {
            tracing::warn!(spans, "spans were lost: their receiver is too slow, or gone");
        }
        spans > 0
    }
}

async fn export(exporter: SpanExporter, mut batches: mpsc::UnboundedReceiver<Vec<SpanData>>, counts: &Counts) {
    let mut well = true;
    while let Some(mut batch) = batches.recv().await {
        let due = Instant::now() + LINGER_TIME;
        // What is there already is taken at once, and a queue that is closed is waited for no longer.
        while batch.len() < BATCH_SPANS_MAX
            && let Ok(Some(more)) = timeout_at(due, batches.recv()).await
        {
            batch.extend(more);
        }
        let spans = batch.len();
        let exported = exporter.export(batch).await;
        counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        match exported {
            Ok(()) if well => {}
            Ok(()) => {
                well = true;
                tracing::info!("spans are exported again");
            }
            Err(error) => {
                counts.lose(spans);
                // Told once, until it is otherwise.
                if std::mem::take(&mut well) {
                    tracing::warn!(%error, "spans cannot be exported");
                }
            }
        }
    }
}

/// Tells what was lost, soon, and then now and again, for as long as it is polled.
async fn tell(counts: &Counts) {
    loop {
        sleep(if counts.tell() { TELL_INTERVAL } else { LOOK_INTERVAL }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_spans_wait_than_may_and_those_beyond_are_counted() {
        let (mut queue, mut batches) = SpanQueue::new();
        let taken = (0..10_000).filter(|_| queue.reserve(6)).count();
        assert_eq!(taken, SPANS_MAX / 6);
        assert_eq!(queue.counts.lost.load(Ordering::Relaxed), (10_000 - taken as u64) * 6);
        assert!(queue.reserve(SPANS_MAX % 6), "a request of fewer spans may fit still");
        queue.send(Vec::new());
        assert!(batches.try_recv().is_ok());
        assert!(queue.counts.tell() && !queue.counts.tell(), "it is told once");
    }
}
