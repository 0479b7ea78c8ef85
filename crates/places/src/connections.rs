//! Open connections: a bound on all of them and on each client's, and who gives way when it is reached.
//!
//! What must stay true:
//! - A connection that is in use is never ended for another's sake, nor one that has been idle for a shorter time than
//!   another one of the same client.
//! - Turning idle and busy, which every request does, takes no lock. What is expensive, finding who gives way, is done
//!   only when places are short, and then for several places at once.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::Client;

/// Connections that give way together, at most: one search for that many places.
const GIVE_WAY_MAX: usize = 64;

/// Of what a client holds, one part in so many gives way at a time, at least one connection.
const GIVE_WAY_PART: usize = 16;

/// Connections that have been told to end and still have a descriptor. With so many, newcomers wait for them.
const ENDING_MAX: usize = 256;

/// [`Seat::idle_since`] of a connection that is in use.
const BUSY: u64 = 0;

/// [`Seat::idle_since`] of one that was told to give way.
const ENDING: u64 = u64::MAX;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of all clients together.
    pub all: usize,
    /// Of one client.
    pub per_client: usize,
}

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The other end.
    pub client: Client,
    /// It speaks for many: it has no bound of its own, and is the last to give way.
    pub is_trusted: bool,
}

/// A client has as many connections as it may, and uses them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// The open connections.
#[derive(Debug)]
pub struct Connections {
    epoch: Instant,
    all: AtomicUsize,
    per_client: AtomicUsize,
    state: Mutex<State>,
    /// Rung for everybody who waits, whenever a connection has ended or could give way.
    changed: Notify,
    /// How many wait for a place.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// Told to end, and not among `holders` any more.
    ending: usize,
    holders: HashMap<Holder, Vec<Arc<Seat>>>,
}

#[derive(Debug)]
struct Seat {
    /// Milliseconds since the epoch at which it turned idle, counted from 1; or [`BUSY`], or [`ENDING`].
    idle_since: AtomicU64,
    /// Where it stands in its holder's list. Changed under the lock.
    at: AtomicUsize,
    bell: Notify,
}

/// An open connection, until it is dropped. It begins idle.
#[derive(Debug)]
pub struct Place {
    of: Arc<Connections>,
    seat: Arc<Seat>,
    holder: Mutex<Holder>,
}

impl Connections {
    /// None yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            all: AtomicUsize::new(bounds.all),
            per_client: AtomicUsize::new(bounds.per_client),
            state: Mutex::default(),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Other bounds from now on. What is open beyond them goes on.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.all.store(bounds.all, Ordering::Relaxed);
        self.per_client.store(bounds.per_client, Ordering::Relaxed);
    }

    /// A place for one more connection. If there is none, others give way; if nobody can, it waits until one ends.
    ///
    /// # Errors
    /// [`TooMany`] if the client has as many as it may and none of them is idle.
    pub async fn take(self: &Arc<Self>, holder: Holder) -> Result<Place, TooMany> {
        if let Some(place) = self.try_take(holder)? {
            return Ok(place);
        }
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(place) = self.try_take(holder)? {
                return Ok(place);
            }
            changed.await;
        }
    }

    /// Lets some idle connections give way though there are places: descriptors are short.
    pub fn make_room(&self) -> usize {
        self.state().anybody_gives_way()
    }

    /// How many there are, those that are told to end included.
    pub fn open(&self) -> usize {
        let state = self.state();
        state.open + state.ending
    }

    /// Waits until there are none.
    pub async fn all_ended(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// `None`: not now.
    fn try_take(self: &Arc<Self>, holder: Holder) -> Result<Option<Place>, TooMany> {
        let mut state = self.state();
        self.make_way_for(&mut state, holder)?;
        if state.open >= self.all.load(Ordering::Relaxed) {
            state.anybody_gives_way();
        }
        if state.open >= self.all.load(Ordering::Relaxed) || state.ending >= ENDING_MAX {
            return Ok(None);
        }
        let seat = Arc::new(Seat { idle_since: AtomicU64::new(self.now()), at: AtomicUsize::new(0), bell: Notify::new() });
        state.add(holder, &seat);
        drop(state);
        Ok(Some(Place { of: Arc::clone(self), seat, holder: Mutex::new(holder) }))
    }

    /// A client that has as many as it may gives up one of its own.
    fn make_way_for(&self, state: &mut State, holder: Holder) -> Result<(), TooMany> {
        let held = state.holders.get(&holder).map_or(0, Vec::len);
        if holder.is_trusted || held < self.per_client.load(Ordering::Relaxed) || state.gives_way(holder, GIVE_WAY_MAX) > 0 {
            Ok(())
        } else {
            Err(TooMany)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).map_or(ENDING - 1, |elapsed| elapsed + 1)
    }
}

