//! OpenTelemetry traces: a span for every request and one for every attempt to have a backend answer it, sent to a collector
//! over OTLP and HTTP.
//!
//! What must stay true:
//! - Without `[traces]` nothing of this is made, and a request pays for one look at an `Option`.
//! - A request never waits for the collector: spans go through a bounded queue, and are lost while nobody takes them.
//! - What a client says about traces counts only if it is a trusted proxy; a client could have everything traced otherwise,
//!   or mix its requests into the traces of others.
//! - Spans hold nothing that the access log would not.

mod collector;
mod spans;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::{self, Runtime};
use tracing::warn;

use collector::Exporter;
pub(crate) use spans::{Ended, Spans, drop_claims};

use crate::metrics::Metrics;

/// What every span says about where it is from.
const SERVICE_NAME: &str = "berth-gateway";

/// Spans that may wait for the collector.
const QUEUE_SPANS_MAX: usize = 8192;

/// Spans that are sent at once.
const BATCH_SPANS_MAX: usize = 512;

/// How long spans gather before they are sent.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How long the collector may take for a batch.
const EXPORT_MAX: Duration = Duration::from_secs(10);

/// How long the end of a configuration that had traces may wait for its last spans.
const LAST_EXPORT_MAX: Duration = Duration::from_secs(5);

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The collector's base URL, `http://host:port`: a collector is near, and speaks TLS to what is far.
    pub otlp: Uri,
    /// The share of requests that are traced, 0 to 1. A trusted proxy that decides for itself is followed.
    pub ratio: f64,
}

impl Settings {
    /// The share of requests that are traced if nothing else is said.
    pub const RATIO_DEFAULT: f64 = 1.0;

    /// Checks a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_url(text: &str) -> Result<Uri, String> {
        let hint = || format!("{text:?} is no collector: write a URL like \"http://127.0.0.1:4318\", without path");
        let uri: Uri = text.parse().map_err(|_| hint())?;
        let is_base = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none() && !text.contains('@');
        if is_base { Ok(uri) } else { Err(hint()) }
    }
}

/// A way to the collector, open until it is dropped.
#[derive(Debug)]
pub struct Traces {
    settings: Settings,
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    metrics: Arc<Metrics>,
    /// Runs the HTTP client. Apart from the proxy's, so that it costs clients nothing.
    runtime: Option<Runtime>,
}

impl Traces {
    /// Prepares to send spans. The collector need not be there.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).thread_name("traces").enable_all().build()?;
        let exporter = Exporter::new(&settings.otlp, runtime.handle().clone(), EXPORT_MAX, Arc::clone(&metrics))
            .context("cannot prepare the export of traces")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.ratio))))
            .with_resource(Resource::builder_empty().with_service_name(SERVICE_NAME).build())
            .build();
        Ok(Self { settings, tracer: provider.tracer(SERVICE_NAME), provider, metrics, runtime: Some(runtime) })
    }

    /// How it was opened.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sends what is queued, and waits for it, `limit` at most. It blocks, and is for the end of the process.
    pub fn flush(&self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            warn!(%error, "the last traces were not sent");
        }
    }
}

impl Drop for Traces {
    /// Sending the last spans blocks, and whoever drops this may be serving requests.
    fn drop(&mut self) {
        let (provider, runtime) = (self.provider.clone(), self.runtime.take());
        let end = move || {
            let _ = provider.shutdown_with_timeout(LAST_EXPORT_MAX);
            if let Some(runtime) = runtime {
                runtime.shutdown_background();
            }
        };
        if let Err(error) = thread::Builder::new().name("traces-end".into()).spawn(end) {
            warn!(%error, "the last traces were not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_base_url() {
        assert!(Settings::parse_url("http://127.0.0.1:4318").is_ok());
        assert!(Settings::parse_url("http://collector/").is_ok());
        for bad in ["", "127.0.0.1:4318", "https://a:4318", "http://a/v1/traces", "http://a?x", "http://me:pw@a", "grpc://a"] {
            assert!(Settings::parse_url(bad).is_err(), "{bad}");
        }
    }
}
