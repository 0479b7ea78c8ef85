//! What the backend is asked when a client asks us: a pure function.
//!
//! What must stay true:
//! - A path that passes can be read in one way only: no empty, `.` or `..` segment, no character outside those of names, tags,
//!   digests and ids, and percent-encoding only of such a character, which goes on as itself ([`plain_path`]). The backend
//!   reads and refuses the same, so the two always agree (the query is not interpreted here and goes on as it came).
//! - The host that the backend is told is the one the client used, with the port of the listener, whatever port the
//!   client wrote: every URL the backend makes leads back to this listener.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::str;
use std::sync::Arc;

use berth_names::wire::{self, ALL_REPOSITORIES, API_PREFIXES, DOCKER_PREFIX, TREE_PREFIX};
use berth_names::{Authority, Origin, RepositoryKey, Scheme, plain_path};
use http::Method;

use crate::acme::HTTP_PREFIX;
use crate::bindings::{Binding, Bound, Listener};
use crate::forwarded::Forwarded;
use crate::refusal::Refusal;

/// The authority's certificate, on a console binding.
pub const AUTHORITY_PATH: &str = "/_ca.pem";

/// How to make clients trust that authority, on a console binding.
pub const TRUST_PATH: &str = "/_trust";

/// How a request arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Where.
    pub listener: &'a Listener,
    /// The port that the client connected to, as far as it can be seen from here.
    pub port: u16,
    /// What trusted proxies said; empty if there are none.
    pub forwarded: &'a Forwarded,
    /// Whether it may do without a host: HTTP/1.0 had none, and load balancers still ask so.
    pub may_lack_host: bool,
}

/// What a request means.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// Something of a binding's, or nothing that it knows: its limits and rules are for either.
    Bound(Arc<Binding>, Result<Action, Refusal>),
    /// An ACME server asks for the answer to this token.
    AcmeChallenge(Box<str>),
}

/// What is to be done with a request for a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The backend is asked.
    Pass(Upstream),
    /// A browser is sent to this URL.
    Redirect(String),
    /// The client is told what could be asked for.
    Options,
    /// The client is given the authority's certificate.
    GiveAuthority,
    /// The client is told how to trust the authority.
    ExplainTrust(Origin),
    /// The client is told how its request arrived, and what it is taken to have used; none if no binding is for its host.
    Report(Option<Origin>),
}

/// A request as it goes to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The repository it is for; `None` on a console binding, and for what is asked of all repositories as a whole.
    pub repository: Option<RepositoryKey>,
    /// Path and query.
    pub target: String,
    /// Scheme, host and port that the client used.
    pub origin: Origin,
}

impl Upstream {
    /// Whether it changes nothing, with this method: it reads, or only asks who somebody is. What the backend does not know
    /// might come to change something.
    pub fn only_reads(&self, method: &Method) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        method.is_safe() || wire::effect(method.as_str(), path).is_some_and(|effect| !effect.writes())
    }
}

/// Decides what a request with this method, request target and `Host` values, as they came, means.
///
/// # Errors
/// The [`Refusal`] to answer with, if it is not known what binding the request is for.
pub fn rewrite<'a>(
    arrival: Arrival<'_>,
    method: &Method,
    target: &'a [u8],
    hosts: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Meaning, Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    let host = only_host(hosts, arrival.may_lack_host)?;
    let target = Target::parse(target)?;
    let Arrival { listener, forwarded, .. } = arrival;
    if let Some((written, authority)) = &target.absolute
        && (*written != forwarded.scheme.unwrap_or(listener.scheme) || host.as_ref() != Some(authority))
    {
        return Err(Refusal::HostMismatch);
    }
    check_path(&target.path)?;
    check_query(target.query)?;
    if listener.scheme == Scheme::Http
        && let Some(token) = target.path.strip_prefix(HTTP_PREFIX)
    {
        return Ok(Meaning::AcmeChallenge(token.into()));
    }
    let (binding, host, origin) = locate(arrival, host)?;
    Ok(Meaning::Bound(Arc::clone(binding), action(binding, method, &host, &target, origin)))
}

