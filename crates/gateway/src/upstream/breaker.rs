//! The circuit breaker of one server: after several failures in a row it is left out, and let in again for one request
//! at a time, after pauses that grow.
//!
//! What must stay true:
//! - Of the requests that arrive when a pause has ended, one is the trial; the pause after it begins when it does, so that
//!   a trial that takes hours keeps nobody waiting for its outcome.
//! - Requests that were under way when the breaker opened change nothing by failing too.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Failures in a row after which a server is left out. More than one: a single connection may break for its own reasons.
const FAILURES_MAX: u32 = 3;

/// The first pause, and the longest: each is twice the one before it.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// [`Breaker::trial_at_ms`] of a closed breaker.
const CLOSED: u64 = 0;

/// Whether requests go to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// They do.
    Closed,
    /// The next one does, and decides.
    HalfOpen,
    /// They don't, for some time.
    Open,
}

/// Times are milliseconds of the pool's clock.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// In a row, while it is closed.
    failures: AtomicU32,
    /// Pauses since it was last closed.
    pauses: AtomicU32,
    /// When the pause ends, or [`CLOSED`].
    trial_at_ms: AtomicU64,
}

impl Breaker {
    pub(super) fn state(&self, now_ms: u64) -> BreakerState {
        match self.trial_at_ms() {
            CLOSED => BreakerState::Closed,
            trial_at_ms if trial_at_ms <= now_ms => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// When the pause ends; the past and 0 if there is none.
    pub(super) fn trial_at_ms(&self) -> u64 {
        self.trial_at_ms.load(Ordering::Relaxed)
    }

    /// Claims the trial. False: somebody else has it.
    pub(super) fn take_trial(&self, now_ms: u64) -> bool {
        let trial_at_ms = self.trial_at_ms();
        let next_ms = now_ms + pause_ms(self.pauses.load(Ordering::Relaxed));
        trial_at_ms != CLOSED
            && trial_at_ms <= now_ms
            && self.trial_at_ms.compare_exchange(trial_at_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request failed.
    pub(super) fn fail(&self, now_ms: u64, was_trial: bool) {
        if self.trial_at_ms() == CLOSED {
            if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
                self.open(CLOSED, now_ms);
            }
        } else if was_trial {
            self.open(self.trial_at_ms(), now_ms);
        }
    }

    /// A request was answered.
    pub(super) fn succeed(&self) {
        // Most of the time there is nothing to write, and no reason to take the memory from other cores.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.trial_at_ms() != CLOSED {
            self.pauses.store(0, Ordering::Relaxed);
            self.trial_at_ms.store(CLOSED, Ordering::Relaxed);
        }
    }

    /// Something speaks for the server: the next request shall find out.
    pub(super) fn end_pause(&self, now_ms: u64) {
        let trial_at_ms = self.trial_at_ms();
        if trial_at_ms > now_ms {
            let _ = self.trial_at_ms.compare_exchange(trial_at_ms, now_ms.max(CLOSED + 1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Begins a pause, unless something else has happened since `trial_at_ms` was read.
    fn open(&self, trial_at_ms: u64, now_ms: u64) {
        let pauses = if trial_at_ms == CLOSED { 0 } else { self.pauses.load(Ordering::Relaxed).saturating_add(1) };
        let next_ms = now_ms + pause_ms(pauses);
        if self.trial_at_ms.compare_exchange(trial_at_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.pauses.store(pauses, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
    }
}

fn pause_ms(pauses: u32) -> u64 {
    let pause = PAUSE_MIN.saturating_mul(1u32.checked_shl(pauses).unwrap_or(u32::MAX)).min(PAUSE_MAX);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now_ms: u64) -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(breaker.state(now_ms), BreakerState::Closed);
            breaker.fail(now_ms, false);
        }
        breaker
    }

    #[test]
    fn failures_open_it_only_in_a_row() {
        let breaker = Breaker::default();
        for _ in 0..10 {
            breaker.fail(7, false);
            breaker.fail(7, false);
            breaker.succeed();
        }
        assert_eq!(breaker.state(7), BreakerState::Closed);
        assert_eq!(opened(7).state(7), BreakerState::Open);
    }

    #[test]
    fn one_trial_follows_each_pause_and_pauses_grow() {
        let mut now_ms = 5;
        let breaker = opened(now_ms);
        for pause_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000] {
            assert!(!breaker.take_trial(now_ms + pause_ms - 1), "{pause_ms}");
            now_ms += pause_ms;
            assert_eq!(breaker.state(now_ms), BreakerState::HalfOpen);
            assert!(breaker.take_trial(now_ms));
            assert!(!breaker.take_trial(now_ms), "a second one");
            assert_eq!(breaker.state(now_ms), BreakerState::Open);
            breaker.fail(now_ms, true);
        }
        assert!(breaker.take_trial(now_ms + 30_000));
        breaker.succeed();
        assert_eq!(breaker.state(now_ms), BreakerState::Closed);
        for _ in 0..FAILURES_MAX {
            breaker.fail(now_ms, false);
        }
        assert_eq!(breaker.state(now_ms + 999), BreakerState::Open);
        assert_eq!(breaker.state(now_ms + 1_000), BreakerState::HalfOpen, "pauses begin anew");
    }

    #[test]
    fn a_trial_without_an_outcome_is_followed_by_another() {
        let breaker = opened(0);
        assert!(breaker.take_trial(1_000));
        assert!(!breaker.take_trial(1_999));
        assert!(breaker.take_trial(2_000));
    }

    #[test]
    fn requests_that_were_under_way_prolong_nothing() {
        let breaker = opened(0);
        for now_ms in 0..1_000 {
            breaker.fail(now_ms, false);
        }
        assert_eq!(breaker.state(1_000), BreakerState::HalfOpen);
    }

    #[test]
    fn a_pause_can_be_ended_but_a_closed_breaker_stays_closed() {
        let breaker = opened(0);
        breaker.end_pause(0);
        assert_eq!(breaker.state(1), BreakerState::HalfOpen);
        breaker.succeed();
        breaker.end_pause(1);
        assert_eq!(breaker.state(1), BreakerState::Closed);
    }
}
