//! NGINX's addresses and host names.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::Verdict;
use super::super::faces::Name;
use super::super::ledger::{Directive, Id, Ledger};
use super::super::probe::HOST_LABEL;
use super::variables::captures;

/// What becomes of HTTP/2, also where it is but a word of a `listen` that is otherwise translated.
const HTTP2: &str = "HTTP/1.1 is spoken: every registry client does, and uploads over HTTP/2 are slower";

/// One `listen`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen {
    pub(super) address: SocketAddr,
    pub(super) id: Id,
    pub(super) is_tls: bool,
    pub(super) proxy_protocol: bool,
    pub(super) is_default: bool,
}

/// A server's host name, and what its pattern makes of [`Name::example`].
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: Name,
    pub(super) id: Option<Id>,
    pub(super) captures: Vec<(String, String)>,
}

/// The addresses of a server. Without any, NGINX takes port 80.
pub(super) fn listens(server: &Directive, ledger: &mut Ledger) -> Vec<Listen> {
    let switched = |name: &str| server.children().iter().find(|directive| directive.is(name) && directive.argument(0) == "on");
    let (ssl, http2) = (switched("ssl"), switched("http2"));
    if let Some(switch) = ssl {
        ledger.translated(switch.id);
    }
    if let Some(switch) = http2 {
        ledger.unneeded(switch.id, HTTP2);
    }
    let mut listens = Vec::new();
    let mut is_said = false;
    for directive in server.children().iter().filter(|directive| directive.is("listen")) {
        is_said = true;
        let has = |option: &str| directive.arguments.iter().skip(1).any(|argument| argument == option);
        let Some(address) = address(directive.argument(0)) else {
            let reason = "the gateway listens on IP addresses: write one";
            ledger.note(directive.id, Verdict::NotUnderstood, reason);
            continue;
        };
        listens.push(Listen {
            address,
            id: directive.id,
            is_tls: has("ssl") || has("quic") || ssl.is_some(),
            proxy_protocol: has("proxy_protocol"),
            is_default: has("default_server") || has("default"),
        });
        if has("quic") {
            ledger.decide(directive.id, "HTTP/3 is not spoken: registry clients don't");
            listens.pop();
        }
    }
    if !is_said {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80));
        listens.push(Listen { address, id: server.id, is_tls: ssl.is_some(), proxy_protocol: false, is_default: false });
    }
    listens
}

/// An address is one socket: what one server says of it counts for all that listen there.
pub(super) fn share(addresses: &mut [Vec<Listen>]) {
    let mut said: HashMap<SocketAddr, (bool, bool)> = HashMap::new();
    for listen in addresses.iter().flatten() {
        let (is_tls, proxy_protocol) = said.entry(listen.address).or_default();
        *is_tls |= listen.is_tls;
        *proxy_protocol |= listen.proxy_protocol;
    }
    for listen in addresses.iter_mut().flatten() {
        (listen.is_tls, listen.proxy_protocol) = said.get(&listen.address).copied().unwrap_or_default();
    }
}

/// `443`, `*:443`, `192.0.2.1`, `192.0.2.1:443`, `[::]:443`, `localhost:443`.
pub(super) fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(port) = text.parse::<u16>() {
        return Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, 80),
    };
    let host: IpAddr = match host {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(host, port))
}

/// The host names of a server. Names that can't be a binding's are noted and left out.
pub(super) fn names(server: &Directive, ledger: &mut Ledger) -> Vec<Named> {
    let mut names = Vec::new();
    for directive in server.children().iter().filter(|directive| directive.is("server_name")) {
        for text in &directive.arguments {
            match parse(text) {
                Some(found) => {
                    names.extend(found.into_iter().map(|(name, captures)| Named { name, id: Some(directive.id), captures }));
                }
                None => ledger.decide(
                    directive.id,
                    format!(
                        "{text}: a binding's name is a whole host or `*.` and a whole domain; write a binding for each host that is meant"
                    ),
                ),
            }
        }
    }
    if names.is_empty() {
        names.push(Named { name: Name::Any, id: None, captures: Vec::new() });
    }
    // A variable that one name's pattern sets is empty under the others.
    let variables: BTreeSet<String> = names.iter().flat_map(|name| &name.captures).map(|(variable, _)| variable.clone()).collect();
    for Named { captures, .. } in &mut names {
        let missing = variables.iter().filter(|variable| !captures.iter().any(|(known, _)| known == *variable));
        let missing: Vec<_> = missing.map(|variable| (variable.clone(), String::new())).collect();
        captures.extend(missing);
    }
    names
}

