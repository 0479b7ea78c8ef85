//! What the gateway counts, for Prometheus.
//!
//! What must stay true:
//! - Labels are configured text and words of this program, never what a client sent: the number of series has a bound.
//! - A request costs a few atomic additions. Whoever is looked up by name is looked up once, when a configuration is
//!   applied, and kept: a binding its [`BindingMetrics`], a listener its [`ListenerMetrics`], a limit its [`Counter`].
//! - A counter lives as long as somebody holds it. A reload takes the counters of the new configuration before it lets go of
//!   the old one's, so that what is in both goes on counting.
//!
//! Histograms are our own because those of the library, which writes the format, take a lock for every observation.

mod binding;
mod exposition;
mod failure;
mod histogram;
mod labels;
mod process;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

pub use binding::{BindingMetrics, InFlight, Sample};
pub(crate) use exposition::CONTENT_TYPE;
pub use failure::HandshakeFailure;
pub use labels::{Api, CLIENT_GONE};

use crate::refusal::Refusal;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a server of the upstream is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    /// Its address, as configured.
    pub server: String,
    /// Whether requests are sent to it.
    pub is_up: bool,
    /// Requests that it has not answered yet.
    pub in_flight: u64,
    /// Requests and health checks that it failed, since the start.
    pub failures: u64,
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The label of the binding, as [`crate::bindings::Binding`] has it.
    pub binding: String,
    /// The server name that it is chosen for; empty for the binding that takes every host.
    pub server_name: String,
    /// The end of its validity, in seconds since 1970.
    pub not_after_s: i64,
}

type Source<T> = Box<dyn Fn() -> Vec<T> + Send + Sync>;

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    bindings: Mutex<BTreeMap<Box<str>, Weak<BindingMetrics>>>,
    listeners: Mutex<BTreeMap<SocketAddr, Weak<ListenerMetrics>>>,
    refusals: Mutex<BTreeMap<&'static str, Arc<Counter>>>,
    limits: Mutex<BTreeMap<&'static str, Arc<Counter>>>,
    access_log_dropped: Arc<Counter>,
    spans_dropped: Arc<AtomicU64>,
    reloads: Counter,
    failed_reloads: Counter,
    /// Seconds since 1970; 0 before the first configuration was applied.
    last_reload_s: AtomicU64,
    upstreams: Mutex<Option<Source<UpstreamState>>>,
    certificates: Mutex<Option<Source<CertificateExpiry>>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// The counters of a binding: those that are in use under this label, or new ones.
    pub fn binding(&self, label: &str) -> Arc<BindingMetrics> {
        let mut bindings = lock(&self.bindings);
        if let Some(known) = bindings.get(label).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(BindingMetrics::new(label));
        bindings.insert(label.into(), Arc::downgrade(&new));
        new
    }

    /// The counters of a listening address, of which the label is the configured one.
    pub fn listener(&self, address: SocketAddr) -> Arc<ListenerMetrics> {
        let mut listeners = lock(&self.listeners);
        if let Some(known) = listeners.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(ListenerMetrics::new(self.binding(&address.to_string())));
        listeners.insert(address, Arc::downgrade(&new));
        new
    }

    /// Counts an answer that the gateway gave by itself.
    pub fn refused(&self, refusal: Refusal) {
        lock(&self.refusals).entry(refusal.word()).or_default().increment();
    }

    /// The counter of a limit's refusals, also of those that are no answer (a connection that is closed). To be kept.
    pub fn limit(&self, reason: &'static str) -> Arc<Counter> {
        Arc::clone(lock(&self.limits).entry(reason).or_default())
    }

    /// The counter of access lines that were lost.
    pub fn access_log_dropped(&self) -> Arc<Counter> {
        Arc::clone(&self.access_log_dropped)
    }

    /// The counter of trace spans that were lost.
    pub fn spans_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.spans_dropped)
    }

    /// A configuration was applied: the first one or one that was read again.
    pub fn reloaded(&self, now: SystemTime) {
        self.reloads.increment();
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_reload_s.store(since_epoch.as_secs(), Ordering::Relaxed);
        lock(&self.bindings).retain(|_, metrics| metrics.strong_count() > 0);
        lock(&self.listeners).retain(|_, metrics| metrics.strong_count() > 0);
    }

    /// A configuration was read again and not applied.
    pub fn reload_failed(&self) {
        self.failed_reloads.increment();
    }

    /// Whom to ask for the state of the backends at each scrape. It must not wait for anything.
    pub fn set_upstreams(&self, source: impl Fn() -> Vec<UpstreamState> + Send + Sync + 'static) {
        *lock(&self.upstreams) = Some(Box::new(source));
    }

    /// Whom to ask for the ends of the certificates at each scrape. It must not wait for anything.
    pub fn set_certificates(&self, source: impl Fn() -> Vec<CertificateExpiry> + Send + Sync + 'static) {
        *lock(&self.certificates) = Some(Box::new(source));
    }

    /// The state of the backends; nothing if nobody was named who knows it.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        lock(&self.upstreams).as_ref().map(|source| source()).unwrap_or_default()
    }
}

/// What is counted of one listening address.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// For requests that no binding takes, among them every malformed one. It is that of the binding without a server name.
    pub any_host: Arc<BindingMetrics>,
    open: AtomicU64,
    accepted: Counter,
    handshake_failures: [Counter; HandshakeFailure::ALL.len()],
}

impl ListenerMetrics {
    fn new(any_host: Arc<BindingMetrics>) -> Self {
        Self { any_host, open: AtomicU64::new(0), accepted: Counter::default(), handshake_failures: Default::default() }
    }

    /// Counts a connection as open for as long as the guard lives.
    pub fn opened(self: &Arc<Self>) -> OpenConnection {
        self.accepted.increment();
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }

    /// Counts a connection that never came to its first request.
    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        self.handshake_failures[failure as usize].increment();
    }
}

/// An open connection; dropping it says that it is closed.
#[derive(Debug)]
pub struct OpenConnection(Arc<ListenerMetrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing is done under these locks that could leave half a change behind, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
