use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest host name, in bytes (DNS).
const HOST_BYTES_MAX: usize = 253;

/// Longest DNS label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// The scheme that the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The scheme as it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL of this scheme means when it names none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl FromStr for Scheme {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            _ => Err(()),
        }
    }
}

/// Host and optional port as they stand in a `Host` header: a DNS name (lower-cased), an IPv4 address,
/// or an IPv6 address in brackets.
///
/// A name that ends in a dot is the same name (it is the root of DNS that is written then), and a colon without a port says
/// nothing: both are left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    host: Arc<str>,
    port: Option<u16>,
}

/// The text is no host with an optional port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a host is a DNS name, an IPv4 address or an IPv6 address in brackets, with an optional port from 1 to 65535")]
pub struct InvalidAuthority;

impl Authority {
    /// The host without its port, lower-cased; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl From<IpAddr> for Authority {
    fn from(address: IpAddr) -> Self {
        let host = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        Self { host: host.into(), port: None }
    }
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of an IPv6 address is inside its brackets.
            Some((host, "")) => (host, None),
            Some((host, port)) if !port.ends_with(']') => (host, Some(parse_port(port)?)),
            _ => (text, None),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        if is_host(host) { Ok(Self { host: host.to_ascii_lowercase().into(), port }) } else { Err(InvalidAuthority) }
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidAuthority> {
    let digits_only = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits_only && port != 0 => Ok(port),
        _ => Err(InvalidAuthority),
    }
}

fn is_host(text: &str) -> bool {
    if let Some(v6) = text.strip_prefix('[') {
        return v6.strip_suffix(']').is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok());
    }
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= LABEL_BYTES_MAX && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    // All-numeric names are addresses or nothing: `1.2.3` must not be taken for a name.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric { text.parse::<Ipv4Addr>().is_ok() } else { text.len() <= HOST_BYTES_MAX && text.split('.').all(is_label) }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// The scheme, host and port that the client used to reach us.
///
/// Every absolute URL and every `X-Docker-Endpoints` that leaves the server is made from one of these.
/// The default port of the scheme is left out, as clients do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    /// The origin of a client that spoke `scheme` to `authority`.
    pub fn new(scheme: Scheme, authority: Authority) -> Self {
        let port = authority.port.filter(|port| *port != scheme.default_port());
        Self { scheme, authority: Authority { port, ..authority } }
    }

    /// The origin of a client that spoke `scheme` to `host` on the listening `port`, whatever port it wrote itself.
    pub fn on_port(scheme: Scheme, authority: &Authority, port: u16) -> Self {
        Self::new(scheme, Authority { host: authority.host.clone(), port: Some(port) })
    }

    /// The client's scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The port, also if it is the scheme's default.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or(self.scheme.default_port())
    }

    /// Host, and port unless it is the scheme's default: what belongs into `Host` and `X-Docker-Endpoints`.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// The text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an origin is `http://` or `https://` and a host with an optional port, and nothing behind it")]
pub struct InvalidOrigin;

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let (scheme, authority) = (scheme.parse::<Scheme>(), authority.parse::<Authority>());
        Ok(Self::new(scheme.map_err(|()| InvalidOrigin)?, authority.map_err(|InvalidAuthority| InvalidOrigin)?))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in ["localhost", "registry.company.com:444", "127.0.0.1:5000", "[::1]", "[::1]:5000", "a_b", "xn--bcher-kva.example"] {
            assert_eq!(good.parse::<Authority>().unwrap().to_string(), good);
        }
        assert_eq!("Registry.COM".parse::<Authority>().unwrap().host(), "registry.com");
        for (text, same) in
            [("a.example.", "a.example"), ("a.example:", "a.example"), ("a.example.:444", "a.example:444"), ("[::1]:", "[::1]")]
        {
            assert_eq!(text.parse::<Authority>(), same.parse::<Authority>(), "{text}");
        }
        for address in ["192.0.2.1", "::1"] {
            let authority = Authority::from(address.parse::<IpAddr>().unwrap());
            assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
        }
        for bad in [
            "",
            ":",
            ":80",
            "a:0",
            "a:99999",
            "a:+80",
            "a:8 0",
            "a b",
            "a/b",
            "a@b",
            "a..b",
            ".a",
            ".",
            "a..",
            "[::1].",
            "a:1:",
            "-a",
            "::1",
            "[::1",
            "[x]",
            "1.2.3",
            "1.2.3.256",
            "a\0",
            "é",
            "a:1:2",
            "http://a",
        ] {
            assert!(bad.parse::<Authority>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_port_is_left_out_and_any_other_kept() {
        let host = |text: &str| text.parse::<Authority>().unwrap();
        assert_eq!(Origin::new(Scheme::Https, host("r.example:443")).to_string(), "https://r.example");
        assert_eq!(Origin::new(Scheme::Http, host("r.example:443")).to_string(), "http://r.example:443");
        assert_eq!(Origin::on_port(Scheme::Https, &host("r.example"), 444).authority().to_string(), "r.example:444");
        assert_eq!(Origin::on_port(Scheme::Https, &host("r.example:1"), 443).authority().to_string(), "r.example");
    }

    #[test]
    fn an_origin_is_read_as_it_is_written() {
        for text in ["https://r.example", "http://r.example:444", "http://[::1]:5000"] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
        assert_eq!("https://R.example:443".parse::<Origin>().unwrap().to_string(), "https://r.example");
        for bad in ["", "null", "r.example", "https://", "ftp://r.example", "https://r.example/", "https://r.example/ui", "https://*", "*"]
        {
            assert_eq!(bad.parse::<Origin>(), Err(InvalidOrigin), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe_in_a_header_and_a_url(text in "\\PC{0,40}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert!(authority.to_string().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b)));
                prop_assert_eq!(authority.to_string().parse::<Authority>().unwrap(), authority);
            }
        }
    }
}
