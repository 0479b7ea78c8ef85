//! NGINX's configuration as a site.

mod access;
mod grammar;
mod listen;
mod lua;
mod route;
mod upstream;
mod variables;
mod words;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Verdict;
use super::assembly::{Assembly, Settings};
use super::faces::{self, Face};
use super::ledger::Directive;
use super::probe::{self, Purpose, Request};
use super::site::Site;
use super::source::Source;

pub(super) use grammar::parse;
use listen::{Listen, listens, names};

/// What stands around the servers.
struct Around<'a> {
    /// Single directives, of the file and of `http`.
    outer: Vec<&'a Directive>,
    maps: Vec<&'a Directive>,
    upstreams: Vec<&'a Directive>,
    servers: Vec<&'a Directive>,
}

/// Translates what was parsed.
pub(super) fn site(source: &mut Source, directives: &[Directive]) -> Site {
    let around = around(source, directives);
    let mut assembly = Assembly::default();
    assembly.site.trusted_proxies = access::trusted_proxies(&around, source);
    let mut addresses: Vec<Vec<Listen>> = around.servers.iter().map(|server| listens(server, &mut source.ledger)).collect();
    listen::share(&mut addresses);
    let mut sharing: HashMap<SocketAddr, Vec<&Listen>> = HashMap::new();
    for listen in addresses.iter().flatten() {
        sharing.entry(listen.address).or_default().push(listen);
    }
    for shared in sharing.values() {
        note_strangers(shared, source);
    }
    let is_alone = |address| sharing.get(&address).is_none_or(|sharing| sharing.len() == 1);
    for (server, own) in around.servers.iter().zip(&addresses) {
        add_server(&around, server, own, is_alone, &mut assembly, source);
    }
    upstream::resolve(&around, &mut assembly, source);
    assembly.close(&mut source.ledger);
    words::judge(directives, &mut source.ledger);
    assembly.site
}

fn around<'a>(source: &mut Source, directives: &'a [Directive]) -> Around<'a> {
    let mut around = Around { outer: Vec::new(), maps: Vec::new(), upstreams: Vec::new(), servers: Vec::new() };
    let mut levels = vec![directives];
    while let Some(level) = levels.pop() {
        for directive in level {
            match (directive.name.as_str(), &directive.block) {
                ("http", Some(block)) => {
                    source.ledger.translated(directive.id);
                    levels.push(block);
                }
                ("server", Some(_)) => around.servers.push(directive),
                ("upstream", Some(_)) => around.upstreams.push(directive),
                ("map", Some(_)) => around.maps.push(directive),
                (_, None) => around.outer.push(directive),
                _ => {}
            }
        }
    }
    around
}

/// Says what becomes of hosts that nobody names, where NGINX lets the order of its servers decide.
fn note_strangers(sharing: &[&Listen], source: &mut Source) {
    if let [first, _, ..] = sharing
        && !sharing.iter().any(|listen| listen.is_default)
    {
        source.ledger.decide(
            first.id,
            "NGINX gives hosts that nobody names to the first server of an address; here they are answered 421, unless you remove one binding's `server_name`",
        );
    }
}

fn add_server(
    around: &Around<'_>,
    server: &Directive,
    listens: &[Listen],
    is_alone: impl Fn(SocketAddr) -> bool,
    assembly: &mut Assembly,
    source: &mut Source,
) {
    let names = names(server, &mut source.ledger);
    let mut is_anything = false;
    let mut lost = Vec::new();
    for listen in listens {
        let faces: Vec<(Face, Purpose)> = names
            .iter()
            .map(|name| {
                let face = Face {
                    listen: listen.address,
                    listen_id: listen.id,
                    is_tls: listen.is_tls,
                    name: name.name.clone(),
                    takes_all: false,
                    name_id: name.id,
                    proxy_protocol: listen.proxy_protocol,
                };
                let purpose = ask(around, server, &face, &name.captures);
                (face, purpose)
            })
            .collect();
        let settings = settings(around, server, source);
        for (face, purpose) in faces::merge(faces, is_alone(listen.address) || listen.is_default, &mut source.ledger) {
            match assembly.add(&face, &purpose, &settings, &mut source.ledger) {
                true => is_anything = true,
                false => lost.push((face, purpose)),
            }
        }
    }
    let unclear: Vec<_> = lost.iter().flat_map(|(_, purpose)| &purpose.unclear).cloned().collect();
    if is_anything {
        source.ledger.translated(server.id);
        lost.iter().for_each(|(face, purpose)| faces::note_lost(face, purpose, &mut source.ledger));
    } else if let Some((_, why)) = unclear.first() {
        source.ledger.note(server.id, Verdict::NotUnderstood, format!("what this server does with /v1 and /v2 can't be followed: {why}"));
        unclear.iter().for_each(|(id, why)| source.ledger.note(*id, Verdict::NotUnderstood, why.clone()));
    } else if server.children().iter().any(|directive| directive.is("return") && !directive.argument(0).starts_with('3')) {
        source.ledger.unneeded(server.id, "hosts that no binding has are answered 421");
        source.ledger.cover(server.children());
    } else {
        source.ledger.decide(server.id, "leads to no repository, no REST API and no other host: nothing here is translated");
        source.ledger.cover(server.children());
    }
}

fn ask(around: &Around<'_>, server: &Directive, face: &Face, captures: &[(String, String)]) -> Purpose {
    let host = face.name.example();
    probe::purpose_behind(face.is_tls, |forwarded_proto, method, path| {
        let request = Request { method, host: &host, port: face.listen.port(), https: face.is_tls, forwarded_proto, captures, path };
        route::route(server, &around.outer, &around.maps, request)
    })
}

/// The directives that count for a server: its own, or else those around it.
fn effective<'a>(around: &Around<'a>, server: &'a Directive, name: &str) -> Vec<&'a Directive> {
    let own: Vec<&Directive> = server.children().iter().filter(|directive| directive.is(name)).collect();
    if own.is_empty() { around.outer.iter().copied().filter(|directive| directive.is(name)).collect() } else { own }
}

fn settings(around: &Around<'_>, server: &Directive, source: &mut Source) -> Settings {
    let mut settings = Settings::default();
    let mut file = |name: &str| file(source, &effective(around, server, name));
    settings.certificate = file("ssl_certificate");
    settings.key = file("ssl_certificate_key");
    if let [verify, ..] = effective(around, server, "ssl_verify_client").as_slice() {
        match verify.argument(0) {
            "on" => settings.client_ca = file("ssl_client_certificate"),
            "off" => source.ledger.unneeded(verify.id, "so it is"),
            _ => source.ledger.decide(verify.id, "a client certificate is asked of everybody or of nobody: write `client_ca` or leave it"),
        }
        if settings.client_ca.is_some() {
            source.ledger.translated(verify.id);
        }
    }
    (settings.allow, settings.deny) = access::networks(around, server, source);
    settings.limits = access::limits(around, server, source);
    settings
}

/// The file that a directive names, from where NGINX looks for it.
fn file(source: &mut Source, directives: &[&Directive]) -> Option<PathBuf> {
    let (first, others) = directives.split_first()?;
    source.ledger.translated(first.id);
    for other in others {
        source.ledger.decide(other.id, "a binding has one certificate: the first one was taken");
    }
    let path = first.argument(0);
    if path.contains('$') || path.starts_with("data:") || path.starts_with("engine:") {
        source.ledger.decide(first.id, "this is no path of a file: write one");
    }
    Some(source.path(first.id, path))
}
