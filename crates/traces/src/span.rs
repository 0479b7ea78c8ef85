//! The span of a request, and the headers that carry a trace from service to service (W3C Trace Context).

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, TraceFlags, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use crate::Traces;
use crate::class::class;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// One thing that takes time and belongs to a request. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    inner: SdkSpan,
    tracer: SdkTracer,
    method: &'static str,
    class: &'static str,
    has_failed: bool,
}

impl Traces {
    /// What makes a request part of a trace, and may say something about it.
    pub const HEADERS: [HeaderName; 3] = [TRACEPARENT, TRACESTATE, HeaderName::from_static("baggage")];

    /// The span of a request that has arrived; part of the trace that its headers name, if they are believed.
    pub fn request(&self, method: &Method, path: &str, believed: Option<&HeaderMap>) -> Span {
        let parent = match believed {
            Some(headers) => TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers)),
            None => Context::new(),
        };
        Span::begin(self.tracer.clone(), SpanKind::Server, &parent, (word(method), class(path)))
    }
}

impl Span {
    fn begin(tracer: SdkTracer, kind: SpanKind, parent: &Context, (method, class): (&'static str, &'static str)) -> Self {
        let mut inner = tracer.build_with_context(tracer.span_builder(class).with_kind(kind), parent);
        if inner.is_recording() {
            // What is no method of HTTP would make names as many as clients like.
            inner.update_name(format!("{} {class}", if method == OTHER { "HTTP" } else { method }));
            inner.set_attribute(KeyValue::new("http.request.method", method));
        }
        Self { inner, tracer, method, class, has_failed: false }
    }

    /// A span within this one: the request is handed on.
    #[must_use]
    pub fn child(&self) -> Self {
        let parent = Context::new().with_remote_span_context(self.inner.span_context().clone());
        Self::begin(self.tracer.clone(), SpanKind::Client, &parent, (self.method, self.class))
    }

    /// Whether anything that is said about it will be sent.
    pub fn is_recorded(&self) -> bool {
        self.inner.is_recording()
    }

    /// Says something about it, in the words of OpenTelemetry's conventions where they have one.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        self.inner.set_attribute(KeyValue::new(name, value));
    }

    /// The request was answered. A status from 500 on is a failure; what a client did wrong, or asked for in vain, is none.
    pub fn answered(&mut self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            self.failed(status.to_string());
        }
    }

    /// It went wrong, for this reason in one word. The first reason counts.
    pub fn failed(&mut self, reason: impl Into<Value>) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.set("error.type", reason);
            self.inner.set_status(Status::error(""));
        }
    }

    /// The headers by which another service makes its spans part of this one.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let context = self.inner.span_context();
        let flags = context.trace_flags() & TraceFlags::SAMPLED;
        let parent = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        [Some((TRACEPARENT, parent)), state.map(|state| (TRACESTATE, state))]
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
    }
}

/// What stands for a method that is none of HTTP's.
const OTHER: &str = "_OTHER";

fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_of_a_failure_counts_and_what_a_client_did_wrong_is_none() {
        let settings = crate::Settings { otlp: "http://127.0.0.1:1".to_owned().try_into().unwrap(), ratio: Default::default() };
        let traces = Traces::open("test", settings, Default::default()).unwrap();
        let reasons = |span: &Span| {
            let data = span.inner.exported_data().unwrap();
            let reasons = data.attributes.iter().filter(|attribute| attribute.key.as_str() == "error.type");
            (data.status, reasons.map(|attribute| attribute.value.to_string()).collect::<Vec<_>>())
        };
        let mut span = traces.request(&Method::GET, "/v2/", None);
        span.answered(499);
        assert_eq!(reasons(&span), (Status::Unset, Vec::new()));
        span.answered(503);
        span.failed("body");
        assert_eq!(reasons(&span), (Status::error(""), vec!["503".to_owned()]));
    }
}
