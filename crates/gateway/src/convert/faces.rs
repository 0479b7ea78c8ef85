//! The addresses and host names of a server, and which of them need a binding of their own.

use std::net::SocketAddr;

use super::Verdict;
use super::ledger::{Id, Ledger};
use super::probe::{ANY_HOST, HOST_LABEL, Purpose};
use super::site::Target;

/// One address and host name of a server.
#[derive(Clone, Debug)]
pub(super) struct Face {
    pub(super) listen: SocketAddr,
    pub(super) listen_id: Id,
    pub(super) is_tls: bool,
    pub(super) name: Name,
    /// Whether it also has every host of the address that nobody names.
    pub(super) takes_all: bool,
    pub(super) name_id: Option<Id>,
    pub(super) proxy_protocol: bool,
}

/// What hosts a server answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Every one.
    Any,
    /// One.
    Exact(String),
    /// One label in front of this.
    Below(String),
}

impl Name {
    /// A host of that kind, to ask rules about.
    pub(super) fn example(&self) -> String {
        match self {
            Self::Any => ANY_HOST.to_owned(),
            Self::Exact(host) => host.clone(),
            Self::Below(suffix) => format!("{HOST_LABEL}.{suffix}"),
        }
    }

    pub(super) fn server_name(&self) -> Option<String> {
        match self {
            Self::Any => None,
            Self::Exact(host) => Some(host.clone()),
            Self::Below(suffix) => Some(format!("*.{suffix}")),
        }
    }

    /// As a sentence names it.
    fn shown(&self) -> String {
        self.server_name().unwrap_or_else(|| "every other host".to_owned())
    }
}

/// What of a server's names needs a binding. The only server of an address, or its default one, has every host there that
/// no other names: one binding without a name does that, if all names of the server mean the same.
pub(super) fn merge(mut faces: Vec<(Face, Purpose)>, takes_all: bool, ledger: &mut Ledger) -> Vec<(Face, Purpose)> {
    let pattern = |(face, purpose): &(Face, Purpose)| match &face.name {
        Name::Below(domain) => Some((domain.clone(), Meaning::of(purpose))),
        Name::Any | Name::Exact(_) => None,
    };
    let patterns: Vec<(String, Meaning)> = faces.iter().filter_map(pattern).collect();
    faces.retain(|(face, purpose)| !patterns.iter().any(|pattern| is_meant(face, purpose, pattern, ledger)));
    let Some((face, first)) = faces.first() else { return faces };
    let first_id = face.name_id.unwrap_or(face.listen_id);
    let redirect = |purpose: &Purpose| purpose.redirect.as_ref().map(|(origin, _)| origin.clone());
    let means = |purpose: &Purpose| (Meaning::of(purpose), redirect(purpose));
    let first = means(first);
    if !takes_all {
        return faces;
    }
    if faces.iter().all(|(face, purpose)| !matches!(face.name, Name::Below(_)) && means(purpose) == first) {
        faces.truncate(1);
        for (face, _) in &mut faces {
            face.takes_all = true;
            if let (Some(id), Name::Exact(_)) = (face.name_id, &face.name) {
                ledger.unneeded(id, "the server has every host of its address that no other server names, and so has the binding");
                face.name_id = None;
            }
        }
    } else if !faces.iter().any(|(face, _)| face.name == Name::Any) {
        let reason = "the server also has every host of its address that nobody names; here those are answered 421, unless you remove one binding's `server_name`";
        ledger.decide(first_id, reason);
    }
    faces
}

/// What a host is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Meaning {
    target: Option<Target>,
    is_console: bool,
    redirects: bool,
}

impl Meaning {
    fn of(purpose: &Purpose) -> Self {
        let target = purpose.docker.as_ref().map(|docker| docker.target.clone());
        Self { target, is_console: purpose.console.is_some(), redirects: purpose.redirect.is_some() }
    }
}

/// Whether a host is one that a pattern of the same server means besides, and leads where the pattern leads it.
fn is_meant(face: &Face, purpose: &Purpose, (domain, pattern): &(String, Meaning), ledger: &mut Ledger) -> bool {
    let Name::Exact(host) = &face.name else { return false };
    let Some((label, _)) = host.split_once('.').filter(|(_, rest)| rest == domain) else { return false };
    let mut own = Meaning::of(purpose);
    if own.target.as_ref().is_some_and(|target| matches!(target, Target::Repository(key) if key.as_str() == label)) {
        own.target = Some(Target::RepositoryFromHost);
    }
    let is_same = own == *pattern;
    if let (true, Some(id)) = (is_same, face.name_id) {
        ledger.translated(id);
    }
    is_same
}

/// What is to be said of a name of which no binding was made, while other names of the server have one.
pub(super) fn note_lost(face: &Face, purpose: &Purpose, ledger: &mut Ledger) {
    let id = face.name_id.unwrap_or(face.listen_id);
    let host = face.name.shown();
    match purpose.unclear.as_slice() {
        [] => ledger.decide(id, format!("{host} leads to no repository, no REST API and no other host: it has no binding")),
        unclear => {
            ledger.note(id, Verdict::NotUnderstood, format!("what becomes of {host} can't be followed: it has no binding"));
            unclear.iter().for_each(|(id, why)| ledger.note(*id, Verdict::NotUnderstood, why.clone()));
        }
    }
}
