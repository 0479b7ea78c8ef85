//! The tables and fields of `gateway.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use berth_names::{Authority, RepositoryKey, Scheme};
use serde::Deserialize;
use toml::Spanned;

use crate::access;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Where the backend is.
    pub upstream: Spanned<UpstreamTable>,
    /// `[[binding]]`: each makes one repository reachable.
    #[serde(default, rename = "binding")]
    pub bindings: Vec<Spanned<BindingTable>>,
    /// How requests are written down.
    #[serde(default)]
    pub access_log: AccessLogTable,
    /// Where metrics and health are served.
    pub metrics: Option<MetricsTable>,
}

/// `[access_log]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessLogTable {
    /// The form of a line.
    #[serde(default)]
    pub format: access::Format,
    /// The file that lines are appended to.
    pub path: Option<PathBuf>,
}

/// `[metrics]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MetricsTable {
    /// IP address and port.
    pub listen: Address,
}

/// `[upstream]`: exactly one of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamTable {
    /// Path of the backend's Unix socket.
    pub unix: Option<Spanned<PathBuf>>,
    /// IP address and port of the backend.
    pub tcp: Option<Address>,
}

/// `[[binding]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BindingTable {
    /// IP address and port to listen on.
    pub listen: Spanned<Address>,
    /// The repository that requests are for.
    pub repository: Option<RepositoryKey>,
    /// Instead of a repository: management.
    #[serde(default)]
    pub console: bool,
    /// The host name that requests must use. Without it: any host that no other binding of the address names.
    pub server_name: Option<Spanned<ServerName>>,
    /// PEM file: the certificate and what a client needs to trust it, leaf first.
    pub certificate: Option<Spanned<PathBuf>>,
    /// PEM file: the certificate's private key.
    pub key: Option<Spanned<PathBuf>>,
    /// Speak HTTP instead of HTTPS, for clients that were told `--insecure-registry`.
    #[serde(default)]
    pub plain_http: bool,
}

impl BindingTable {
    pub(super) fn server_name(&self) -> Option<&Authority> {
        self.server_name.as_ref().map(|name| name.get_ref().as_ref())
    }

    /// What its clients speak, also if the certificate for it is missing.
    pub(super) fn scheme(&self) -> Scheme {
        if self.plain_http { Scheme::Http } else { Scheme::Https }
    }
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

/// A host name without a port.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ServerName(Authority);

impl TryFrom<String> for ServerName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<Authority>() {
            Ok(name) if name.port().is_none() => Ok(Self(name)),
            Ok(_) => Err(format!("{text:?} has a port: `server_name` is the host alone, `listen` has the port")),
            Err(error) => Err(format!("{text:?} is no server name: {error}")),
        }
    }
}

impl AsRef<Authority> for ServerName {
    fn as_ref(&self) -> &Authority {
        &self.0
    }
}
