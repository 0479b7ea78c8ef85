//! What a request means by the address it came to: (listener, host) → binding.
//!
//! Everything here is immutable. A reload makes new listeners and bindings; connections look up the current ones at
//! every request, so that a change reaches those that are kept open too.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use berth_names::{Authority, Network, Origin, RepositoryKey, Scheme};

use crate::limits::Limits;
use crate::metrics::BindingMetrics;
use crate::tls::ServerTls;
use crate::trust::Authority as TrustedAuthority;

/// What a listening socket is to the connections and requests that arrive on it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Where it listens.
    pub address: SocketAddr,
    /// How clients speak to it.
    pub scheme: Scheme,
    /// A load balancer in front says in a PROXY protocol header who the client is.
    pub proxy_protocol: bool,
    /// What is behind it.
    pub bindings: Bindings,
}

/// One `[[binding]]`, as requests meet it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// What logs, metrics and tables call it: its address, and its server name if it has one.
    pub label: Box<str>,
    /// What it makes reachable.
    pub bound: Bound,
    /// What clients connect to, as far as that differs from what arrives here.
    pub public: Public,
    /// Where browsers are sent that ask for anything but a registry API.
    pub redirect: Option<Origin>,
    /// Who may use it, and for what.
    pub access: Access,
    /// How much of it.
    pub limits: Limits,
    /// Present if its scheme is `https`.
    pub tls: Option<ServerTls>,
    /// What is counted of it, from its first request on. A reload finds the same by its label.
    pub counted: OnceLock<Arc<BindingMetrics>>,
}

/// What a binding makes reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The registry APIs of a repository.
    Repository(RepositoryKey),
    /// The registry APIs of the repository that the first label of the host names.
    RepositoryFromHost,
    /// The V2 API of the repositories that the first element of an image's name names.
    RepositoryFromPath,
    /// Management: the REST API, and the authority that clients must trust if there is one of our own.
    Console(Option<Arc<TrustedAuthority>>),
    /// Nothing but the redirect.
    Nothing,
}

impl From<RepositoryKey> for Bound {
    fn from(repository: RepositoryKey) -> Self {
        Self::Repository(repository)
    }
}

/// What clients connect to, where it differs from what arrives here: ports mapped by a container runtime, TLS that ends
/// at a load balancer. What is absent is as it arrives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Public {
    /// The scheme.
    pub scheme: Option<Scheme>,
    /// The host; its port is not used.
    pub host: Option<Authority>,
    /// The port.
    pub port: Option<u16>,
}

impl Public {
    /// The origin of a client whose request arrived for `host` on `port`.
    pub fn origin(&self, scheme: Scheme, host: &Authority, port: u16) -> Origin {
        Origin::on_port(self.scheme.unwrap_or(scheme), self.host.as_ref().unwrap_or(host), self.port.unwrap_or(port))
    }
}

/// Who may use a binding, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// If it is not empty: nobody else.
    pub allow: Vec<Network>,
    /// Not these, even if they are allowed.
    pub deny: Vec<Network>,
    /// Nothing may be changed through it.
    pub read_only: bool,
}

impl Access {
    /// Whether a client with this address may use the binding at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        let any = |networks: &[Network]| networks.iter().any(|network| network.contains(client));
        !any(&self.deny) && (self.allow.is_empty() || any(&self.allow))
    }
}

/// The hosts that a binding is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// This one.
    Host(Authority),
    /// Every name of one label more (`*.docker.company.com`).
    SubdomainOf(Authority),
}

impl ServerName {
    /// The name as it is written in a configuration.
    pub fn text(&self) -> String {
        match self {
            Self::Host(host) => host.host().to_owned(),
            Self::SubdomainOf(domain) => format!("*.{}", domain.host()),
        }
    }
}

/// The bindings of one listener.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Lower-cased host, without port.
    by_host: HashMap<Box<str>, Arc<Binding>>,
    /// Lower-cased domain, without the `*.`.
    by_domain: HashMap<Box<str>, Arc<Binding>>,
    /// The binding without a server name: it takes every host that no other binding names.
    any_host: Option<Arc<Binding>>,
    /// The first one: its certificate goes to clients that name no server, or one that has no binding. Such a client
    /// complains about the wrong name, which says more than a failed handshake.
    first: Option<Arc<Binding>>,
    /// Most connections that all bindings together let one client have, if each has a limit.
    connections_per_client: Option<u32>,
}

/// The listener has a binding of this server name, or one without, already.
#[derive(Debug, PartialEq, Eq)]
pub struct AlreadyBound;

impl Bindings {
    /// Adds the binding of a server name, or of every other host if there is none.
    ///
    /// # Errors
    /// [`AlreadyBound`] if that is bound.
    pub fn bind(&mut self, server_name: Option<&ServerName>, binding: Binding) -> Result<(), AlreadyBound> {
        let binding = Arc::new(binding);
        let before = if self.first.is_none() { Some(0) } else { self.connections_per_client };
        let more = binding.limits.connections_per_client;
        self.connections_per_client = before.zip(more).map(|(before, more)| before.saturating_add(more));
        self.first.get_or_insert_with(|| Arc::clone(&binding));
        let previous = match server_name {
            Some(ServerName::Host(host)) => self.by_host.insert(host.host().into(), binding),
            Some(ServerName::SubdomainOf(domain)) => self.by_domain.insert(domain.host().into(), binding),
            None => self.any_host.replace(binding),
        };
        if previous.is_none() { Ok(()) } else { Err(AlreadyBound) }
    }

