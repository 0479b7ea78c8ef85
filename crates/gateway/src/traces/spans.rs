//! The spans of one request, and the headers that carry a trace from service to service (W3C Trace Context).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderName;
use opentelemetry::propagation::{Injector, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span};
use pingora::http::RequestHeader;

use super::Traces;
use crate::metrics::Metrics;

/// Headers that make a request part of a trace.
const TRACE_HEADERS: [HeaderName; 3] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate"), HeaderName::from_static("baggage")];

/// Removes what a client says about traces.
pub(crate) fn drop_claims(head: &mut RequestHeader) {
    for name in &TRACE_HEADERS {
        head.remove_header(name);
    }
}

/// What a request's spans say at its end.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) api: &'static str,
    pub(crate) method: &'static str,
    pub(crate) path: Cow<'a, str>,
    pub(crate) status: u16,
    pub(crate) binding: Option<&'a str>,
    pub(crate) repository: Option<&'a str>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) host: Cow<'a, str>,
    pub(crate) request_id: &'a str,
    pub(crate) refusal: Option<&'static str>,
}

/// The spans of a request that is under way.
#[derive(Debug)]
pub(crate) struct Spans {
    tracer: SdkTracer,
    metrics: Arc<Metrics>,
    server: Span,
    attempt: Option<Span>,
    attempts: i64,
}

impl Spans {
    /// The span of a request that has just arrived; part of the trace that its head names, if the peer is trusted.
    pub(crate) fn begin(traces: &Traces, head: &RequestHeader, is_trusted: bool) -> Self {
        let parent = if is_trusted {
            TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(&head.headers))
        } else {
            Context::new()
        };
        let span = traces.tracer.span_builder("request").with_kind(SpanKind::Server);
        let server = traces.tracer.build_with_context(span, &parent);
        Self { tracer: traces.tracer.clone(), metrics: Arc::clone(&traces.metrics), server, attempt: None, attempts: 0 }
    }

    /// A backend is asked; again, if one was asked before.
    pub(crate) fn attempt(&mut self, backend: &str) {
        if let Some(failed) = self.attempt.take() {
            self.end(failed, Some("retried"));
        }
        self.attempts += 1;
        let attributes = [KeyValue::new("server.address", backend.to_owned()), KeyValue::new("http.request.resend_count", self.attempts - 1)];
        let span = self.tracer.span_builder("backend").with_kind(SpanKind::Client).with_attributes(attributes);
        self.attempt = Some(self.tracer.build_with_context(span, &context_of(self.server.span_context())));
    }

    /// Tells the backend which trace it is part of.
    pub(crate) fn inject(&self, head: &mut RequestHeader) {
        let span = self.attempt.as_ref().unwrap_or(&self.server);
        drop_claims(head);
        TraceContextPropagator::new().inject_context(&context_of(span.span_context()), &mut HeadInjector(head));
    }

    /// Ends all that is open.
    pub(crate) fn finish(mut self, ended: Ended<'_>) {
        let failure = ended.refusal.filter(|_| ended.status >= 500);
        if let Some(mut attempt) = self.attempt.take() {
            if failure.is_none() {
                attempt.set_attribute(KeyValue::new("http.response.status_code", i64::from(ended.status)));
            }
            self.end(attempt, failure);
        }
        let mut server = std::mem::replace(&mut self.server, Span::new_noop());
        if server.is_recording() {
            server.update_name(format!("{} {}", ended.method, ended.api));
            server.set_attributes(ended.attributes());
        }
        self.end(server, failure.or((ended.status >= 500).then_some("status")));
    }

    fn end(&self, mut span: Span, failure: Option<&'static str>) {
        if !span.is_recording() {
            return;
        }
        if let Some(failure) = failure {
            span.set_attribute(KeyValue::new("error.type", failure));
            span.set_status(Status::error(failure));
        }
        span.end();
        self.metrics.spans.increment();
    }
}

impl Ended<'_> {
    fn attributes(self) -> impl Iterator<Item = KeyValue> {
        let text = |name: &'static str, value: Option<&str>| value.map(|value| KeyValue::new(name, value.to_owned()));
        [
            Some(KeyValue::new("http.request.method", self.method)),
            Some(KeyValue::new("http.response.status_code", i64::from(self.status))),
            Some(KeyValue::new("url.path", self.path.into_owned())),
            Some(KeyValue::new("server.address", self.host.into_owned())),
            self.client.map(|client| KeyValue::new("client.address", client.to_string())),
            Some(KeyValue::new("berth.api", self.api)),
            text("berth.binding", self.binding),
            text("berth.repository", self.repository),
            text("berth.request_id", Some(self.request_id)),
            text("berth.refusal", self.refusal),
        ]
        .into_iter()
        .flatten()
    }
}

fn context_of(span: &SpanContext) -> Context {
    Context::new().with_remote_span_context(span.clone())
}

struct HeadInjector<'a>(&'a mut RequestHeader);

impl Injector for HeadInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        // What the propagator writes is always a header.
        let _ = self.0.insert_header(key.to_owned(), value);
    }
}
