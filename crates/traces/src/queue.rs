//! Between the requests and the collector: a bounded queue, and a thread that sends what is in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver as Ended;
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;
use tracing::{info, warn};

/// Spans that may wait for the collector, of about a kilobyte each.
pub(crate) const QUEUE_SPANS_MAX: usize = 4096;

/// Spans that are sent at once.
pub(crate) const BATCH_SPANS_MAX: usize = 512;

/// How long spans gather before they are sent.
const GATHER_MAX: Duration = Duration::from_secs(1);

/// The end of the queue that spans are put into.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: Sender<SpanData>,
    stop: Arc<Notify>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// Starts the thread. Its receiver is disconnected when the thread has ended.
    pub(crate) fn start(exporter: impl SpanExporter + 'static, lost: Arc<AtomicU64>) -> io::Result<(Self, Ended<()>)> {
        let (sender, spans) = channel(QUEUE_SPANS_MAX);
        let (ending, ended) = std::sync::mpsc::channel();
        let stop = Arc::new(Notify::new());
        let sending = Sending { exporter, spans, stop: Arc::clone(&stop), lost: Arc::clone(&lost), is_failing: false };
        // A runtime of its own: those of the services come and go with them, and have other things to do.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            runtime.block_on(sending.run());
            drop(ending);
        };
        thread::Builder::new().name("traces".to_owned()).spawn(work)?;
        Ok((Self { sender, stop, lost }, ended))
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.sender.try_send(span).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nobody asks for it: there is a flush only at the end.
    fn force_flush(&self) -> OTelSdkResult {
        Err(OTelSdkError::InternalFailure("spans are sent when it is their turn".to_owned()))
    }

    /// Waits for nothing: it is also called when the last request of an earlier configuration ends, by whoever serves it.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        self.stop.notify_one();
        Ok(())
    }
}

/// The other end.
struct Sending<E> {
    exporter: E,
    spans: Receiver<SpanData>,
    stop: Arc<Notify>,
    lost: Arc<AtomicU64>,
    /// Whether the last batch was lost: that the collector has gone is said once.
    is_failing: bool,
}

impl<E: SpanExporter> Sending<E> {
    /// Sends until the queue is closed and empty.
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_SPANS_MAX);
        loop {
            tokio::select! {
                () = gather(&mut self.spans, &mut batch) => {}
                () = self.stop.notified() => {
                    self.spans.close();
                    continue;
                }
            }
            if batch.is_empty() {
                return;
            }
            let next = Vec::with_capacity(BATCH_SPANS_MAX);
            self.send(std::mem::replace(&mut batch, next)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let sent = self.exporter.export(batch).await;
        let was_failing = std::mem::replace(&mut self.is_failing, sent.is_err());
        match sent {
            Ok(()) if was_failing => info!(spans.lost = self.lost.load(Ordering::Relaxed), "traces are sent again"),
            Ok(()) => {}
            Err(error) => {
                self.lost.fetch_add(spans, Ordering::Relaxed);
                if !was_failing {
                    warn!(%error, "traces cannot be sent; requests are served without");
                }
            }
        }
    }
}

/// Waits for a span, and a moment for those that come with it. Returns early when the queue is closed, and may be cancelled:
/// what it has taken is in `batch`.
async fn gather(spans: &mut Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if batch.is_empty() && spans.recv_many(batch, BATCH_SPANS_MAX).await == 0 {
        return;
    }
    let more = async { while batch.len() < BATCH_SPANS_MAX && spans.recv_many(batch, BATCH_SPANS_MAX - batch.len()).await > 0 {} };
    let _ = timeout(GATHER_MAX, more).await;
}
