//! From what a server of another proxy is for to the bindings that do the same.

use std::path::PathBuf;

use berth_names::{Authority, Origin, Scheme};

use super::Verdict;
use super::faces::Face;
use super::ledger::{Id, Ledger};
use super::probe::{ANY_HOST, Act, Elsewhere, Found, HOST_LABEL, Purpose, To};
use super::site::{Binding, Certificate, Public, Site, Target, Tls};

/// What belongs to a server and not to one of its addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) separate_chain: Option<PathBuf>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) limits: super::site::Limits,
}

/// The site that comes into being.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) site: Site,
    /// Where requests go, as the other proxy writes it, and the rules that say so.
    pub(super) backends: Vec<(String, Vec<Id>)>,
    /// Rules that lead to management beside a repository, where a binding has one of the two.
    beside: Vec<Vec<Id>>,
    /// Bindings of servers that pass everything on as it is, and the rules that do.
    whole: Vec<(usize, Id)>,
}

impl Assembly {
    /// Adds what `purpose` asks for. Whether it was anything.
    pub(super) fn add(&mut self, face: &Face, purpose: &Purpose, settings: &Settings, ledger: &mut Ledger) -> bool {
        let (target, found) = match (&purpose.docker, &purpose.console, &purpose.redirect) {
            (Some(docker), _, _) => (docker.target.clone(), Some(&docker.found)),
            (None, Some(console), _) => (Target::Console, Some(console)),
            (None, None, Some(_)) if !face.is_tls => (Target::Nothing, None),
            _ => return false,
        };
        let mut binding = Binding::new(face.listen, target);
        binding.server_name = face.name.server_name().filter(|_| !face.takes_all);
        if self.site.bindings.iter().any(|other| (other.listen, &other.server_name) == (binding.listen, &binding.server_name)) {
            ledger.decide(face.name_id.unwrap_or(face.listen_id), "the same address and host as an earlier server, which alone counts");
            return true;
        }
        binding.proxy_protocol = face.proxy_protocol;
        (binding.allow, binding.deny, binding.limits) = (settings.allow.clone(), settings.deny.clone(), settings.limits);
        binding.tls = face.is_tls.then(|| tls(settings, face, ledger));
        ledger.translated(face.listen_id);
        if let Some(id) = face.name_id {
            ledger.translated(id);
        }
        if let Some(found) = found {
            self.pass(found, &mut binding, face, ledger);
        }
        if let Some((origin, used)) = &purpose.redirect {
            redirect(&mut binding, origin, used, ledger);
        }
        if let Some(rules) = &purpose.read_only {
            binding.read_only = true;
            rules.iter().for_each(|id| ledger.translated(*id));
        }
        if purpose.elsewhere.iter().any(is_push_to_other_place) {
            // A push must not end up where nobody meant it to.
            binding.read_only = true;
        }
        note_elsewhere(purpose, &binding, ledger);
        self.note_beside(purpose, ledger);
        self.note_dangers(&binding, face, ledger);
        if let Some(docker) = purpose.docker.as_ref().filter(|docker| docker.is_whole) {
            self.whole.push((self.site.bindings.len(), docker.found.by));
        }
        self.site.bindings.push(binding);
        true
    }

    fn pass(&mut self, found: &Found, binding: &mut Binding, face: &Face, ledger: &mut Ledger) {
        found.used.iter().for_each(|id| ledger.translated(*id));
        match self.backends.iter_mut().find(|(backend, _)| *backend == found.backend) {
            Some((_, rules)) => rules.push(found.by),
            None => self.backends.push((found.backend.clone(), vec![found.by])),
        }
        binding.public = public(face, &found.headers, ledger);
        if let (Public::Url(url), Target::RepositoryFromHost) = (&binding.public, &binding.target) {
            binding.public = port_of(url, face, ledger);
        }
    }

    fn note_dangers(&self, binding: &Binding, face: &Face, ledger: &mut Ledger) {
        let has_nobody = self.site.trusted_proxies.is_empty();
        let is_behind = matches!(&binding.public, Public::Url(url) if url.starts_with("https://"));
        let danger = if binding.proxy_protocol && has_nobody {
            "the PROXY protocol is believed from `trusted_proxies` only: write who is in front"
        } else if is_behind && !face.is_tls {
            "TLS ends in front of this address: write who does that into `trusted_proxies`"
        } else if !face.is_tls && !is_behind && binding.target != Target::Nothing {
            "plain HTTP: passwords and images cross the network readable by everyone on it, and docker must be told --insecure-registry"
        } else {
            return;
        };
        ledger.decide(face.listen_id, danger);
    }

