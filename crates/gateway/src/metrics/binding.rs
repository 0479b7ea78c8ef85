//! What is counted of the requests to one binding.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Method;

use super::Counter;
use super::histogram::Histogram;
use super::labels::{Api, METHODS, STATUSES, method_index, status_index};

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The API it was for.
    pub api: Api,
    /// Its method.
    pub method: &'a Method,
    /// The status of its answer; [`super::CLIENT_GONE`] if there was none.
    pub status: u16,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// From its head to that of its answer, if there was one.
    pub first_byte: Option<Duration>,
    /// From its head to the end of its answer.
    pub total: Duration,
}

/// Answers by status; the last is for statuses that are not counted one by one.
pub(super) type ByStatus = [Counter; STATUSES.len() + 1];

/// How long requests of one API took.
#[derive(Debug, Default)]
pub(super) struct Latency {
    pub(super) first_byte: Histogram,
    pub(super) total: Histogram,
}

/// The counters of one binding. What is never used takes no memory: there may be thousands of bindings, and most see one API.
#[derive(Debug)]
pub struct BindingMetrics {
    pub(super) label: Box<str>,
    in_flight: AtomicU64,
    pub(super) bytes_in: Counter,
    pub(super) bytes_out: Counter,
    requests: [[OnceLock<Box<ByStatus>>; METHODS.len()]; Api::ALL.len()],
    latencies: [OnceLock<Box<Latency>>; Api::ALL.len()],
}

impl BindingMetrics {
    pub(super) fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            in_flight: AtomicU64::new(0),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            requests: Default::default(),
            latencies: Default::default(),
        }
    }

    /// The label: configured text.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Counts a request as under way for as long as the guard lives.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Counts a request that has ended.
    pub fn record(&self, sample: &Sample<'_>) {
        let api = sample.api as usize;
        let by_status = self.requests[api][method_index(sample.method)].get_or_init(|| Box::new(array::from_fn(|_| Counter::default())));
        by_status[status_index(sample.status)].increment();
        self.bytes_in.add(sample.bytes_in);
        self.bytes_out.add(sample.bytes_out);
        let latency = self.latencies[api].get_or_init(Box::default);
        if let Some(first_byte) = sample.first_byte {
            latency.first_byte.observe(first_byte);
        }
        latency.total.observe(sample.total);
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The APIs and methods that were used, with the answers to them.
    pub(super) fn requests(&self) -> impl Iterator<Item = (Api, &'static str, &ByStatus)> {
        self.requests.iter().zip(Api::ALL).flat_map(|(by_method, api)| {
            by_method.iter().zip(METHODS).filter_map(move |(by_status, method)| Some((api, method, by_status.get()?.as_ref())))
        })
    }

    /// The APIs that were used, with how long it took.
    pub(super) fn latencies(&self) -> impl Iterator<Item = (Api, &Latency)> {
        self.latencies.iter().zip(Api::ALL).filter_map(|(latency, api)| Some((api, latency.get()?.as_ref())))
    }
}

/// A request that is under way; dropping it says that it has ended.
#[derive(Debug)]
pub struct InFlight(Arc<BindingMetrics>);

impl InFlight {
    /// The binding that it is for.
    pub fn binding(&self) -> &Arc<BindingMetrics> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
