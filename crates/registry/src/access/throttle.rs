//! Slowing down those who guess passwords.
//!
//! Wrong passwords are counted by account and address together, and by address alone. After a few free tries, each wrong
//! one makes the next wait twice as long. Names that nobody has count like any other, so the counting tells nothing.
//! Counting by account alone would let a stranger lock anybody out. An address that a proxy claims is counted apart from the
//! same one at first hand, and from what another proxy claims: an invented one costs nobody else a try.
//!
//! A try counts from when it begins. What is still being checked may turn out wrong, so nobody may have more tries under
//! way than wrong ones are free; the next one waits until one of those is decided. A right password gives its place back, so
//! that a hundred right ones at once from one address are let in, one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Notify;

use super::remote::Remote;
use crate::Clock;

/// Accounts and addresses remembered at once; the least used are forgotten first.
const COUNTERS_MAX: usize = 50_000;

/// Wrong passwords for one account from one address before waiting begins.
const FREE_BY_ACCOUNT: u32 = 5;

/// Wrong passwords from one address, whatever the account, before waiting begins. Many users may share an address.
const FREE_BY_ADDRESS: u32 = 30;

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// Counting starts over after so long without a wrong password.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Counted {
    Account(String, Remote),
    Address(Remote),
}

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    /// When the last one was, by the steady clock: a clock that is set back must not lock anybody out.
    last_ms: u64,
}

pub(super) struct Throttle {
    clock: Clock,
    failures: Cache<Counted, Failures>,
    /// Tries that are being checked. Those who check hold a place each, which bounds them.
    under_way: Mutex<HashMap<Counted, u32>>,
    decided: Notify,
}

/// Whether a try may be made.
enum Admission {
    Now,
    /// Once it is known how those under way end.
    Later,
    /// Not before so long.
    Blocked(Duration),
}

/// A try under way. Dropped undecided, as when it could not be checked at all, it counts as none.
pub(super) struct Attempt {
    throttle: Arc<Throttle>,
    account: String,
    from: Remote,
}

impl Throttle {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, failures: Cache::new(COUNTERS_MAX), under_way: Mutex::default(), decided: Notify::new() }
    }

    /// How long the next try for this account from this address must wait, if it must.
    pub(super) fn wait(&self, account: &str, from: Remote) -> Option<Duration> {
        counters(account, from).filter_map(|(counted, free)| self.left(&counted, free)).max()
    }

    /// Begins a try, as soon as those under way leave one to this account and this address; or says how long it must wait.
    pub(super) async fn begin(self: &Arc<Self>, account: &str, from: Remote) -> Result<Attempt, Duration> {
        loop {
            // Listening before looking: what is decided in between is not missed.
            let mut decided = std::pin::pin!(self.decided.notified());
            decided.as_mut().enable();
            match self.admit(account, from) {
                Admission::Now => return Ok(Attempt { throttle: Arc::clone(self), account: account.to_owned(), from }),
                Admission::Later => decided.await,
                Admission::Blocked(wait) => return Err(wait),
            }
        }
    }

    /// Looks and counts in one step: two at once don't both get the last free try.
    fn admit(&self, account: &str, from: Remote) -> Admission {
        let mut under_way = self.under_way();
        if let Some(wait) = self.wait(account, from) {
            return Admission::Blocked(wait);
        }
        for (counted, free) in counters(account, from) {
            // Beyond the free ones it is one at a time.
            let left = free.saturating_sub(self.recent(&counted).count).max(1);
            if under_way.get(&counted).is_some_and(|tries| *tries >= left) {
                return Admission::Later;
            }
        }
        for (counted, _) in counters(account, from) {
            *under_way.entry(counted).or_default() += 1;
        }
        Admission::Now
    }

    fn left(&self, counted: &Counted, free: u32) -> Option<Duration> {
        let failures = self.failures.get(counted)?;
        let pause_ms = u64::try_from(pause(failures.count, free)?.as_millis()).unwrap_or(u64::MAX);
        let since_ms = self.clock.steady_ms().saturating_sub(failures.last_ms);
        pause_ms.checked_sub(since_ms).filter(|left| *left > 0).map(Duration::from_millis)
    }

    /// The wrong tries that still count.
    fn recent(&self, counted: &Counted) -> Failures {
        let now_ms = self.clock.steady_ms();
        let seen = self.failures.get(counted).filter(|seen| now_ms.saturating_sub(seen.last_ms) < FORGET_AFTER.as_millis() as u64);
        seen.unwrap_or_default()
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Counted, u32>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// The password was wrong.
    pub(super) fn failed(self) {
        let throttle = &self.throttle;
        // Under the lock, so that it never counts neither as under way nor as wrong.
        let _under_way = throttle.under_way();
        for (counted, _) in counters(&self.account, self.from) {
            let count = throttle.recent(&counted).count.saturating_add(1);
            throttle.failures.insert(counted, Failures { count, last_ms: throttle.clock.steady_ms() });
        }
    }

    /// The account's owner was here. The address alone goes on counting: one account of one's own must not buy free tries.
    pub(super) fn succeeded(self) {
        self.throttle.failures.remove(&Counted::Account(self.account.clone(), self.from.networks()));
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut under_way = self.throttle.under_way();
        for (counted, _) in counters(&self.account, self.from) {
            if let Some(tries) = under_way.get_mut(&counted) {
                *tries -= 1;
                if *tries == 0 {
                    under_way.remove(&counted);
                }
            }
        }
        drop(under_way);
        self.throttle.decided.notify_waiters();
    }
}

