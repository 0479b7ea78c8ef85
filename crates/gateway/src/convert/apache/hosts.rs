//! Apache's virtual hosts: their addresses and names, and whether they speak TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::Verdict;
use super::super::faces::Name;
use super::super::ledger::{Directive, Id, Ledger};
use super::super::source::Source;

/// A virtual host.
pub(super) struct VirtualHost<'a> {
    pub(super) id: Id,
    pub(super) own: Vec<&'a Directive>,
    /// Where it listens, with what says so.
    pub(super) addresses: Vec<(SocketAddr, Id)>,
    /// Whether it is the server around the virtual hosts.
    pub(super) is_main: bool,
}

impl<'a> VirtualHost<'a> {
    /// The directives that count for it: its own, or else those around it.
    pub(super) fn effective(&self, outer: &[&'a Directive], name: &str) -> Vec<&'a Directive> {
        let named =
            |directives: &[&'a Directive]| -> Vec<&'a Directive> { directives.iter().copied().filter(|one| one.is(name)).collect() };
        let own = named(&self.own);
        if own.is_empty() { named(outer) } else { own }
    }

    pub(super) fn server_name(&self) -> String {
        let name = self.own.iter().find(|directive| directive.is("servername")).map_or("", |directive| directive.argument(0));
        host_of(name).to_owned()
    }
}

/// Every directive, those within sections too.
pub(super) fn all(directives: &[Directive]) -> Vec<&Directive> {
    let mut found = Vec::new();
    let mut levels: Vec<&[Directive]> = vec![directives];
    while let Some(level) = levels.pop() {
        for directive in level {
            found.push(directive);
            levels.push(directive.children());
        }
    }
    found.sort_by_key(|directive| directive.id);
    found
}

/// The virtual hosts, or the server itself if there are none.
pub(super) fn virtual_hosts<'a>(directives: &'a [Directive], outer: &[&'a Directive], source: &mut Source) -> Vec<VirtualHost<'a>> {
    let ports = listened(directives, source);
    let mut hosts = Vec::new();
    for section in directives.iter().filter(|directive| directive.is("<virtualhost")) {
        let mut addresses = Vec::new();
        for argument in &section.arguments {
            match address(argument) {
                Some((ip, Some(port))) => addresses.push((SocketAddr::new(ip, port), section.id)),
                Some((ip, None)) => addresses.extend(ports.iter().map(|(listen, _)| (SocketAddr::new(ip, listen.port()), section.id))),
                None => source.ledger.note(section.id, Verdict::NotUnderstood, "the gateway listens on IP addresses: write one"),
            }
        }
        hosts.push(VirtualHost { id: section.id, own: section.children().iter().collect(), addresses, is_main: false });
    }
    if let (true, Some((_, first))) = (hosts.is_empty(), ports.first()) {
        hosts.push(VirtualHost { id: *first, own: outer.to_vec(), addresses: ports, is_main: true });
    }
    hosts
}

/// What `Listen` says. A port alone is every address, of IPv6 too.
fn listened(directives: &[Directive], source: &mut Source) -> Vec<(SocketAddr, Id)> {
    let mut found: Vec<(SocketAddr, Id)> = Vec::new();
    for directive in all(directives).into_iter().filter(|directive| directive.is("listen")) {
        let text = directive.argument(0);
        let listen = match text.parse::<u16>() {
            Ok(port) => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
            Err(_) => address(text).and_then(|(ip, port)| Some(SocketAddr::new(ip, port?))),
        };
        match listen {
            Some(listen) => {
                source.ledger.translated(directive.id);
                if text.parse::<u16>().is_ok() && found.is_empty() {
                    let reason = format!(
                        "Apache listens on IPv6 too: for clients that use it repeat a binding with `listen = \"[::]:{}\"`, and so for every port",
                        listen.port()
                    );
                    source.ledger.decide(directive.id, reason);
                }
                if !found.iter().any(|(other, _)| *other == listen) {
                    found.push((listen, directive.id));
                }
            }
            None => source.ledger.note(directive.id, Verdict::NotUnderstood, "the gateway listens on IP addresses: write one"),
        }
    }
    found
}

/// `*:443`, `_default_:443`, `192.0.2.1:443`, `[::1]:443`, `*`. Without a port it is every port that is listened on.
fn address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((_, "*")) => (text.trim_end_matches(":*"), None),
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (text, None),
    };
    let host = match host {
        "*" | "_default_" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some((host, port))
}

/// Host names, with what says so. None at all: every host.
pub(super) fn names(host: &VirtualHost<'_>, ledger: &mut Ledger) -> Vec<(Name, Option<Id>)> {
    let mut names = Vec::new();
    for directive in host.own.iter().filter(|directive| directive.is("servername") || directive.is("serveralias")) {
        for text in &directive.arguments {
            let lower = host_of(text).to_ascii_lowercase();
            let is_host = |host: &str| host.parse::<berth_names::Authority>().is_ok_and(|authority| authority.port().is_none());
            let name = match lower.strip_prefix("*.") {
                Some(suffix) if is_host(suffix) => Name::Below(suffix.to_owned()),
                // Nobody has a host below `.invalid`: such a name is written where one must be.
                None if lower == "*" || lower.ends_with(".invalid") => Name::Any,
                None if is_host(&lower) => Name::Exact(lower),
                _ => {
                    ledger.decide(
                        directive.id,
                        format!("{text}: a binding's name is a whole host or `*.` and a whole domain; write a binding for each host that is meant"),
                    );
                    continue;
                }
            };
            if !names.iter().any(|(other, _)| *other == name) {
                names.push((name, Some(directive.id)));
            }
        }
    }
    if names.is_empty() {
        names.push((Name::Any, None));
    }
    names
}

/// A `ServerName` may have scheme and port.
fn host_of(text: &str) -> &str {
    let text = text.split_once("://").map_or(text, |(_, text)| text);
    match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => text,
    }
}

/// Whether the host speaks TLS.
pub(super) fn engine(host: &VirtualHost<'_>, outer: &[&Directive], source: &mut Source) -> bool {
    let engines = host.effective(outer, "sslengine");
    engines.iter().for_each(|engine| source.ledger.translated(engine.id));
    engines.last().is_some_and(|engine| matches!(engine.argument(0).to_ascii_lowercase().as_str(), "on" | "optional"))
}

/// Notes which versions of HTTP the host speaks.
pub(super) fn protocols(host: &VirtualHost<'_>, outer: &[&Directive], source: &mut Source) {
    for one in host.effective(outer, "protocols") {
        source.ledger.unneeded(one.id, "HTTP/1.1 is spoken: every registry client does, and uploads over HTTP/2 are slower");
    }
}