    fn note_beside(&mut self, purpose: &Purpose, ledger: &mut Ledger) {
        purpose.unclear.iter().for_each(|(id, why)| ledger.note(*id, Verdict::NotUnderstood, why.clone()));
        let past_front = "sends those elsewhere who come past whoever ends TLS in front: let that one do it";
        purpose.past_front.iter().for_each(|id| ledger.decide(*id, past_front));
        purpose
            .to_interface
            .iter()
            .for_each(|id| ledger.unneeded(*id, "browsers find the user interface on the binding with `console = true`"));
        if let (Some(console), true) = (&purpose.console, purpose.docker.is_some()) {
            self.beside.push(console.used.clone());
        }
    }

    /// Settles what depends on all servers together.
    pub(super) fn close(&mut self, ledger: &mut Ledger) {
        let is_registry = |binding: &Binding| !matches!(binding.target, Target::Console | Target::Nothing);
        let has_other = (0..self.site.bindings.len())
            .any(|at| is_registry(&self.site.bindings[at]) && !self.whole.iter().any(|(whole, _)| *whole == at));
        for (at, by) in self.whole.drain(..) {
            let reason = if has_other {
                self.site.bindings[at].target = Target::Console;
                "passes everything on: taken for management, as other servers lead to repositories; `repository_from = \"path\"` instead of `console` would take images by path"
            } else {
                "passes everything on: taken for the registry, with the repository in the path; `console = true` instead, on a port or name of its own, gives the REST API"
            };
            ledger.decide(by, reason);
        }
        let has_console = self.site.bindings.iter().any(|binding| binding.target == Target::Console);
        for id in self.beside.drain(..).flatten() {
            let reason = match has_console {
                true => "a repository's binding passes /v1 and /v2 only; the REST API is on the binding with `console = true`",
                false => {
                    "a repository's binding passes /v1 and /v2 only: for the REST API add a binding with `console = true` on a port or name of its own"
                }
            };
            match has_console || !ledger.is_open(id) {
                true => ledger.unneeded(id, reason),
                false => ledger.decide(id, reason),
            }
        }
    }
}

/// Whether pushes get to another repository or server than what is pulled.
fn is_push_to_other_place(elsewhere: &Elsewhere) -> bool {
    !elsewhere.is_v1 && elsewhere.act == Act::Push && matches!(elsewhere.to, To::Target(_) | To::Backend(_) | To::Path(_))
}

/// Says which requests of registry clients get elsewhere than where the binding leads.
fn note_elsewhere(purpose: &Purpose, binding: &Binding, ledger: &mut Ledger) {
    let bound = purpose.docker.as_ref().map(|docker| docker.target.clone()).unwrap_or(Target::Nothing);
    for Elsewhere { act, is_v1, request, to, by, used } in &purpose.elsewhere {
        used.iter().for_each(|id| ledger.translated(*id));
        let (place, own) = match to {
            To::Target(Target::Repository(key)) => ("another repository", format!("{key} needs a port or name of its own")),
            To::Target(target) => ("another repository", format!("{} needs a port or name of its own", shown(target))),
            To::Backend(url) => ("another backend", format!("a gateway has one; a second gateway can serve {url}")),
            To::Path(path) => ("a path that is no repository's", format!("{request} gets to {path}")),
            To::Redirect(url) => ("somewhere else", format!("{request} is sent to {url}, which is left out")),
            To::Refusal => ("nowhere", format!("{request} is refused; here the permissions of the backend's users decide")),
        };
        let goes = match (act, is_v1) {
            (_, true) => format!("V1 goes to {place} than V2, which one binding can't do"),
            (Act::Pull, false) => format!("some pulls go to {place} than others, which one binding can't do"),
            (Act::Push, false) if binding.read_only => {
                format!("pushes go to {place}, pulls to {}: the binding is for pulls, with `read_only = true`", shown(&bound))
            }
            (Act::Push, false) => format!("some pushes go to {place}"),
            (Act::Delete, false) => format!("deletions go to {place}"),
        };
        let goes =
            if matches!(to, To::Target(_) | To::Backend(_)) { goes } else { goes.replace(" than V2", "").replace(" than others", "") };
        ledger.decide(*by, format!("{goes}: {own}"));
    }
}

fn shown(target: &Target) -> String {
    match target {
        Target::Repository(key) => key.to_string(),
        Target::RepositoryFromHost => "the repository in the host".to_owned(),
        Target::RepositoryFromPath => "the repository in the path".to_owned(),
        Target::Console => "management".to_owned(),
        Target::Nothing => "nothing".to_owned(),
    }
}

