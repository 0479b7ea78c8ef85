//! What a proxy in front says of the client. Only a trusted peer is asked.

use std::net::IpAddr;

use berth_names::{Authority, Hops, Network, Scheme};
use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName};

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
    /// Reads the headers of a request that a trusted peer sent. Of each list that counts which was written by the trusted
    /// proxy that the client spoke to; what stands before it may be anybody's.
    pub fn read(headers: &HeaderMap, trusted: &[Network]) -> Self {
        let hops = Hops::walk(texts(headers, X_FORWARDED_FOR), |hop| trusted.iter().any(|network| network.contains(hop)));
        let said = |name| hops.element(texts(headers, name));
        let scheme = said(X_FORWARDED_PROTO).and_then(|text| text.to_ascii_lowercase().parse().ok());
        let host: Option<Authority> = said(X_FORWARDED_HOST).and_then(|text| text.parse().ok());
        let said = said(X_FORWARDED_PORT).and_then(|text| text.parse().ok()).filter(|port| *port != 0);
        // A proxy that says how it was spoken to, but not on which port, was spoken to on the port in the URL.
        let of_host = || match &host {
            Some(host) => host.port(),
            None => single(headers, http::header::HOST).and_then(|text| text.parse::<Authority>().ok()).and_then(|host| host.port()),
        };
        let port = said.or_else(|| scheme.map(|scheme: Scheme| of_host().unwrap_or(scheme.default_port())));
        Self { client: hops.client, scheme, host, port }
    }
}

fn single(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The values of a header, in order; of one that is no text nothing can be read.
fn texts(headers: &HeaderMap, name: HeaderName) -> impl DoubleEndedIterator<Item = &str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or_default())
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
    fn what_the_first_trusted_proxy_has_written_counts_whatever_others_add() {
        let origin = |headers: &[(&'static str, &str)]| {
            let Forwarded { client, scheme, host, port } = read(headers);
            (client.map(|client| client.to_string()), scheme.map(Scheme::as_str), host.map(|host| host.to_string()), port)
        };
        let three = [
            ("x-forwarded-for", "203.0.113.9, 192.0.2.1, 10.0.0.8, 10.0.0.7"),
            ("x-forwarded-proto", "gopher, https, http, http"),
            ("x-forwarded-host", "evil.example, r.example:444, inner.example, inner2.example"),
            ("x-forwarded-port", "1, 444, 8080, 8081"),
        ];
        let seen = (Some("192.0.2.1".to_owned()), Some("https"), Some("r.example:444".to_owned()), Some(444));
        assert_eq!(origin(&three), seen);
        // Who adds nothing to a list leaves it as it was.
        let begun =
            [("x-forwarded-for", "192.0.2.1, 10.0.0.8, 10.0.0.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "r.example:444")];
        assert_eq!(origin(&begun), seen);
        let stranger = [("x-forwarded-for", "10.0.0.8, 192.0.2.1"), ("x-forwarded-proto", "https, http")];
        assert_eq!(origin(&stranger).1, Some("http"));
    }

    #[test]
    fn of_a_list_the_last_counts() {
        assert_eq!(read(&[("x-forwarded-proto", "http, https")]).scheme, Some(Scheme::Https));
        assert_eq!(read(&[("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")]).scheme, Some(Scheme::Http));
        assert_eq!(read(&[("x-forwarded-host", "evil, R.example:444")]).host, Some("r.example:444".parse().unwrap()));
        assert_eq!(read(&[("x-forwarded-proto", "gopher")]).scheme, None);
    }
}
