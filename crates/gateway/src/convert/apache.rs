//! Apache's configuration as a site.

mod access;
mod grammar;
mod hosts;
mod route;
mod rules;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Verdict;
use super::assembly::{Assembly, Settings};
use super::backend::{self, servers_of};
use super::faces::{self, Face, Name};
use super::ledger::{Directive, Id};
use super::probe::{self, Purpose, Request};
use super::site::{Endpoint, Server, ServerTls, Site};
use super::source::Source;

pub(super) use grammar::{Definitions, parse};
use hosts::{VirtualHost, virtual_hosts};
use route::Host;

/// Translates what was parsed.
pub(super) fn site(source: &mut Source, directives: &[Directive]) -> Site {
    let outer: Vec<&Directive> = directives.iter().filter(|directive| !directive.is("<virtualhost")).collect();
    let mut assembly = Assembly::default();
    assembly.site.trusted_proxies = access::trusted_proxies(directives, source);
    let hosts = virtual_hosts(directives, &outer, source);
    for (at, host) in hosts.iter().enumerate() {
        let shares = |address: SocketAddr| {
            hosts.iter().enumerate().any(|(other, host)| other != at && host.addresses.iter().any(|(taken, _)| *taken == address))
        };
        add_host(host, &outer, shares, &mut assembly, source);
    }
    note_strangers(&hosts, source);
    resolve(directives, &mut assembly, source);
    assembly.close(&mut source.ledger);
    words::judge(directives, &mut source.ledger);
    assembly.site
}

