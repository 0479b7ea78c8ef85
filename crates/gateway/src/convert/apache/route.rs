//! What Apache's rewrite, alias and proxy modules do with one request: the rewrite rules in their order, then redirects,
//! then the first `ProxyPass` that fits.

use super::super::ledger::{Directive, Id};
use super::super::probe::{Answer, Outcome, Request, says_where};
use super::rules::{Groups, Turn, captures, flags};

/// Rounds of rules that ask for another round.
const ROUNDS_MAX: usize = 10;

/// A virtual host, or the server around all of them.
pub(super) struct Host<'a> {
    pub(super) id: Id,
    /// Its own directives, sections included.
    pub(super) own: Vec<&'a Directive>,
    /// The directives around it.
    pub(super) outer: &'a [&'a Directive],
    pub(super) server_name: String,
}

/// The answer to a request.
pub(super) fn route(host: &Host<'_>, request: Request<'_>) -> Answer {
    let mut walk = Walk {
        host,
        turn: Turn {
            request,
            server_name: host.server_name.clone(),
            path: request.path.to_owned(),
            directives: &host.own,
            environment: Vec::new(),
        },
        used: vec![host.id],
        groups: Groups::default(),
        at: host.id,
        unclear: Vec::new(),
    };
    let outcome = walk.outcome().unwrap_or_else(|why| Outcome::Unknown { why, at: walk.at });
    let headers = walk.headers();
    Answer { outcome, used: walk.used, headers, unclear: walk.unclear }
}

struct Walk<'a> {
    host: &'a Host<'a>,
    turn: Turn<'a>,
    used: Vec<Id>,
    groups: Groups,
    /// What is being looked at.
    at: Id,
    /// What was passed over because it can't be followed, with why.
    unclear: Vec<(Id, String)>,
}

impl<'a> Walk<'a> {
    fn outcome(&mut self) -> Result<Outcome, String> {
        let is_on = |directive: &&&Directive| directive.is("rewriteengine") && directive.argument(0).eq_ignore_ascii_case("on");
        if let Some(engine) = self.host.own.iter().find(is_on) {
            self.used.push(engine.id);
            if let Some(outcome) = self.rewrite()? {
                return Ok(outcome);
            }
        }
        if let Some(outcome) = self.redirect()? {
            return Ok(outcome);
        }
        self.pass()
    }

    /// None: no rule has answered, and `self.turn.path` is what they have made of the path.
    fn rewrite(&mut self) -> Result<Option<Outcome>, String> {
        let mut conditions: Vec<&Directive> = Vec::new();
        let mut skip = 0_usize;
        for _ in 0..ROUNDS_MAX {
            let mut again = false;
            for directive in &self.host.own {
                match directive.name.as_str() {
                    "rewritecond" => conditions.push(directive),
                    "rewriterule" if skip > 0 => {
                        skip -= 1;
                        conditions.clear();
                    }
                    "rewriterule" => {
                        self.at = directive.id;
                        let applied = self.apply(directive, &conditions).unwrap_or_else(|why| {
                            self.pass_over(directive, &why);
                            None
                        });
                        if let Some(flags) = applied {
                            self.used.extend(conditions.iter().map(|condition| condition.id));
                            self.used.push(directive.id);
                            match self.finish(directive, &flags)? {
                                Next::Outcome(outcome) => return Ok(Some(outcome)),
                                Next::Stop => return Ok(None),
                                Next::Again => again = true,
                                Next::Skip(rules) => skip = rules,
                                Next::On => {}
                            }
                        } else if flags(directive.argument(2)).iter().any(|(name, _)| name == "c" || name == "chain") {
                            skip = 1;
                        }
                        conditions.clear();
                    }
                    _ => {}
                }
                if again {
                    break;
                }
            }
            if !again {
                return Ok(None);
            }
        }
        Ok(None)
    }

    fn pass_over(&mut self, rule: &Directive, why: &str) {
        self.unclear.push((rule.id, format!("taken to have no effect, as it can't be followed here: {why}")));
    }

    /// The rule's flags if its pattern and all its conditions fit, with the groups they have captured.
    fn apply(&mut self, rule: &Directive, conditions: &[&Directive]) -> Result<Option<Vec<(String, String)>>, String> {
        let flags = flags(rule.argument(2));
        let ignores_case = flags.iter().any(|(name, _)| name == "nc" || name == "nocase");
        let (is_negated, pattern) = rule.argument(0).strip_prefix('!').map_or((false, rule.argument(0)), |pattern| (true, pattern));
        let found = captures(pattern, ignores_case, &self.turn.path)?;
        if found.is_some() == is_negated {
            return Ok(None);
        }
        let mut groups = Groups { rule: found.unwrap_or_default(), condition: Vec::new() };
        let holds = self.turn.all_hold(conditions, &mut groups)?;
        self.groups = groups;
        Ok(holds.then_some(flags))
    }