/// The same for a probe, which is about the way here, whatever its method and path.
///
/// # Errors
/// As [`rewrite`].
pub fn probe<'a>(arrival: Arrival<'_>, hosts: impl IntoIterator<Item = &'a [u8]>) -> Result<Meaning, Refusal> {
    let host = only_host(hosts, arrival.may_lack_host)?;
    let (binding, _, origin) = locate(arrival, host)?;
    Ok(Meaning::Bound(Arc::clone(binding), Ok(Action::Report(Some(origin)))))
}

/// The binding for a request with this `Host`, the host that the client used, and all that it used. Who names no host is
/// taken to have used the address that is listened on, and is answered by the binding that is for every host.
fn locate(arrival: Arrival<'_>, host: Option<Authority>) -> Result<(&Arc<Binding>, Authority, Origin), Refusal> {
    let Arrival { listener, port, forwarded, .. } = arrival;
    let (binding, host) = match forwarded.host.clone().or(host) {
        Some(host) => (listener.bindings.find(host.host()).ok_or(Refusal::UnknownHost)?, host),
        None => {
            let address = Some(listener.address.ip()).filter(|address| !address.is_unspecified());
            let host = address.unwrap_or(Ipv4Addr::LOCALHOST.into()).into();
            (listener.bindings.for_any_host().ok_or(Refusal::Host)?, host)
        }
    };
    let scheme = forwarded.scheme.unwrap_or(listener.scheme);
    let origin = binding.public.origin(scheme, &host, forwarded.port.unwrap_or(port));
    Ok((binding, host, origin))
}

fn action(binding: &Binding, method: &Method, host: &Authority, target: &Target<'_>, origin: Origin) -> Result<Action, Refusal> {
    let (path, query) = (&*target.path, target.query);
    let Some(api_path) = docker_path(path) else {
        return match (&binding.bound, &binding.redirect) {
            (_, _) if *method == Method::OPTIONS && path == "/" => Ok(Action::Options),
            (Bound::Console(Some(_)), _) if path == AUTHORITY_PATH => Ok(Action::GiveAuthority),
            (Bound::Console(Some(_)), _) if path == TRUST_PATH => Ok(Action::ExplainTrust(origin)),
            (Bound::Console(_), _) if is_management(path) => {
                Ok(Action::Pass(Upstream { repository: None, target: format!("{path}{query}"), origin }))
            }
            (_, Some(to)) if matches!(*method, Method::GET | Method::HEAD) => Ok(Action::Redirect(format!("{to}{path}{query}"))),
            _ => Err(Refusal::NotFound),
        };
    };
    let of_one = |key: RepositoryKey| {
        let target = upstream_target(key.as_str(), api_path, query);
        Upstream { repository: Some(key), target, origin: origin.clone() }
    };
    match &binding.bound {
        Bound::Repository(key) => Ok(Action::Pass(of_one(key.clone()))),
        Bound::RepositoryFromHost => {
            let label = host.host().split('.').next().unwrap_or_default();
            Ok(Action::Pass(of_one(label.parse().map_err(|_| Refusal::Unbound)?)))
        }
        Bound::RepositoryFromPath => Ok(Action::Pass(of_all(api_path, query, origin))),
        Bound::Console(_) => Err(Refusal::NotFound),
        Bound::Nothing => Err(Refusal::OnlyRedirects),
    }
}

/// What the client asks of all repositories goes to them as it is: names begin with a repository there, and the backend has
/// to see that they do, since they are in its answers and in tokens too. The repository is told apart for our own records.
fn of_all(api_path: &str, query: &str, origin: Origin) -> Upstream {
    let named = api_path.strip_prefix("/v2/").and_then(|rest| rest.split_once('/'));
    let repository = named.and_then(|(key, _)| key.parse().ok());
    Upstream { repository, target: upstream_target(ALL_REPOSITORIES, api_path, query), origin }
}