fn counters(account: &str, from: Remote) -> impl Iterator<Item = (Counted, u32)> {
    let from = from.networks();
    let by_account = (Counted::Account(account.to_owned(), from), FREE_BY_ACCOUNT);
    let by_address = from.address().map(|_| (Counted::Address(from), FREE_BY_ADDRESS));
    [Some(by_account), by_address].into_iter().flatten()
}

/// One second after the last try that was free, then twice as long each time.
fn pause(count: u32, free: u32) -> Option<Duration> {
    let beyond = count.checked_sub(free)?;
    Some(Duration::from_secs(1 << beyond.min(20)).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Each test has its own: they run side by side, and one's pauses must not pass in the other.
        static NOW_MS: Cell<u64> = const { Cell::new(1_000_000) };
    }

    fn at(address: &str) -> Remote {
        Some(address.parse().unwrap()).into()
    }

    fn throttle() -> Arc<Throttle> {
        Arc::new(Throttle::new(Clock::from_fn(|| NOW_MS.get())))
    }

    fn pass(time: Duration) {
        NOW_MS.set(NOW_MS.get() + time.as_millis() as u64);
    }

    async fn fail(throttle: &Arc<Throttle>, account: &str, from: Remote) {
        // The pause is over, however long it was.
        pass(throttle.wait(account, from).unwrap_or_default());
        throttle.begin(account, from).await.unwrap().failed();
    }

    #[tokio::test]
    async fn waiting_begins_after_free_tries_doubles_and_ends() {
        let throttle = throttle();
        let (here, there) = (at("192.0.2.1"), at("192.0.2.2"));
        for _ in 1..FREE_BY_ACCOUNT {
            fail(&throttle, "alice", here).await;
            assert_eq!(throttle.wait("alice", here), None);
        }
        for seconds in [1, 2, 4, 8] {
            fail(&throttle, "alice", here).await;
            assert_eq!(throttle.wait("alice", here), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(throttle.begin("alice", here).await.err(), Some(Duration::from_secs(8)));
        // Nobody else is locked out by that.
        assert_eq!((throttle.wait("alice", there), throttle.wait("bob", here)), (None, None));
        pass(Duration::from_secs(8));
        assert_eq!(throttle.wait("alice", here), None);
        throttle.begin("alice", here).await.unwrap().succeeded();
        fail(&throttle, "alice", here).await;
        assert_eq!(throttle.wait("alice", here), None);

        // Trying another account each time does not help, nor does another address of the same network.
        for i in 0..40_u32 {
            fail(&throttle, &format!("user{i}"), at(&format!("2001:db8::{i:x}"))).await;
        }
        assert!(throttle.wait("bob", at("2001:db8::ffff")).is_some_and(|wait| wait > Duration::from_secs(60)));
        assert_eq!(throttle.wait("bob", at("2001:db8:0:1::1")), None);
        // The owner of an account is forgiven wherever in the network the wrong tries came from.
        let (one, other) = (at("2001:db8:0:2::1"), at("2001:db8:0:2::2"));
        for _ in 1..FREE_BY_ACCOUNT {
            fail(&throttle, "carol", one).await;
        }
        throttle.begin("carol", other).await.unwrap().succeeded();
        fail(&throttle, "carol", one).await;
        assert_eq!(throttle.wait("carol", one), None);
        // Who invents an address locks out nobody that comes another way.
        let victim = Some("198.51.100.7".parse().unwrap());
        let invented = Remote { peer: at("127.0.0.1").peer, claimed: victim };
        for _ in 0..40 {
            fail(&throttle, "alice", invented).await;
        }
        assert!(throttle.wait("alice", invented).is_some());
        for own in [Remote { peer: None, claimed: victim }, victim.into()] {
            assert_eq!(throttle.wait("alice", own), None, "{own:?}");
        }
        assert!(pause(u32::MAX, 5).is_some_and(|wait| wait == WAIT_MAX));
    }

    #[tokio::test]
    async fn no_more_tries_are_under_way_than_wrong_ones_are_free() {
        let throttle = throttle();
        let here = at("198.51.100.1");
        let mut under_way = Vec::new();
        for _ in 0..FREE_BY_ACCOUNT {
            under_way.push(throttle.begin("alice", here).await.unwrap());
        }
        let next = |throttle: &Arc<Throttle>| {
            let throttle = Arc::clone(throttle);
            tokio::spawn(async move { throttle.begin("alice", here).await })
        };
        let waits = next(&throttle);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished());
        // One that turns out right, or could not be checked, leaves its place to the next.
        under_way.pop().unwrap().succeeded();
        under_way.push(waits.await.unwrap().unwrap());
        let waits = next(&throttle);
        drop(under_way.pop());
        under_way.push(waits.await.unwrap().unwrap());
        // Those that are wrong use the free ones up: nobody who waited for them gets a try.
        let waits: Vec<_> = (0..80).map(|_| next(&throttle)).collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for attempt in under_way {
            attempt.failed();
        }
        for waiting in waits {
            assert_eq!(waiting.await.unwrap().err(), Some(Duration::from_secs(1)));
        }
        // After a wait there is one try at a time.
        pass(Duration::from_secs(1));
        let only = throttle.begin("alice", here).await.unwrap();
        let waits = next(&throttle);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished());
        only.failed();
        assert_eq!(waits.await.unwrap().err(), Some(Duration::from_secs(2)));
        assert!(throttle.under_way().is_empty());
    }
}
