//! The gateway's configuration: a TOML file, checked as a whole before anything of it is used.
//!
//! Every problem is reported with its line and column, all of them at once. What comes out can be served as it is:
//! certificates are loaded, bindings are grouped by listening address and free of contradictions.

mod problem;
mod table;

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_names::Scheme;
use rustls::sign::CertifiedKey;
use toml::Spanned;

use crate::access;
use crate::bindings::{Bindings, Bound, Listener};
use crate::tls::{self, Certificates};

pub use problem::Problem;
use problem::Problems;
use table::{AccessLogTable, BindingTable, File, UpstreamTable};

/// Longest path of a Unix socket, in bytes (the kernel's `sun_path`, less its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the backend listens.
    pub upstream: Upstream,
    /// What to listen on, in the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// How many bindings the file has.
    pub bindings: usize,
    /// How requests are written down.
    pub access_log: access::Settings,
    /// Where metrics and health are served.
    pub metrics: Option<SocketAddr>,
}

/// Where the backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// One address to listen on.
#[derive(Debug)]
pub struct ListenerConfig {
    /// The address.
    pub address: SocketAddr,
    /// What clients speak to it.
    pub scheme: Scheme,
    /// Which host means which repository.
    pub bindings: Bindings,
    /// Present if the scheme is `https`.
    pub certificates: Option<Certificates>,
}

impl ListenerConfig {
    /// What requests need to know of it, once it listens on `port`.
    pub fn listener(&self, port: u16) -> Listener {
        Listener { scheme: self.scheme, port, bindings: self.bindings.clone() }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{}", problem::list(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it, in the order of its lines.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`], which lists every problem.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })
    }

    /// Checks the text of a file that lies in `directory`.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::of(text);
        let file: File = toml::from_str(text).map_err(|error| vec![problems.syntax(&error)])?;
        let bindings = file.bindings.len();
        let upstream = upstream(file.upstream, directory, &mut problems);
        let listeners = listeners(file.bindings, directory, &mut problems);
        let AccessLogTable { format, path } = file.access_log;
        let access_log = access::Settings { format, path: path.map(|path| directory.join(path)) };
        let metrics = file.metrics.map(|table| table.listen.into());
        match upstream {
            Some(upstream) if problems.is_empty() => Ok(Self { upstream, listeners, bindings, access_log, metrics }),
            _ => Err(problems.into_sorted()),
        }
    }
}

fn upstream(table: Spanned<UpstreamTable>, directory: &Path, problems: &mut Problems<'_>) -> Option<Upstream> {
    let span = table.span();
    match table.into_inner() {
        UpstreamTable { unix: Some(path), tcp: None } => {
            let socket = directory.join(path.get_ref());
            if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                problems.add(path.span(), format!("a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes: {}", socket.display()));
            }
            Some(Upstream::Unix(socket))
        }
        UpstreamTable { unix: None, tcp: Some(address) } => Some(Upstream::Tcp(address.into())),
        UpstreamTable { unix: Some(_), tcp: Some(_) } => {
            problems.add(span, "the backend has one address: write either `unix` or `tcp`");
            None
        }
        UpstreamTable { unix: None, tcp: None } => {
            problems.add(span, "where is the backend? Write `unix = \"/run/berth/backend.sock\"` or `tcp = \"127.0.0.1:8081\"`");
            None
        }
    }
}

fn listeners(bindings: Vec<Spanned<BindingTable>>, directory: &Path, problems: &mut Problems<'_>) -> Vec<ListenerConfig> {
    if bindings.is_empty() {
        problems.add(0..0, "nothing is bound: add a [[binding]] with `listen` and `repository`");
    }
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    for binding in bindings {
        let span = binding.span();
        let binding = binding.into_inner();
        let Some(bound) = bound(&binding, span.clone(), problems) else { continue };
        let certificate = certificate(&binding, span, directory, problems);
        let address = (*binding.listen.get_ref()).into();
        let known = listeners.iter().position(|listener| listener.address == address);
        let at = known.unwrap_or_else(|| {
            refuse_overlap(&listeners, address, &binding, problems);
            listeners.push(ListenerConfig { address, scheme: binding.scheme(), bindings: Bindings::default(), certificates: None });
            listeners.len() - 1
        });
        add(&mut listeners[at], &binding, bound, certificate, problems);
    }
    listeners
}

