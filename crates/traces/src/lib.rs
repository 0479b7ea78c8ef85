//! OpenTelemetry traces of both services: a span for every request, sent to a collector over OTLP and HTTP.
//!
//! What must stay true:
//! - A request never waits for the collector: spans go through a bounded queue, and what finds no place there, or nobody
//!   takes, is lost and counted.
//! - What a request says about traces counts only if the caller says that it is believed: a client could have everything
//!   traced otherwise, or mix its requests into the traces of others.
//! - This crate is the only one that knows OpenTelemetry. It knows nothing of what the services do.

mod class;
mod queue;
mod settings;
mod span;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _};
use tracing::warn;

use queue::Queue;
pub use settings::{Collector, Ratio, Settings};
pub use span::Span;

/// How long the collector may take for a batch, with all that is tried again.
const EXPORT_MAX: Duration = Duration::from_secs(10);

/// Where a collector takes traces.
const PATH: &str = "/v1/traces";

/// A way to the collector. It closes when this and every span made by it is dropped; what is queued is sent before.
#[derive(Debug)]
pub struct Traces {
    settings: Settings,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Disconnected when the last span has been sent or lost.
    ended: Mutex<Receiver<()>>,
}

/// Why spans can't be sent.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The thread that sends them can't be had.
    #[error("cannot start the thread that sends traces: {0}")]
    Thread(#[from] io::Error),
    /// OpenTelemetry's own variables in the environment contradict what it is asked to do.
    #[error("cannot prepare the export of traces: {0}")]
    Exporter(#[from] ExporterBuildError),
}

impl Traces {
    /// Prepares to send the spans of a service. The collector need not be there. Spans that are lost are added to `lost`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(service: &'static str, settings: Settings, lost: Arc<AtomicU64>) -> Result<Self, OpenError> {
        let resource = Resource::builder_empty()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}{PATH}", settings.otlp))
            .with_timeout(EXPORT_MAX)
            .build()?;
        exporter.set_resource(&resource);
        let (queue, ended) = Queue::start(exporter, lost)?;
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.ratio.into()))))
            .with_resource(resource)
            .build();
        Ok(Self { settings, tracer: provider.tracer(service), provider, ended: Mutex::new(ended) })
    }

    /// How it was opened.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes no more spans, sends what is queued, and waits for that, `limit` at most. It blocks, and is for the end of the
    /// process.
    pub fn flush(&self, limit: Duration) {
        // Only tells the queue; an error means that it has been told before.
        let _ = self.provider.shutdown();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            warn!("the last traces were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use http::Method;

    use super::*;

    /// Longer than a flush that waits for nobody, and shorter than a collector may take.
    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn nobody_waits_for_a_collector_that_does_not_answer_and_what_does_not_fit_is_lost() {
        // The kernel accepts connections for it; nobody reads.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Settings { otlp: format!("http://{}", silent.local_addr().unwrap()).try_into().unwrap(), ratio: Ratio::default() };
        let lost = Arc::<AtomicU64>::default();
        let traces = Traces::open("test", settings, Arc::clone(&lost)).unwrap();
        let begun = Instant::now();
        let spans = 3 * queue::QUEUE_SPANS_MAX as u64;
        (0..spans).for_each(|_| drop(traces.request(&Method::GET, "/v2/", None)));
        let lost = lost.load(Ordering::Relaxed);
        let least = spans - (queue::QUEUE_SPANS_MAX + queue::BATCH_SPANS_MAX) as u64;
        assert!((least..=spans - queue::QUEUE_SPANS_MAX as u64).contains(&lost), "{lost} of {spans}");
        traces.flush(Duration::from_millis(100));
        drop(traces);
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }

    #[test]
    fn what_is_not_sampled_is_named_all_the_same_so_that_nobody_else_samples_it() {
        let settings = Settings { otlp: "http://127.0.0.1:1".to_owned().try_into().unwrap(), ratio: 0.0.try_into().unwrap() };
        let traces = Traces::open("test", settings, Arc::default()).unwrap();
        let span = traces.request(&Method::GET, "/v2/", None);
        assert!(!span.is_recorded() && !span.child().is_recorded());
        let headers: Vec<_> = span.child().headers().collect();
        let [(name, value)] = &headers[..] else { panic!("one header: {headers:?}") };
        let value = value.to_str().unwrap();
        assert!(name == "traceparent" && value.len() == 55 && value.starts_with("00-") && value.ends_with("-00"), "{value}");
    }
}
