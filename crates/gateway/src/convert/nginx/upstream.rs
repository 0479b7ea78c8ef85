//! Where NGINX's requests go: `proxy_pass`, `upstream` and its servers.

use super::super::assembly::Assembly;
use super::super::backend::{self, servers_of};
use super::super::ledger::{Directive, Id};
use super::super::site::{Endpoint, Server, ServerTls};
use super::super::source::Source;
use super::Around;

/// Finds the servers of the backend that the first binding uses; the gateway has one set of them.
pub(super) fn resolve(around: &Around<'_>, assembly: &mut Assembly, source: &mut Source) {
    let expand = |url: &str, ids: &[Id], source: &mut Source| match url.split_once("://") {
        Some((scheme, host)) => match around.upstreams.iter().find(|upstream| upstream.argument(0) == host) {
            Some(group) => members(group, scheme == "https", source),
            None => servers_of(url, ids, &mut source.ledger),
        },
        None => Vec::new(),
    };
    backend::resolve(assembly, source, expand);
    if assembly.site.upstream.iter().any(|server| server.tls.is_some()) {
        let tls = tls(around, source);
        assembly.site.upstream.iter_mut().filter(|server| server.tls.is_some()).for_each(|server| server.tls = Some(tls.clone()));
    }
}

/// How backends prove who they are, wherever it is said first.
fn tls(around: &Around<'_>, source: &mut Source) -> ServerTls {
    let mut said: Vec<&Directive> = around.outer.clone();
    let mut levels: Vec<&Directive> = around.servers.clone();
    while let Some(directive) = levels.pop() {
        said.push(directive);
        levels.extend(directive.children());
    }
    said.sort_by_key(|directive| directive.id);
    let mut find = |name: &str| {
        let found = said.iter().find(|one| one.is(name) && !one.argument(0).contains('$'))?;
        source.ledger.translated(found.id);
        Some(found.argument(0).to_owned())
    };
    let (server_name, ca) = (find("proxy_ssl_name"), find("proxy_ssl_trusted_certificate"));
    ServerTls { server_name, ca: ca.map(|path| source.root.join(path)) }
}

fn members(group: &Directive, is_tls: bool, source: &mut Source) -> Vec<Server> {
    let ledger = &mut source.ledger;
    ledger.translated(group.id);
    let mut servers = Vec::new();
    for member in group.children() {
        match member.name.as_str() {
            "server" => {}
            "ip_hash" | "hash" | "sticky" | "sticky_cookie_insert" => {
                ledger.unneeded(member.id, "an upload goes on at any backend; the least busy one is taken");
                continue;
            }
            "least_conn" | "random" | "fair" => {
                ledger.unneeded(member.id, "the least busy backend is taken");
                continue;
            }
            "zone" => {
                ledger.unneeded(member.id, "nothing is shared between processes: there is one");
                continue;
            }
            name if name.starts_with("keepalive") => {
                ledger.unneeded(member.id, "connections to the backend are kept by themselves");
                continue;
            }
            _ => continue,
        }
        let has = |option: &str| member.arguments.iter().any(|argument| argument == option);
        if has("down") {
            ledger.unneeded(member.id, "marked as down: left out");
            continue;
        }
        ledger.translated(member.id);
        if has("backup") {
            ledger.decide(member.id, "there is no backup: it gets its share like every other");
        } else if member.arguments.len() > 1 {
            ledger.decide(
                member.id,
                "weights and failure counts are not taken over: the least busy backend is asked, and none that fails its health check",
            );
        }
        let address = member.argument(0);
        let endpoint = match address.strip_prefix("unix:") {
            Some(path) => Endpoint::Unix(path.into()),
            None => Endpoint::Tcp(backend::address(address, if is_tls { 443 } else { 80 }, &[member.id], ledger)),
        };
        servers.push(Server { endpoint, tls: is_tls.then(ServerTls::default) });
    }
    servers
}
