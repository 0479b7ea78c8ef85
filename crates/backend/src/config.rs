//! `backend.toml`: read once, straight into domain types, unknown fields refused.

mod place;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use berth_names::{ApiVersion, InvalidOrigin, Network, Origin, RepositoryKey};
use berth_registry::CleanupTimes;
use berth_storage::rocksdb::Memory;
use serde::Deserialize;
use toml::Spanned;

use crate::server::Peer;
use place::Place;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where everything is kept. Relative paths are relative to this file.
    pub(crate) data_dir: PathBuf,
    /// Where requests are taken.
    pub(crate) listen: Listen,
    /// Addresses whose `X-Forwarded-*` headers are believed; whoever may open the Unix socket always is.
    trusted_proxies: Option<TrustedProxies>,
    /// Passwords, and what strangers are told.
    #[serde(default)]
    pub(crate) security: Security,
    /// Pages of other origins that may use docker's API.
    #[serde(default)]
    pub(crate) cors: Cors,
    /// What is written down about who did what.
    #[serde(default)]
    pub(crate) audit: Audit,
    /// What the store may use.
    #[serde(default)]
    pub(crate) storage: Storage,
    /// Where traces go, if anywhere.
    pub(crate) traces: Option<berth_traces::Settings>,
    /// What clients may hold at once.
    #[serde(default)]
    pub(crate) places: Places,
    /// When what deletions leave behind goes.
    #[serde(default)]
    pub(crate) cleanup: Cleanup,
    /// The repositories that are created once; from then on they are managed over REST.
    #[serde(default, rename = "repository")]
    pub(crate) repositories: Vec<Repository>,
}

/// Where requests are taken: at least one of the two.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// A Unix socket, for a gateway on the same host.
    pub(crate) unix: Option<PathBuf>,
    /// A TCP address, without TLS.
    pub(crate) tcp: Option<SocketAddr>,
}

/// Passwords, and what strangers are told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Security {
    /// Fewest characters of a password.
    pub(crate) password_chars_min: usize,
    /// A file of breached passwords, sorted lines of `SHA1[:count]`. Relative paths are relative to this file.
    pub(crate) breached_passwords: Option<PathBuf>,
    /// Whether what a user may not read looks as if it was not there (404) rather than forbidden (403).
    pub(crate) hide_unauthorized: bool,
}

impl Default for Security {
    fn default() -> Self {
        let passwords = berth_registry::access::PasswordPolicy::default();
        Self { password_chars_min: passwords.chars_min, breached_passwords: None, hide_unauthorized: true }
    }
}

/// Pages of other origins that may use docker's API from a browser.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cors {
    /// Theirs.
    pub(crate) origins: Vec<AllowedOrigin>,
    /// Whether the browser may send the password that it remembers with what they ask.
    pub(crate) credentials: bool,
}

/// An origin whose pages are let in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum AllowedOrigin {
    /// `*`: every page may read.
    Any,
    /// The pages of this one may do what their user may.
    This(Origin),
}

impl TryFrom<String> for AllowedOrigin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, InvalidOrigin> {
        if text == "*" { Ok(Self::Any) } else { text.parse().map(Self::This) }
    }
}

/// What is written down about who did what.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Audit {
    /// Whether pulls are written down too, not only changes, logins and refusals.
    pub(crate) pulls: bool,
    /// A file is put aside when it has so many bytes.
    pub(crate) file_bytes_max: u64,
    /// Files of each series that are kept, the present one included; the oldest goes first.
    pub(crate) files_max: usize,
}

impl Default for Audit {
    fn default() -> Self {
        Self { pulls: false, file_bytes_max: 64 << 20, files_max: 16 }
    }
}

/// What the store may use.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Storage {
    /// Memory for names and small blobs, in MiB.
    memory_mib: usize,
}

impl Default for Storage {
    fn default() -> Self {
        Self { memory_mib: Memory::MIB_DEFAULT }
    }
}

impl Storage {
    /// The memory that is asked for; a file that was checked asks for one that there can be.
    pub(crate) fn memory(self) -> Memory {
        Memory::mib(self.memory_mib).unwrap_or_default()
    }
}

