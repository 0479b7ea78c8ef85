//! `[acme]`, and the names of the bindings that get their certificates by it.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

use super::problem::Problems;
use super::table::{AcmeTable, ChallengeName};
use crate::acme::{Acme, Challenge, DIRECTORY_DEFAULT, Name, Settings};

/// What a configuration wants of ACME.
#[derive(Debug)]
pub struct AcmeConfig {
    /// Which server, and how.
    pub settings: Settings,
    /// The names that need certificates.
    pub names: Vec<Name>,
    /// Where the bindings of this configuration look for their certificates, once it is in use.
    pub source: Arc<Source>,
}

/// Where certificates come from: set when a configuration comes into use, so that checking one touches nothing.
pub type Source = arc_swap::ArcSwapOption<Acme>;

pub(super) fn read(table: Spanned<AcmeTable>, directory: &Path, problems: &mut Problems<'_>) -> AcmeConfig {
    let span = table.span();
    let table = table.into_inner();
    if !table.terms_agreed {
        problems.add(span, "read the terms of the ACME server, then write `terms_agreed = true`");
    }
    if let Some(url) = table.directory.as_ref().filter(|url| !url.get_ref().starts_with("https://")) {
        problems.add(url.span(), "the directory of an ACME server is an https:// URL");
    }
    let settings = Settings {
        directory: table.directory.map_or_else(|| DIRECTORY_DEFAULT.to_owned(), Spanned::into_inner),
        contact: table.contact,
        state: directory.join(table.state),
        root: table.ca.map(|path| directory.join(path)),
        challenge: match table.challenge {
            ChallengeName::TlsAlpn01 => Challenge::TlsAlpn01,
            ChallengeName::Http01 => Challenge::Http01,
        },
    };
    AcmeConfig { settings, names: Vec::new(), source: Arc::default() }
}