/// What a binding makes reachable, if it says exactly one thing.
fn bound(binding: &BindingTable, span: Range<usize>, problems: &mut Problems<'_>) -> Option<Bound> {
    match (&binding.repository, binding.console) {
        (Some(repository), false) => Some(Bound::Repository(repository.clone())),
        (None, true) => Some(Bound::Console),
        (Some(_), true) => {
            problems.add(span, "a binding has either a `repository` or `console = true`");
            None
        }
        (None, false) => {
            problems.add(span, "a binding needs `repository`, or `console = true` for management");
            None
        }
    }
}

/// Adds a binding to the listener of its address.
fn add(
    listener: &mut ListenerConfig,
    binding: &BindingTable,
    bound: Bound,
    certificate: Option<Arc<CertifiedKey>>,
    problems: &mut Problems<'_>,
) {
    let address = listener.address;
    if listener.scheme != binding.scheme() {
        problems.add(
            binding.listen.span(),
            format!("{address} has a binding with TLS and one with `plain_http`: an address speaks one of them"),
        );
    } else if listener.bindings.bind(binding.server_name(), bound).is_err() {
        let (span, message) = match &binding.server_name {
            Some(name) => (name.span(), format!("{address} is bound to server_name {:?} already", name.get_ref().as_ref().host())),
            None => (
                binding.listen.span(),
                format!("{address} is bound already: give each of its bindings another `server_name`, or this one another `listen`"),
            ),
        };
        problems.add(span, message);
    }
    if let Some(certificate) = certificate {
        let server_name = binding.server_name();
        match &mut listener.certificates {
            Some(certificates) => certificates.add(server_name, certificate),
            None => listener.certificates = Some(Certificates::new(server_name, certificate)),
        }
    }
}

/// The kernel would refuse the second: better said before the first listens.
fn refuse_overlap(listeners: &[ListenerConfig], address: SocketAddr, binding: &BindingTable, problems: &mut Problems<'_>) {
    let overlaps = |other: SocketAddr| {
        other.port() == address.port()
            && other.is_ipv4() == address.is_ipv4()
            && (other.ip().is_unspecified() || address.ip().is_unspecified())
            && address.port() != 0
    };
    if let Some(other) = listeners.iter().find(|listener| overlaps(listener.address)) {
        problems.add(
            binding.listen.span(),
            format!("{address} overlaps with {} of another binding: write the same address in both", other.address),
        );
    }
}

/// The certificate of a binding. None: it has none, or none that can be used, which is then a problem.
fn certificate(binding: &BindingTable, span: Range<usize>, directory: &Path, problems: &mut Problems<'_>) -> Option<Arc<CertifiedKey>> {
    let (certificate, key) = match (&binding.certificate, &binding.key, binding.plain_http) {
        (Some(certificate), Some(key), false) => (certificate, key),
        (None, None, true) => return None,
        (Some(file), _, true) | (None, Some(file), true) => {
            problems.add(file.span(), "`plain_http = true` has no certificate and no key: remove it, or them");
            return None;
        }
        (Some(certificate), None, false) => {
            problems.add(certificate.span(), "`certificate` needs `key`, the file with its private key");
            return None;
        }
        (None, Some(key), false) => {
            problems.add(key.span(), "`key` needs `certificate`, the file with its certificate chain");
            return None;
        }
        (None, None, false) => {
            problems.add(span, "a binding needs `certificate` and `key`, or `plain_http = true` for clients with --insecure-registry");
            return None;
        }
    };
    match tls::load(&directory.join(certificate.get_ref()), &directory.join(key.get_ref())) {
        Ok(certified) => Some(certified),
        Err(error) => {
            let file = if error.is_about_key() { key } else { certificate };
            problems.add(file.span(), error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests;
