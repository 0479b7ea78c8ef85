//! Who may connect and whom to believe: `Require`, `Allow`, `Deny`, and mod_remoteip.

use super::super::ledger::Directive;
use super::super::site::network;
use super::super::source::Source;
use super::hosts::{VirtualHost, all};

/// The networks that may say where a request came from.
pub(super) fn trusted_proxies(directives: &[Directive], source: &mut Source) -> Vec<String> {
    let mut networks = Vec::new();
    let is_it = |directive: &&Directive| directive.is("remoteipinternalproxy") || directive.is("remoteiptrustedproxy");
    for directive in all(directives).into_iter().filter(is_it) {
        for argument in &directive.arguments {
            match network(argument) {
                Some(network) => {
                    source.ledger.translated(directive.id);
                    if !networks.contains(&network) {
                        networks.push(network);
                    }
                }
                None => source.ledger.decide(directive.id, "`trusted_proxies` are IP addresses and networks: write those that are meant"),
            }
        }
    }
    networks
}

/// Whether connections begin with the PROXY protocol.
pub(super) fn proxy_protocol(host: &VirtualHost<'_>, outer: &[&Directive], source: &mut Source) -> bool {
    let switches = host.effective(outer, "remoteipproxyprotocol");
    switches.iter().for_each(|switch| source.ledger.translated(switch.id));
    switches.last().is_some_and(|switch| switch.argument(0).eq_ignore_ascii_case("on"))
}

/// The networks that alone may connect, and those that may not.
pub(super) fn networks(host: &VirtualHost<'_>, outer: &[&Directive], source: &mut Source) -> (Vec<String>, Vec<String>) {
    let mut rules: Vec<&Directive> = Vec::new();
    for directive in host.own.iter().chain(outer) {
        rules.extend(rules_for_all(directive));
    }
    let denies_rest =
        rules.iter().any(|rule| rule.is("deny") && rule.arguments.iter().any(|argument| argument.eq_ignore_ascii_case("all")));
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for rule in rules {
        let words: Vec<String> = rule.arguments.iter().map(|argument| argument.to_ascii_lowercase()).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (list, networks) = match (rule.name.as_str(), words.as_slice()) {
            ("require", ["all", "granted"]) | ("allow", ["from", "all"]) | ("order" | "satisfy", _) => {
                source.ledger.unneeded(rule.id, "without `allow` everybody may connect");
                continue;
            }
            ("deny", ["from", "all"]) if rule_has_allow(host, outer) => {
                source.ledger.translated(rule.id);
                continue;
            }
            ("require", ["not", "ip", networks @ ..]) | ("deny", ["from", networks @ ..]) => (&mut deny, networks),
            ("require", ["ip", networks @ ..]) => (&mut allow, networks),
            ("allow", ["from", networks @ ..]) if denies_rest => (&mut allow, networks),
            ("require", ["local"]) => (&mut allow, &["127.0.0.0/8", "::1"][..]),
            _ => continue,
        };
        for one in networks {
            match network(&whole(one)) {
                Some(network) => {
                    source.ledger.translated(rule.id);
                    if !list.contains(&network) {
                        list.push(network);
                    }
                }
                None => source.ledger.decide(rule.id, "`allow` and `deny` of a binding are IP addresses and networks"),
            }
        }
    }
    (allow, deny)
}

fn rule_has_allow(host: &VirtualHost<'_>, outer: &[&Directive]) -> bool {
    host.own.iter().chain(outer).flat_map(|directive| rules_for_all(directive)).any(|rule| rule.is("allow"))
}

/// The rules of a section that holds for every request.
fn rules_for_all(directive: &Directive) -> Vec<&Directive> {
    let is_for_all = match directive.name.as_str() {
        "<location" | "<proxy" => matches!(directive.argument(0), "/" | "*"),
        "<locationmatch" => matches!(directive.argument(0), ".*" | "^/" | "/"),
        "<requireall" | "<requireany" => true,
        _ => return Vec::new(),
    };
    if !is_for_all {
        return Vec::new();
    }
    let is_rule = |rule: &&Directive| matches!(rule.name.as_str(), "require" | "allow" | "deny" | "order");
    let inner = directive.children().iter().filter(|inner| inner.is("<requireall") || inner.is("<requireany")).flat_map(rules_for_all);
    directive.children().iter().filter(is_rule).chain(inner).collect()
}

/// `10.` and `10.1` mean networks too.
fn whole(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let parts = text.split('.').count();
    let is_short = parts < 4 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_short { format!("{text}{}/{}", ".0".repeat(4 - parts), 8 * parts) } else { text.to_owned() }
}