    /// What follows from a rule that fits.
    fn finish(&mut self, rule: &Directive, flags: &[(String, String)]) -> Result<Next, String> {
        let flag = |names: &[&str]| flags.iter().find(|(name, _)| names.contains(&name.as_str()));
        for (_, setting) in flags.iter().filter(|(name, _)| name == "e" || name == "env") {
            let (name, value) = setting.split_once(':').unwrap_or((setting, ""));
            self.turn.environment.push((name.to_owned(), self.turn.expand(value, &self.groups)?));
        }
        if flag(&["f", "forbidden", "g", "gone"]).is_some() {
            return Ok(Next::Outcome(Outcome::Answered));
        }
        if rule.argument(1) != "-" {
            let made = self.turn.expand(rule.argument(1), &self.groups)?;
            let (made, _query) = made.split_once('?').unwrap_or((&made, ""));
            if let Some((_, status)) = flag(&["r", "redirect"]) {
                let is_status = status.bytes().all(|byte| byte.is_ascii_digit()) && !status.is_empty();
                let is_redirect = !is_status || status.starts_with('3');
                return Ok(Next::Outcome(if is_redirect { Outcome::Redirected(made.to_owned()) } else { Outcome::Answered }));
            }
            if let Some((backend, path)) = split_url(made) {
                return Ok(Next::Outcome(match flag(&["p", "proxy"]) {
                    Some(_) => Outcome::Proxied { backend, path: path.unwrap_or("/").to_owned(), by: rule.id },
                    None => Outcome::Redirected(made.to_owned()),
                }));
            }
            self.turn.path = made.to_owned();
        }
        Ok(if flag(&["n", "next"]).is_some() {
            Next::Again
        } else if let Some((_, rules)) = flag(&["s", "skip"]) {
            Next::Skip(rules.parse().unwrap_or(0))
        } else if flag(&["l", "last", "end", "p", "proxy"]).is_some() {
            // A path is proxied to where the host itself proxies it.
            Next::Stop
        } else {
            Next::On
        })
    }

    /// `Redirect` and `RedirectMatch`.
    fn redirect(&mut self) -> Result<Option<Outcome>, String> {
        let path = self.turn.path.clone();
        for directive in &self.host.own {
            let arguments: Vec<&str> = directive.arguments.iter().map(String::as_str).collect();
            let (from, to) = match (directive.name.as_str(), arguments.as_slice()) {
                ("redirect" | "redirectmatch", [status, from, to]) if !status.starts_with('/') || directive.is("redirectmatch") => {
                    (*from, *to)
                }
                ("redirect" | "redirectmatch" | "redirectpermanent" | "redirecttemp", [from, to]) => (*from, *to),
                _ => continue,
            };
            self.at = directive.id;
            let made = if directive.is("redirectmatch") {
                let groups = match captures(from, false, &path) {
                    Ok(Some(groups)) => groups,
                    Ok(None) => continue,
                    Err(why) => {
                        self.pass_over(directive, &why);
                        continue;
                    }
                };
                self.turn.expand(to, &Groups { rule: groups, condition: Vec::new() })?
            } else {
                let Some(rest) = below(&path, from) else { continue };
                format!("{to}{rest}")
            };
            self.used.push(directive.id);
            return Ok(Some(Outcome::Redirected(made)));
        }
        Ok(None)
    }

