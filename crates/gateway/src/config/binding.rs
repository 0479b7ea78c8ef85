//! `[[binding]]`: grouped by listening address, with certificates loaded, and free of contradictions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use berth_names::Network;
use toml::Spanned;

use super::Files;
use super::acme::AcmeConfig;
use super::limits;
use super::problem::Problems;
use super::table::{BindingTable, RepositoryFrom};
use crate::acme::{AcmeResolver, Name};
use crate::bindings::{Access, Binding, Bindings, Bound, Listener, Public, ServerName};
use crate::limits::Limits;
use crate::tls::{self, ClientAuthority, Identity, ServerTls};
use crate::trust::Authority;

/// Reads the bindings of one file.
pub(super) struct Reader<'a, 'p> {
    files: &'a mut Files<'p>,
    problems: &'a mut Problems<'p>,
    trusted_proxies: &'a [Network],
    defaults: Limits,
    acme: Option<&'a mut AcmeConfig>,
    /// Certificates by their files: a thousand bindings may share one.
    identities: HashMap<(PathBuf, PathBuf), Identity>,
}

impl<'a, 'p> Reader<'a, 'p> {
    pub(super) fn new(
        files: &'a mut Files<'p>,
        problems: &'a mut Problems<'p>,
        trusted_proxies: &'a [Network],
        defaults: Limits,
        acme: Option<&'a mut AcmeConfig>,
    ) -> Self {
        Self { files, problems, trusted_proxies, defaults, acme, identities: HashMap::new() }
    }

    pub(super) fn listeners(&mut self, tables: Vec<Spanned<BindingTable>>) -> Vec<Listener> {
        if tables.is_empty() {
            self.problems.add(0..0, "nothing is bound: add a [[binding]] with `listen` and `repository`");
        }
        let mut listeners: Vec<Listener> = Vec::new();
        let mut by_address: HashMap<SocketAddr, usize> = HashMap::new();
        let mut ports = Ports::default();
        for table in tables {
            let span = table.span();
            let table = table.into_inner();
            let Some(binding) = self.binding(&table, span) else { continue };
            let address = (*table.listen.get_ref()).into();
            let at = *by_address.entry(address).or_insert_with(|| {
                ports.add(address, &table, self.problems);
                listeners.push(Listener {
                    address,
                    scheme: table.scheme(),
                    proxy_protocol: table.proxy_protocol,
                    bindings: Bindings::default(),
                });
                listeners.len() - 1
            });
            add(&mut listeners[at], &table, binding, self.problems);
        }
        listeners
    }

    fn binding(&mut self, table: &BindingTable, span: Range<usize>) -> Option<Binding> {
        let address: SocketAddr = (*table.listen.get_ref()).into();
        let bound = self.bound(table, span.clone())?;
        let label = match table.server_name() {
            Some(name) => format!("{address} {}", name.text()),
            None => address.to_string(),
        };
        if table.proxy_protocol && self.trusted_proxies.is_empty() {
            self.problems.add(span.clone(), "`proxy_protocol` needs `trusted_proxies`, at the top of the file: whose word counts?");
        }
        Some(Binding {
            label: label.into(),
            bound,
            public: self.public(table),
            redirect: self.redirect(table),
            access: Access { allow: table.allow.clone(), deny: table.deny.clone(), read_only: table.read_only },
            limits: limits::read(&table.limits, &self.defaults, self.problems),
            tls: self.tls(table, span),
            counted: Default::default(),
        })
    }

    /// What a binding makes reachable, if it says exactly one thing.
    fn bound(&mut self, table: &BindingTable, span: Range<usize>) -> Option<Bound> {
        let authority = self.authority(table);
        match (&table.repository, &table.repository_from, table.console) {
            (Some(repository), None, false) => Some(Bound::Repository(repository.clone())),
            (None, Some(from), false) => self.repository_from(table, from),
            (None, None, true) => Some(Bound::Console(authority)),
            (None, None, false) if table.redirect.is_some() => Some(Bound::Nothing),
            (None, None, false) => {
                self.problems.add(span, "a binding needs `repository`, `repository_from`, or `console = true` for management");
                None
            }
            _ => {
                self.problems.add(span, "a binding has one of `repository`, `repository_from` and `console = true`");
                None
            }
        }
    }

