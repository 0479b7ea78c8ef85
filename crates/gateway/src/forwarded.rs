//! What a proxy in front says of the client. Only a trusted peer is asked.

use std::net::{IpAddr, SocketAddr};

use berth_names::{Authority, Network, Scheme};
use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName};

/// Most hops of `X-Forwarded-For` that are followed from the right.
const HOPS_MAX: usize = 32;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What trusted proxies said of a request's client. What is absent was not said, or not in a form that can be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The address of the client: the last hop that is no trusted proxy.
    pub client: Option<IpAddr>,
    /// The scheme that it used.
    pub scheme: Option<Scheme>,
    /// The host that it asked for.
    pub host: Option<Authority>,
    /// The port that it connected to.
    pub port: Option<u16>,
}

impl Forwarded {
    /// Reads the headers of a request that a trusted peer sent. Of a list, the last element counts: it is the trusted
    /// peer's own, and what stands before it may be anybody's.
    pub fn read(headers: &HeaderMap, trusted: &[Network]) -> Self {
        let scheme = last(headers, X_FORWARDED_PROTO).and_then(|text| text.to_ascii_lowercase().parse().ok());
        let host: Option<Authority> = last(headers, X_FORWARDED_HOST).and_then(|text| text.parse().ok());
        let said = last(headers, X_FORWARDED_PORT).and_then(|text| text.parse().ok()).filter(|port| *port != 0);
        // A proxy that says how it was spoken to, but not on which port, was spoken to on the port in the URL.
        let of_host = || match &host {
            Some(host) => host.port(),
            None => single(headers, http::header::HOST).and_then(|text| text.parse::<Authority>().ok()).and_then(|host| host.port()),
        };
        let port = said.or_else(|| scheme.map(|scheme: Scheme| of_host().unwrap_or(scheme.default_port())));
        Self { client: client(headers, trusted), scheme, host, port }
    }
}

fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn last(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim)
}

/// The last hop that is not one of ours. What stands to the left of a hop that can't be read is hearsay, like all that
/// stands to the left of a stranger.
fn client(headers: &HeaderMap, trusted: &[Network]) -> Option<IpAddr> {
    let hops = headers.get_all(X_FORWARDED_FOR).iter().rev().flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    let mut client = None;
    for hop in hops.map_while(hop).take(HOPS_MAX) {
        client = Some(hop);
        if !trusted.iter().any(|network| network.contains(hop)) {
            break;
        }
    }
    client
}

/// An address; some proxies write its port too.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip())).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Forwarded {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Forwarded::read(&map, &["10.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn the_port_is_the_one_in_the_url_unless_it_is_said() {
        for (headers, port) in [
            (&[("x-forwarded-proto", "https"), ("host", "r.example")][..], Some(443)),
            (&[("x-forwarded-proto", "https"), ("host", "r.example:444")], Some(444)),
            (&[("x-forwarded-proto", "https"), ("host", "inner:8080"), ("x-forwarded-host", "r.example")], Some(443)),
            (&[("x-forwarded-proto", "https"), ("host", "r.example"), ("x-forwarded-port", "5000")], Some(5000)),
            (&[("x-forwarded-port", "0"), ("host", "r.example")], None),
            (&[("host", "r.example:444")], None),
        ] {
            assert_eq!(read(headers).port, port, "{headers:?}");
        }
    }

    #[test]
    fn the_client_is_the_last_stranger() {
        for (hops, client) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("198.51.100.1, 192.0.2.1, 10.0.0.7", Some("192.0.2.1")),
            ("10.0.0.8, 10.0.0.7", Some("10.0.0.8")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("192.0.2.1, unknown, 10.0.0.7", Some("10.0.0.7")),
            ("unknown", None),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
        ] {
            assert_eq!(read(&[("x-forwarded-for", hops)]).client, client.map(|text| text.parse().unwrap()), "{hops}");
        }
    }

    #[test]
    fn of_a_list_the_last_counts() {
        assert_eq!(read(&[("x-forwarded-proto", "http, https")]).scheme, Some(Scheme::Https));
        assert_eq!(read(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]).scheme, Some(Scheme::Http));
        assert_eq!(read(&[("x-forwarded-host", "evil, R.example:444")]).host, Some("r.example:444".parse().unwrap()));
        assert_eq!(read(&[("x-forwarded-proto", "gopher")]).scheme, None);
    }
}
