//! The spans of a request: one for all of it, and one for every attempt to have a backend answer it.
//!
//! What must stay true:
//! - Without `[traces]` nothing of this is made.
//! - What the backend is told about traces is ours, whatever a client says; a trusted proxy's word makes ours part of its.
//! - Spans are made of what the access log is made of ([`Entry`]), so they hold nothing that it would not.

use berth_names::Authority;
use berth_traces::{Span, Traces};
use pingora::http::RequestHeader;
use pingora::{Error, ErrorSource};

use crate::access::Entry;
use crate::metrics::CLIENT_GONE;
use crate::upstream::Address;

/// The spans of a request that is under way.
#[derive(Debug)]
pub(crate) struct Spans {
    server: Span,
    attempt: Option<Span>,
    attempts: i64,
}

impl Spans {
    /// A request has arrived. From a trusted peer, what its head says about traces is believed.
    pub(crate) fn begin(traces: &Traces, head: &RequestHeader, path: &str, is_trusted: bool) -> Self {
        let server = traces.request(&head.method, path, is_trusted.then_some(&head.headers));
        Self { server, attempt: None, attempts: 0 }
    }

    /// A backend is asked; again, if one was asked before.
    pub(crate) fn attempt(&mut self, backend: &Address) {
        let mut attempt = self.server.child();
        if attempt.is_recorded() {
            match backend {
                Address::Unix(socket) => attempt.set("server.address", socket.display().to_string()),
                Address::Tcp(address) => {
                    attempt.set("server.address", address.ip().to_string());
                    attempt.set("server.port", i64::from(address.port()));
                }
            }
            if self.attempts > 0 {
                attempt.set("http.request.resend_count", self.attempts);
            }
        }
        self.attempts += 1;
        self.attempt = Some(attempt);
    }

    /// Tells the backend what its own span is part of.
    pub(crate) fn inject(&self, head: &mut RequestHeader) -> pingora::Result<()> {
        drop_claims(head);
        for (name, value) in self.attempt.as_ref().unwrap_or(&self.server).headers() {
            head.insert_header(name, value)?;
        }
        Ok(())
    }

    /// The backend's answer has begun.
    pub(crate) fn attempt_answered(&mut self, status: u16) {
        if let Some(attempt) = &mut self.attempt {
            attempt.answered(status);
        }
    }

    /// The attempt has ended with this error, unless it was the client that broke off.
    pub(crate) fn attempt_failed(&mut self, error: &Error) {
        if *error.esource() != ErrorSource::Downstream
            && let Some(mut attempt) = self.attempt.take()
        {
            attempt.failed(error.etype().as_str());
        }
    }

    /// The request has ended, and so do all of its spans.
    pub(crate) fn finish(mut self, entry: &Entry<'_>) {
        drop(self.attempt);
        let span = &mut self.server;
        if !span.is_recorded() {
            return;
        }
        match (entry.status, entry.refusal) {
            // Nothing was answered. It is not our failure, so the span's status says nothing.
            (CLIENT_GONE, _) => span.set("error.type", "client_gone"),
            (status, Some(refusal)) if status >= 500 => {
                span.set("http.response.status_code", i64::from(status));
                span.failed(refusal);
            }
            (status, _) => span.answered(status),
        }
        span.set("url.path", entry.path().into_owned());
        if let Ok(host) = String::from_utf8_lossy(entry.host).parse::<Authority>() {
            span.set("server.address", host.host().to_owned());
            if let Some(port) = host.port() {
                span.set("server.port", i64::from(port));
            }
        }
        if let Some(client) = entry.client {
            span.set("client.address", client.to_string());
        }
        span.set("http.request.body.size", i64::try_from(entry.bytes_in).unwrap_or(i64::MAX));
        span.set("http.response.body.size", i64::try_from(entry.bytes_out).unwrap_or(i64::MAX));
        span.set("berth.request_id", entry.request_id.to_owned());
        // Whoever no binding is for has none.
        for (name, value) in
            [("berth.binding", Some(entry.binding)), ("berth.repository", entry.repository), ("berth.refusal", entry.refusal)]
        {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                span.set(name, value.to_owned());
            }
        }
    }
}

/// Removes what a request says about traces.
pub(crate) fn drop_claims(head: &mut RequestHeader) {
    for name in &Traces::HEADERS {
        head.remove_header(name);
    }
}
