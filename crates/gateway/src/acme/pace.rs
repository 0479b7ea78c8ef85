//! When to order: renewal, repetition after a failure, and the most orders in a time.
//!
//! What must stay true, whatever fails, however often the gateway is started and whatever its clock says:
//! - a name is ordered at most [`ORDERS_PER_NAME_MAX`] times in an hour, all together at most [`ORDERS_MAX`] times in three
//!   (Let's Encrypt's limits are 5 failed validations per name and hour, and 300 orders per account in three hours);
//! - after a success, a name rests for a third of the certificate's life.
//!
//! Everything here is a function of the times that it is given.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Name;

/// Most orders for one name in [`NAME_WINDOW`].
const ORDERS_PER_NAME_MAX: usize = 4;

const NAME_WINDOW: Duration = Duration::from_secs(60 * 60);

/// Most orders in [`WINDOW`].
const ORDERS_MAX: usize = 200;

const WINDOW: Duration = Duration::from_secs(3 * 60 * 60);

/// How long after a first failure the order is repeated; each further failure makes it [`RETRY_FACTOR`] times as long.
const RETRY_FIRST: Duration = Duration::from_secs(60);

const RETRY_FACTOR: u32 = 4;

/// The longest wait that failures alone lead to.
const RETRY_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// How far the clock may have been ahead when an order was noted; what lies further in the future was noted by a wrong
/// clock and says nothing.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// When a certificate is to be replaced: when a third of its life is left.
///
/// Not before a third of its life has passed since it was `obtained`: with a clock far ahead, every new certificate would
/// look as if it were about to expire.
pub(super) fn renewal(not_before: SystemTime, not_after: SystemTime, obtained: SystemTime) -> SystemTime {
    let third = not_after.duration_since(not_before).unwrap_or_default() / 3;
    not_after.checked_sub(third).unwrap_or(not_after).max(obtained.checked_add(third).unwrap_or(obtained))
}

/// How long to wait after so many failures in a row; a tenth to a fifth more or less, as `random` has it, so that many
/// gateways that failed together don't come back together.
pub(super) fn retry_delay(failures: u32, random: u32) -> Duration {
    let delay = RETRY_FACTOR
        .checked_pow(failures.saturating_sub(1))
        .and_then(|factor| RETRY_FIRST.checked_mul(factor))
        .unwrap_or(RETRY_MAX)
        .min(RETRY_MAX);
    // 80 to 120 per cent.
    delay.mul_f64(0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX))
}

/// The orders of the last hours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    orders: Vec<Noted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    name: String,
    unix_s: u64,
}

impl Noted {
    fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.unix_s)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Ledger {
    /// Notes an order, and forgets those that no longer count.
    pub(super) fn note(&mut self, name: &Name, now: SystemTime) {
        self.orders.retain(|order| order.time() + WINDOW > now && order.time() < now + CLOCK_SKEW_MAX);
        let unix_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.orders.push(Noted { name: name.to_string(), unix_s });
        let excess = self.orders.len().saturating_sub(ORDERS_MAX);
        self.orders.drain(..excess);
    }

    /// From when on the name may be ordered.
    pub(super) fn allowed_from(&self, name: &Name, now: SystemTime) -> SystemTime {
        let times = |of: Option<&Name>| {
            let mut times: Vec<_> = self
                .orders
                .iter()
                .filter(|order| of.is_none_or(|name| order.name == name.as_str()))
                .map(Noted::time)
                .filter(|time| *time < now + CLOCK_SKEW_MAX)
                .collect();
            times.sort_unstable();
            times
        };
        let free = |times: Vec<SystemTime>, most: usize, window: Duration| {
            times.len().checked_sub(most).and_then(|at| times.get(at)).map_or(SystemTime::UNIX_EPOCH, |time| *time + window)
        };
        free(times(Some(name)), ORDERS_PER_NAME_MAX, NAME_WINDOW).max(free(times(None), ORDERS_MAX, WINDOW))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        assert_eq!(renewal(start(), start() + 90 * DAY, start()), start() + 60 * DAY);
        assert_eq!(renewal(start(), start() + 6 * DAY, start()), start() + 4 * DAY);
        // Backdated by an hour, as Let's Encrypt does.
        assert_eq!(renewal(start() - HOUR, start() + 90 * DAY, start()), start() + 60 * DAY - HOUR / 3);
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_order_again_and_again() {
        let obtained = start() + 400 * DAY;
        assert_eq!(renewal(start(), start() + 90 * DAY, obtained), obtained + 30 * DAY);
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let minutes: Vec<_> = (1..=8).map(|failures| retry_delay(failures, u32::MAX / 2).as_secs().div_ceil(60)).collect();
        assert_eq!(minutes, [1, 4, 16, 64, 256, 360, 360, 360]);
        assert!(retry_delay(u32::MAX, u32::MAX) <= RETRY_MAX.mul_f64(1.2));
        assert!(retry_delay(1, 0) >= Duration::from_secs(48));
    }

    #[test]
    fn a_name_is_ordered_four_times_an_hour() {
        let (a, b) = (name("a.example"), name("b.example"));
        let mut ledger = Ledger::default();
        for minute in 0..4 {
            assert!(ledger.allowed_from(&a, start() + HOUR) <= start());
            ledger.note(&a, start() + Duration::from_secs(60 * minute));
        }
        let now = start() + Duration::from_secs(300);
        assert_eq!(ledger.allowed_from(&a, now), start() + HOUR);
        assert!(ledger.allowed_from(&b, now) <= now);
    }

    #[test]
    fn all_names_together_are_ordered_two_hundred_times_in_three_hours() {
        let mut ledger = Ledger::default();
        for second in 0..200 {
            let name = name(&format!("r{second}.example"));
            let now = start() + Duration::from_secs(second);
            assert!(ledger.allowed_from(&name, now) <= now);
            ledger.note(&name, now);
        }
        assert_eq!(ledger.allowed_from(&name("new.example"), start() + HOUR), start() + 3 * HOUR);
        ledger.note(&name("new.example"), start() + 3 * HOUR);
        assert_eq!(ledger.orders.len(), 200, "bounded");
    }

    #[test]
    fn what_a_wrong_clock_noted_does_not_count() {
        let mut ledger = Ledger::default();
        let a = name("a.example");
        for _ in 0..4 {
            ledger.note(&a, start() + 1000 * DAY);
        }
        assert!(ledger.allowed_from(&a, start()) <= start());
        ledger.note(&a, start());
        assert_eq!(ledger.orders.len(), 1);
    }

    proptest! {
        #[test]
        fn no_order_of_events_breaks_the_limit(steps in prop::collection::vec(0_u64..4000, 1..60)) {
            let a = name("a.example");
            let (mut ledger, mut now, mut made) = (Ledger::default(), start(), Vec::new());
            for step in steps {
                now += Duration::from_secs(step);
                if ledger.allowed_from(&a, now) <= now {
                    ledger.note(&a, now);
                    made.push(now);
                }
                let text = serde_json::to_string(&ledger).unwrap();
                ledger = serde_json::from_str(&text).unwrap();
                let recent = made.iter().filter(|time| **time + NAME_WINDOW > now).count();
                prop_assert!(recent <= ORDERS_PER_NAME_MAX);
            }
        }
    }
}