impl State {
    fn add(&mut self, holder: Holder, seat: &Arc<Seat>) {
        let held = self.holders.entry(holder).or_default();
        seat.at.store(held.len(), Ordering::Relaxed);
        held.push(Arc::clone(seat));
        self.open += 1;
    }

    fn remove(&mut self, holder: Holder, seat: &Seat) {
        let Some(held) = self.holders.get_mut(&holder) else { return };
        let at = seat.at.load(Ordering::Relaxed);
        if held.get(at).is_some_and(|there| std::ptr::eq(Arc::as_ptr(there), seat)) {
            held.swap_remove(at);
            if let Some(moved) = held.get(at) {
                moved.at.store(at, Ordering::Relaxed);
            }
            self.open -= 1;
        }
        if held.is_empty() {
            self.holders.remove(&holder);
        }
    }

    /// Whoever holds most gives up what has been idle longest; if nothing of it is idle, whoever comes next. Those who
    /// speak for many come last.
    fn anybody_gives_way(&mut self) -> usize {
        let mut holders: Vec<_> = self.holders.iter().map(|(holder, held)| (holder.is_trusted, Reverse(held.len()), *holder)).collect();
        holders.sort_unstable_by_key(|(is_trusted, held, _)| (*is_trusted, *held));
        holders.into_iter().map(|(_, _, holder)| self.gives_way(holder, GIVE_WAY_MAX)).find(|gave| *gave > 0).unwrap_or(0)
    }

    /// How many connections of a holder give way, of `max`: those that have been idle longest.
    fn gives_way(&mut self, holder: Holder, max: usize) -> usize {
        let Some(held) = self.holders.get(&holder) else { return 0 };
        let wanted = (held.len() / GIVE_WAY_PART).clamp(1, max);
        // What is in use is looked at and no more: a client that uses all it has may come again and again.
        let idle = held.iter().map(|seat| (seat.idle_since.load(Ordering::SeqCst), seat));
        let mut idle: Vec<_> = idle.filter(|(since, _)| *since != BUSY).collect();
        if idle.len() > wanted {
            idle.select_nth_unstable_by_key(wanted - 1, |(since, _)| *since);
            idle.truncate(wanted);
        }
        let idle: Vec<_> = idle.into_iter().map(|(since, seat)| (since, Arc::clone(seat))).collect();
        let mut gave = 0;
        for (since, seat) in idle {
            // One that has turned busy meanwhile stays.
            if seat.idle_since.compare_exchange(since, ENDING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.remove(holder, &seat);
                self.ending += 1;
                gave += 1;
                seat.bell.notify_one();
            }
        }
        gave
    }
}

impl Place {
    /// The connection waits for its client from now on.
    pub fn idle(&self) {
        self.turn(self.of.now());
        // Whoever begins to wait after this sees that it is idle.
        if self.of.waiting.load(Ordering::SeqCst) > 0 {
            self.of.changed.notify_waiters();
        }
    }

    /// It is in use from now on.
    pub fn busy(&self) {
        self.turn(BUSY);
    }

    /// Resolves when it is to give way to another, if it is idle still.
    pub async fn must_give_way(&self) {
        loop {
            self.seat.bell.notified().await;
            if self.seat.idle_since.load(Ordering::Relaxed) == ENDING {
                return;
            }
        }
    }

    /// Counts it for somebody else from now on: it has turned out who is at the other end.
    ///
    /// # Errors
    /// [`TooMany`] if that one has as many as it may. Then nothing has changed.
    pub fn belongs_to(&self, holder: Holder) -> Result<(), TooMany> {
        let mut present = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == holder {
            return Ok(());
        }
        let mut state = self.of.state();
        self.of.make_way_for(&mut state, holder)?;
        // One that is ending is in nobody's list.
        if self.seat.idle_since.load(Ordering::Relaxed) != ENDING {
            state.remove(*present, &self.seat);
            state.add(holder, &self.seat);
        }
        *present = holder;
        Ok(())
    }

    fn turn(&self, to: u64) {
        // Told to end, but a request came first: it goes on, and is counted again.
        if self.seat.idle_since.swap(to, Ordering::SeqCst) == ENDING {
            let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.of.state();
            state.ending -= 1;
            state.add(*holder, &self.seat);
        }
    }
}

/// Counts as waiting until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let holder = *self.holder.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.of.state();
        // Under the lock: whoever lets it give way holds that too.
        if self.seat.idle_since.load(Ordering::Relaxed) == ENDING {
            state.ending -= 1;
        } else {
            state.remove(holder, &self.seat);
        }
        drop(state);
        self.of.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
