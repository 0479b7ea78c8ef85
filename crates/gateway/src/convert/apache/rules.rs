//! Apache's rewrite rules: conditions, flags, and the texts that they test.

use super::super::ledger::Directive;
use super::super::pattern;
use super::super::probe::{Request, USER_AGENT};

/// Longest text that a rule makes, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The groups that a rule's pattern and its last condition have captured.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    pub(super) rule: Vec<String>,
    pub(super) condition: Vec<String>,
}

/// A request on its way through the rules.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) request: Request<'a>,
    pub(super) server_name: String,
    pub(super) path: String,
    /// The directives around the rules, for the maps among them.
    pub(super) directives: &'a [&'a Directive],
    /// What `[E=name:value]` has set.
    pub(super) environment: Vec<(String, String)>,
}

impl Turn<'_> {
    /// The text with the groups and variables in it. `Err`: what is not known here.
    pub(super) fn expand(&self, text: &str, groups: &Groups) -> Result<String, String> {
        let mut value = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['$', '%', '\\']) {
            value.push_str(&rest[..at]);
            let (sign, behind) = rest[at..].split_at(1);
            let group = behind.chars().next().and_then(|c| c.to_digit(10)).map(|digit| digit as usize);
            rest = match (sign, group) {
                ("$" | "%", Some(number)) => {
                    let groups = if sign == "$" { &groups.rule } else { &groups.condition };
                    value.push_str(groups.get(number).map_or("", String::as_str));
                    &behind[1..]
                }
                ("%", None) if behind.starts_with('{') => {
                    let (name, after) = behind[1..].split_once('}').ok_or_else(|| text.to_owned())?;
                    value.push_str(&self.variable(name)?);
                    after
                }
                ("$", None) if behind.starts_with('{') => {
                    let (lookup, after) = behind[1..].split_once('}').ok_or_else(|| text.to_owned())?;
                    value.push_str(&self.mapped(lookup, groups)?);
                    after
                }
                ("\\", _) => {
                    let next = behind.chars().next();
                    value.extend(next);
                    &behind[next.map_or(0, char::len_utf8)..]
                }
                _ => {
                    value.push_str(sign);
                    behind
                }
            };
            if value.len() > TEXT_BYTES_MAX {
                return Err("a text that grows without end".to_owned());
            }
        }
        value.push_str(rest);
        Ok(value)
    }

    /// `${map:key}`, of the maps that Apache has within itself.
    fn mapped(&self, lookup: &str, groups: &Groups) -> Result<String, String> {
        let unknown = || format!("the map ${{{lookup}}}");
        let (name, key) = lookup.split_once(':').ok_or_else(unknown)?;
        let key = self.expand(key.split('|').next().unwrap_or_default(), groups)?;
        let map = self.directives.iter().find(|one| one.is("rewritemap") && one.argument(0) == name).ok_or_else(unknown)?;
        match map.argument(1) {
            "int:tolower" => Ok(key.to_ascii_lowercase()),
            "int:toupper" => Ok(key.to_ascii_uppercase()),
            "int:escape" | "int:unescape" => Ok(key),
            _ => Err(unknown()),
        }
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        let request = &self.request;
        let upper = name.to_ascii_uppercase();
        if let Some(header) = upper.strip_prefix("HTTP:") {
            return Ok(match header {
                "HOST" => request.host.to_owned(),
                "X-FORWARDED-PROTO" => request.forwarded_proto.to_owned(),
                "USER-AGENT" => USER_AGENT.to_owned(),
                _ => String::new(),
            });
        }
        if let Some(name) = upper.strip_prefix("ENV:") {
            let set = self.environment.iter().rev().find(|(set, _)| set.eq_ignore_ascii_case(name));
            return Ok(set.map(|(_, value)| value.clone()).unwrap_or_default());
        }
        Ok(match upper.as_str() {
            "HTTP_HOST" => host(request),
            "SERVER_NAME" => {
                if self.server_name.is_empty() {
                    request.host.to_owned()
                } else {
                    self.server_name.clone()
                }
            }
            "SERVER_PORT" => request.port.to_string(),
            "REQUEST_URI" | "REQUEST_FILENAME" | "SCRIPT_FILENAME" => self.path.clone(),
            "REQUEST_SCHEME" => if request.https { "https" } else { "http" }.to_owned(),
            "HTTPS" => if request.https { "on" } else { "off" }.to_owned(),
            "REQUEST_METHOD" => request.method.to_owned(),
            "THE_REQUEST" => format!("{} {} HTTP/1.1", request.method, request.path),
            "REMOTE_ADDR" | "REMOTE_HOST" => "192.0.2.1".to_owned(),
            "SERVER_PROTOCOL" => "HTTP/1.1".to_owned(),
            "HTTP_USER_AGENT" => USER_AGENT.to_owned(),
            "QUERY_STRING" | "REMOTE_USER" | "PATH_INFO" | "HTTP_REFERER" | "HTTP_ACCEPT" | "HTTP_COOKIE" | "DOCUMENT_ROOT" => {
                String::new()
            }
            _ if upper.starts_with("SSL:") || upper.starts_with("LA-") => String::new(),
            _ => return Err(format!("%{{{name}}}")),
        })
    }

    /// Whether all conditions in front of a rule hold; their groups are kept.
    pub(super) fn all_hold(&self, conditions: &[&Directive], groups: &mut Groups) -> Result<bool, String> {
        // Of conditions that are joined by [OR], one is enough.
        let mut joined: Option<bool> = None;
        for condition in conditions {
            let flags = flags(condition.argument(2));
            let has = |short: &str, long: &str| flags.iter().any(|(name, _)| name == short || name == long);
            let holds = joined == Some(true) || self.holds(condition, has("nc", "nocase"), groups)?;
            if has("or", "ornext") {
                joined = Some(holds);
            } else if holds {
                joined = None;
            } else {
                return Ok(false);
            }
        }
        Ok(joined != Some(false))
    }

    fn holds(&self, condition: &Directive, ignores_case: bool, groups: &mut Groups) -> Result<bool, String> {
        let text = self.expand(condition.argument(0), groups)?;
        let pattern = condition.argument(1);
        let (is_negated, pattern) = pattern.strip_prefix('!').map_or((false, pattern), |pattern| (true, pattern));
        let holds = if let Some(other) = pattern.strip_prefix('=') {
            let other = other.trim_matches('"');
            if ignores_case { text.eq_ignore_ascii_case(other) } else { text == other }
        } else if pattern.len() == 2 && pattern.starts_with('-') {
            // Files of the other server's are not here.
            false
        } else if pattern.starts_with('-') || condition.argument(0) == "expr" {
            return Err(format!("the condition {pattern}"));
        } else {
            let found = captures(pattern, ignores_case, &text)?;
            if let (false, Some(found)) = (is_negated, &found) {
                groups.condition = found.clone();
            }
            found.is_some()
        };
        Ok(holds != is_negated)
    }
}

/// A `Host` header: browsers and docker leave the port of the scheme out.
fn host(request: &Request<'_>) -> String {
    match (request.https, request.port) {
        (true, 443) | (false, 80) => request.host.to_owned(),
        _ => format!("{}:{}", request.host, request.port),
    }
}

/// The flags of a rule or condition, `[R=301,L,E=a:b]`, in lower case, with their values.
pub(super) fn flags(text: &str) -> Vec<(String, String)> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let flag = |flag: &str| {
        let (name, value) = flag.trim().split_once('=').unwrap_or((flag.trim(), ""));
        (name.to_ascii_lowercase(), value.to_owned())
    };
    inner.split(',').filter(|flag| !flag.trim().is_empty()).map(flag).collect()
}

/// What a pattern captures, the whole first, if it matches. `Err`: it is written in a way that only Apache's engine knows.
pub(super) fn captures(pattern: &str, ignores_case: bool, text: &str) -> Result<Option<Vec<String>>, String> {
    Ok(pattern::find(pattern, ignores_case, text)?.map(|found| found.groups))
}