fn tls(settings: &Settings, face: &Face, ledger: &mut Ledger) -> Tls {
    let missing = |what: &str| PathBuf::from(format!("certs/{what}.pem"));
    if settings.certificate.is_none() || settings.key.is_none() {
        ledger.decide(face.listen_id, "this address speaks TLS, but no certificate was found: write `certificate` and `key`");
    }
    let certificate = Certificate::Files {
        certificate: settings.certificate.clone().unwrap_or_else(|| missing("server")),
        // Apache takes the key from the certificate's file if it is not said otherwise.
        key: settings.key.clone().or_else(|| settings.certificate.clone()).unwrap_or_else(|| missing("server-key")),
        separate_chain: settings.separate_chain.clone(),
    };
    Tls { certificate, client_ca: settings.client_ca.clone() }
}

fn redirect(binding: &mut Binding, origin: &str, used: &[Id], ledger: &mut Ledger) {
    if binding.tls.is_some() {
        return;
    }
    if binding.target == Target::Console {
        let why = "a console on plain HTTP would take passwords unencrypted before it redirects: bind the redirect alone";
        used.iter().for_each(|id| ledger.decide(*id, why));
        return;
    }
    used.iter().for_each(|id| ledger.translated(*id));
    binding.redirect = Some(origin.to_owned());
    if origin.contains(ANY_HOST) || origin.contains(HOST_LABEL) {
        binding.redirect = Some(origin.replace(ANY_HOST, "registry.company.com").replace(&format!("{HOST_LABEL}."), ""));
        used.iter().for_each(|id| ledger.decide(*id, "`redirect` leads to one fixed host: check the one that was written"));
    }
}

/// What of an origin can be said where every repository has a host of its own.
fn port_of(url: &str, face: &Face, ledger: &mut Ledger) -> Public {
    let parsed = url.split_once("://").and_then(|(scheme, authority)| Some((scheme.parse().ok()?, authority.parse().ok()?)));
    let Some((scheme, authority)): Option<(Scheme, Authority)> = parsed else { return Public::AsListened };
    let own = if face.is_tls { Scheme::Https } else { Scheme::Http };
    if scheme != own {
        ledger.decide(face.listen_id, "clients use another scheme than this address: write who is in front into `trusted_proxies`");
    }
    match authority.port().unwrap_or(scheme.default_port()) {
        port if port == face.listen.port() => Public::AsListened,
        port => Public::Port(port),
    }
}

/// Where the headers say that the server is, if that is not where it listens.
fn public(face: &Face, headers: &[(String, String, Id)], ledger: &mut Ledger) -> Public {
    let own = if face.is_tls { Scheme::Https } else { Scheme::Http };
    let example = face.name.example();
    let (mut scheme, mut host, mut port) = (own, None, None);
    let mut sayers = Vec::new();
    for (name, value, id) in headers {
        let (said_scheme, authority) = match name.as_str() {
            "host" => (None, value.as_str()),
            "x-artifactory-override-base-url" | "x-jfrog-override-base-url" => {
                let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
                (scheme.parse().ok(), rest.split('/').next().unwrap_or_default())
            }
            "x-forwarded-proto" => (value.parse().ok(), ""),
            "x-forwarded-port" => {
                // What the host says itself is what clients see.
                port = port.or(value.parse().ok());
                sayers.push((*id, value.parse::<u16>().is_ok_and(|port| port != face.listen.port())));
                continue;
            }
            _ => continue,
        };
        let authority: Option<Authority> = authority.parse().ok();
        let is_other = authority.as_ref().is_some_and(|authority| !authority.host().eq_ignore_ascii_case(&example));
        let other_port = authority.as_ref().and_then(Authority::port).filter(|port| *port != face.listen.port());
        sayers.push((*id, is_other || other_port.is_some() || said_scheme.is_some_and(|scheme| scheme != own)));
        scheme = said_scheme.unwrap_or(scheme);
        if let Some(authority) = authority {
            port = authority.port().or(port);
            host = Some(authority).filter(|_| is_other).or(host);
        }
    }
    for (id, _) in sayers.iter().filter(|(_, says_something)| *says_something) {
        ledger.translated(*id);
    }
    if scheme == own && host.is_none() {
        return port.filter(|port| *port != face.listen.port()).map_or(Public::AsListened, Public::Port);
    }
    let Ok(known) = host.map_or_else(|| example.parse::<Authority>(), Ok) else { return Public::AsListened };
    if [ANY_HOST, HOST_LABEL].iter().any(|unknown| known.host().contains(unknown)) {
        let reason = "the address that clients use is not the one listened on: write it as `public_url`";
        sayers.iter().filter(|(_, says_something)| *says_something).for_each(|(id, _)| ledger.decide(*id, reason));
        return Public::AsListened;
    }
    // The port listened on is what the scheme's own is mapped to, if TLS ends in front.
    let port = port.filter(|port| scheme == own || *port != face.listen.port());
    let origin = port.map_or_else(|| Origin::new(scheme, known.clone()), |port| Origin::on_port(scheme, &known, port));
    Public::Url(origin.to_string())
}
