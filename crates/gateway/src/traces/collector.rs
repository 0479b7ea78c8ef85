//! The way to the collector: OTLP over HTTP/1.1 with hyper, which the gateway has anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// hyper's client where it finds the runtime that it needs: spans are sent from a thread without one.
#[derive(Debug)]
struct Client {
    hyper: HyperClient,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let hyper = self.hyper.clone();
        self.runtime.spawn(async move { hyper.send_bytes(request).await }).await?
    }
}

/// Sends batches, counts them, and says once when the collector goes and once when it is back.
#[derive(Debug)]
pub(super) struct Exporter {
    otlp: SpanExporter,
    metrics: Arc<Metrics>,
    is_failing: AtomicBool,
}

impl Exporter {
    pub(super) fn new(otlp: &Uri, runtime: Handle, limit: Duration, metrics: Arc<Metrics>) -> Result<Self, ExporterBuildError> {
        let client = Client { hyper: HyperClient::with_default_connector(limit, None), runtime };
        let endpoint = format!("{}/v1/traces", otlp.to_string().trim_end_matches('/'));
        let otlp = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint).with_timeout(limit).build()?;
        Ok(Self { otlp, metrics, is_failing: AtomicBool::new(false) })
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let sent = self.otlp.export(batch).await;
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Ok(()) => self.metrics.spans_exported.add(spans),
            Err(error) if !was_failing => warn!(%error, "traces cannot be sent; requests are served without"),
            Err(_) => {}
        }
        if sent.is_ok() && was_failing {
            info!("traces are sent again");
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.otlp.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.otlp.set_resource(resource);
    }
}