fn only_host<'a>(hosts: impl IntoIterator<Item = &'a [u8]>, may_be_absent: bool) -> Result<Option<Authority>, Refusal> {
    let mut hosts = hosts.into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => parse_authority(host).map(Some),
        (None, _) if may_be_absent => Ok(None),
        _ => Err(Refusal::Host),
    }
}

fn parse_authority(text: &[u8]) -> Result<Authority, Refusal> {
    str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Refusal::Host)
}

/// A request target, taken apart.
struct Target<'a> {
    /// Scheme and authority of absolute-form, which proxies and some libraries send.
    absolute: Option<(Scheme, Authority)>,
    /// As it is read ([`plain_path`]).
    path: Cow<'a, str>,
    /// With its question mark, or empty.
    query: &'a str,
}

impl<'a> Target<'a> {
    fn parse(target: &'a [u8]) -> Result<Self, Refusal> {
        let target = str::from_utf8(target).map_err(|_| Refusal::Path)?;
        let (absolute, target) = match target.split_once("://") {
            Some((scheme, rest)) if !scheme.contains('/') => {
                let scheme = scheme.to_ascii_lowercase().parse().map_err(|()| Refusal::Target)?;
                let path_start = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (authority, path) = rest.split_at(path_start);
                (Some((scheme, parse_authority(authority.as_bytes())?)), path)
            }
            _ => (None, target),
        };
        if !target.starts_with('/') {
            return Err(Refusal::Target);
        }
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        Ok(Self { absolute, path: plain_path(path).ok_or(Refusal::Path)?, query })
    }
}

/// Refuses every path that two parsers could read differently. `path` starts with a slash.
fn check_path(path: &str) -> Result<(), Refusal> {
    if !path.bytes().all(is_path_byte) {
        return Err(Refusal::Path);
    }
    // Only the last segment may be empty: V1 has paths with a slash at their end.
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let is_plain = |segment: &str| !matches!(segment, "" | "." | "..");
    if path == "/" || inner.split('/').all(is_plain) { Ok(()) } else { Err(Refusal::Path) }
}

/// The characters of names, tags, digests, upload ids and user names, and the slash between them.
const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b':' | b'~' | b'@' | b'+' | b'=')
}

/// Refuses a query that is none by RFC 3986. `query` is empty or starts with a question mark.
fn check_query(query: &str) -> Result<(), Refusal> {
    let bytes = query.as_bytes();
    let is_legal = |(at, byte): (usize, &u8)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b',' | b';' | b'?' => true,
        byte => is_path_byte(*byte),
    };
    if bytes.iter().enumerate().all(is_legal) { Ok(()) } else { Err(Refusal::Query) }
}

/// Whether the path is one of the backend's own, which a console binding hands on as it is: the REST API, and behind
/// `/artifactory/` the files of every repository.
fn is_management(path: &str) -> bool {
    [TREE_PREFIX, API_PREFIXES[1]].iter().any(|prefix| path.starts_with(prefix))
}

/// The path within a repository, or `None` if it is not one of the registry APIs.
fn docker_path(path: &str) -> Option<&str> {
    // docker 0.6 and monitoring ask for `/_ping` without a version.
    if path == "/_ping" {
        return Some("/v1/_ping");
    }
    let is_api = matches!(path.get(..3), Some("/v1" | "/v2")) && matches!(path.as_bytes().get(3), None | Some(b'/'));
    is_api.then_some(path)
}

fn upstream_target(repository: &str, docker_path: &str, query: &str) -> String {
    let parts = [API_PREFIXES[0], DOCKER_PREFIX, repository, docker_path, query];
    let mut target = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| target.push_str(part));
    target
}

#[cfg(test)]
mod tests;
