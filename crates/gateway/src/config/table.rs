//! The tables and fields of `gateway.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use berth_names::{Authority, Network, Origin, RepositoryKey, Scheme};
use serde::Deserialize;
use toml::Spanned;

use crate::access;
use crate::bindings;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Proxies in front whose PROXY protocol and `X-Forwarded-*` headers are believed.
    #[serde(default)]
    pub trusted_proxies: Vec<Network>,
    /// How long requests that are under way may go on after a signal to stop.
    pub drain_timeout_s: Option<Spanned<u64>>,
    /// Where the backend is.
    pub upstream: Spanned<UpstreamTable>,
    /// What clients may hold of the whole gateway.
    #[serde(default)]
    pub places: PlacesTable,
    /// The limits of every binding that says nothing else.
    #[serde(default)]
    pub limits: LimitsTable,
    /// How requests are written down.
    #[serde(default)]
    pub access_log: AccessLogTable,
    /// Where metrics and health are served.
    pub metrics: Option<MetricsTable>,
    /// Where traces go.
    pub traces: Option<berth_traces::Settings>,
    /// Whether probes of `berth-gateway doctor` are answered.
    #[serde(default)]
    pub doctor: DoctorTable,
    /// Where bindings with `acme = true` get their certificates.
    pub acme: Option<Spanned<AcmeTable>>,
    /// `[[binding]]`: each makes something reachable.
    #[serde(default, rename = "binding")]
    pub bindings: Vec<Spanned<BindingTable>>,
}

/// `[access_log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessLogTable {
    /// The form of a line.
    #[serde(default)]
    pub format: access::Format,
    /// The file that lines are appended to.
    pub path: Option<Spanned<PathBuf>>,
}

/// `[metrics]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsTable {
    /// IP address and port.
    pub listen: Spanned<Address>,
}

/// `[doctor]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DoctorTable {
    /// Answer probes.
    pub enabled: bool,
}

