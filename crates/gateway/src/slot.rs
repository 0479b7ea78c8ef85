//! A listening address, as its connections see it: what is behind it, and whether it closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use pingora::server::ShutdownWatch;
use tokio::sync::watch;

use crate::bindings::Listener;
use crate::metrics::ListenerMetrics;

/// A listening address, as its connections see it.
#[derive(Debug)]
pub struct Slot {
    listener: ArcSwap<Listener>,
    /// The port that the kernel knows it by.
    port: u16,
    metrics: Arc<ListenerMetrics>,
    /// Connections end with their next answer: a successor has the address.
    is_retired: AtomicBool,
    /// True: idle connections end, the others with the request that is under way.
    closing: watch::Sender<bool>,
}

impl Slot {
    /// An address that listens on `port`.
    pub fn new(listener: Listener, port: u16, metrics: Arc<ListenerMetrics>) -> Self {
        Self {
            listener: ArcSwap::from_pointee(listener),
            port,
            metrics,
            is_retired: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        }
    }

    /// What is behind the address now.
    pub fn listener(&self) -> Arc<Listener> {
        self.listener.load_full()
    }

    /// What is counted of it.
    pub fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }

    /// The port that the kernel knows it by.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Puts something else behind it. Requests under way keep what they began with.
    pub fn replace(&self, listener: Listener) {
        self.listener.store(Arc::new(listener));
    }

    /// Lets each connection end with its next answer. Ending idle ones at once could cross a request on its way.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Whether connections end with their next answer.
    pub fn is_ending(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed) || *self.closing.borrow()
    }

    /// Turns true when it closes.
    pub(crate) fn closing(&self) -> ShutdownWatch {
        self.closing.subscribe()
    }

    /// Ends its connections, each with the request that is under way.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}
