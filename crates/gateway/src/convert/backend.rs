//! Where requests go: the addresses that other proxies write.

use std::net::IpAddr;

use super::assembly::Assembly;
use super::ledger::{Id, Ledger};
use super::site::{Endpoint, Server, ServerTls};
use super::source::Source;

/// Takes the servers of the backend that the first binding uses, found by `expand`: the gateway has one set of them.
pub(super) fn resolve(assembly: &mut Assembly, source: &mut Source, mut expand: impl FnMut(&str, &[Id], &mut Source) -> Vec<Server>) {
    for (url, ids) in std::mem::take(&mut assembly.backends) {
        let servers = expand(&url, &ids, source);
        if assembly.site.upstream.is_empty() {
            assembly.site.upstream = servers;
        } else if servers != assembly.site.upstream {
            let reason =
                format!("another backend than the first server's ({url}): a gateway has one; a second gateway can serve the other");
            ids.iter().for_each(|id| source.ledger.decide(*id, reason.clone()));
        }
    }
}

/// The server that a URL such as `http://localhost:8081` means.
pub(super) fn servers_of(url: &str, ids: &[Id], ledger: &mut Ledger) -> Vec<Server> {
    let Some((scheme, authority)) = url.split_once("://") else { return Vec::new() };
    let is_tls = matches!(scheme, "https" | "wss");
    if let Some(path) = authority.strip_prefix("unix:") {
        return vec![Server { endpoint: Endpoint::Unix(path.into()), tls: is_tls.then(ServerTls::default) }];
    }
    if scheme == "ajp" {
        ids.iter().for_each(|id| ledger.decide(*id, "the backend speaks HTTP, not AJP: check the port"));
    }
    let endpoint = Endpoint::Tcp(address(authority, if is_tls { 443 } else { 80 }, ids, ledger));
    vec![Server { endpoint, tls: is_tls.then(ServerTls::default) }]
}

/// Host and port. A name is kept, and said to be one.
pub(super) fn address(text: &str, default_port: u16, ids: &[Id], ledger: &mut Ledger) -> String {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.to_owned()),
        _ => (text, default_port.to_string()),
    };
    let host = if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { host };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_err() {
        let reason = format!("`upstream` takes IP addresses, because a name may come to mean another host: write that of {host}");
        ids.iter().for_each(|id| ledger.decide(*id, reason.clone()));
    }
    format!("{host}:{port}")
}
