//! Who may connect, whom to believe, and how much of it: `allow`, `deny`, `set_real_ip_from`, `limit_req`, `limit_conn`.

use super::super::ledger::Directive;
use super::super::site::{Limits, network};
use super::super::source::Source;
use super::{Around, effective};

/// The networks that may say where a request came from.
pub(super) fn trusted_proxies(around: &Around<'_>, source: &mut Source) -> Vec<String> {
    let mut networks = Vec::new();
    let own = around.servers.iter().flat_map(|server| server.children());
    for directive in around.outer.iter().copied().chain(own).filter(|directive| directive.is("set_real_ip_from")) {
        match network(directive.argument(0)) {
            Some(network) => {
                source.ledger.translated(directive.id);
                if !networks.contains(&network) {
                    networks.push(network);
                }
            }
            None => source.ledger.decide(directive.id, "`trusted_proxies` are IP addresses and networks: write those that are meant"),
        }
    }
    networks
}

/// The networks of `allow` and `deny`, which in NGINX the first one that fits decides.
pub(super) fn networks(around: &Around<'_>, server: &Directive, source: &mut Source) -> (Vec<String>, Vec<String>) {
    let is_rule = |directive: &&&Directive| directive.is("allow") || directive.is("deny");
    let own: Vec<&Directive> = server.children().iter().collect();
    let level = if own.iter().any(|directive| is_rule(&directive)) { &own } else { &around.outer };
    let rules: Vec<&Directive> = level.iter().filter(is_rule).copied().collect();
    let denies_rest = rules.iter().any(|rule| rule.is("deny") && rule.argument(0) == "all");
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for rule in rules {
        match (rule.name.as_str(), rule.argument(0), network(rule.argument(0))) {
            ("deny", "all", _) => source.ledger.translated(rule.id),
            ("allow", "all", _) => source.ledger.unneeded(rule.id, "without `allow` everybody may connect"),
            ("allow", _, Some(_)) if !denies_rest => {
                source.ledger.decide(rule.id, "everybody else may connect too: `allow` would keep them out, so it is left out");
            }
            ("allow", _, Some(network)) => {
                source.ledger.translated(rule.id);
                allow.push(network);
            }
            (_, _, Some(network)) => {
                // NGINX has let the earlier ones in already; `deny` of a binding outweighs its `allow`.
                match allow.is_empty() {
                    true => source.ledger.translated(rule.id),
                    false => source.ledger.decide(
                        rule.id,
                        "here `deny` outweighs every `allow`, in NGINX the earlier line: check networks that are within each other",
                    ),
                }
                deny.push(network);
            }
            (_, _, None) => source.ledger.decide(rule.id, "`allow` and `deny` of a binding are IP addresses and networks"),
        }
    }
    if denies_rest && allow.is_empty() {
        // Nobody may connect: that is what it says.
        deny = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    }
    (allow, deny)
}

/// The limits that count for a server.
pub(super) fn limits(around: &Around<'_>, server: &Directive, source: &mut Source) -> Limits {
    let mut limits = Limits::default();
    for rule in effective(around, server, "limit_req") {
        let Some((zone, is_per_client)) = zone(around, rule, "limit_req_zone", "zone=", source) else { continue };
        let rate = zone.arguments.iter().find_map(|argument| argument.strip_prefix("rate=")).and_then(parse_rate);
        let Some((requests, is_rounded)) = rate else { continue };
        let field = if is_per_client { &mut limits.requests_per_second_per_client } else { &mut limits.requests_per_second };
        *field = Some(field.map_or(requests, |other| other.min(requests)));
        source.ledger.translated(rule.id);
        match is_rounded {
            true => source.ledger.decide(zone.id, "less than one request a second was rounded up to one"),
            false => source.ledger.translated(zone.id),
        }
    }
    for rule in effective(around, server, "limit_conn") {
        let Some((zone, is_per_client)) = zone(around, rule, "limit_conn_zone", "", source) else { continue };
        let Ok(connections) = rule.argument(1).parse() else { continue };
        let field = if is_per_client { &mut limits.connections_per_client } else { &mut limits.requests_in_flight };
        *field = Some(connections);
        source.ledger.translated(rule.id);
        source.ledger.translated(zone.id);
    }
    limits
}

/// The zone that a rule names, and whether it counts each client for itself.
fn zone<'a>(around: &Around<'a>, rule: &Directive, kind: &str, label: &str, source: &mut Source) -> Option<(&'a Directive, bool)> {
    let name = rule.arguments.iter().find_map(|argument| argument.strip_prefix(label))?;
    let is_it = |zone: &&&Directive| {
        let named = zone.arguments.iter().find_map(|argument| argument.strip_prefix("zone="));
        zone.is(kind) && named.is_some_and(|named| named.split(':').next() == Some(name))
    };
    let zone = around.outer.iter().find(is_it).copied()?;
    match zone.argument(0) {
        "$binary_remote_addr" | "$remote_addr" => Some((zone, true)),
        "$server_name" | "$server_port" | "$host" => Some((zone, false)),
        _ => {
            source.ledger.decide(zone.id, "a binding counts per client address or all together: see [binding.limits]");
            source.ledger.decide(rule.id, "counts by something that a binding can't: see [binding.limits]");
            None
        }
    }
}

/// `10r/s`, `30r/m`: requests a second, and whether that was rounded up.
fn parse_rate(text: &str) -> Option<(u32, bool)> {
    if let Some(rate) = text.strip_suffix("r/s") {
        return Some((rate.parse().ok()?, false));
    }
    let per_minute: u32 = text.strip_suffix("r/m")?.parse().ok()?;
    Some((per_minute.div_ceil(60), !per_minute.is_multiple_of(60)))
}
