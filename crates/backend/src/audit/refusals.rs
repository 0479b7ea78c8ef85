//! Refusals, of which anybody can cause any number.
//!
//! The first of a kind gets a line at once. For those that follow, a line says at the end of each interval how many there
//! were. What makes a kind is bounded, and so is the number of kinds: what is too much is told in less detail, never left
//! out of the count.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::Event;

/// How often there is a line for those that go on and on.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// Kinds that are told apart at once.
const KINDS_MAX: usize = 4096;

/// Names that one client may try, and keep lines of their own.
const NAMES_BY_CLIENT_MAX: usize = 8;

/// Paths and methods that one account may be refused, and keep lines of their own.
const PATHS_BY_ACCOUNT_MAX: usize = 100;

/// What refusals that share a line have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// An account was refused this.
    Path { caller: String, client: Option<IpAddr>, status: u16, method: String, path: String },
    /// An account was refused more things than are told apart.
    Account { caller: String, client: Option<IpAddr>, status: u16 },
    /// Somebody without an account, who claimed to be this user.
    Name { client: Option<IpAddr>, status: u16, credentials: Option<String>, claimed: Option<String> },
    /// Somebody without an account, who claimed to be more users than are told apart.
    Client { client: Option<IpAddr>, status: u16 },
    /// Whoever else there is.
    Anybody { status: u16 },
}

/// How often it happened since its last line.
struct Tally {
    /// The last one.
    event: Event,
    since: String,
    count: u64,
}

/// The refusals of late.
#[derive(Default)]
pub(super) struct Refusals {
    tallies: HashMap<Kind, Tally>,
    /// How many of the detailed kinds there are for each of the coarse ones.
    details: HashMap<Kind, usize>,
}

impl Refusals {
    /// Counts it. Returns what is to be written at once.
    pub(super) fn note(&mut self, event: Event) -> Option<Event> {
        let kind = self.kind_of(&event);
        if let Some(tally) = self.tallies.get_mut(&kind) {
            if tally.count == 0 {
                tally.since.clone_from(&event.time);
            }
            tally.count += 1;
            tally.event = event;
            return None;
        }
        *self.details.entry(coarse(&event).0).or_default() += 1;
        self.tallies.insert(kind, Tally { since: event.time.clone(), event: event.clone(), count: 0 });
        Some(event)
    }

    /// The lines for what was counted. Kinds of which there were none have ended.
    pub(super) fn sum_up(&mut self, now: &str) -> Vec<Event> {
        self.tallies.retain(|_, tally| tally.count > 0);
        self.details.clear();
        let mut lines = Vec::new();
        for (kind, tally) in &mut self.tallies {
            *self.details.entry(coarse(&tally.event).0).or_default() += 1;
            let mut event = tally.event.clone();
            match kind {
                Kind::Path { .. } | Kind::Name { .. } => {}
                // These stand for more than the last of them says.
                Kind::Account { .. } | Kind::Client { .. } => (event.claimed, event.path) = (None, String::new()),
                Kind::Anybody { .. } => {
                    (event.claimed, event.client, event.peer, event.path) = (None, None, None, String::new());
                }
            }
            event.since = Some(std::mem::take(&mut tally.since));
            event.count = Some(std::mem::take(&mut tally.count));
            now.clone_into(&mut event.time);
            lines.push(event);
        }
        lines.sort_by(|a, b| a.since.cmp(&b.since));
        lines
    }

    /// The most detailed kind that there is room for.
    fn kind_of(&self, event: &Event) -> Kind {
        let (coarse, details_max) = coarse(event);
        let client = event.client.map(network);
        let status = event.status;
        let detailed = match &event.caller {
            Some(caller) if event.has_account() => {
                let (method, path) = (event.method.clone(), event.path.clone());
                Kind::Path { caller: caller.clone(), client, status, method, path }
            }
            _ => Kind::Name { client, status, credentials: event.credentials.clone(), claimed: event.claimed.clone() },
        };
        let has_room = self.tallies.len() < KINDS_MAX;
        if self.tallies.contains_key(&detailed) || (has_room && self.details.get(&coarse).copied().unwrap_or_default() < details_max) {
            return detailed;
        }
        if self.tallies.contains_key(&coarse) || has_room { coarse } else { Kind::Anybody { status } }
    }
}

