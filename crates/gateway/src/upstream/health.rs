//! What is known of one server: requests on it, what became of them, and what it answers when asked how it is.
//!
//! It outlives the pool it was made for: a reload hands it on to the pool that comes next.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use tracing::{info, warn};

use super::Address;
use super::breaker::{Breaker, BreakerState};

/// Probes in a row that must fail before the server counts as unwell. More than one: it may have been busy.
const PROBE_FAILURES_MAX: u32 = 2;

/// Probes in a row that must have had no answer, while no request had one, before the server counts as silent.
const SILENCES_MAX: u32 = 2;

/// [`Health::probe_failures`] before the first probe.
const NEVER_PROBED: u32 = u32::MAX;

/// What a server said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// It has not been asked yet.
    Never,
    /// It is well.
    Well,
    /// It is not, or said nothing, several times in a row.
    Unwell,
}

/// One server at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Where it listens.
    pub address: Address,
    /// What requests found.
    pub breaker: BreakerState,
    /// What probes found.
    pub probed: Probed,
    /// Requests that are on it.
    pub in_flight: usize,
    /// Requests that were ever sent to it, or should have been; one that was sent to two servers counts for both.
    pub requests: u64,
    /// Those of them that failed before it answered.
    pub failures: u64,
}

impl ServerState {
    /// Whether requests go to it before they go to others.
    pub fn is_up(&self) -> bool {
        self.breaker != BreakerState::Open && self.probed != Probed::Unwell
    }
}

#[derive(Debug)]
pub(super) struct Health {
    pub(super) address: Address,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    failures: AtomicU64,
    breaker: Breaker,
    /// In a row.
    probe_failures: AtomicU32,
    /// Probes in a row in whose time nothing was answered.
    silences: AtomicU32,
    /// A request was answered since the last probe began.
    is_heard: AtomicBool,
    /// What the log says.
    is_down: AtomicBool,
}

/// How good a choice a server is: the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// It may be up again, which one request has to find out.
    Trial,
    /// It is up, with so many requests in flight.
    Up(usize),
    /// It answers, but not well.
    Unwell(usize),
    /// It does not answer. The one whose pause ends first has been down for the shortest time, or failed the least.
    Down(u64),
    /// It takes connections and answers nothing at all.
    Silent,
}

impl Health {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            breaker: Breaker::default(),
            probe_failures: AtomicU32::new(NEVER_PROBED),
            silences: AtomicU32::new(0),
            is_heard: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
        }
    }

    pub(super) fn snapshot(&self, now_ms: u64) -> ServerState {
        ServerState {
            address: self.address.clone(),
            breaker: self.breaker.state(now_ms),
            probed: self.probed(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    pub(super) fn rank(&self, now_ms: u64) -> Rank {
        if self.is_silent() {
            return Rank::Silent;
        }
        let is_well = self.probed() != Probed::Unwell;
        match self.breaker.state(now_ms) {
            BreakerState::Closed if is_well => Rank::Up(self.in_flight.load(Ordering::Relaxed)),
            BreakerState::Closed => Rank::Unwell(self.in_flight.load(Ordering::Relaxed)),
            // What a probe has found out no request needs to find out again.
            BreakerState::HalfOpen if is_well => Rank::Trial,
            BreakerState::HalfOpen | BreakerState::Open => Rank::Down(self.breaker.trial_at_ms()),
        }
    }

    pub(super) fn take_trial(&self, now_ms: u64) -> bool {
        self.breaker.take_trial(now_ms)
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request got an answer, whichever.
    pub(super) fn answered(&self) {
        self.breaker.succeed();
        // Most of the time there is nothing to write here either.
        if !self.is_heard.load(Ordering::Relaxed) {
            self.is_heard.store(true, Ordering::Relaxed);
            self.silences.store(0, Ordering::Relaxed);
        }
        if self.is_down.load(Ordering::Relaxed) {
            self.log_change(&"it answered");
        }
    }

    /// A request got none.
    pub(super) fn failed(&self, now_ms: u64, was_trial: bool, reason: &dyn fmt::Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.breaker.fail(now_ms, was_trial);
        self.log_change(reason);
    }

    /// Whether it takes connections but answers neither probes nor requests. Whoever asked it would only wait.
    pub(super) fn is_silent(&self) -> bool {
        self.silences.load(Ordering::Relaxed) >= SILENCES_MAX
    }

    pub(super) fn probe_begins(&self) {
        self.is_heard.store(false, Ordering::Relaxed);
    }

    /// A probe had no answer in its time.
    pub(super) fn probe_unanswered(&self) {
        // A server that answers requests is busy, not silent.
        let silences = if self.is_heard.load(Ordering::Relaxed) { 0 } else { self.silences.load(Ordering::Relaxed).saturating_add(1) };
        self.silences.store(silences.min(SILENCES_MAX), Ordering::Relaxed);
        self.count_failed_probe(&"its health check had no answer");
    }

    pub(super) fn probe_passed(&self, now_ms: u64) {
        self.silences.store(0, Ordering::Relaxed);
        self.probe_failures.store(0, Ordering::Relaxed);
        self.breaker.end_pause(now_ms);
        self.log_change(&"its health check passes");
    }

    /// A probe was answered badly, or refused, which a request would be too, at once.
    pub(super) fn probe_failed(&self, reason: &dyn fmt::Display) {
        self.silences.store(0, Ordering::Relaxed);
        self.count_failed_probe(reason);
    }

    fn count_failed_probe(&self, reason: &dyn fmt::Display) {
        let failures = match self.probe_failures.load(Ordering::Relaxed) {
            NEVER_PROBED => 1,
            failures => failures.saturating_add(1).min(PROBE_FAILURES_MAX),
        };
        self.probe_failures.store(failures, Ordering::Relaxed);
        self.log_change(reason);
    }

    fn probed(&self) -> Probed {
        match self.probe_failures.load(Ordering::Relaxed) {
            NEVER_PROBED => Probed::Never,
            failures if failures < PROBE_FAILURES_MAX => Probed::Well,
            _ => Probed::Unwell,
        }
    }

    /// Logs once that the server went down or came up. A pause that has merely ended is neither.
    fn log_change(&self, reason: &dyn fmt::Display) {
        let is_down = self.breaker.trial_at_ms() != 0 || self.probed() == Probed::Unwell;
        if self.is_down.swap(is_down, Ordering::Relaxed) != is_down {
            if is_down {
                warn!(backend.address = %self.address, %reason, "backend is down");
            } else {
                info!(backend.address = %self.address, %reason, "backend is up");
            }
        }
    }
}
