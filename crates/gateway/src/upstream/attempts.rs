//! The attempts of one request: on which server it is now, and whether it may go to another one after a failure.
//!
//! What may be sent again, and why:
//! - While no connection could be made (or no TLS session), nothing was sent: any method may go elsewhere. The body is
//!   still with the client, or as a whole in Pingora's buffer, which holds 64 KiB of it.
//! - Once a connection is there, the request counts as not begun until the first piece of its body, or its end, is handed
//!   over: a head without its body is no request that a server could act on. Until then it is as above.
//! - After that only safe methods (GET, HEAD, OPTIONS) are sent again. PUT and DELETE are not, though HTTP calls them
//!   idempotent and Pingora would: that the *state* is the same after the second one does not make the *answer* so. The
//!   `PUT …?digest=` that finished an upload finds no upload the second time, a deleted manifest is unknown, and the
//!   client would be told 404 for what was done. The second one may also undo what somebody else did in between, such as
//!   moving the same tag. A 502 says what is known; clients begin such a step anew.
//! - Nothing is sent again once an answer has begun, nor after a timeout: who waited half an hour need not wait again.
//!
//! Attempts are bounded: each server gets one, and [`ATTEMPTS_MAX`] of them do; a request that breaks off fresh connections
//! may be what kills the servers, and is handed on [`REPLAYS_MAX`] times only.

use std::time::{Duration, Instant};

use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};
use tracing::debug;

use super::pool::{Choice, Member, Tried};
use super::{CONNECT_MAX, Pool};

/// Most servers that a request is sent to, and thereby how many times [`CONNECT_MAX`] a client may wait for a connection.
const ATTEMPTS_MAX: u32 = 3;

/// Why a request is not sent to a server that takes connections and answers nothing.
pub(crate) const SILENT: &str = "every backend is silent";

/// How often a request is handed on that broke off a connection made for it.
const REPLAYS_MAX: u32 = 1;

/// The attempts of one request. Dropping it takes the request off its server.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// The pool of the first attempt: a reload in between does not matter to this request.
    pool: Option<Pool>,
    current: Option<Choice>,
    tried: Tried,
    made: u32,
    replays: u32,
    first: Option<Instant>,
    has_begun: bool,
    is_answered: bool,
}

/// A connection that broke with a request on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken {
    /// It had been used before: the server may have closed it before it saw the request.
    pub(crate) was_reused: bool,
    /// The request changes nothing.
    pub(crate) is_safe: bool,
    /// What was read of its body is kept as a whole.
    pub(crate) is_kept: bool,
}

impl Attempts {
    /// Puts the request on the best server that it has not been on yet, which may say nothing for `silence`.
    ///
    /// # Errors
    /// If it has been on all of them, or those that are left are silent.
    pub(crate) fn next(&mut self, current: &Pool, silence: Duration) -> pingora::Result<Box<HttpPeer>> {
        self.leave();
        let pool = self.pool.get_or_insert_with(|| current.clone());
        let choice = match pool.only() {
            Some(_) => Some(Choice { index: 0, is_trial: false }),
            None => {
                self.first.get_or_insert_with(Instant::now);
                pool.choose(self.tried, pool.now_ms())
            }
        };
        let Some((choice, member)) = choice.and_then(|choice| Some((choice, pool.members().get(choice.index)?))) else {
            return Err(Error::explain(ErrorType::ConnectNoRoute, "every backend has been tried").into_up());
        };
        if member.health.is_silent() {
            return Err(Error::new_up(ErrorType::Custom(SILENT)));
        }
        member.health.enter();
        self.tried.add(choice.index);
        self.made += 1;
        self.current = Some(choice);
        Ok(Box::new(super::peer::for_this_thread(&member.peer, silence)))
    }

    /// The request, or a piece of it without which no server could act on it, is being sent.
    pub(crate) fn begun(&mut self) {
        self.has_begun = true;
    }

    /// The head of the final answer has arrived.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
        if let Some((_, member)) = self.member() {
            member.health.answered();
        }
    }

    /// There was no connection. Marks the error as one after which to go on, or not.
    pub(crate) fn connect_failed(&mut self, error: &mut Error, is_kept: bool) {
        self.count(error);
        error.set_retry(is_kept && self.may_go_on());
    }

    /// The connection broke. Marks the error as one after which to go on, or not.
    pub(crate) fn broke(&mut self, error: &mut Error, broken: Broken) {
        let is_lost = *error.esource() == ErrorSource::Upstream && !self.is_answered;
        if is_lost {
            self.count(error);
        }
        let is_timeout = matches!(error.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        let may_repeat = (broken.is_safe || !self.has_begun) && broken.is_kept;
        error.set_retry(is_lost && !is_timeout && may_repeat && self.may_replay(broken.was_reused));
    }

    /// The address of the server that the request is or was on.
    pub(crate) fn address(&self) -> Option<&super::Address> {
        self.member().map(|(_, member)| &member.health.address)
    }

    fn member(&self) -> Option<(Choice, &Member)> {
        let choice = self.current?;
        Some((choice, self.pool.as_ref()?.members().get(choice.index)?))
    }

    /// Counts a failure against the server, if it is the server's.
    fn count(&self, error: &Error) {
        let is_ours = matches!(error.etype(), ErrorType::InternalError | ErrorType::SocketError | ErrorType::BindError);
        if let (Some((choice, member)), Some(pool), false) = (self.member(), &self.pool, is_ours) {
            debug!(backend.address = %member.health.address, %error, "attempt failed");
            member.health.failed(pool.now_ms(), choice.is_trial, error);
        }
    }

    /// Whether another server may be tried. One that is up always may; one that is probably down only while the client has
    /// waited for less than one connection may take, so that a total failure is reported after that time.
    fn may_go_on(&self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let waited = self.first.map_or(Duration::ZERO, |first| first.elapsed());
        self.made < ATTEMPTS_MAX && pool.has_other(self.tried) && (waited < CONNECT_MAX || pool.has_good(self.tried, pool.now_ms()))
    }

    fn may_replay(&mut self, was_reused: bool) -> bool {
        if was_reused && self.pool.as_ref().is_some_and(|pool| pool.only().is_some()) {
            // Nowhere else to go, but the server may well be there.
            return self.made < ATTEMPTS_MAX;
        }
        if !was_reused {
            self.replays += 1;
        }
        self.replays <= REPLAYS_MAX && self.may_go_on()
    }

    fn leave(&mut self) {
        if let Some((_, member)) = self.member() {
            member.health.leave();
        }
        self.current = None;
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