/// What clients may hold at once. An IPv6 client is its /64.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Places {
    /// Open connections, the operator's apart.
    pub(crate) connections: usize,
    /// Requests of one client that are under way. Default: half of the connections.
    pub(crate) requests_per_client: Option<usize>,
    /// Requests of all those who have not logged in. Default: three quarters of the connections.
    pub(crate) requests_of_strangers: Option<usize>,
    /// Forms, documents and manifests of one client that are on their way.
    pub(crate) bodies_per_client: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { connections: 8192, requests_per_client: None, requests_of_strangers: None, bodies_per_client: 512 }
    }
}

/// Fewest connections that make sense: those that a gateway keeps, and some for everybody else.
const CONNECTIONS_MIN: usize = 64;

/// Open files besides those of connections and of what is sent over them: RocksDB's, the logs, those being written.
const OTHER_FILES: u64 = 1024;

impl Places {
    pub(crate) fn requests_per_client(&self) -> usize {
        self.requests_per_client.unwrap_or(self.connections / 2)
    }

    pub(crate) fn requests_of_strangers(&self) -> usize {
        self.requests_of_strangers.unwrap_or(self.connections / 4 * 3)
    }

    /// The same, as far as the process may have so many open files: each connection is one, and what it sends another.
    #[must_use]
    pub(crate) fn within(self, open_files: Option<u64>) -> Self {
        let allowed = open_files.map_or(usize::MAX, |files| usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX));
        Self { connections: self.connections.min(allowed.max(CONNECTIONS_MIN)), ..self }
    }
}

/// When what deletions leave behind goes. Layers and manifests that nothing leads to go at once.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Cleanup {
    /// How often empty images are removed, in seconds.
    pub(crate) prune_interval_s: u64,
    /// How long nothing must have happened in them, in seconds.
    pub(crate) prune_quiet_s: u64,
    /// How long what a push took a tag away from can still be pulled by its digest, in seconds.
    pub(crate) keep_replaced_s: u64,
}

impl Default for Cleanup {
    fn default() -> Self {
        let CleanupTimes { prune_interval_ms, quiet_ms, replaced_ms } = CleanupTimes::default();
        Self { prune_interval_s: prune_interval_ms / 1000, prune_quiet_s: quiet_ms / 1000, keep_replaced_s: replaced_ms / 1000 }
    }
}

impl From<Cleanup> for CleanupTimes {
    fn from(cleanup: Cleanup) -> Self {
        Self {
            prune_interval_ms: cleanup.prune_interval_s.saturating_mul(1000),
            quiet_ms: cleanup.prune_quiet_s.saturating_mul(1000),
            replaced_ms: cleanup.keep_replaced_s.saturating_mul(1000),
        }
    }
}

/// One repository.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Repository {
    key: Spanned<RepositoryKey>,
    api_version: ApiVersion,
    #[serde(default)]
    anonymous_pull: bool,
    #[serde(default)]
    challenge: Challenge,
    #[serde(default)]
    description: String,
}

/// How V2 clients are asked for credentials.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Challenge {
    #[default]
    Bearer,
    Basic,
}

impl From<Repository> for berth_registry::Repository {
    fn from(repository: Repository) -> Self {
        let Repository { key, api_version, anonymous_pull, challenge, description } = repository;
        let challenge = match challenge {
            Challenge::Bearer => berth_registry::Challenge::Bearer,
            Challenge::Basic => berth_registry::Challenge::Basic,
        };
        Self { anonymous_pull, challenge, description, ..Self::new(key.into_inner(), api_version) }
    }
}

