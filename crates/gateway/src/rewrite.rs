//! What the backend is asked when a client asks us: a pure function.
//!
//! What must stay true:
//! - A path that passes can be read in one way only: no percent-encoding, no empty, `.` or `..` segment, and no character
//!   outside those of names, tags, digests and ids. The backend refuses the same, so the two always agree (the query is
//!   not interpreted here and goes on as it came).
//! - The host that the backend is told is the one the client used, with the port of the listener, whatever port the
//!   client wrote: every URL the backend makes leads back to this listener.

use std::str;

use berth_names::{Authority, Origin, RepositoryKey, Scheme};
use http::Method;

use crate::bindings::{Bound, Listener};
use crate::refusal::Refusal;

/// A request as it goes to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The repository it is for; `None` on a console binding.
    pub repository: Option<RepositoryKey>,
    /// Path and query.
    pub target: String,
    /// Scheme, host and port that the client used.
    pub origin: Origin,
}

/// Decides what a request with this method, request target and `Host` values, as they came, means on `listener`.
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn rewrite<'a>(
    listener: &Listener,
    method: &Method,
    target: &'a [u8],
    hosts: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Upstream, Refusal> {
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    let host = only_host(hosts)?;
    let target = Target::parse(target)?;
    if let Some((scheme, authority)) = &target.absolute
        && (*scheme != listener.scheme || *authority != host)
    {
        return Err(Refusal::HostMismatch);
    }
    check_path(target.path)?;
    check_query(target.query)?;
    let (docker_path, is_management) = (docker_path(target.path), is_management(target.path));
    if docker_path.is_none() && !is_management {
        return Err(Refusal::NotFound);
    }
    let (repository, target) = match (listener.bindings.find(&host).ok_or(Refusal::UnknownHost)?, docker_path) {
        (Bound::Repository(key), Some(path)) => (Some(key.clone()), upstream_target(key, path, target.query)),
        (Bound::Console, None) => (None, format!("{}{}", target.path, target.query)),
        (Bound::Repository(_), None) | (Bound::Console, Some(_)) => return Err(Refusal::NotFound),
    };
    Ok(Upstream { repository, target, origin: Origin::on_port(listener.scheme, &host, listener.port) })
}

fn only_host<'a>(hosts: impl IntoIterator<Item = &'a [u8]>) -> Result<Authority, Refusal> {
    let mut hosts = hosts.into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => parse_authority(host),
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
    path: &'a str,
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
        Ok(Self { absolute, path, query })
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
    ["/artifactory/", "/api/"].iter().any(|prefix| path.starts_with(prefix))
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

fn upstream_target(repository: &RepositoryKey, docker_path: &str, query: &str) -> String {
    const PREFIX: &str = "/artifactory/api/docker/";
    let mut target = String::with_capacity(PREFIX.len() + repository.as_str().len() + docker_path.len() + query.len());
    target.push_str(PREFIX);
    target.push_str(repository.as_str());
    target.push_str(docker_path);
    target.push_str(query);
    target
}

#[cfg(test)]
mod tests;
