//! Certificates from an ACME server (RFC 8555), such as Let's Encrypt: ordered, validated by http-01 or tls-alpn-01 (RFC
//! 8737), kept on disk and renewed in time.
//!
//! What must stay true:
//! - A listener can always start: until a certificate has been issued, a placeholder is shown; one that could not be renewed
//!   is shown until it has been.
//! - Nothing here reaches the network but [`Acme::run`].
//! - One order at a time, at a pace below every limit of Let's Encrypt ([`pace`]).
//! - Keys are never logged and leave the state directory for the TLS handshake only ([`store`]).

mod answer;
mod certificate;
mod client;
mod name;
mod order;
mod pace;
mod resolver;
mod run;
mod store;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

pub use answer::{HTTP_PREFIX, TLS_ALPN, is_validation};
pub use name::{Name, NameError};
pub use resolver::AcmeResolver;

use answer::Answer;
use certificate::Certificate;
use client::Client;
use store::Store;

/// How the ACME server makes sure that a name leads here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Challenge {
    /// By a TLS handshake on port 443 of the name.
    #[default]
    TlsAlpn01,
    /// By a request over plain HTTP to port 80 of the name.
    Http01,
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        })
    }
}

/// Which ACME server to ask, and how. Whoever makes one has seen to it that the operator agrees to the server's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The URL of the server's directory.
    pub directory: String,
    /// Whom the server may write to: a mail address, or a URL.
    pub contact: Option<String>,
    /// Where account and certificates are kept. Each server has a directory of its own in it.
    pub state: PathBuf,
    /// PEM file of authorities, besides the public ones, by which the server may identify itself.
    pub root: Option<PathBuf>,
    /// How names are validated.
    pub challenge: Challenge,
}

/// Let's Encrypt.
pub const DIRECTORY_DEFAULT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// How it stands with one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name.
    pub name: Name,
    /// When the certificate expires, if there is one.
    pub expires: Option<SystemTime>,
    /// How many orders have failed since the last success, or since the start.
    pub failures: u32,
    /// When the next order will be placed.
    pub next_order: SystemTime,
}

/// The certificates of all names.
pub struct Acme {
    settings: Settings,
    store: Store,
    client: Client,
    placeholder: Arc<CertifiedKey>,
    names: watch::Sender<Arc<[Name]>>,
    certificates: ArcSwap<HashMap<Name, Certificate>>,
    failing: ArcSwap<HashMap<Name, run::Failing>>,
    ledger: ArcSwap<pace::Ledger>,
    answer: answer::Current,
    changed: watch::Sender<u64>,
}

impl Acme {
    /// Takes up what the state directory holds, and creates it if there is none. Without network.
    ///
    /// # Errors
    /// If the state directory can't be written or the file of authorities can't be used.
    pub fn new(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let store = Store::open(&settings.state, &settings.directory)?;
        let client = Client::new(client::roots(settings.root.as_deref())?)?;
        Ok(Arc::new(Self {
            placeholder: certificate::placeholder()?,
            names: watch::Sender::new(Arc::default()),
            certificates: ArcSwap::from_pointee(store.certificates().into_iter().collect()),
            failing: ArcSwap::default(),
            ledger: ArcSwap::from_pointee(store.ledger()),
            answer: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            settings,
            store,
            client,
        }))
    }

    /// What it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sets the names that certificates are ordered and renewed for. Certificates of other names are kept, as they are.
    pub fn set_names(&self, names: Vec<Name>) {
        let mut names = names;
        names.sort_unstable();
        names.dedup();
        self.names.send_replace(names.into());
    }

    /// The certificate of a name: the issued one, even if it has expired, or a placeholder.
    pub fn certificate(&self, server_name: &str) -> Arc<CertifiedKey> {
        let certificates = self.certificates.load();
        Arc::clone(certificates.get(server_name).map_or(&self.placeholder, |certificate| &certificate.certified))
    }

    /// When the certificate of a name expires, if one was issued.
    pub fn expiry(&self, server_name: &str) -> Option<SystemTime> {
        self.certificates.load().get(server_name).map(|certificate| certificate.not_after)
    }

    /// What to show in a handshake that validates a name ([`is_validation`]). A connection with such a handshake carries no
    /// request and ends with it.
    pub fn challenge_certificate(&self, sni: &str) -> Option<Arc<CertifiedKey>> {
        match &**self.answer.load().as_ref()? {
            Answer::Tls { name, certificate } if name.as_str() == sni => Some(Arc::clone(certificate)),
            Answer::Tls { .. } | Answer::Http { .. } => None,
        }
    }

    /// The body, `application/octet-stream`, of the answer to a GET of [`HTTP_PREFIX`] and `token` over plain HTTP.
    pub fn http_answer(&self, token: &str) -> Option<Arc<str>> {
        match &**self.answer.load().as_ref()? {
            Answer::Http { token: expected, text } if **expected == *token => Some(Arc::clone(text)),
            Answer::Http { .. } | Answer::Tls { .. } => None,
        }
    }

    /// Counts up whenever a certificate was issued or taken up from disk.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How it stands with each name, in the order of their letters.
    pub fn status(&self) -> Vec<Status> {
        let (names, now) = (Arc::clone(&self.names.borrow()), SystemTime::now());
        let status = |name: &Name| Status {
            name: name.clone(),
            expires: self.expiry(name.as_str()),
            failures: self.failing.load().get(name).map_or(0, |failing| failing.failures),
            next_order: self.next_order(name, now),
        };
        names.iter().map(status).collect()
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("directory", &self.settings.directory).field("names", &*self.names.borrow()).finish_non_exhaustive()
    }
}
