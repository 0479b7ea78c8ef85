//! What is noted of a request while it passes, and where it goes at its end: metrics, access log and traces.
//!
//! The proxy calls [`Observed::admitted`], [`Observed::answered`], [`Observed::backend_answered`] and
//! [`Observed::refused`] as it goes, and [`Observe::finish`] once, at the end.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use berth_names::RepositoryKey;
use berth_traces::Traces;
use http::header::{AsHeaderName, HOST, REFERER, USER_AGENT};
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use crate::access::{self, AccessLog, Entry};
use crate::bindings::Bound;
use crate::config::Config;
use crate::metrics::{Api, BindingMetrics, CLIENT_GONE, InFlight, Metrics, Sample};
use crate::proxy::Request;
use crate::refusal::Refusal;
use crate::traces::Spans;

/// What traces say that they are from.
const SERVICE: &str = "berth-gateway";

/// Where everything that is noted goes. One for the whole process; it outlives every configuration.
#[derive(Debug)]
pub struct Observe {
    /// The counters.
    pub metrics: Arc<Metrics>,
    access_log: ArcSwap<AccessLog>,
    traces: ArcSwapOption<Traces>,
}

/// What of it changes with a configuration.
#[derive(Debug)]
pub struct Next {
    access_log: Option<AccessLog>,
    traces: Option<Option<Traces>>,
}

impl Observe {
    /// Opens the access log and the way to the collector.
    ///
    /// # Errors
    /// If one of them can't be opened.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let access_log = open_log(config.access_log.clone(), &metrics)?;
        let traces = config.traces.clone().map(|settings| open_traces(settings, &metrics)).transpose()?;
        Ok(Self { metrics, access_log: ArcSwap::from_pointee(access_log), traces: ArcSwapOption::new(traces.map(Arc::new)) })
    }

    /// Opens what has other settings in this configuration.
    ///
    /// # Errors
    /// If the access log or the way to the collector can't be opened.
    pub fn prepare(&self, config: &Config) -> anyhow::Result<Next> {
        let (log, traces) = (self.access_log.load(), self.traces.load());
        let log_changes = *log.settings() != config.access_log;
        let traces_change = traces.as_ref().map(|traces| traces.settings()) != config.traces.as_ref();
        let open_traces = || config.traces.clone().map(|settings| open_traces(settings, &self.metrics)).transpose();
        Ok(Next {
            access_log: log_changes.then(|| open_log(config.access_log.clone(), &self.metrics)).transpose()?,
            traces: traces_change.then(open_traces).transpose()?,
        })
    }

    /// Goes on with what was prepared, and opens the access log anew if it is the same: its file may have been moved away.
    /// What was noted for earlier settings still goes where they say.
    pub fn adopt(&self, next: Next) {
        if let Some(traces) = next.traces {
            self.traces.store(traces.map(Arc::new));
        }
        match next.access_log {
            Some(log) => self.access_log.store(Arc::new(log)),
            None => self.access_log.load().reopen(),
        }
    }

    /// Waits until everything is written and sent, `limit` at most for each. It blocks, and is for the end of the process.
    pub fn flush(&self, limit: Duration) {
        self.access_log.load().flush(limit);
        if let Some(traces) = &*self.traces.load() {
            traces.flush(limit);
        }
    }

    /// The spans of a request that has arrived, if there is somewhere to send them.
    pub(crate) fn trace(&self, head: &RequestHeader, is_trusted: bool) -> Option<Box<Spans>> {
        let traces = self.traces.load();
        Some(Box::new(Spans::begin(traces.as_ref()?, head, &access::path_of(head.raw_path()), is_trusted)))
    }

    /// Notes the end of a request.
    pub(crate) fn finish(&self, session: &Session, request: &mut Request) {
        let spans = request.spans.take();
        let head = session.req_header();
        let observed = &request.observed;
        let is_console = request.binding.as_ref().is_some_and(|binding| matches!(binding.bound, Bound::Console(_)));
        let status = session.response_written().map_or(CLIENT_GONE, |head| head.status.as_u16());
        let total = request.started.elapsed();
        let since_start = |moment: Option<Instant>| moment.map(|moment| moment.duration_since(request.started));
        let sample = Sample {
            api: Api::of(head.raw_path(), is_console),
            method: &head.method,
            status,
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
            first_byte: since_start(observed.answered),
            total,
        };
        let binding = observed.binding();
        if let Some(binding) = binding {
            binding.record(&sample);
        }
        if let Some(refusal) = observed.refusal {
            self.metrics.refused(refusal);
        }
        let entry = Entry {
            time: SystemTime::now(),
            client: request.client.or(request.connection.as_ref().map(|connection| connection.peer)),
            method: head.method.as_str(),
            target: head.raw_path(),
            version: head.version,
            status,
            bytes_in: sample.bytes_in,
            bytes_out: sample.bytes_out,
            duration: total,
            backend_head: since_start(observed.backend_answered),
            binding: binding.map_or("", |binding| binding.label()),
            repository: request.upstream.as_ref().and_then(|upstream| upstream.repository.as_ref()).map(RepositoryKey::as_str),
            host: header(session, HOST),
            user_agent: header(session, USER_AGENT),
            referer: header(session, REFERER),
            request_id: request.id(),
            backend: observed.backend.as_deref(),
            tls: request.connection.as_ref().and_then(|connection| connection.tls),
            refusal: observed.refusal.map(Refusal::word),
        };
        self.access_log.load().log(&entry);
        if let Some(spans) = spans {
            spans.finish(&entry);
        }
    }
}

fn open_log(settings: access::Settings, metrics: &Metrics) -> anyhow::Result<AccessLog> {
    AccessLog::open(settings, metrics.access_log_dropped()).context("cannot open the access log")
}

fn open_traces(settings: berth_traces::Settings, metrics: &Metrics) -> anyhow::Result<Traces> {
    Ok(Traces::open(SERVICE, settings, metrics.spans_dropped())?)
}

fn header(session: &Session, name: impl AsHeaderName) -> &[u8] {
    session.req_header().headers.get(name).map(|value| value.as_bytes()).unwrap_or_default()
}

/// What is noted of one request until it ends.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    in_flight: Option<InFlight>,
    answered: Option<Instant>,
    backend_answered: Option<Instant>,
    backend: Option<Arc<str>>,
    pub(crate) refusal: Option<Refusal>,
}

impl Observed {
    /// It is known which binding the request is for.
    pub(crate) fn admitted(&mut self, binding: &Arc<BindingMetrics>) {
        self.in_flight = Some(binding.begin());
    }

    /// The request is sent to this backend.
    pub(crate) fn sent(&mut self, backend: Arc<str>) {
        self.backend = Some(backend);
    }

    /// The backend has answered; the client will get that.
    pub(crate) fn backend_answered(&mut self) {
        let now = Instant::now();
        self.backend_answered = Some(now);
        self.answered = Some(now);
    }

    /// The gateway answers by itself.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
        self.answered = Some(Instant::now());
    }

    fn binding(&self) -> Option<&Arc<BindingMetrics>> {
        self.in_flight.as_ref().map(InFlight::binding)
    }
}
