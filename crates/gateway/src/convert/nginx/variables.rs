//! NGINX's variables and conditions, as they are for one request.

use std::collections::HashMap;

use super::super::ledger::{Directive, Id};
use super::super::pattern;
use super::super::probe::{Request, USER_AGENT};

/// Variables whose values ask for variables ask for …: most in a row.
const MAP_DEPTH_MAX: usize = 8;

/// Longest value, in bytes: some rules grow on every turn.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// What a request's variables are.
pub(super) struct Variables<'a> {
    pub(super) request: Request<'a>,
    /// The path as rewritten so far.
    pub(super) path: String,
    set: HashMap<String, String>,
    maps: &'a [&'a Directive],
    /// Rules that had a part in a value.
    pub(super) used: Vec<Id>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(request: Request<'a>, maps: &'a [&'a Directive]) -> Self {
        let set = request.captures.iter().cloned().collect();
        Self { request, path: request.path.to_owned(), set, maps, used: Vec::new() }
    }

    pub(super) fn set(&mut self, name: &str, value: String) {
        self.set.insert(name.trim_start_matches('$').to_owned(), value);
    }

    /// The text with the values of its variables. `Err`: the name of one that nobody knows here.
    pub(super) fn expand(&mut self, text: &str) -> Result<String, String> {
        self.expand_within(text, 0)
    }

    fn expand_within(&mut self, text: &str, depth: usize) -> Result<String, String> {
        let mut value = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            value.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (name, after) = match behind.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or_else(|| behind.to_owned())?,
                // `$1x` is the first group and an x.
                None if behind.starts_with(|c: char| c.is_ascii_digit()) => behind.split_at(1),
                None => behind.split_at(behind.find(|c| !is_name(c)).unwrap_or(behind.len())),
            };
            if name.is_empty() {
                value.push('$');
            } else {
                value.push_str(&self.value(name, depth)?);
            }
            if value.len() > VALUE_BYTES_MAX {
                return Err(name.to_owned());
            }
            rest = after;
        }
        value.push_str(rest);
        Ok(value)
    }

    fn value(&mut self, name: &str, depth: usize) -> Result<String, String> {
        if let Some(value) = self.set.get(name) {
            return Ok(value.clone());
        }
        let request = self.request;
        Ok(match name {
            "host" => request.host.to_owned(),
            "http_host" => format!("{}:{}", request.host, request.port),
            "server_port" => request.port.to_string(),
            "scheme" => if request.https { "https" } else { "http" }.to_owned(),
            "https" => if request.https { "on" } else { "" }.to_owned(),
            "request_uri" => request.path.to_owned(),
            "uri" | "document_uri" => self.path.clone(),
            "http_x_forwarded_proto" => request.forwarded_proto.to_owned(),
            "request_method" => request.method.to_owned(),
            "http_user_agent" => USER_AGENT.to_owned(),
            "server_name" => request.host.to_owned(),
            "args" | "query_string" | "is_args" | "http_upgrade" => String::new(),
            "remote_addr" | "proxy_add_x_forwarded_for" | "realip_remote_addr" | "proxy_protocol_addr" => "192.0.2.1".to_owned(),
            "nginx_version" | "request_id" | "connection" | "http_connection" => "0".to_owned(),
            _ if ["http_", "arg_", "cookie_", "ssl_", "sent_http_", "upstream_"].iter().any(|prefix| name.starts_with(prefix)) => {
                String::new()
            }
            // A group that has not matched.
            _ if name.bytes().all(|byte| byte.is_ascii_digit()) => String::new(),
            _ => return self.mapped(name, depth),
        })
    }

    /// The value that a `map` gives to a variable.
    fn mapped(&mut self, name: &str, depth: usize) -> Result<String, String> {
        let is_it = |map: &&&Directive| map.argument(1).trim_start_matches('$') == name;
        let map = *self.maps.iter().find(is_it).filter(|_| depth < MAP_DEPTH_MAX).ok_or_else(|| name.to_owned())?;
        let key = self.expand_within(map.argument(0), depth + 1)?.to_ascii_lowercase();
        self.used.push(map.id);
        let entries = || map.children().iter().filter(|entry| entry.arguments.len() == 1);
        let exact = entries().find(|entry| entry.name.eq_ignore_ascii_case(&key));
        let wildcard =
            || entries().find(|entry| entry.name.strip_prefix('*').is_some_and(|end| end.starts_with('.') && key.ends_with(end)));
        if let Some(entry) = exact.or_else(wildcard) {
            self.used.push(entry.id);
            return self.expand_within(entry.argument(0), depth + 1);
        }
        for entry in entries().filter(|entry| entry.name.starts_with('~')) {
            if let Some(captures) = captures(&entry.name[1..], &key)? {
                self.used.push(entry.id);
                captures.into_iter().for_each(|(name, value)| self.set(&name, value));
                return self.expand_within(entry.argument(0), depth + 1);
            }
        }
        match entries().find(|entry| entry.is("default")) {
            Some(entry) => {
                self.used.push(entry.id);
                self.expand_within(entry.argument(0), depth + 1)
            }
            None => Ok(String::new()),
        }
    }

    /// Whether the condition of an `if` holds. `Err`: what can't be judged.
    pub(super) fn holds(&mut self, words: &[String]) -> Result<bool, String> {
        let inner = without_parentheses(words);
        match inner.as_slice() {
            [left, "=", right] => Ok(self.expand(left)? == self.expand(right)?),
            [left, "!=", right] => Ok(self.expand(left)? != self.expand(right)?),
            [left, operator @ ("~" | "~*" | "!~" | "!~*"), pattern] => {
                let pattern = if operator.ends_with('*') { format!("*{pattern}") } else { (*pattern).to_owned() };
                let text = self.expand(left)?;
                let found = captures(&pattern, &text)?;
                let matches = found.is_some();
                if let (false, Some(captures)) = (operator.starts_with('!'), found) {
                    captures.into_iter().for_each(|(name, value)| self.set(&name, value));
                }
                Ok(matches != operator.starts_with('!'))
            }
            // No file of the other proxy's is here.
            ["-f" | "-d" | "-e" | "-x", ..] => Ok(false),
            ["!-f" | "!-d" | "!-e" | "!-x", ..] => Ok(true),
            [one] => {
                let value = self.expand(one)?;
                Ok(!value.is_empty() && value != "0")
            }
            _ => Err(format!("the condition {}", words.join(" "))),
        }
    }
}

/// The words between a condition's parentheses, which may stand alone or stick to the first and last of them.
fn without_parentheses(words: &[String]) -> Vec<&str> {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.first_mut() {
        Some(first) if *first == "(" => drop(words.remove(0)),
        Some(first) => *first = first.strip_prefix('(').unwrap_or(first),
        None => {}
    }
    match words.last_mut() {
        Some(last) if *last == ")" => drop(words.pop()),
        Some(last) => *last = last.strip_suffix(')').unwrap_or(last),
        None => {}
    }
    words
}

/// The groups of a pattern, by number and name, if it matches; an asterisk in front ignores case.
/// `Err`: it is written in a way that only NGINX's own engine knows.
pub(super) fn captures(pattern: &str, text: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let (pattern, ignores_case) = pattern.strip_prefix('*').map_or((pattern, false), |pattern| (pattern, true));
    let Some(found) = pattern::find(pattern, ignores_case, text)? else { return Ok(None) };
    let numbered = found.groups.into_iter().enumerate().skip(1).take(9).map(|(at, group)| (at.to_string(), group));
    Ok(Some(numbered.chain(found.named).collect()))
}
