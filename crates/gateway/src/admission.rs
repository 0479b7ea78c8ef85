//! Whether a request may go on, and to what: everything that is decided from its head, before a byte of its body is read.
//!
//! What must stay true: a binding's rules and limits come before everything that is done for its clients, refusals and
//! answers of the gateway's own included.

use std::net::IpAddr;
use std::sync::Arc;

use berth_names::{Content, Origin, Work};
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Version};
use pingora::proxy::Session;

use crate::bindings::Binding;
use crate::connection::Connection;
use crate::forwarded::Forwarded;
use crate::limits::{Exceeded, Limits, SMALL_BODY_MAX};
use crate::own::Own;
use crate::proxy::{Gateway, Request};
use crate::refusal::Refusal;
use crate::request_id::{self, X_REQUEST_ID};
use crate::rewrite::{self, Action, Arrival, Meaning};
use crate::{head, probe, traces};

/// What a request is answered with.
pub(crate) enum Answer {
    /// What the backend says to this.
    Pass(rewrite::Upstream),
    /// Something of the gateway's own.
    Own(Own),
    /// How it arrived, for `berth-gateway doctor`.
    Probe {
        /// Path and query, as they came.
        target: Box<[u8]>,
        /// What the client used, as far as is known here; none if no binding is for its host.
        origin: Option<Origin>,
    },
}

impl Gateway {
    /// What a request is answered with, if anything but a refusal.
    pub(crate) fn admit(&self, session: &mut Session, request: &mut Request) -> Result<Answer, Refusal> {
        let connection = request.connection.clone().ok_or(Refusal::Internal)?;
        let listener = connection.slot.listener();
        request.observed.admitted(&connection.slot.metrics().any_host);
        let is_trusted = self.live.trusts(connection.peer);
        request.spans = self.live.observe.trace(session.req_header(), is_trusted);
        let raw_head = session.to_h1_raw();
        if connection.slot.is_ending() {
            session.set_keepalive(None);
        }
        let unknown = listener.bindings.for_handshake(None);
        set_limits(session, &unknown.map_or_else(Limits::default, |binding| binding.limits.clone()));
        // Pingora's copy of the head says more precisely what is wrong, but the bytes as they came decide.
        let is_understood = connection.understands_next();
        let target = head::check(&raw_head)?.target;
        if !is_understood {
            return Err(Refusal::Malformed);
        }
        let head = session.req_header_mut();
        if !is_trusted {
            traces::drop_claims(head);
        }
        if let Some(id) = request_id::given(head.headers.get(X_REQUEST_ID), is_trusted) {
            request.id = id;
        }
        let forwarded = if is_trusted { Forwarded::read(&head.headers, &self.live.trusted_proxies()) } else { Forwarded::default() };
        let client = *request.client.insert(forwarded.client.unwrap_or(connection.peer));
        let may_lack_host = head.version == Version::HTTP_10;
        let arrival = Arrival { listener: &listener, port: connection.port, forwarded: &forwarded, may_lack_host };
        let hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let is_probe = self.live.answers_probes() && probe::is_probe(target);
        let method = head.method.clone();
        let meaning = if is_probe { rewrite::probe(arrival, hosts) } else { rewrite::rewrite(arrival, &method, target, hosts) };
        let (binding, action) = match meaning {
            Ok(Meaning::Bound(binding, action)) => (binding, action),
            // The likeliest reason is a host that was changed on the way, which is for doctor to say. Whose it is can't be
            // told, but somebody's limits must hold.
            Err(Refusal::UnknownHost) if is_probe => (unknown.cloned().ok_or(Refusal::UnknownHost)?, Ok(Action::Report(None))),
            Err(refusal) => return Err(refusal),
            Ok(Meaning::AcmeChallenge(token)) => {
                let answer = self.live.acme().and_then(|acme| acme.http_answer(&token)).ok_or(Refusal::NotFound)?;
                return Ok(Answer::Own(Own::challenge(&answer)));
            }
        };
        request.observed.admitted(binding.counted.get_or_init(|| self.live.observe.metrics.binding(&binding.label)));
        request.binding = Some(Arc::clone(&binding));
        if raw_head.len() > binding.limits.header_bytes || head.headers.len() > binding.limits.header_fields {
            return Err(Refusal::HeadTooLarge);
        }
        check_access(&binding, &connection, client)?;
        request.admission = self.live.meter.request(&binding, client).map_err(|exceeded| match exceeded {
            Exceeded::Client => Refusal::TooMany,
            Exceeded::Binding => Refusal::Busy,
        })?;
        // Registry clients upgrade to nothing.
        head.remove_header(&UPGRADE);
        set_limits(session, &binding.limits);
        match action? {
            Action::Report(origin) => Ok(Answer::Probe { target: target.into(), origin }),
            Action::Pass(upstream) if binding.access.read_only && !upstream.only_reads(&method) => Err(Refusal::ReadOnly),
            Action::Pass(upstream) => {
                let path = upstream.target.split('?').next().unwrap_or_default();
                request.work = Work::of(method.as_str(), path);
                if request.work.content == Content::Small && announces_body(&session.req_header().headers) {
                    request.small_body = Some(self.live.meter.body(client).map_err(|_| Refusal::TooMany)?);
                    request.pace.begin();
                    session.set_read_timeout(Some(SMALL_BODY_MAX.min(binding.limits.body_idle_timeout)));
                }
                Ok(Answer::Pass(upstream))
            }
            Action::Options => Ok(Answer::Own(Own::options(binding.access.read_only))),
            Action::Redirect(to) => Ok(Answer::Own(Own::redirect(&to)?)),
            Action::GiveAuthority => Own::authority(&binding).map(Answer::Own),
            Action::ExplainTrust(origin) => Own::trust(&binding, &origin, &self.live.registries()).map(Answer::Own),
        }
    }
}

/// Whether a body follows.
fn announces_body(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") || headers.contains_key(TRANSFER_ENCODING)
}

/// Whether the binding is for this client.
fn check_access(binding: &Binding, connection: &Connection, client: IpAddr) -> Result<(), Refusal> {
    if !binding.access.admits(client) {
        return Err(Refusal::Denied);
    }
    // A client may use one connection for every host of its certificate; it has shown its own for one of them.
    let wanted = binding.tls.as_ref().and_then(|tls| tls.client_authority());
    if wanted.is_some_and(|wanted| connection.client_authority.as_ref() != Some(wanted)) {
        return Err(Refusal::CertificateRequired);
    }
    Ok(())
}

/// Pingora's default of aborting when a client closes its side stays: registry clients never half-close, and what a
/// vanished client asked for should not go on.
fn set_limits(session: &mut Session, limits: &Limits) {
    session.set_read_timeout(Some(limits.body_idle_timeout));
    session.set_write_timeout(Some(limits.body_idle_timeout));
    session.set_min_send_rate(limits.min_body_bytes_per_second.map(|rate| rate as usize));
    // Pingora keeps connections without a limit. None: this one will be closed, and must stay so.
    if session.get_keepalive().is_some() && !session.is_process_shutting_down() {
        session.set_keepalive(Some(limits.keepalive_timeout.as_secs()));
    }
}
