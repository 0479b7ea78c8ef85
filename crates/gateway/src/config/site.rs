//! A configuration as other proxies could say it, for [`crate::convert::export`].

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use berth_names::Network;

use super::table::{Address, BindingTable, File, LimitsTable, RepositoryFrom, ServerTable, UpstreamTable, Url};
use super::{Config, ConfigError};
use crate::convert::{Binding, Certificate, Endpoint, Limits, Public, Server, ServerTls, Site, Target, Tls};

impl Site {
    /// Reads a configuration, checked as [`Config::load`] does. Paths become absolute where the file's own is.
    ///
    /// # Errors
    /// [`ConfigError`], as there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config = Config::load(path)?;
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let file: File = toml::from_str(&text).map_err(|error| unreadable(std::io::Error::other(error)))?;
        let path = path.canonicalize().map_err(unreadable)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        Ok(Self {
            trusted_proxies: networks(&config.trusted_proxies),
            upstream: upstream(file.upstream.into_inner(), directory),
            bindings: file.bindings.into_iter().map(|table| binding(&table.into_inner(), &file.limits, directory)).collect(),
        })
    }
}

fn networks(networks: &[Network]) -> Vec<String> {
    networks.iter().map(Network::to_cidr).collect()
}

fn upstream(table: UpstreamTable, directory: &Path) -> Vec<Server> {
    let UpstreamTable { unix, tcp, servers, .. } = table;
    let endpoint = |unix: Option<&Path>, tcp: Option<Address>| match (unix, tcp) {
        (Some(socket), _) => Some(Endpoint::Unix(directory.join(socket))),
        (None, tcp) => tcp.map(|address| Endpoint::Tcp(SocketAddr::from(address).to_string())),
    };
    if servers.is_empty() {
        let endpoint = endpoint(unix.as_ref().map(|socket| socket.get_ref().as_path()), tcp);
        return endpoint.map(|endpoint| Server { endpoint, tls: None }).into_iter().collect();
    }
    let server = |table: ServerTable| {
        let tls = table.tls.then(|| ServerTls {
            server_name: table.server_name.as_ref().map(|name| name.get_ref().clone()),
            ca: table.ca.as_ref().map(|file| directory.join(file.get_ref())),
        });
        Some(Server { endpoint: endpoint(table.unix.as_ref().map(|socket| socket.get_ref().as_path()), table.tcp)?, tls })
    };
    servers.into_iter().filter_map(|table| server(table.into_inner())).collect()
}

fn binding(table: &BindingTable, defaults: &LimitsTable, directory: &Path) -> Binding {
    let target = match (&table.repository, &table.repository_from) {
        (Some(key), _) => Target::Repository(key.clone()),
        (None, Some(from)) => match from.get_ref() {
            RepositoryFrom::Host => Target::RepositoryFromHost,
            RepositoryFrom::Path => Target::RepositoryFromPath,
        },
        (None, None) if table.console => Target::Console,
        (None, None) => Target::Nothing,
    };
    let url = |url: &Url| url.0.to_string();
    Binding {
        server_name: table.server_name().map(crate::bindings::ServerName::text),
        tls: tls(table, directory),
        redirect: table.redirect.as_ref().map(|to| url(to.get_ref())),
        public: match (&table.public_url, &table.public_port) {
            (Some(origin), _) => Public::Url(url(origin.get_ref())),
            (None, Some(port)) => Public::Port(*port.get_ref()),
            (None, None) => Public::AsListened,
        },
        proxy_protocol: table.proxy_protocol,
        allow: networks(&table.allow),
        deny: networks(&table.deny),
        read_only: table.read_only,
        limits: limits(&table.limits, defaults),
        ..Binding::new((*table.listen.get_ref()).into(), target)
    }
}

fn tls(table: &BindingTable, directory: &Path) -> Option<Tls> {
    let certificate = match (&table.certificate, &table.key) {
        (Some(certificate), Some(key)) => Certificate::Files {
            certificate: directory.join(certificate.get_ref()),
            key: directory.join(key.get_ref()),
            separate_chain: None,
        },
        _ if table.acme => Certificate::Acme,
        _ => return None,
    };
    Some(Tls { certificate, client_ca: table.client_ca.as_ref().map(|file| directory.join(file.get_ref())) })
}

fn limits(own: &LimitsTable, defaults: &LimitsTable) -> Limits {
    let limit = |of: fn(&LimitsTable) -> Option<u32>| of(own).or(of(defaults)).filter(|limit| *limit > 0);
    Limits {
        requests_per_second_per_client: limit(|table| table.requests_per_second_per_client),
        requests_per_second: limit(|table| table.requests_per_second),
        connections_per_client: limit(|table| table.connections_per_client),
        requests_in_flight: limit(|table| table.requests_in_flight),
    }
}