/// Says what becomes of hosts that nobody names.
fn note_strangers(hosts: &[VirtualHost<'_>], source: &mut Source) {
    for (at, host) in hosts.iter().enumerate() {
        let is_first = |address: SocketAddr| !hosts[..at].iter().any(|other| other.addresses.iter().any(|(taken, _)| *taken == address));
        let is_shared =
            |address: SocketAddr| hosts[at + 1..].iter().any(|other| other.addresses.iter().any(|(taken, _)| *taken == address));
        for (address, _) in host.addresses.iter().filter(|(address, _)| is_first(*address) && is_shared(*address)) {
            let reason = format!(
                "Apache gives hosts that nobody names to the first virtual host of {address}; here they are answered 421, unless you remove one binding's `server_name`"
            );
            source.ledger.decide(host.id, reason);
        }
    }
}

fn add_host(
    host: &VirtualHost<'_>,
    outer: &[&Directive],
    shares: impl Fn(SocketAddr) -> bool,
    assembly: &mut Assembly,
    source: &mut Source,
) {
    let settings = settings(host, outer, source);
    let is_tls = hosts::engine(host, outer, source);
    let proxy_protocol = access::proxy_protocol(host, outer, source);
    hosts::protocols(host, outer, source);
    let names = hosts::names(host, &mut source.ledger);
    let (mut is_anything, mut lost) = (false, Vec::new());
    for (listen, listen_id) in &host.addresses {
        let face = |(name, id): &(Name, Option<Id>)| Face {
            listen: *listen,
            listen_id: *listen_id,
            is_tls,
            name: name.clone(),
            takes_all: false,
            name_id: *id,
            proxy_protocol,
        };
        let faces: Vec<(Face, Purpose)> = names.iter().map(face).map(|face| (face.clone(), ask(host, outer, &face))).collect();
        for (face, purpose) in faces::merge(faces, !shares(*listen), &mut source.ledger) {
            match assembly.add(&face, &purpose, &settings, &mut source.ledger) {
                true => is_anything = true,
                false => lost.push((face, purpose)),
            }
        }
    }
    let unclear: Vec<_> = lost.iter().flat_map(|(_, purpose)| &purpose.unclear).cloned().collect();
    if is_anything {
        source.ledger.translated(host.id);
        lost.iter().for_each(|(face, purpose)| faces::note_lost(face, purpose, &mut source.ledger));
    } else if let Some((_, why)) = unclear.first() {
        source.ledger.note(host.id, Verdict::NotUnderstood, format!("what this host does with /v1 and /v2 can't be followed: {why}"));
        unclear.iter().for_each(|(id, why)| source.ledger.note(*id, Verdict::NotUnderstood, why.clone()));
    } else if host.own.iter().any(|rule| rule.is("rewriterule") && rule.argument(1) == "-" && rule.argument(2).contains("R=4")) {
        source.ledger.unneeded(host.id, "hosts that no binding has are answered 421");
        host.own.iter().for_each(|directive| source.ledger.cover(std::slice::from_ref(*directive)));
    } else if !host.is_main {
        source.ledger.decide(host.id, "leads to no repository, no REST API and no other host: nothing here is translated");
        host.own.iter().for_each(|directive| source.ledger.cover(std::slice::from_ref(*directive)));
    }
}

fn ask(host: &VirtualHost<'_>, outer: &[&Directive], face: &Face) -> Purpose {
    let around = if host.is_main { &[] } else { outer };
    let asked = Host { id: host.id, own: host.own.clone(), outer: around, server_name: host.server_name() };
    let name = face.name.example();
    probe::purpose_behind(face.is_tls, |forwarded_proto, method, path| {
        let request = Request { method, host: &name, port: face.listen.port(), https: face.is_tls, forwarded_proto, captures: &[], path };
        route::route(&asked, request)
    })
}

fn settings(host: &VirtualHost<'_>, outer: &[&Directive], source: &mut Source) -> Settings {
    let mut settings = Settings::default();
    let mut file = |name: &str| file(source, &host.effective(outer, name));
    settings.certificate = file("sslcertificatefile");
    settings.key = file("sslcertificatekeyfile");
    settings.separate_chain = file("sslcertificatechainfile");
    for chain in host.effective(outer, "sslcertificatechainfile") {
        source
            .ledger
            .decide(chain.id, "`certificate` holds the server's certificate and what follows it in one file: append this one to that");
    }
    for verify in host.effective(outer, "sslverifyclient") {
        match verify.argument(0).to_ascii_lowercase().as_str() {
            "require" => {
                let ca = host.effective(outer, "sslcacertificatefile");
                settings.client_ca = self::file(source, &ca);
                source.ledger.translated(verify.id);
            }
            "none" => source.ledger.unneeded(verify.id, "so it is"),
            _ => source.ledger.decide(verify.id, "a client certificate is asked of everybody or of nobody: write `client_ca` or leave it"),
        }
    }
    (settings.allow, settings.deny) = access::networks(host, outer, source);
    settings
}

/// The file that a directive names, from where Apache looks for it.
fn file(source: &mut Source, directives: &[&Directive]) -> Option<PathBuf> {
    let (first, others) = directives.split_first()?;
    source.ledger.translated(first.id);
    for other in others {
        source.ledger.decide(other.id, "a binding has one certificate: the first one was taken");
    }
    Some(source.path(first.id, first.argument(0)))
}

/// Finds the servers of the backend, which may be a balancer's members.
fn resolve(directives: &[Directive], assembly: &mut Assembly, source: &mut Source) {
    backend::resolve(assembly, source, |url, ids, source| match url.strip_prefix("balancer://") {
        Some(_) => members(directives, url, source),
        None => servers_of(url, ids, &mut source.ledger),
    });
    let ca = hosts::all(directives).into_iter().find(|one| one.is("sslproxycacertificatefile"));
    for tls in assembly.site.upstream.iter_mut().filter_map(|server| server.tls.as_mut()) {
        if let Some(ca) = ca {
            source.ledger.translated(ca.id);
            tls.ca = Some(source.root.join(ca.argument(0)));
        }
    }
}

fn members(directives: &[Directive], balancer: &str, source: &mut Source) -> Vec<Server> {
    let is_it = |name: &str| name.trim_end_matches('/').eq_ignore_ascii_case(balancer);
    let mut servers = Vec::new();
    for directive in hosts::all(directives) {
        let inner: Vec<(&Directive, usize)> = match directive.name.as_str() {
            "<proxy" if is_it(directive.argument(0)) => {
                source.ledger.translated(directive.id);
                directive.children().iter().filter(|inner| inner.is("balancermember")).map(|inner| (inner, 0)).collect()
            }
            "balancermember" if is_it(directive.argument(0)) => vec![(directive, 1)],
            _ => continue,
        };
        for (member, at) in inner {
            source.ledger.translated(member.id);
            if member.arguments.len() > at + 1 {
                let reason =
                    "weights, routes and states are not taken over: the least busy backend is asked, and none that fails its health check";
                source.ledger.decide(member.id, reason);
            }
            let url = member.argument(at);
            let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
            let authority = rest.split('/').next().unwrap_or_default();
            let is_tls = scheme == "https";
            let address = backend::address(authority, if is_tls { 443 } else { 80 }, &[member.id], &mut source.ledger);
            servers.push(Server { endpoint: Endpoint::Tcp(address), tls: is_tls.then(ServerTls::default) });
        }
    }
    servers
}