    /// The first `ProxyPass` or `ProxyPassMatch` that fits: the host's own, then those around it.
    fn pass(&mut self) -> Result<Outcome, String> {
        let path = self.turn.path.clone();
        for directive in self.host.own.iter().chain(self.host.outer) {
            let outcome = match directive.name.as_str() {
                "proxypass" => self.pass_below(directive, directive.argument(0), directive.argument(1), &path)?,
                "proxypassmatch" => self.pass_matching(directive, directive.argument(0), directive.argument(1), &path)?,
                "<location" | "<locationmatch" => {
                    let inner = directive.children().iter().find(|inner| inner.is("proxypass") || inner.is("proxypassmatch"));
                    let Some(inner) = inner else { continue };
                    let (pattern, is_match) = match directive.arguments.as_slice() {
                        [tilde, pattern] if tilde == "~" => (pattern.as_str(), true),
                        _ => (directive.argument(0), directive.is("<locationmatch")),
                    };
                    match is_match {
                        true => self.pass_matching(inner, pattern, inner.argument(0), &path)?,
                        false => self.pass_below(inner, pattern, inner.argument(0), &path)?,
                    }
                    .inspect(|_| self.used.push(directive.id))
                }
                _ => None,
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Answered)
    }

    fn pass_below(&mut self, rule: &Directive, from: &str, to: &str, path: &str) -> Result<Option<Outcome>, String> {
        let Some(rest) = below(path, from) else { return Ok(None) };
        self.used.push(rule.id);
        self.at = rule.id;
        if to == "!" {
            return Ok(Some(Outcome::Answered));
        }
        let to = self.turn.expand(to, &Groups::default())?;
        let (backend, own) = split_url(&to).ok_or_else(|| format!("the address {to}"))?;
        Ok(Some(Outcome::Proxied { backend, path: format!("{}{rest}", own.unwrap_or_default()), by: rule.id }))
    }

    fn pass_matching(&mut self, rule: &Directive, pattern: &str, to: &str, path: &str) -> Result<Option<Outcome>, String> {
        let groups = match captures(pattern, false, path) {
            Ok(Some(groups)) => groups,
            Ok(None) => return Ok(None),
            Err(why) => {
                self.pass_over(rule, &why);
                return Ok(None);
            }
        };
        self.used.push(rule.id);
        self.at = rule.id;
        if to == "!" {
            return Ok(Some(Outcome::Answered));
        }
        // Without a group in the address, Apache appends the whole path.
        let has_group = to.contains('$');
        let to = self.turn.expand(to, &Groups { rule: groups, condition: Vec::new() })?;
        let (backend, own) = split_url(&to).ok_or_else(|| format!("the address {to}"))?;
        let own = own.unwrap_or_default();
        let path = if has_group { own.to_owned() } else { format!("{own}{path}") };
        Ok(Some(Outcome::Proxied { backend, path, by: rule.id }))
    }

    /// What `RequestHeader set` makes of a request.
    fn headers(&mut self) -> Vec<(String, String, Id)> {
        let in_effect = self.host.own.iter().chain(self.host.outer);
        let set = in_effect.filter(|directive| directive.is("requestheader") && matches!(directive.argument(0), "set" | "setifempty"));
        let mut headers = Vec::new();
        for directive in set {
            let name = directive.argument(1).trim_end_matches(':').to_ascii_lowercase();
            match self.header_value(directive.argument(2)) {
                Some(value) => headers.push((name, value, directive.id)),
                None if says_where(&name) => {
                    self.unclear.push((directive.id, format!("its value can't be followed here: {}", directive.argument(2))));
                }
                None => {}
            }
        }
        headers
    }

    /// `%{name}e` is from the environment, `%{NAME}s` of TLS, and `expr=` an expression, of which single variables are known.
    fn header_value(&self, text: &str) -> Option<String> {
        if let Some(expression) = text.strip_prefix("expr=") {
            let is_plain = expression.starts_with("%{") && expression.ends_with('}') && !expression[2..].contains('{');
            return if is_plain { self.turn.expand(expression, &Groups::default()).ok() } else { None };
        }
        let mut value = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("%{") {
            value.push_str(before);
            let (name, after) = behind.split_once('}')?;
            let (kind, after) = after.split_at_checked(1)?;
            let found = self.turn.environment.iter().rev().find(|(set, _)| set == name).map(|(_, value)| value.as_str());
            value.push_str(found.filter(|_| kind == "e")?);
            rest = after;
        }
        value.push_str(rest);
        Some(value)
    }
}

enum Next {
    On,
    Stop,
    Again,
    Skip(usize),
    Outcome(Outcome),
}

/// What of `path` stands behind `prefix`, which ends at a slash.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let rest = path.strip_prefix(prefix)?;
    (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Scheme and authority of an address, and its path. A socket's stands before a bar.
fn split_url(url: &str) -> Option<(String, Option<&str>)> {
    if let Some(socket) = url.strip_prefix("unix:") {
        let (socket, url) = socket.split_once('|')?;
        let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        return Some((format!("http://unix:{socket}"), path));
    }
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "http" | "https" | "ajp" | "balancer" | "h2" | "h2c") {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some((format!("{scheme}://{authority}"), (!path.is_empty()).then_some(path)))
}
