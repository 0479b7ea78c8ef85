//! What is noted of a request while it passes, and where it goes at its end: metrics and access log.
//!
//! The proxy calls [`Observed::admitted`], [`Observed::answered`], [`Observed::backend_answered`] and
//! [`Observed::refused`] as it goes, and [`Observe::finish`] once, at the end.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use berth_names::RepositoryKey;
use http::header::{AsHeaderName, HOST, REFERER, USER_AGENT};
use pingora::proxy::Session;

use crate::access::{self, AccessLog, Entry};
use crate::bindings::Bound;
use crate::metrics::{Api, BindingMetrics, CLIENT_GONE, InFlight, Metrics, Sample};
use crate::proxy::Request;
use crate::refusal::Refusal;

/// Where everything that is noted goes. One for the whole process; it outlives every configuration.
#[derive(Debug)]
pub struct Observe {
    /// The counters.
    pub metrics: Arc<Metrics>,
    access_log: ArcSwap<AccessLog>,
}

impl Observe {
    /// Opens the access log.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(access_log: access::Settings) -> io::Result<Self> {
        let metrics = Arc::<Metrics>::default();
        let access_log = AccessLog::open(access_log, metrics.access_log_dropped())?;
        Ok(Self { metrics, access_log: ArcSwap::from_pointee(access_log) })
    }

    /// Applies changed settings, which may have an unchanged path that was moved away. If the file can't be opened, nothing
    /// changes.
    ///
    /// # Errors
    /// If the access log can't be opened.
    pub fn reload(&self, access_log: access::Settings) -> io::Result<()> {
        let current = self.access_log.load();
        if *current.settings() == access_log {
            current.reopen();
        } else {
            self.access_log.store(Arc::new(AccessLog::open(access_log, self.metrics.access_log_dropped())?));
        }
        Ok(())
    }

    /// The access log in use.
    pub fn access_log(&self) -> Arc<AccessLog> {
        self.access_log.load_full()
    }

    /// Notes the end of a request.
    pub(crate) fn finish(&self, session: &Session, request: &Request) {
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
        self.access_log.load().log(&Entry {
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
        });
    }
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
