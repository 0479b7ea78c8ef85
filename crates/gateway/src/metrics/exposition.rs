//! The numbers as text, in the format that Prometheus scrapes.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::binding::{BindingMetrics, Latency};
use super::failure::HandshakeFailure;
use super::histogram::Snapshot;
use super::labels::STATUSES;
use super::process::ProcessCollector;
use super::{CertificateExpiry, Metrics, UpstreamState, lock};

/// The `Content-Type` of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// What every name begins with.
const PREFIX: &str = "berth_gateway";

impl Metrics {
    /// Everything, as text.
    ///
    /// # Errors
    /// Never in practice: the text grows in memory.
    pub fn encode(self: &Arc<Self>) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(Arc::clone(self)));
        registry.register_collector(Box::new(ProcessCollector));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        let bindings: Vec<_> = lock(&self.bindings).values().filter_map(Weak::upgrade).collect();
        families.bindings(&bindings)?;
        families.latencies("first_byte_seconds", "From a request's head to that of its answer", &bindings, |latency| {
            latency.first_byte.snapshot()
        })?;
        families.latencies("request_duration_seconds", "From a request's head to the end of its answer", &bindings, |latency| {
            latency.total.snapshot()
        })?;
        self.encode_listeners(&mut families)?;
        self.encode_refusals(&mut families)?;
        families.upstreams(&self.upstreams())?;
        families.certificates(&lock(&self.certificates).as_ref().map(|source| source()).unwrap_or_default())?;
        self.encode_gateway(&mut families)
    }
}

impl Metrics {
    fn encode_listeners(&self, families: &mut Families<'_>) -> fmt::Result {
        let listeners: Vec<_> =
            lock(&self.listeners).iter().filter_map(|(address, metrics)| Some((address.to_string(), metrics.upgrade()?))).collect();
        let mut open = families.gauge("connections_open", "Open client connections")?;
        for (address, metrics) in &listeners {
            put_gauge(&mut open, [("listener", address.as_str())], metrics.open.load(Ordering::Relaxed))?;
        }
        let mut accepted = families.counter("connections", "Client connections accepted")?;
        for (address, metrics) in &listeners {
            put_counter(&mut accepted, [("listener", address.as_str())], metrics.accepted.get())?;
        }
        let mut failures = families.counter("handshake_failures", "Client connections that never came to a request, by reason")?;
        for (address, metrics) in &listeners {
            for (failure, count) in HandshakeFailure::ALL.iter().zip(&metrics.handshake_failures) {
                put_counter(&mut failures, [("listener", address.as_str()), ("reason", failure.word())], count.get())?;
            }
        }
        Ok(())
    }

    fn encode_refusals(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut refusals = families.counter("refusals", "Answers that the gateway gave by itself, by reason")?;
        for (reason, count) in lock(&self.refusals).iter() {
            put_counter(&mut refusals, [("reason", *reason)], count.get())?;
        }
        let mut limits = families.counter("limit_refusals", "Requests and connections refused by a limit")?;
        for (reason, count) in lock(&self.limits).iter() {
            put_counter(&mut limits, [("reason", *reason)], count.get())?;
        }
        Ok(())
    }

    fn encode_gateway(&self, families: &mut Families<'_>) -> fmt::Result {
        let mut reloads = families.counter("config_reloads", "Configurations read, the first included, by result")?;
        put_counter(&mut reloads, [("result", "ok")], self.reloads.get())?;
        put_counter(&mut reloads, [("result", "failed")], self.failed_reloads.get())?;
        families
            .gauge("config_last_reload_success_timestamp_seconds", "When a configuration was last applied, in seconds since 1970")?
            .encode_gauge(&self.last_reload_s.load(Ordering::Relaxed))?;
        let mut dropped = families.counter("access_log_dropped", "Access lines lost: the log could not keep up, or not be written")?;
        encode_counter(&mut dropped, self.access_log_dropped.get())?;
        let mut dropped = families.counter("trace_spans_dropped", "Trace spans lost: the collector could not be reached or keep up")?;
        encode_counter(&mut dropped, self.spans_dropped.load(Ordering::Relaxed))?;
        let mut build = families.gauge("build_info", "The version that runs; always 1")?;
        put_gauge(&mut build, [("version", env!("CARGO_PKG_VERSION"))], 1)
    }
}