/// The kind in less detail, and how many in more detail it may have.
fn coarse(event: &Event) -> (Kind, usize) {
    let (client, status) = (event.client.map(network), event.status);
    match &event.caller {
        Some(caller) if event.has_account() => (Kind::Account { caller: caller.clone(), client, status }, PATHS_BY_ACCOUNT_MAX),
        _ => (Kind::Client { client, status }, NAMES_BY_CLIENT_MAX),
    }
}

/// One customer usually has a whole IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(client: &str, claimed: &str, status: u16) -> Event {
        Event {
            time: "t".into(),
            client: Some(client.parse().unwrap()),
            claimed: Some(claimed.into()),
            credentials: Some("basic".into()),
            status,
            ..Event::default()
        }
    }

    fn counts(lines: &[Event]) -> (usize, u64) {
        (lines.len(), lines.iter().map(|line| line.count.unwrap()).sum())
    }

    #[test]
    fn the_first_gets_a_line_and_the_rest_one_for_each_interval() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.note(refused("192.0.2.1", "admin", 401)).map(|event| event.count), Some(None));
        assert_eq!(refusals.sum_up("t"), []);
        for _ in 0..2 {
            assert!(refusals.note(refused("192.0.2.1", "admin", 401)).is_some());
            for _ in 0..10 {
                assert_eq!(refusals.note(refused("192.0.2.1", "admin", 401)), None);
            }
            let lines = refusals.sum_up("t");
            assert_eq!((counts(&lines), lines[0].claimed.as_deref()), ((1, 10), Some("admin")));
            // While it goes on, that is the only line; when it has stopped, it begins anew.
            assert_eq!(refusals.note(refused("192.0.2.1", "admin", 401)), None);
            assert_eq!(counts(&refusals.sum_up("t")), (1, 1));
            assert_eq!(refusals.sum_up("t"), []);
        }
        assert!(refusals.tallies.is_empty() && refusals.details.is_empty());
    }

    #[test]
    fn nobody_gets_more_lines_by_being_many_and_every_refusal_is_counted() {
        let mut refusals = Refusals::default();
        let mut noted = |events: &mut dyn Iterator<Item = Event>| events.filter_map(|event| refusals.note(event)).count();
        // One client, many names; one network, many addresses.
        assert!(noted(&mut (0..1000).map(|i| refused("192.0.2.1", &format!("user{i}"), 401))) <= NAMES_BY_CLIENT_MAX + 1);
        assert_eq!(noted(&mut (0..1000).map(|i| refused(&format!("2001:db8::{i:x}"), "admin", 401))), 1);
        // An account, many paths.
        let alice = |i: u32| Event { caller: Some("alice".into()), path: format!("/{i}"), ..refused("192.0.2.2", "alice", 403) };
        assert!(noted(&mut (0..1000).map(alice)) <= PATHS_BY_ACCOUNT_MAX + 1);
        let known = NAMES_BY_CLIENT_MAX + 1 + 1 + PATHS_BY_ACCOUNT_MAX + 1;
        // Many clients.
        let many = noted(&mut (0..10_000_u32).map(|i| refused(&format!("10.0.{}.{}", i / 256, i % 256), "admin", 401)));
        assert!(many <= KINDS_MAX + 1, "{many}");
        let lines = refusals.sum_up("t");
        assert_eq!(counts(&lines).1 as usize + known + many, 13_000);
        assert!(lines.iter().any(|line| line.client.is_none() && line.claimed.is_none()));
    }
}