    fn repository_from(&mut self, table: &BindingTable, from: &Spanned<RepositoryFrom>) -> Option<Bound> {
        let is_pattern = matches!(table.server_name(), Some(ServerName::SubdomainOf(_)));
        match from.get_ref() {
            RepositoryFrom::Path => Some(Bound::RepositoryFromPath),
            RepositoryFrom::Host if !is_pattern => {
                let hint = "`repository_from = \"host\"` needs a `server_name` like \"*.docker.company.com\": the part for the * is the repository";
                self.problems.add(from.span(), hint);
                None
            }
            RepositoryFrom::Host if table.public_url.is_some() => {
                self.problems.add(
                    from.span(),
                    "with `repository_from = \"host\"` every repository has a host of its own: write `public_port`, not `public_url`",
                );
                None
            }
            RepositoryFrom::Host => Some(Bound::RepositoryFromHost),
        }
    }

    fn authority(&mut self, table: &BindingTable) -> Option<Arc<Authority>> {
        let path = table.authority.as_ref()?;
        if !table.console {
            self.problems.add(path.span(), "`authority` belongs to a binding with `console = true`");
        }
        match Authority::load(&self.files.resolve(path.get_ref())) {
            Ok(authority) => Some(Arc::new(authority)),
            Err(error) => {
                self.problems.add(path.span(), format!("{error:#}"));
                None
            }
        }
    }

    fn public(&mut self, table: &BindingTable) -> Public {
        match (&table.public_url, &table.public_port) {
            (Some(url), None) => {
                let origin = &url.get_ref().0;
                let port = origin.authority().port().unwrap_or(origin.scheme().default_port());
                Public { scheme: Some(origin.scheme()), host: Some(origin.authority().clone()), port: Some(port) }
            }
            (None, Some(port)) => {
                if *port.get_ref() == 0 {
                    self.problems.add(port.span(), "`public_port` is from 1 to 65535");
                }
                Public { port: Some(*port.get_ref()), ..Public::default() }
            }
            (Some(_), Some(port)) => {
                self.problems.add(port.span(), "`public_url` has the port already: remove `public_port`");
                Public::default()
            }
            (None, None) => Public::default(),
        }
    }

    fn redirect(&mut self, table: &BindingTable) -> Option<berth_names::Origin> {
        let url = table.redirect.as_ref()?;
        if !table.plain_http {
            self.problems.add(url.span(), "`redirect` is for bindings with `plain_http = true`");
        }
        if table.console {
            self.problems
                .add(url.span(), "a console on plain HTTP would take passwords unencrypted before it redirects: bind the redirect alone");
        }
        Some(url.get_ref().0.clone())
    }

    /// The TLS settings of a binding. None: it has none, or none that can be used, which is then a problem.
    fn tls(&mut self, table: &BindingTable, span: Range<usize>) -> Option<ServerTls> {
        if table.acme {
            return self.tls_by_acme(table, span);
        }
        let (certificate, key) = match (&table.certificate, &table.key, table.plain_http) {
            (Some(certificate), Some(key), false) => (certificate, key),
            (None, None, true) => {
                if let Some(file) = &table.client_ca {
                    self.problems.add(file.span(), "`client_ca` needs TLS: remove `plain_http = true`");
                }
                return None;
            }
            (Some(file), _, true) | (None, Some(file), true) => {
                self.problems.add(file.span(), "`plain_http = true` has no certificate and no key: remove it, or them");
                return None;
            }
            (Some(certificate), None, false) => {
                self.problems.add(certificate.span(), "`certificate` needs `key`, the file with its private key");
                return None;
            }
            (None, Some(key), false) => {
                self.problems.add(key.span(), "`key` needs `certificate`, the file with its certificate chain");
                return None;
            }
            (None, None, false) => {
                self.problems
                    .add(span, "a binding needs `certificate` and `key`, or `plain_http = true` for clients with --insecure-registry");
                return None;
            }
        };
        let identity = self.identity(certificate, key);
        let clients = self.client_authority(table);
        match ServerTls::new(identity?, clients.as_ref()) {
            Ok(tls) => Some(tls),
            Err(error) => {
                self.problems.add(certificate.span(), error.to_string());
                None
            }
        }
    }

