//! Where the client thinks it is: the one place that decides what we may say about ourselves.
//!
//! Forwarding headers count only from a trusted peer: the Unix socket, or an address in `trusted_proxies`.

use berth_names::{Authority, Hops, Origin, Scheme};
use berth_registry::access::Remote;
use http::HeaderMap;
use http::header::{AsHeaderName, HOST};

use crate::config::TrustedProxies;
use crate::server::Peer;

/// Headers by which a front tells that it is one. A front maps `/v2/` of a port or host to our prefix.
const FORWARDING: [&str; 6] =
    ["x-forwarded-proto", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "x-artifactory-override-base-url"];

/// How the client sees us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientView {
    /// Scheme, host and port that the client used.
    pub(crate) origin: Origin,
    /// The path in front of `v2/` as the client sees it: `/` behind a front, our prefix without one.
    root: String,
    /// Who the client is, and who says so: for logs, and to slow down who guesses passwords.
    pub(crate) remote: Remote,
}

/// The `Host` header is missing, there twice, or no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidHost;

impl ClientView {
    /// Works out the client's view of a request that came from `peer` under the path `root`.
    pub(crate) fn new(peer: Peer, trusted: &TrustedProxies, headers: &HeaderMap, root: &str) -> Result<Self, InvalidHost> {
        let authority: Authority = single(headers, HOST).ok_or(InvalidHost)?.parse().map_err(|_| InvalidHost)?;
        if !trusted.trusts(peer) || !FORWARDING.iter().any(|name| headers.contains_key(*name)) {
            return Ok(Self { origin: Origin::new(Scheme::Http, authority), root: root.to_owned(), remote: peer.ip().into() });
        }
        let hops = Hops::walk(texts(headers, "x-forwarded-for"), |hop| trusted.contains(hop));
        let scheme = scheme(headers, &hops);
        let origin = match (authority.port(), forwarded_port(headers, &hops)) {
            (None, Some(port)) => Origin::on_port(scheme, &authority, port),
            _ => Origin::new(scheme, authority),
        };
        let remote = Remote { peer: peer.ip(), claimed: hops.client };
        Ok(Self { origin, root: "/".to_owned(), remote })
    }

    /// The path in front of `v1/` or `v2/` as the client sees it.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// What a `Location` starts with, up to `v2/`.
    ///
    /// A path, so that no front can get scheme, host or port wrong; but docker up to 1.7 needs the whole URL.
    pub(crate) fn location_root(&self, user_agent: &str) -> String {
        if needs_absolute_location(user_agent) { format!("{}{}", self.origin, self.root) } else { self.root.clone() }
    }
}

/// docker 1.5, 1.6 and 1.7 speak V2 and take a `Location` literally.
fn needs_absolute_location(user_agent: &str) -> bool {
    ["docker/1.5", "docker/1.6", "docker/1.7"]
        .iter()
        .any(|version| user_agent.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ' ', '-'])))
}

fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The values of a header, in order; of one that is no text nothing can be read.
fn texts<'h>(headers: &'h HeaderMap, name: &'static str) -> impl DoubleEndedIterator<Item = &'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default())
}

fn scheme(headers: &HeaderMap, hops: &Hops) -> Scheme {
    let said = hops.element(texts(headers, "x-forwarded-proto")).and_then(|text| text.to_ascii_lowercase().parse().ok());
    let base = || single(headers, "x-artifactory-override-base-url")?.split_once("://")?.0.parse().ok();
    said.or_else(base).unwrap_or(Scheme::Http)
}

