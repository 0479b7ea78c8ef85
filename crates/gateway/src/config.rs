//! The gateway's configuration: a TOML file, checked as a whole before anything of it is used.
//!
//! Every problem is reported with its line and column, all of them at once. What comes out can be served as it is:
//! certificates are loaded, bindings are grouped by listening address and free of contradictions.

mod acme;
mod binding;
mod limits;
mod places;
mod problem;
mod site;
mod table;
mod upstream;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_names::Network;
use toml::Spanned;

use crate::access;
use crate::bindings::Listener;
use crate::limits::Places;
use crate::upstream::Server;
use crate::watch::Stamp;

pub use acme::{AcmeConfig, Source};
pub use problem::Problem;
use problem::Problems;
use table::{AccessLogTable, Address, File};

/// How long requests that are under way may go on after a signal to stop, unless the file says otherwise.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(60);

/// How long the backend may take for the first byte of an answer that needs no long work, unless the file says otherwise.
/// Such answers take milliseconds; the rest is for a disk that is busy with others.
pub const FIRST_BYTE_DEFAULT: Duration = Duration::from_secs(60);

/// Longest `drain_timeout_s`: a day.
const DRAIN_MAX_S: u64 = 24 * 60 * 60;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Proxies in front whose PROXY protocol and `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// How long requests that are under way may go on after a signal to stop.
    pub drain: Duration,
    /// The backends: at least one, and all different.
    pub servers: Vec<Server>,
    /// How long they may take for the first byte of an answer that needs no long work.
    pub first_byte: Duration,
    /// What clients may hold of the whole gateway.
    pub places: Places,
    /// How requests are written down.
    pub access_log: access::Settings,
    /// Where metrics and health are served.
    pub metrics: Option<SocketAddr>,
    /// Where traces go, if anywhere.
    pub traces: Option<berth_traces::Settings>,
    /// Whether probes of `berth-gateway doctor` are answered.
    pub answers_probes: bool,
    /// Where bindings get their certificates, if by ACME.
    pub acme: Option<AcmeConfig>,
    /// What to listen on, in the order of the file.
    pub listeners: Vec<Listener>,
    /// How many bindings the file has.
    pub bindings: usize,
    /// The files that it was made from, as they were: itself, and every certificate and key.
    pub files: BTreeMap<PathBuf, Option<Stamp>>,
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
        let stamp = Stamp::of(path);
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut config = Self::parse(&text, directory).map_err(|problems| ConfigError::Invalid { path: path.to_owned(), problems })?;
        config.files.insert(path.to_owned(), stamp);
        Ok(config)
    }

    /// Checks the text of a file that lies in `directory`.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::of(text);
        let file: File = toml::from_str(text).map_err(|error| vec![problems.syntax(&error)])?;
        let bindings = file.bindings.len();
        let mut files = Files::new(directory);
        let drain = drain(file.drain_timeout_s.as_ref(), &mut problems);
        let said = file.upstream.get_ref().first_byte_timeout_s.as_ref();
        let first_byte = limits::wait("first_byte_timeout_s", said, FIRST_BYTE_DEFAULT, &mut problems);
        let servers = upstream::read(file.upstream, &mut files, &mut problems);
        let places = places::read(&file.places, &mut problems);
        let defaults = limits::read(&file.limits, &Default::default(), &mut problems);
        let mut acme = file.acme.map(|table| acme::read(table, directory, &mut problems));
        let mut reader = binding::Reader::new(&mut files, &mut problems, &file.trusted_proxies, defaults, acme.as_mut());
        let listeners = reader.listeners(file.bindings);
        let access_log = access_log(file.access_log, directory, &mut problems);
        let metrics = file.metrics.map(|table| metrics(table.listen, &listeners, &mut problems));
        if problems.is_empty() {
            Ok(Self {
                trusted_proxies: file.trusted_proxies,
                drain,
                servers,
                first_byte,
                places,
                access_log,
                metrics,
                traces: file.traces,
                answers_probes: file.doctor.enabled,
                acme,
                listeners,
                bindings,
                files: files.read,
            })
        } else {
            Err(problems.into_sorted())
        }
    }
}

fn drain(seconds: Option<&Spanned<u64>>, problems: &mut Problems<'_>) -> Duration {
    let Some(seconds) = seconds else { return DRAIN_DEFAULT };
    if *seconds.get_ref() > DRAIN_MAX_S {
        problems.add(seconds.span(), format!("`drain_timeout_s` is at most {DRAIN_MAX_S}, a day"));
    }
    Duration::from_secs(*seconds.get_ref())
}

fn access_log(table: AccessLogTable, directory: &Path, problems: &mut Problems<'_>) -> access::Settings {
    let AccessLogTable { format, path } = table;
    let path = path.map(|path| {
        let (span, path) = (path.span(), directory.join(path.into_inner()));
        // What is missing would be known only when the file is opened.
        match path.parent() {
            _ if path.is_dir() => problems.add(span, format!("{} is a directory", path.display())),
            Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
                problems.add(span, format!("there is no directory {}", parent.display()));
            }
            _ => {}
        }
        path
    });
    access::Settings { format, path }
}

fn metrics(listen: Spanned<Address>, listeners: &[Listener], problems: &mut Problems<'_>) -> SocketAddr {
    let (span, address) = (listen.span(), listen.into_inner().into());
    if listeners.iter().any(|listener| listener.address == address && address.port() != 0) {
        problems.add(span, format!("{address} is the address of a binding: metrics have one of their own"));
    }
    address
}

/// Resolves paths, and remembers which files were read.
struct Files<'a> {
    directory: &'a Path,
    read: BTreeMap<PathBuf, Option<Stamp>>,
}

impl<'a> Files<'a> {
    fn new(directory: &'a Path) -> Self {
        Self { directory, read: BTreeMap::new() }
    }

    fn resolve(&mut self, path: &Path) -> PathBuf {
        let path = self.directory.join(path);
        // Before it is read: what changes after that is noticed.
        let stamp = Stamp::of(&path);
        self.read.entry(path.clone()).or_insert(stamp);
        path
    }
}

#[cfg(test)]
mod tests;
