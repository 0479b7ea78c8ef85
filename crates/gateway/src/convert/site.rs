//! What stands in front of a registry, as far as all of `gateway.toml`, NGINX and Apache can say it: the one form between
//! what is imported and what is exported.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use berth_names::{RepositoryKey, Scheme};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Networks in CIDR form whose PROXY protocol and `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<String>,
    /// The backends; at least one in a usable site.
    pub upstream: Vec<Server>,
    /// What is reachable, in order.
    pub bindings: Vec<Binding>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Present if it speaks TLS.
    pub tls: Option<ServerTls>,
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// Host and port. A host that is no IP address comes from an import and is one that nobody has looked up.
    Tcp(String),
}

/// TLS to a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// The name in its certificate.
    pub server_name: Option<String>,
    /// PEM file of the authority that signed it.
    pub ca: Option<PathBuf>,
}

/// One address and host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The host that requests must use; `*.` in front means any one label. None: every host that no other binding has.
    pub server_name: Option<String>,
    /// What it makes reachable.
    pub target: Target,
    /// None: plain HTTP.
    pub tls: Option<Tls>,
    /// Where browsers are sent, as an origin (`https://registry.company.com`).
    pub redirect: Option<String>,
    /// The origin that clients use, where it is not the listening port under the host they name.
    pub public: Public,
    /// Whether each connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Networks in CIDR form that alone may connect; none: everybody.
    pub allow: Vec<String>,
    /// Networks in CIDR form that may not.
    pub deny: Vec<String>,
    /// Whether pushes and deletions are refused.
    pub read_only: bool,
    /// Limits of this binding alone.
    pub limits: Limits,
}

/// What a binding makes reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One repository.
    Repository(RepositoryKey),
    /// The repository whose key is the first label of the host.
    RepositoryFromHost,
    /// The repository whose key is the first element of a V2 path.
    RepositoryFromPath,
    /// Management.
    Console,
    /// Nothing but [`Binding::redirect`].
    Nothing,
}

/// A server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where it comes from.
    pub certificate: Certificate,
    /// PEM file of the authority that clients' certificates must be signed by.
    pub client_ca: Option<PathBuf>,
}

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// PEM files.
    Files {
        /// The certificate and its intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// A file with intermediates that has still to be appended to `certificate`. Only imports have one.
        separate_chain: Option<PathBuf>,
    },
    /// An ACME authority, asked by the gateway itself.
    Acme,
}

/// The origin that clients use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Public {
    /// The host that they name, and the listening port.
    #[default]
    AsListened,
    /// The host that they name, and this port.
    Port(u16),
    /// This origin.
    Url(String),
}

/// Limits that all three can express.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a second of one client address.
    pub requests_per_second_per_client: Option<u32>,
    /// Requests a second of the binding.
    pub requests_per_second: Option<u32>,
    /// Open connections of one client address.
    pub connections_per_client: Option<u32>,
    /// Requests of the binding that are being answered.
    pub requests_in_flight: Option<u32>,
}

impl Binding {
    /// A binding without anything optional.
    pub fn new(listen: SocketAddr, target: Target) -> Self {
        Self {
            listen,
            server_name: None,
            target,
            tls: None,
            redirect: None,
            public: Public::default(),
            proxy_protocol: false,
            allow: Vec::new(),
            deny: Vec::new(),
            read_only: false,
            limits: Limits::default(),
        }
    }

    /// What clients speak to it.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }
}

/// The canonical form of an address or a network: with its length, and zero bits behind that.
pub(super) fn network(text: &str) -> Option<String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits: u32 = bits.map_or(Some(width), |bits| bits.parse().ok()).filter(|bits| *bits <= width)?;
    let masked: IpAddr = match address {
        IpAddr::V4(address) => std::net::Ipv4Addr::from(address.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into(),
        IpAddr::V6(address) => std::net::Ipv6Addr::from(address.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into(),
    };
    Some(format!("{masked}/{bits}"))
}