    /// What a client means who asks for `host`, in lower case and without a port.
    pub fn find(&self, host: &str) -> Option<&Arc<Binding>> {
        let by_domain = || host.split_once('.').and_then(|(_, domain)| self.by_domain.get(domain));
        self.by_host.get(host).or_else(by_domain).or(self.any_host.as_ref())
    }

    /// The binding that takes every host that no other binding names.
    pub fn for_any_host(&self) -> Option<&Arc<Binding>> {
        self.any_host.as_ref()
    }

    /// The binding whose certificate and limits are for a client that named this server, or none, before its request
    /// has told what it is for.
    pub fn for_handshake(&self, server_name: Option<&str>) -> Option<&Arc<Binding>> {
        server_name.and_then(|name| self.find(name)).or(self.any_host.as_ref()).or(self.first.as_ref())
    }

    /// Most connections that one client could have here, whatever they were for, if there is such a limit.
    pub(crate) fn connections_per_client(&self) -> Option<u32> {
        self.connections_per_client
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Binding>> {
        self.by_host.values().chain(self.by_domain.values()).chain(&self.any_host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(key: &str) -> Binding {
        Binding {
            label: key.into(),
            bound: Bound::Repository(key.parse().unwrap()),
            public: Public::default(),
            redirect: None,
            access: Access::default(),
            limits: Limits::default(),
            tls: None,
            counted: OnceLock::new(),
        }
    }

    fn host(text: &str) -> ServerName {
        match text.strip_prefix("*.") {
            Some(domain) => ServerName::SubdomainOf(domain.parse().unwrap()),
            None => ServerName::Host(text.parse().unwrap()),
        }
    }

    fn bindings(names: &[&str]) -> Bindings {
        let mut bindings = Bindings::default();
        for name in names {
            let server_name = (!name.is_empty()).then(|| host(name));
            let key = if name.is_empty() { "rest".to_owned() } else { name.replace("*.", "sub-") };
            bindings.bind(server_name.as_ref(), binding(&key)).unwrap();
        }
        bindings
    }

    fn found<'a>(bindings: &'a Bindings, host: &str) -> Option<&'a str> {
        bindings.find(host).map(|binding| &*binding.label)
    }

    #[test]
    fn the_more_exact_name_wins() {
        let bindings = bindings(&["A.d.example", "*.d.example", ""]);
        for (host, label) in [
            ("a.d.example", "A.d.example"),
            ("b.d.example", "sub-d.example"),
            ("b.a.d.example", "rest"),
            ("d.example", "rest"),
            ("127.0.0.1", "rest"),
        ] {
            assert_eq!(found(&bindings, host), Some(label), "{host}");
        }
    }

    #[test]
    fn without_a_binding_for_any_host_an_unknown_one_is_unknown() {
        let bindings = bindings(&["a.example", "*.d.example"]);
        assert_eq!(found(&bindings, "b.example"), None);
        assert_eq!(found(&bindings, "a.example"), Some("a.example"));
        let first = |name| bindings.for_handshake(name).map(|binding| &*binding.label);
        assert_eq!((first(None), first(Some("b.example"))), (Some("a.example"), Some("a.example")));
        assert_eq!(first(Some("x.d.example")), Some("sub-d.example"));
    }

    #[test]
    fn nothing_is_bound_twice() {
        let mut bindings = bindings(&["a.example", "*.a.example", ""]);
        for name in ["A.example", "*.A.example", ""] {
            let server_name = (!name.is_empty()).then(|| host(name));
            assert_eq!(bindings.bind(server_name.as_ref(), binding("b")), Err(AlreadyBound), "{name}");
        }
    }

    #[test]
    fn what_is_denied_is_denied_even_if_it_is_allowed() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let access = Access { allow: networks(&["10.0.0.0/8", "2001:db8::/32"]), deny: networks(&["10.6.0.0/16"]), read_only: false };
        for (client, admitted) in
            [("10.1.2.3", true), ("10.6.1.1", false), ("192.0.2.1", false), ("2001:db8::1", true), ("::ffff:10.1.2.3", true)]
        {
            assert_eq!(access.admits(client.parse().unwrap()), admitted, "{client}");
        }
        assert!(Access::default().admits("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn what_is_public_replaces_what_arrives() {
        let host: Authority = "inner:8443".parse().unwrap();
        let public = Public { scheme: Some(Scheme::Https), host: Some("r.example".parse().unwrap()), port: Some(444) };
        assert_eq!(public.origin(Scheme::Http, &host, 8443).to_string(), "https://r.example:444");
        assert_eq!(Public::default().origin(Scheme::Http, &host, 8080).to_string(), "http://inner:8080");
        assert_eq!(Public { port: Some(443), ..Public::default() }.origin(Scheme::Https, &host, 8443).to_string(), "https://inner");
    }
}