/// A name that a server answers to, and what its pattern's groups hold for an example of it.
type Parsed = (Name, Vec<(String, String)>);

fn parse(text: &str) -> Option<Vec<Parsed>> {
    let plain = |name: Name| (name, Vec::new());
    let is_host = |host: &str| host.parse::<berth_names::Authority>().is_ok_and(|authority| authority.port().is_none());
    let lower = text.to_ascii_lowercase();
    if matches!(text, "_" | "" | "\"\"" | "*") {
        return Some(vec![plain(Name::Any)]);
    }
    if let Some(pattern) = text.strip_prefix('~') {
        let suffix = suffix(pattern)?;
        let example = Name::Below(suffix);
        let captures = captures(&format!("*{pattern}"), &example.example()).ok()??;
        return Some(vec![(example, captures)]);
    }
    if let Some(suffix) = lower.strip_prefix("*.").filter(|suffix| is_host(suffix)) {
        return Some(vec![plain(Name::Below(suffix.to_owned()))]);
    }
    if let Some(suffix) = lower.strip_prefix('.').filter(|suffix| is_host(suffix)) {
        return Some(vec![plain(Name::Exact(suffix.to_owned())), plain(Name::Below(suffix.to_owned()))]);
    }
    is_host(&lower).then(|| vec![plain(Name::Exact(lower))])
}

/// The domain behind the one label that a pattern such as `^(?<repo>.+)\.docker\.company\.com$` has in front.
pub(in super::super) fn suffix(pattern: &str) -> Option<String> {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    // One group without others in it, or a label that nothing is made of, and a dot between it and the domain.
    let rest = match pattern.strip_prefix("[^.]+") {
        Some(rest) => rest,
        None => pattern.strip_prefix('(')?.split_once(')').filter(|(group, _)| !group.contains('('))?.1,
    };
    let rest = rest.strip_suffix('$').unwrap_or(rest);
    let domain = rest.strip_prefix("\\.").or_else(|| rest.strip_prefix('.'))?.replace("\\.", ".").replace("\\-", "-").to_ascii_lowercase();
    let authority = domain.parse::<berth_names::Authority>().ok()?;
    let example = format!("{HOST_LABEL}.{domain}");
    (authority.port().is_none() && captures(&format!("*{pattern}"), &example).ok()?.is_some()).then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("443", Some("0.0.0.0:443")),
            ("*:443", Some("0.0.0.0:443")),
            ("192.0.2.1:444", Some("192.0.2.1:444")),
            ("192.0.2.1", Some("192.0.2.1:80")),
            ("[::]:443", Some("[::]:443")),
            ("[::1]", Some("[::1]:80")),
            ("localhost:5000", Some("127.0.0.1:5000")),
            ("unix:/run/nginx.sock", None),
            ("registry.company.com:443", None),
            ("70000", None),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_label_and_a_domain() {
        for (pattern, expected) in [
            (r"(?<repo>.+)\.docker\.company\.com", Some("docker.company.com")),
            (r"^(?<repo>[^.]+)\.docker.company.com$", Some("docker.company.com")),
            (r"^(?P<repo>[a-z0-9-]+)\.host$", Some("host")),
            (r"^(.*)\.Art-Prod\.company\.com$", Some("art-prod.company.com")),
            (r"^[^.]+\.docker\.company\.com$", Some("docker.company.com")),
            (r"(?<repo>.+)\-artifactory.company.com", None),
            (r"^www\d+\.company\.com$", None),
            (r"(?<repo>.+)", None),
            (r"^(a|(b))\.c$", None),
            (r"^(prod|dev)\.c$", None),
            (r"^(?<repo>.+)\.(com|org)$", None),
        ] {
            assert_eq!(suffix(pattern).as_deref(), expected, "{pattern}");
        }
    }
}
