//! Slowing down those who guess passwords.
//!
//! Wrong passwords are counted by account and address together, and by address alone. After a few free tries, each wrong
//! one makes the next wait twice as long. Names that nobody has count like any other, so the counting tells nothing.
//! Counting by account alone would let a stranger lock anybody out.

use std::net::IpAddr;
use std::time::Duration;

use quick_cache::sync::Cache;

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
    Account(String, Option<IpAddr>),
    Address(IpAddr),
}

#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last_ms: u64,
}

pub(super) struct Throttle {
    clock: Clock,
    failures: Cache<Counted, Failures>,
}

impl Throttle {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, failures: Cache::new(COUNTERS_MAX) }
    }

    /// How long the next try for this account from this address must wait, if it must.
    pub(super) fn wait(&self, account: &str, address: Option<IpAddr>) -> Option<Duration> {
        let now_ms = self.clock.now_ms();
        let left = |(counted, free): (Counted, u32)| {
            let failures = self.failures.get(&counted)?;
            let until_ms = failures.last_ms + u64::try_from(pause(failures.count, free)?.as_millis()).unwrap_or(u64::MAX);
            until_ms.checked_sub(now_ms).filter(|left| *left > 0).map(Duration::from_millis)
        };
        counters(account, address).filter_map(left).max()
    }

    pub(super) fn failed(&self, account: &str, address: Option<IpAddr>) {
        let now_ms = self.clock.now_ms();
        for (counted, _) in counters(account, address) {
            let before = self.failures.get(&counted).filter(|seen| now_ms.saturating_sub(seen.last_ms) < FORGET_AFTER.as_millis() as u64);
            let count = before.unwrap_or_default().count.saturating_add(1);
            self.failures.insert(counted, Failures { count, last_ms: now_ms });
        }
    }

    /// The account's owner was here. The address alone goes on counting: one account of one's own must not buy free tries.
    pub(super) fn succeeded(&self, account: &str, address: Option<IpAddr>) {
        self.failures.remove(&Counted::Account(account.to_owned(), address));
    }
}

fn counters(account: &str, address: Option<IpAddr>) -> impl Iterator<Item = (Counted, u32)> {
    let address = address.map(network);
    let by_account = (Counted::Account(account.to_owned(), address), FREE_BY_ACCOUNT);
    [Some(by_account), address.map(|address| (Counted::Address(address), FREE_BY_ADDRESS))].into_iter().flatten()
}

/// One customer usually has a whole IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// One second after the first try that is not free, then twice as long each time.
fn pause(count: u32, free: u32) -> Option<Duration> {
    let beyond = count.checked_sub(free).filter(|beyond| *beyond > 0)?;
    Some(Duration::from_secs(1 << (beyond - 1).min(20)).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    static NOW_MS: AtomicU64 = AtomicU64::new(1_000_000);

    #[test]
    fn waiting_begins_after_free_tries_doubles_and_ends() {
        let throttle = Throttle::new(Clock::from_fn(|| NOW_MS.load(Ordering::Relaxed)));
        let (here, there) = (Some("192.0.2.1".parse().unwrap()), Some("192.0.2.2".parse().unwrap()));
        for _ in 0..FREE_BY_ACCOUNT {
            throttle.failed("alice", here);
            assert_eq!(throttle.wait("alice", here), None);
        }
        for seconds in [1, 2, 4, 8] {
            throttle.failed("alice", here);
            assert_eq!(throttle.wait("alice", here), Some(Duration::from_secs(seconds)));
        }
        // Nobody else is locked out by that.
        assert_eq!((throttle.wait("alice", there), throttle.wait("bob", here)), (None, None));
        NOW_MS.fetch_add(8000, Ordering::Relaxed);
        assert_eq!(throttle.wait("alice", here), None);
        throttle.succeeded("alice", here);
        throttle.failed("alice", here);
        assert_eq!(throttle.wait("alice", here), None);

        // Trying another account each time does not help, nor does another address of the same network.
        for i in 0..40_u32 {
            throttle.failed(&format!("user{i}"), Some(format!("2001:db8::{i:x}").parse().unwrap()));
        }
        assert!(throttle.wait("bob", Some("2001:db8::ffff".parse().unwrap())).is_some_and(|wait| wait > Duration::from_secs(60)));
        assert_eq!(throttle.wait("bob", Some("2001:db8:0:1::1".parse().unwrap())), None);
        assert!(pause(u32::MAX, 5).is_some_and(|wait| wait == WAIT_MAX));
    }
}