impl Default for DoctorTable {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[acme]`: see [`crate::acme::Settings`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcmeTable {
    /// The operator has read and agrees to the terms of the server.
    #[serde(default)]
    pub terms_agreed: bool,
    /// Default: Let's Encrypt.
    pub directory: Option<Spanned<String>>,
    /// A mail address, or a `mailto:` URL.
    pub contact: Option<String>,
    /// Directory of account and certificates.
    pub state: PathBuf,
    /// How names are validated.
    #[serde(default)]
    pub challenge: ChallengeName,
    /// PEM file: authorities of a private server.
    pub ca: Option<PathBuf>,
}

/// `tls-alpn-01` or `http-01`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum ChallengeName {
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    #[serde(rename = "http-01")]
    Http01,
}

/// `[upstream]`: one backend, or several.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTable {
    /// Path of the backend's Unix socket.
    pub unix: Option<Spanned<PathBuf>>,
    /// IP address and port of the backend.
    pub tcp: Option<Address>,
    /// How long the backend may take for the first byte of an answer that needs no long work.
    pub first_byte_timeout_s: Option<Spanned<u64>>,
    /// `[[upstream.server]]`: several backends over one store.
    #[serde(default, rename = "server")]
    pub servers: Vec<Spanned<ServerTable>>,
}

/// `[[upstream.server]]`: exactly one of `unix` and `tcp`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTable {
    /// Path of the backend's Unix socket.
    pub unix: Option<Spanned<PathBuf>>,
    /// IP address and port of the backend.
    pub tcp: Option<Address>,
    /// Speak TLS over TCP.
    #[serde(default)]
    pub tls: bool,
    /// The name that the backend's certificate is for. Default: its IP address.
    pub server_name: Option<Spanned<String>>,
    /// PEM file: the authorities that may have signed the backend's certificate.
    pub ca: Option<Spanned<PathBuf>>,
}

/// `[[binding]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BindingTable {
    /// IP address and port to listen on.
    pub listen: Spanned<Address>,
    /// The repository that requests are for.
    pub repository: Option<RepositoryKey>,
    /// Instead of a repository: where its name is found in a request.
    pub repository_from: Option<Spanned<RepositoryFrom>>,
    /// Instead of a repository: management.
    #[serde(default)]
    pub console: bool,
    /// With `console`: PEM file of the authority that signed our certificates, offered to clients.
    pub authority: Option<Spanned<PathBuf>>,
    /// The host name that requests must use. Without it: any host that no other binding of the address names.
    pub server_name: Option<Spanned<ServerName>>,
    /// PEM file: the certificate and what a client needs to trust it, leaf first.
    pub certificate: Option<Spanned<PathBuf>>,
    /// PEM file: the certificate's private key.
    pub key: Option<Spanned<PathBuf>>,
    /// Get the certificate for `server_name` by ACME.
    #[serde(default)]
    pub acme: bool,
    /// PEM file: clients must show a certificate that one of these authorities signed.
    pub client_ca: Option<Spanned<PathBuf>>,
    /// Speak HTTP instead of HTTPS, for clients that were told `--insecure-registry`.
    #[serde(default)]
    pub plain_http: bool,
    /// Where browsers are sent that ask a plain HTTP binding for anything but a registry API.
    pub redirect: Option<Spanned<Url>>,
    /// The port that clients connect to, if it is not the one of `listen`.
    pub public_port: Option<Spanned<u16>>,
    /// The whole address that clients use, if more than the port differs.
    pub public_url: Option<Spanned<Url>>,
    /// A load balancer among `trusted_proxies` says in a PROXY protocol header who the client is.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Only clients of these networks. Default: all.
    #[serde(default)]
    pub allow: Vec<Network>,
    /// No clients of these networks.
    #[serde(default)]
    pub deny: Vec<Network>,
    /// Refuse everything that changes something.
    #[serde(default)]
    pub read_only: bool,
    /// Limits that differ from those of the file.
    #[serde(default)]
    pub limits: LimitsTable,
}

impl BindingTable {
    pub(super) fn server_name(&self) -> Option<&bindings::ServerName> {
        self.server_name.as_ref().map(|name| &name.get_ref().0)
    }

    /// What its clients speak, also if the certificate for it is missing.
    pub(super) fn scheme(&self) -> Scheme {
        if self.plain_http { Scheme::Http } else { Scheme::Https }
    }
}

/// Where the name of the repository is found in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RepositoryFrom {
    /// `docker-local.docker.company.com`: the first label of the host.
    Host,
    /// `registry.company.com/docker-local/team/app`: the first element of the image's name.
    Path,
}

/// `[limits]` and `[binding.limits]`: see [`crate::limits::Limits`]. 0 takes a limit of the file away.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsTable {
    pub requests_per_second_per_client: Option<u32>,
    pub requests_in_flight_per_client: Option<u32>,
    pub connections_per_second_per_client: Option<u32>,
    pub connections_per_client: Option<u32>,
    pub requests_per_second: Option<u32>,
    pub requests_in_flight: Option<u32>,
    pub connections: Option<u32>,
    pub header_bytes: Option<Spanned<u64>>,
    pub header_fields: Option<Spanned<u64>>,
    pub handshake_timeout_s: Option<Spanned<u64>>,
    pub header_timeout_s: Option<Spanned<u64>>,
    pub keepalive_timeout_s: Option<Spanned<u64>>,
    pub body_idle_timeout_s: Option<Spanned<u64>>,
    pub min_body_bytes_per_second: Option<u32>,
}

/// `[places]`: see [`crate::limits::Places`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlacesTable {
    pub connections: Option<Spanned<u64>>,
    pub connections_per_client: Option<Spanned<u64>>,
    pub requests_per_client: Option<Spanned<u64>>,
    pub bodies_per_client: Option<Spanned<u64>>,
}

/// An IP address and a port.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Address(SocketAddr);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hint = || {
            format!(
                "{text:?} is no address: write an IP address and a port, for instance \"0.0.0.0:443\", \"127.0.0.1:8081\" or \"[::]:443\""
            )
        };
        SocketAddr::from_str(&text).map(Self).map_err(|_| hint())
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        address.0
    }
}

/// A host name without a port, or `*.` and a domain.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ServerName(bindings::ServerName);

impl TryFrom<String> for ServerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, is_pattern) = text.strip_prefix("*.").map_or((&*text, false), |domain| (domain, true));
        match name.parse::<Authority>() {
            Ok(name) if name.port().is_some() => {
                Err(format!("{text:?} has a port: `server_name` is the host alone, `listen` has the port"))
            }
            Ok(domain) if is_pattern => Ok(Self(bindings::ServerName::SubdomainOf(domain))),
            Ok(host) => Ok(Self(bindings::ServerName::Host(host))),
            Err(_) if text.contains('*') => {
                Err(format!("{text:?} is no server name: `*` stands for the first label alone, as in \"*.docker.company.com\""))
            }
            Err(error) => Err(format!("{text:?} is no server name: {error}")),
        }
    }
}

/// Scheme and host, with a port if it is not the scheme's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Url(pub Origin);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = text.split_once("://").and_then(|(scheme, rest)| {
            let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
            Some(Self(Origin::new(scheme.parse().ok()?, authority)))
        });
        url.ok_or_else(|| format!("{text:?} is no address: write scheme, host and port, for instance \"https://registry.company.com:444\""))
    }
}
