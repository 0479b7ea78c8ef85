//! The servers, and the choice among them: the fewest requests in flight.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pingora::upstreams::peer::HttpPeer;

use super::health::{Health, Rank};
use super::{Address, Server, ServerState, peer};

/// Most servers of a pool: as many as a [`Tried`] can tell apart.
const SERVERS_MAX: usize = 64;

/// All backends that a request may go to. Cheap to clone; what is known of the servers is shared by its clones.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    members: Box<[Member]>,
    /// Where the next search begins, so that equally good servers take turns.
    turn: AtomicUsize,
    /// The zero of every time in here.
    epoch: Instant,
}

/// A server of a pool.
pub(super) struct Member {
    pub(super) peer: HttpPeer,
    pub(super) health: Arc<Health>,
}

/// Why there can be no such pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There would be nowhere to send a request.
    #[error("there is no backend")]
    Empty,
    /// More than can be told apart.
    #[error("there can be {SERVERS_MAX} backends at most")]
    TooMany,
    /// It would be counted twice.
    #[error("{0} is named twice")]
    Duplicate(Address),
}

/// The servers of a pool that a request has been sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tried(u64);

impl Tried {
    pub(super) fn add(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) index: usize,
    /// The request's fate decides whether more requests go there.
    pub(super) is_trial: bool,
}

impl Pool {
    /// A pool of servers of which nothing is known yet.
    ///
    /// # Errors
    /// [`PoolError`] if they are none, too many or not all different.
    pub fn new(servers: &[Server]) -> Result<Self, PoolError> {
        Self::build(servers, Instant::now(), |_| None)
    }

    /// The pool that takes this one's place. Of servers whose address stays, everything is known still; requests that are
    /// under way stay where they are.
    ///
    /// # Errors
    /// Those of [`Pool::new`].
    pub fn replaced_by(&self, servers: &[Server]) -> Result<Self, PoolError> {
        Self::build(servers, self.0.epoch, |address| {
            self.members().iter().map(|member| &member.health).find(|health| health.address == *address).cloned()
        })
    }

    /// Every server as it is now, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<ServerState> {
        let now_ms = self.now_ms();
        self.members().iter().map(|member| member.health.snapshot(now_ms)).collect()
    }

    fn build(servers: &[Server], epoch: Instant, known: impl Fn(&Address) -> Option<Arc<Health>>) -> Result<Self, PoolError> {
        if servers.is_empty() {
            return Err(PoolError::Empty);
        }
        if servers.len() > SERVERS_MAX {
            return Err(PoolError::TooMany);
        }
        let is_second = |(index, server): &(usize, &Server)| servers[..*index].iter().any(|other| other.address == server.address);
        if let Some((_, server)) = servers.iter().enumerate().find(is_second) {
            return Err(PoolError::Duplicate(server.address.clone()));
        }
        let member = |server: &Server| Member {
            peer: peer::peer(server),
            health: known(&server.address).unwrap_or_else(|| Arc::new(Health::new(server.address.clone()))),
        };
        Ok(Self(Arc::new(Inner { members: servers.iter().map(member).collect(), turn: AtomicUsize::new(0), epoch })))
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.0.members
    }

    /// Milliseconds of this pool's clock.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.0.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The only server, if there is but one.
    pub(super) fn only(&self) -> Option<&Member> {
        match self.members() {
            [member] => Some(member),
            _ => None,
        }
    }

    /// The best server that has not been tried.
    pub(super) fn choose(&self, tried: Tried, now_ms: u64) -> Option<Choice> {
        // A trial that somebody else has claimed meanwhile is no choice, and then no longer looks like one.
        for _ in self.members() {
            let (rank, index) = self.best(tried, now_ms)?;
            let is_trial = rank == Rank::Trial;
            if !is_trial || self.members().get(index)?.health.take_trial(now_ms) {
                return Some(Choice { index, is_trial });
            }
        }
        self.best(tried, now_ms).map(|(_, index)| Choice { index, is_trial: false })
    }

    /// Whether a server that is up has not been tried.
    pub(super) fn has_good(&self, tried: Tried, now_ms: u64) -> bool {
        self.untried(tried, 0).any(|(_, member)| matches!(member.health.rank(now_ms), Rank::Up(_)))
    }

    /// Whether there is a server that has not been tried.
    pub(super) fn has_other(&self, tried: Tried) -> bool {
        self.untried(tried, 0).next().is_some()
    }

    fn best(&self, tried: Tried, now_ms: u64) -> Option<(Rank, usize)> {
        let start = self.0.turn.fetch_add(1, Ordering::Relaxed) % self.members().len();
        // Of equal ranks the first: whose turn it is.
        self.untried(tried, start).map(|(index, member)| (member.health.rank(now_ms), index)).min_by_key(|(rank, _)| *rank)
    }

    /// Servers from `start` on, round to the one before it.
    fn untried(&self, tried: Tried, start: usize) -> impl Iterator<Item = (usize, &Member)> {
        let members = self.members().iter().enumerate();
        members.clone().skip(start).chain(members.take(start)).filter(move |(index, _)| !tried.has(*index))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members().iter().map(|member| &member.health)).finish()
    }
}

#[cfg(test)]
mod tests;
