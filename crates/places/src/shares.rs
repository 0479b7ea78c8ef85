//! How many of something each client has, with a bound.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Client;

/// Parts that are locked each by itself, so that threads rarely wait for each other.
const PARTS: usize = 16;

/// Counts what each client has. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: AtomicUsize,
    hasher: RandomState,
    parts: [Mutex<HashMap<Client, usize>>; PARTS],
}

/// One of a client's, given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    client: Client,
}

impl Shares {
    /// Each client may have `max`.
    pub fn new(max: usize) -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Inner { max: AtomicUsize::new(max), hasher: RandomState::new(), parts }))
    }

    /// From now on each client may have `max`. Who has more keeps it.
    pub fn set_max(&self, max: usize) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// One more for `client`. `None`: it has as many as it may.
    pub fn take(&self, client: Client) -> Option<Share> {
        let max = self.0.max.load(Ordering::Relaxed);
        let mut part = self.part(client);
        let held = part.entry(client).or_insert(0);
        if *held >= max {
            // What was only looked at is not kept.
            if *held == 0 {
                part.remove(&client);
            }
            return None;
        }
        *held += 1;
        drop(part);
        Some(Share { of: self.clone(), client })
    }

    fn part(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        let at = self.0.hasher.hash_one(client) as usize % PARTS;
        self.0.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.of.part(self.client).entry(self.client) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(number: u8) -> Client {
        IpAddr::from([192, 0, 2, number]).into()
    }

    #[test]
    fn a_client_has_its_share_and_no_more_whatever_others_have() {
        let shares = Shares::new(2);
        let first = shares.take(client(1)).unwrap();
        let _second = shares.take(client(1)).unwrap();
        assert!(shares.take(client(1)).is_none());
        let _other = shares.take(client(2)).unwrap();
        drop(first);
        let _third = shares.take(client(1)).unwrap();
        assert!(shares.take(client(1)).is_none());
    }

    #[test]
    fn nothing_is_remembered_of_who_has_nothing() {
        let shares = Shares::new(1);
        drop(shares.take(client(1)));
        shares.set_max(0);
        assert!(shares.take(client(2)).is_none());
        assert!(shares.0.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