impl Config {
    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| anyhow::anyhow!("{}: {}", Place::of(path, &text, error.span()), place::explain(&error)))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        config.data_dir = directory.join(&config.data_dir);
        config.security.breached_passwords = config.security.breached_passwords.map(|list| directory.join(list));
        config.listen.unix = config.listen.unix.map(|socket| directory.join(socket));
        config.check(path, &text)?;
        Ok(config)
    }

    /// Whose word about clients counts. If nobody is named it is this host's, where it can connect at all.
    pub(crate) fn trusted_proxies(&self) -> TrustedProxies {
        let default = || if self.listen.tcp.is_some() { TrustedProxies::this_host() } else { TrustedProxies::default() };
        self.trusted_proxies.clone().unwrap_or_else(default)
    }

    /// Who is believed about clients, for the operator to check.
    pub(crate) fn believed(&self) -> String {
        let socket = self.listen.unix.as_ref().map(|socket| format!("whoever may open {}", socket.display()));
        let listed = self.trusted_proxies().0;
        let networks = || listed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let peers = self.listen.tcp.filter(|_| !listed.is_empty()).map(|address| format!("at {address} connections from {}", networks()));
        let believed: Vec<_> = socket.into_iter().chain(peers).collect();
        if believed.is_empty() { "nobody".to_owned() } else { believed.join("; ") }
    }

    fn check(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let file = path.display();
        anyhow::ensure!(self.listen.unix.is_some() || self.listen.tcp.is_some(), "{file}: [listen] needs `unix`, `tcp` or both");
        anyhow::ensure!(self.security.password_chars_min >= 1, "{file}: [security] password_chars_min must be 1 or more");
        anyhow::ensure!(
            !(self.cors.credentials && self.cors.origins.contains(&AllowedOrigin::Any)),
            "{file}: [cors] credentials can't be for every page: list the origins instead of \"*\""
        );
        anyhow::ensure!(self.audit.files_max >= 2, "{file}: [audit] files_max must be 2 or more");
        anyhow::ensure!(self.audit.file_bytes_max >= 4096, "{file}: [audit] file_bytes_max must be 4096 or more");
        let Places { connections, bodies_per_client, .. } = self.places;
        anyhow::ensure!(connections >= CONNECTIONS_MIN, "{file}: [places] connections must be {CONNECTIONS_MIN} or more");
        for (field, requests) in
            [("requests_per_client", self.places.requests_per_client()), ("requests_of_strangers", self.places.requests_of_strangers())]
        {
            anyhow::ensure!(
                (1..=connections).contains(&requests),
                "{file}: [places] {field} must be from 1 to `connections`, {connections}"
            );
        }
        anyhow::ensure!(bodies_per_client >= 1, "{file}: [places] bodies_per_client must be 1 or more");
        anyhow::ensure!(self.cleanup.prune_interval_s >= 1, "{file}: [cleanup] prune_interval_s must be 1 or more");
        let (min, max) = (Memory::MIB_MIN, Memory::MIB_MAX);
        anyhow::ensure!(Memory::mib(self.storage.memory_mib).is_some(), "{file}: [storage] memory_mib must be {min} to {max}");
        let mut keys = HashSet::new();
        for Repository { key, .. } in &self.repositories {
            let (place, name) = (Place::of(path, text, Some(key.span())), key.get_ref());
            anyhow::ensure!(keys.insert(name), "{place}: repository `{name}` is there twice: every key must be another");
        }
        Ok(())
    }
}