    fn tls_by_acme(&mut self, table: &BindingTable, span: Range<usize>) -> Option<ServerTls> {
        if table.plain_http || table.certificate.is_some() || table.key.is_some() {
            self.problems.add(span, "`acme = true` gets the certificate by itself: remove `certificate`, `key` and `plain_http`");
            return None;
        }
        let clients = self.client_authority(table);
        let name: Name = match table.server_name().map(|name| name.text().parse()) {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                let place = table.server_name.as_ref().map_or(span, Spanned::span);
                self.problems.add(place, format!("no certificate by ACME for this name: {error}"));
                return None;
            }
            None => {
                self.problems.add(span, "`acme = true` needs a `server_name`: the name that the certificate is for");
                return None;
            }
        };
        let Some(acme) = &mut self.acme else {
            self.problems.add(span, "`acme = true` needs the table [acme]: who issues the certificate?");
            return None;
        };
        acme.names.push(name.clone());
        match ServerTls::with_resolver(Arc::new(AcmeResolver { source: Arc::clone(&acme.source), name }), clients.as_ref()) {
            Ok(tls) => Some(tls),
            Err(error) => {
                self.problems.add(span, error.to_string());
                None
            }
        }
    }

    fn identity(&mut self, certificate: &Spanned<PathBuf>, key: &Spanned<PathBuf>) -> Option<Identity> {
        let files = (self.files.resolve(certificate.get_ref()), self.files.resolve(key.get_ref()));
        if let Some(identity) = self.identities.get(&files) {
            return Some(identity.clone());
        }
        match tls::load(&files.0, &files.1) {
            Ok(identity) => {
                self.identities.insert(files, identity.clone());
                Some(identity)
            }
            Err(error) => {
                let file = if error.is_about_key() { key } else { certificate };
                self.problems.add(file.span(), error.to_string());
                None
            }
        }
    }

    fn client_authority(&mut self, table: &BindingTable) -> Option<ClientAuthority> {
        let path = table.client_ca.as_ref()?;
        match ClientAuthority::load(&self.files.resolve(path.get_ref())) {
            Ok(authority) => Some(authority),
            Err(error) => {
                self.problems.add(path.span(), error.to_string());
                None
            }
        }
    }
}

/// Adds a binding to the listener of its address.
fn add(listener: &mut Listener, table: &BindingTable, binding: Binding, problems: &mut Problems<'_>) {
    let address = listener.address;
    if listener.scheme != table.scheme() {
        problems
            .add(table.listen.span(), format!("{address} has a binding with TLS and one with `plain_http`: an address speaks one of them"));
    } else if listener.proxy_protocol != table.proxy_protocol {
        problems.add(
            table.listen.span(),
            format!("{address} has a binding with `proxy_protocol` and one without: an address speaks one of them"),
        );
    } else if listener.bindings.bind(table.server_name(), binding).is_err() {
        let (span, message) = match &table.server_name {
            Some(name) => {
                let text = table.server_name().map(ServerName::text).unwrap_or_default();
                (name.span(), format!("{address} is bound to server_name {text:?} already"))
            }
            None => (
                table.listen.span(),
                format!("{address} is bound already: give each of its bindings another `server_name`, or this one another `listen`"),
            ),
        };
        problems.add(span, message);
    }
}

/// Which addresses are listened on, by port and family.
#[derive(Default)]
struct Ports(HashMap<(u16, bool), Vec<SocketAddr>>);

impl Ports {
    /// The kernel would refuse the second of two that overlap: better said before the first listens.
    fn add(&mut self, address: SocketAddr, table: &BindingTable, problems: &mut Problems<'_>) {
        if address.port() == 0 {
            return;
        }
        let others = self.0.entry((address.port(), address.is_ipv4())).or_default();
        if let Some(other) = others.iter().find(|other| other.ip().is_unspecified() || address.ip().is_unspecified()) {
            problems
                .add(table.listen.span(), format!("{address} overlaps with {other} of another binding: write the same address in both"));
        }
        others.push(address);
    }
}
