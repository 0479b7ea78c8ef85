//! Which repository a request means: (listener, host) → repository.

use std::collections::HashMap;

use berth_names::{Authority, RepositoryKey, Scheme};

/// What a listening socket is to the requests that arrive on it.
#[derive(Clone, Debug)]
pub struct Listener {
    /// How clients speak to it.
    pub scheme: Scheme,
    /// The port that clients connect to, and so the port in every URL that they are given.
    pub port: u16,
    /// The repositories behind it.
    pub bindings: Bindings,
}

/// What a binding makes reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The registry APIs of a repository.
    Repository(RepositoryKey),
    /// Management: the REST API.
    Console,
}

impl From<RepositoryKey> for Bound {
    fn from(repository: RepositoryKey) -> Self {
        Self::Repository(repository)
    }
}

/// The bindings of one listener.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Lower-cased host, without port.
    by_server_name: HashMap<Box<str>, Bound>,
    /// The binding without a server name: it takes every host that no other binding names.
    any_host: Option<Bound>,
}

/// The listener has a binding of this server name, or one without, already.
#[derive(Debug, PartialEq, Eq)]
pub struct AlreadyBound;

impl Bindings {
    /// Binds a server name, or every other host if there is none.
    ///
    /// # Errors
    /// [`AlreadyBound`] if that is bound.
    pub fn bind(&mut self, server_name: Option<&Authority>, bound: impl Into<Bound>) -> Result<(), AlreadyBound> {
        let previous = match server_name {
            Some(name) => self.by_server_name.insert(name.host().into(), bound.into()),
            None => self.any_host.replace(bound.into()),
        };
        if previous.is_none() { Ok(()) } else { Err(AlreadyBound) }
    }

    /// What a client means who asks for `host`, whatever port it wrote.
    pub fn find(&self, host: &Authority) -> Option<&Bound> {
        self.by_server_name.get(host.host()).or(self.any_host.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RepositoryKey {
        text.parse().unwrap()
    }

    fn host(text: &str) -> Authority {
        text.parse().unwrap()
    }

    #[test]
    fn a_server_name_wins_over_any_host_and_its_case_and_port_do_not_matter() {
        let mut bindings = Bindings::default();
        bindings.bind(Some(&host("A.example")), key("a")).unwrap();
        assert_eq!(bindings.find(&host("a.example:444")), Some(&key("a").into()));
        assert_eq!(bindings.find(&host("b.example")), None);

        bindings.bind(None, key("rest")).unwrap();
        assert_eq!(bindings.find(&host("a.EXAMPLE")), Some(&key("a").into()));
        assert_eq!(bindings.find(&host("b.example")), Some(&key("rest").into()));
        assert_eq!(bindings.find(&host("127.0.0.1:5000")), Some(&key("rest").into()));
    }

    #[test]
    fn nothing_is_bound_twice() {
        let mut bindings = Bindings::default();
        bindings.bind(Some(&host("a.example")), key("a")).unwrap();
        assert_eq!(bindings.bind(Some(&host("A.example")), key("b")), Err(AlreadyBound));
        bindings.bind(None, key("a")).unwrap();
        assert_eq!(bindings.bind(None, key("b")), Err(AlreadyBound));
    }
}