/// Addresses and networks whose forwarding headers are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// This host: a proxy on it works without being named.
    pub(crate) fn this_host() -> Self {
        Self(vec![Network::LOOPBACK_V4, Network::LOOPBACK_V6])
    }

    /// Whether what the peer says of a request that it hands on is believed. Whoever may open the Unix socket is.
    pub(crate) fn trusts(&self, peer: Peer) -> bool {
        match peer {
            Peer::Unix => true,
            Peer::Operator => false,
            Peer::Tcp(address) => self.contains(address.ip()),
        }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("backend.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).map_err(|error| format!("{error:#}"))
    }

    const GOOD: &str =
        "data_dir = \"data\"\n[listen]\nunix = \"backend.sock\"\n[[repository]]\nkey = \"docker-local\"\napi_version = \"V1\"\n";

    #[test]
    fn the_shipped_file_is_read_and_shows_the_default_memory() {
        let config = load(include_str!("../../../deploy/backend.toml")).unwrap();
        assert_eq!(config.storage.memory(), Memory::default());
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load(GOOD).unwrap();
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("data"));
        assert!(config.listen.unix.unwrap().is_absolute());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, expected) in [
            (GOOD.replace("data_dir", "datadir"), "backend.toml:1:1: unknown field"),
            (GOOD.replace("data_dir", "datadir"), "did you mean `data_dir`?"),
            (GOOD.replace("V1", "V3"), "backend.toml:6:15: unknown variant `V3`"),
            (GOOD.replace("docker-local", "docker local"), "repository key"),
            (GOOD.replace("unix = \"backend.sock\"", ""), "needs `unix`"),
            (
                format!("{GOOD}[[repository]]\nkey = \"docker-local\"\napi_version = \"V2\"\n"),
                "backend.toml:8:7: repository `docker-local` is there twice",
            ),
            (format!("trusted_proxies = [\"10.0.0.0/33\"]\n{GOOD}"), "backend.toml:1:"),
            (format!("trusted_proxies = [\"10.1.2.3/8\"]\n{GOOD}"), "a network like"),
            (format!("trusted_proxies = [\"10.0.0.0/+8\"]\n{GOOD}"), "a network like"),
            (
                format!("{GOOD}[cors]\norigins = [\"*\"]\ncredentials = true\n"),
                "[cors] credentials can't be for every page: list the origins instead of \"*\"",
            ),
            (format!("{GOOD}[cors]\norigins = [\"https://ui.example.com/\"]\n"), "an origin is `http://` or `https://` and a host"),
            (format!("{GOOD}[cors]\norigin = \"*\"\n"), "unknown field `origin`"),
            (format!("{GOOD}[places]\nconnections = 8\n"), "connections must be 64 or more"),
            (format!("{GOOD}[places]\nbodies_per_client = 0\n"), "bodies_per_client must be 1 or more"),
            (format!("{GOOD}[places]\nrequests_per_client = 0\n"), "requests_per_client must be from 1 to `connections`, 8192"),
            (format!("{GOOD}[cleanup]\nprune_interval_s = 0\n"), "prune_interval_s must be 1 or more"),
            (format!("{GOOD}[storage]\nmemory_mib = 15\n"), "memory_mib must be 16 to 1048576"),
            (
                format!("{GOOD}[traces]\noltp = \"http://127.0.0.1:4318\"\n"),
                "backend.toml:8:1: unknown field `oltp`, expected `otlp` or `ratio`; did you mean `otlp`?",
            ),
            (format!("{GOOD}[traces]\notlp = \"127.0.0.1:4318\"\n"), "backend.toml:8:8: \"127.0.0.1:4318\" is no collector"),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn who_is_believed_follows_from_where_one_listens() {
        let listening = |listen: &str, trusted: &str| load(&format!("{trusted}data_dir = \"data\"\n[listen]\n{listen}\n")).unwrap();
        let tcp = |text: &str| Peer::Tcp(text.parse().unwrap());
        let (unix, both) = ("unix = \"/run/b.sock\"", "unix = \"/run/b.sock\"\ntcp = \"127.0.0.1:8081\"");
        for (listen, trusted, peer, believed) in [
            (unix, "", Peer::Unix, true),
            (unix, "", Peer::Operator, false),
            (unix, "", tcp("127.0.0.1:1"), false),
            (both, "", Peer::Unix, true),
            // A proxy on the same host works as it is.
            (both, "", tcp("127.0.0.1:1"), true),
            (both, "", tcp("[::1]:1"), true),
            (both, "", tcp("192.0.2.1:1"), false),
            (both, "trusted_proxies = []\n", tcp("127.0.0.1:1"), false),
            (both, "trusted_proxies = [\"192.0.2.1\"]\n", tcp("192.0.2.1:1"), true),
            (both, "trusted_proxies = [\"192.0.2.1\"]\n", tcp("127.0.0.1:1"), false),
        ] {
            assert_eq!(listening(listen, trusted).trusted_proxies().trusts(peer), believed, "{listen} {trusted} {peer:?}");
        }
        for (listen, trusted, said) in [
            (unix, "", "whoever may open /run/b.sock"),
            (unix, "trusted_proxies = [\"127.0.0.1\"]\n", "whoever may open /run/b.sock"),
            (both, "", "whoever may open /run/b.sock; at 127.0.0.1:8081 connections from 127.0.0.0/8, ::1"),
            ("tcp = \"0.0.0.0:8081\"", "trusted_proxies = []\n", "nobody"),
        ] {
            assert_eq!(listening(listen, trusted).believed(), said);
        }
    }

    #[test]
    fn places_have_defaults_that_no_client_can_use_up_and_that_open_files_suffice_for() {
        let places = load(GOOD).unwrap().places;
        assert_eq!((places.connections, places.requests_per_client(), places.requests_of_strangers()), (8192, 4096, 6144));
        let within = |files| {
            let places = places.within(files);
            (places.connections, places.requests_per_client(), places.requests_of_strangers())
        };
        assert_eq!(within(None), (8192, 4096, 6144));
        assert_eq!(within(Some(65536)), (8192, 4096, 6144));
        assert_eq!(within(Some(5120)), (2048, 1024, 1536));
        assert_eq!(within(Some(1024)), (64, 32, 48));
    }

    #[test]
    fn networks_contain_what_they_should() {
        for (network, inside, outside) in [
            ("127.0.0.0/8", "127.255.0.1", "128.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        ] {
            let trusted = TrustedProxies(vec![network.parse().unwrap()]);
            assert!(trusted.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!trusted.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }
}