/// Writes one family of series after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)
    }

    fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)
    }

    fn bindings(&mut self, bindings: &[Arc<BindingMetrics>]) -> fmt::Result {
        let mut requests = self.counter("requests", "Requests answered")?;
        for metrics in bindings {
            for (api, method, by_status) in metrics.requests() {
                for (at, count) in by_status.iter().enumerate().filter(|(_, count)| count.get() > 0) {
                    let status = STATUSES.get(at).map_or_else(|| "other".to_owned(), u16::to_string);
                    let labels = [("binding", metrics.label()), ("api", api.word()), ("method", method), ("status", status.as_str())];
                    put_counter(&mut requests, labels, count.get())?;
                }
            }
        }
        let mut bytes_in = self.counter("request_body_bytes", "Bytes of requests' bodies")?;
        for metrics in bindings {
            put_counter(&mut bytes_in, [("binding", metrics.label())], metrics.bytes_in.get())?;
        }
        let mut bytes_out = self.counter("response_body_bytes", "Bytes of answers' bodies")?;
        for metrics in bindings {
            put_counter(&mut bytes_out, [("binding", metrics.label())], metrics.bytes_out.get())?;
        }
        let mut in_flight = self.gauge("requests_in_flight", "Requests under way")?;
        for metrics in bindings {
            put_gauge(&mut in_flight, [("binding", metrics.label())], metrics.in_flight())?;
        }
        Ok(())
    }

    fn latencies(&mut self, name: &str, help: &str, bindings: &[Arc<BindingMetrics>], of: impl Fn(&Latency) -> Snapshot) -> fmt::Result {
        let mut histograms = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for metrics in bindings {
            for (api, latency) in metrics.latencies() {
                let Snapshot { buckets, sum_s, count } = of(latency);
                let labels = [("binding", metrics.label()), ("api", api.word())];
                histograms.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(sum_s, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn upstreams(&mut self, upstreams: &[UpstreamState]) -> fmt::Result {
        let mut up = self.gauge("upstream_up", "Whether requests are sent to this backend")?;
        for state in upstreams {
            put_gauge(&mut up, [("server", state.server.as_str())], state.is_up.into())?;
        }
        let mut in_flight = self.gauge("upstream_requests_in_flight", "Requests that this backend has not answered yet")?;
        for state in upstreams {
            put_gauge(&mut in_flight, [("server", state.server.as_str())], state.in_flight)?;
        }
        let mut failures = self.counter("upstream_failures", "Requests and health checks that this backend failed")?;
        for state in upstreams {
            put_counter(&mut failures, [("server", state.server.as_str())], state.failures)?;
        }
        Ok(())
    }

    fn certificates(&mut self, certificates: &[CertificateExpiry]) -> fmt::Result {
        let mut ends = self.gauge("certificate_expiry_timestamp_seconds", "When the certificate ends, in seconds since 1970")?;
        for certificate in certificates {
            let labels = [("binding", certificate.binding.as_str()), ("server_name", certificate.server_name.as_str())];
            ends.encode_family(&labels)?.encode_gauge(&certificate.not_after_s)?;
        }
        Ok(())
    }
}

fn encode_counter(encoder: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    encoder.encode_counter::<[(&str, &str); 0], _, f64>(&value, None)
}

fn put_counter(family: &mut MetricEncoder<'_>, labels: impl EncodeLabelSet, value: u64) -> fmt::Result {
    encode_counter(&mut family.encode_family(&labels)?, value)
}

fn put_gauge(family: &mut MetricEncoder<'_>, labels: impl EncodeLabelSet, value: u64) -> fmt::Result {
    family.encode_family(&labels)?.encode_gauge(&value)
}
