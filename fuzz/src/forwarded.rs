//! What proxies in front say of a client.

use std::net::{IpAddr, SocketAddr};

use berth_backend::fuzzing::client_view;
use berth_gateway::forwarded::Forwarded;
use berth_names::{Authority, Network, Origin, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue};

const ROOT: &str = "/artifactory/api/docker/docker-local/";

/// Hops that the gateway follows.
const HOPS_MAX: usize = 32;

/// Both services see the same client, whom nothing that stands further left changes; a stranger is believed nothing.
///
/// An input is lines of headers.
pub fn headers(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(16) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let trusted = [Network::LOOPBACK_V4, Network::LOOPBACK_V6];
    let forwarded = Forwarded::read(&headers, &trusted);
    assert_ne!(forwarded.port, Some(0));
    assert!(forwarded.scheme.is_none() || forwarded.port.is_some());
    headers.entry("host").or_insert(HeaderValue::from_static("registry.example:444"));
    let Some((origin, root, address)) = client_view(None, &headers, ROOT) else { return };
    let (_, authority) = origin.split_once("://").unwrap();
    assert!(authority.parse::<Authority>().is_ok_and(|parsed| parsed.to_string() == authority), "{origin} is no origin");
    assert!(root == "/" || root == ROOT);

    let hops = headers.get_all("x-forwarded-for").iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).count();
    let address = address.map(|address: IpAddr| address.to_canonical());
    if hops <= HOPS_MAX {
        assert_eq!(forwarded.client, address, "the two services see different clients");
    }
    if let Some(client) = address.filter(|client| !trusted.iter().any(|network| network.contains(*client))) {
        // Somebody in front of it may write what he likes.
        let mut more = HeaderMap::new();
        more.append("x-forwarded-for", HeaderValue::from_static("203.0.113.99, 127.0.0.1"));
        for (name, value) in &headers {
            more.append(name, value.clone());
        }
        assert_eq!(client_view(None, &more, ROOT).unwrap().2.map(|address| address.to_canonical()), Some(client));
        if hops + 2 <= HOPS_MAX {
            assert_eq!(Forwarded::read(&more, &trusted).client, Some(client));
        }
    }
    let stranger: SocketAddr = "203.0.113.9:5".parse().unwrap();
    let (origin, root, address) = client_view(Some(stranger), &headers, ROOT).unwrap();
    assert_eq!((root.as_str(), address), (ROOT, Some(stranger.ip())));
    let host: Authority = headers.get("host").unwrap().to_str().unwrap().parse().unwrap();
    assert_eq!(origin, Origin::new(Scheme::Http, host).to_string(), "a stranger changes the origin");
}