fn forwarded_port(headers: &HeaderMap, hops: &Hops) -> Option<u16> {
    hops.element(texts(headers, "x-forwarded-port"))?.parse().ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const ROOT: &str = "/artifactory/api/docker/docker-local/";

    fn view(peer: &str, headers: &[(&str, &str)]) -> Result<ClientView, InvalidHost> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let peer = if peer == "unix" { Peer::Unix } else { Peer::Tcp(peer.parse().unwrap()) };
        ClientView::new(peer, &TrustedProxies::this_host(), &map, ROOT)
    }

    #[test]
    fn a_front_decides_scheme_and_port_and_hides_our_prefix() {
        let front = [("host", "r.example:444"), ("x-forwarded-proto", "https"), ("x-forwarded-for", "192.0.2.7")];
        for peer in ["unix", "127.0.0.1:9"] {
            let seen = view(peer, &front).unwrap();
            assert_eq!(seen.origin.to_string(), "https://r.example:444");
            assert_eq!(seen.location_root("docker/20.10.24"), "/");
            assert_eq!(seen.location_root("docker/1.6.2 go/1"), "https://r.example:444/");
            assert_eq!(seen.remote.address(), Some("192.0.2.7".parse().unwrap()));
        }
        let lost = view("unix", &[("host", "r.example"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "444")]).unwrap();
        assert_eq!(lost.origin.to_string(), "https://r.example:444");
        let old =
            view("unix", &[("host", "r.example:444"), ("x-artifactory-override-base-url", "https://r.example:444/artifactory")]).unwrap();
        assert_eq!(old.origin.to_string(), "https://r.example:444");
    }

    #[test]
    fn a_client_that_is_no_front_can_say_what_it_likes() {
        let spoofed = [("host", "r.example"), ("x-forwarded-proto", "https"), ("x-forwarded-port", "1"), ("x-forwarded-for", "127.0.0.1")];
        let seen = view("203.0.113.9:5", &spoofed).unwrap();
        assert_eq!(seen.origin.to_string(), "http://r.example");
        assert_eq!(seen.location_root(""), ROOT);
        assert_eq!(seen.remote.address(), Some("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn of_several_proxies_the_first_of_ours_says_what_the_client_used() {
        for (hops, proto, origin) in [
            ("192.0.2.7", "https", "https://r.example"),
            ("192.0.2.7", "https, http", "http://r.example"),
            ("192.0.2.7, 127.0.0.2", "gopher, https, http", "https://r.example"),
            ("192.0.2.7, 127.0.0.3, 127.0.0.2", "HTTPS", "https://r.example"),
        ] {
            let headers = [("host", "r.example"), ("x-forwarded-for", hops), ("x-forwarded-proto", proto)];
            let seen = view("unix", &headers).unwrap();
            assert_eq!(seen.origin.to_string(), origin, "{hops} {proto}");
            assert_eq!(seen.remote.address(), Some("192.0.2.7".parse().unwrap()));
        }
    }

    #[test]
    fn what_a_proxy_claims_stands_beside_who_it_is() {
        let claim = [("host", "a"), ("x-forwarded-for", "192.0.2.7")];
        let (claimed, local) = (Some("192.0.2.7".parse().unwrap()), "127.0.0.1".parse().unwrap());
        for (peer, headers, remote) in [
            ("127.0.0.1:9", &claim[..], Remote { peer: Some(local), claimed }),
            ("unix", &claim, Remote { peer: None, claimed }),
            ("127.0.0.1:9", &claim[..1], Remote { peer: Some(local), claimed: None }),
            ("203.0.113.9:5", &claim, Remote { peer: Some("203.0.113.9".parse().unwrap()), claimed: None }),
        ] {
            assert_eq!(view(peer, headers).unwrap().remote, remote);
        }
    }

    #[test]
    fn direct_use_keeps_our_prefix() {
        assert_eq!(view("127.0.0.1:9", &[("host", "localhost:8081")]).unwrap().location_root(""), ROOT);
    }

    #[test]
    fn there_is_exactly_one_host() {
        for headers in [&[][..], &[("host", "a"), ("host", "a")], &[("host", "a b")], &[("host", "")], &[("host", "a:99999")]] {
            assert_eq!(view("unix", headers), Err(InvalidHost));
        }
    }

    #[test]
    fn only_the_docker_versions_that_need_it_get_absolute_locations() {
        for (agent, needs) in
            [("docker/1.7.1 go/go1.4", true), ("docker/1.6", true), ("docker/1.10.3", false), ("docker/1.70", false), ("", false)]
        {
            assert_eq!(needs_absolute_location(agent), needs, "{agent}");
        }
    }
}
