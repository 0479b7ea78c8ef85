//! What requests hold while they are under way, and how much of that one client, and all strangers together, may.
//!
//! What must stay true:
//! - A request holds its places from the moment that its head has been read until its answer has been sent.
//! - Places that strangers can't take are left for whoever has logged in. A claim gets a request so far that it is looked
//!   at; proved false, it counts as a stranger's.
//! - What comes over the operator's socket is never counted.

use std::net::IpAddr;
use std::sync::Arc;

use berth_names::{Content, Work};
use berth_places::{Client, Share, Shares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;

/// The places that there are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    requests: Shares,
    bodies: Shares,
    strangers: Arc<Semaphore>,
}

/// What one request holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    request: Option<Share>,
    stranger: Option<OwnedSemaphorePermit>,
    /// A small body that is on its way. Whoever reads it takes this along.
    pub(super) body: Option<Share>,
    /// Whether what is sent is small, as far as it is known what that is.
    pub(super) is_small: bool,
    /// There was no place for it.
    is_turned_away: bool,
}

/// What a request is, as far as places are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Whom it is counted for; nobody, if it comes from this host.
    pub(super) client: Option<IpAddr>,
    /// Nothing says yet that its client is known here.
    pub(super) is_stranger: bool,
    /// Something is sent with it.
    pub(super) has_body: bool,
    pub(super) work: Work,
}

/// Why a request can't be taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Its client has too many under way.
    Client,
    /// All strangers together have.
    Strangers,
}

impl Places {
    pub(crate) fn new(config: &config::Places) -> Self {
        Self {
            requests: Shares::new(config.requests_per_client()),
            bodies: Shares::new(config.bodies_per_client),
            strangers: Arc::new(Semaphore::new(config.requests_of_strangers())),
        }
    }

    /// Takes in a request.
    pub(super) fn take(&self, arrival: Arrival, held: &mut Held) -> Result<(), Full> {
        let taken = self.try_take(arrival, held);
        if taken.is_err() {
            *held = Held { is_turned_away: true, ..Held::default() };
        }
        taken
    }

    fn try_take(&self, arrival: Arrival, held: &mut Held) -> Result<(), Full> {
        let Arrival { client, is_stranger, has_body, work } = arrival;
        held.is_small = work.content == Content::Small;
        if let Some(client) = client.map(Client::from) {
            held.request = Some(self.requests.take(client).ok_or(Full::Client)?);
            if held.is_small && has_body {
                held.body = Some(self.bodies.take(client).ok_or(Full::Client)?);
            }
        }
        if is_stranger {
            held.stranger = Some(self.stranger().ok_or(Full::Strangers)?);
        }
        Ok(())
    }

    /// A request is refused. Whether its connection may wait for the rest of what is sent: not if places are short, for
    /// its client or, since what was claimed is not so, for strangers.
    pub(super) fn may_linger(&self, held: &mut Held) -> bool {
        if held.is_turned_away {
            return false;
        }
        held.stranger = held.stranger.take().or_else(|| self.stranger());
        held.stranger.is_some()
    }

    fn stranger(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.strangers).try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let bounds = config::Places { connections: 8, requests_per_client: Some(3), requests_of_strangers: Some(4), bodies_per_client: 2 };
        Places::new(&bounds)
    }

    fn arrival(client: u8) -> Arrival {
        let client = Some(IpAddr::from([192, 0, 2, client]));
        Arrival { client, is_stranger: true, has_body: false, work: Work::QUICK }
    }

    fn take(places: &Places, arrival: Arrival) -> Result<Held, Full> {
        let mut held = Held::default();
        places.take(arrival, &mut held).map(|()| held)
    }

    #[test]
    fn one_client_has_its_share_and_strangers_leave_places_to_who_is_logged_in() {
        let places = places();
        let _first: Vec<_> = (0..3).map(|_| take(&places, arrival(1)).unwrap()).collect();
        assert_eq!(take(&places, arrival(1)).err(), Some(Full::Client));
        let second = take(&places, arrival(2)).unwrap();
        assert_eq!(take(&places, arrival(3)).err(), Some(Full::Strangers));
        let claims = Arrival { is_stranger: false, ..arrival(3) };
        let mut claimed = take(&places, claims).unwrap();
        assert!(!places.may_linger(&mut claimed), "the claim was false, and there are enough strangers");
        drop(second);
        assert!(places.may_linger(&mut claimed));
    }

    #[test]
    fn small_bodies_on_their_way_have_a_bound_of_their_own_and_blobs_have_none() {
        let places = places();
        let sends = Arrival { has_body: true, ..arrival(1) };
        let first = take(&places, sends).unwrap();
        let _second = take(&places, sends).unwrap();
        assert_eq!(take(&places, sends).err(), Some(Full::Client));
        assert!(take(&places, arrival(1)).is_ok(), "it may ask for what needs no body");
        assert!(take(&places, Arrival { work: Work::UPLOAD, ..sends }).is_ok());
        drop(first);
        assert!(take(&places, sends).is_ok());
    }
}
