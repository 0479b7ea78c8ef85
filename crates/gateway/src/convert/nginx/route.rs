//! What NGINX's rewrite and proxy modules do with one request, in their order: the server's rewrites, the location that
//! the path leads to, that one's rewrites, and so on until something answers.

use super::super::ledger::{Directive, Id};
use super::super::probe::{Answer, Outcome, Request, says_where};
use super::variables::{Variables, captures};

/// Turns between rewriting and looking for a location, as in NGINX.
const TURNS_MAX: usize = 10;

/// The answer of `server` to a request. `outer` is what stands around it, `maps` every `map` there.
pub(super) fn route(server: &Directive, outer: &[&Directive], maps: &[&Directive], request: Request<'_>) -> Answer {
    let mut walk = Walk {
        variables: Variables::new(request, maps),
        used: Vec::new(),
        levels: vec![outer.to_vec()],
        at: server.id,
        unclear: Vec::new(),
    };
    walk.levels.push(server.children().iter().collect());
    let outcome = walk.server(server).unwrap_or_else(|why| Outcome::Unknown { why, at: walk.at });
    let headers = walk.headers();
    // The last is what answers.
    let used = std::iter::once(server.id).chain(walk.variables.used).chain(walk.used).collect();
    Answer { outcome, used, headers, unclear: walk.unclear }
}

struct Walk<'a> {
    variables: Variables<'a>,
    used: Vec<Id>,
    /// The directives of each level that the request is in, outermost first.
    levels: Vec<Vec<&'a Directive>>,
    /// What is being looked at.
    at: Id,
    /// What was passed over because it can't be followed, with why.
    unclear: Vec<(Id, String)>,
}

/// How a list of rewrites ended.
enum Rewritten {
    /// Everything has been looked at.
    Through,
    /// The path is to be looked up anew.
    Last,
    /// No further rewrites here.
    Break,
    Done(Outcome),
}

impl<'a> Walk<'a> {
    fn server(&mut self, server: &'a Directive) -> Result<Outcome, String> {
        if let Rewritten::Done(outcome) = self.rewrite(server.children())? {
            return Ok(outcome);
        }
        for _ in 0..TURNS_MAX {
            self.levels.truncate(2);
            let locations = self.locations(server)?;
            let before = self.variables.path.clone();
            let mut is_broken = false;
            for location in &locations {
                self.used.push(location.id);
                self.levels.push(location.children().iter().collect());
            }
            // Only the innermost location's own rewrites run.
            if let Some(location) = locations.last() {
                match self.rewrite(location.children())? {
                    Rewritten::Done(outcome) => return Ok(outcome),
                    Rewritten::Last => continue,
                    Rewritten::Break => is_broken = true,
                    Rewritten::Through if self.variables.path != before => continue,
                    Rewritten::Through => {}
                }
            }
            let Some(innermost) = locations.last() else { return Ok(Outcome::Answered) };
            if let Some(except) = self.is_excepted(innermost) {
                self.used.push(except.id);
                return Ok(Outcome::Answered);
            }
            if let Some(pass) = innermost.children().iter().find(|directive| directive.is("proxy_pass")) {
                return self.pass(pass, innermost, is_broken && self.variables.path != before);
            }
            match innermost.children().iter().find(|directive| directive.is("try_files")) {
                Some(files) => match self.fallback(server, files)? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                },
                None => return Ok(Outcome::Answered),
            }
        }
        Ok(Outcome::Answered)
    }

    /// The location of the path, within the locations that it is nested in.
    fn locations(&mut self, server: &'a Directive) -> Result<Vec<&'a Directive>, String> {
        let mut chosen = Vec::new();
        let mut within = server;
        while let Some(location) = self.choose(within) {
            if let Some(pattern) = location_pattern(location)
                && let Some(found) = captures(&pattern, &self.variables.path)?
            {
                found.into_iter().for_each(|(name, value)| self.variables.set(&name, value));
            }
            chosen.push(location);
            within = location;
        }
        Ok(chosen)
    }

    /// The location that NGINX takes: the exact one; the longest prefix if it is to win; the first pattern; the longest prefix.
    fn choose(&mut self, within: &'a Directive) -> Option<&'a Directive> {
        let path = self.variables.path.clone();
        let locations = || within.children().iter().filter(|directive| directive.is("location"));
        if let Some(exact) = locations().find(|location| location.argument(0) == "=" && location.argument(1) == path) {
            return Some(exact);
        }
        let by_prefix = locations()
            .filter(|location| location.argument(0) != "=")
            .filter_map(|location| Some((prefix(location).filter(|prefix| path.starts_with(*prefix))?.len(), location)))
            .max_by_key(|(length, _)| *length)
            .map(|(_, location)| location);
        if by_prefix.is_some_and(|location| location.argument(0) == "^~") {
            return by_prefix;
        }
        for location in locations() {
            match location_pattern(location).map(|pattern| captures(&pattern, &path)) {
                Some(Ok(Some(_))) => return Some(location),
                Some(Err(why)) => self.pass_over(location, &why),
                Some(Ok(None)) | None => {}
            }
        }
        by_prefix
    }

    /// The `limit_except` that keeps the request's method out of a location.
    fn is_excepted(&self, location: &'a Directive) -> Option<&'a Directive> {
        let method = self.variables.request.method;
        let is_let_in = |limit: &Directive| limit.arguments.iter().any(|one| one == method || (one == "GET" && method == "HEAD"));
        let denies = |limit: &Directive| limit.children().iter().any(|rule| rule.is("deny") && rule.argument(0) == "all");
        location.children().iter().find(|one| one.is("limit_except") && denies(one) && !is_let_in(one))
    }

    /// What happens if no file is there. None: look the path up anew.
    fn fallback(&mut self, server: &'a Directive, files: &Directive) -> Result<Option<Outcome>, String> {
        self.used.push(files.id);
        let last = files.arguments.last().map_or("", String::as_str);
        let is_named = |location: &&Directive| location.is("location") && location.argument(0) == last;
        if let Some(named) = last.starts_with('@').then(|| server.children().iter().find(is_named)).flatten() {
            self.used.push(named.id);
            self.levels.push(named.children().iter().collect());
            if let Rewritten::Done(outcome) = self.rewrite(named.children())? {
                return Ok(Some(outcome));
            }
            return match named.children().iter().find(|directive| directive.is("proxy_pass")) {
                Some(pass) => self.pass(pass, named, true).map(Some),
                None => Ok(Some(Outcome::Answered)),
            };
        }
        if last.starts_with('=') || last.starts_with('@') {
            return Ok(Some(Outcome::Answered));
        }
        self.variables.path = self.variables.expand(last)?;
        Ok(None)
    }

    /// Runs the directives of the rewrite module, in their order.
    fn rewrite(&mut self, directives: &'a [Directive]) -> Result<Rewritten, String> {
        for directive in directives {
            self.at = directive.id;
            let rewritten = match directive.name.as_str() {
                "rewrite" => self.rewrite_once(directive)?,
                "return" => Rewritten::Done(self.answer(directive)?),
                "break" => Rewritten::Break,
                "set" => {
                    let value = self.variables.expand(directive.argument(1))?;
                    self.variables.set(directive.argument(0), value);
                    self.used.push(directive.id);
                    Rewritten::Through
                }
                "if" if self.holds(directive) => {
                    self.used.push(directive.id);
                    match self.rewrite(directive.children())? {
                        Rewritten::Through => match directive.children().iter().find(|directive| directive.is("proxy_pass")) {
                            Some(pass) => Rewritten::Done(self.pass(pass, directive, true)?),
                            None => Rewritten::Through,
                        },
                        other => other,
                    }
                }
                _ => Rewritten::Through,
            };
            if !matches!(rewritten, Rewritten::Through) {
                return Ok(rewritten);
            }
        }
        Ok(Rewritten::Through)
    }

    fn rewrite_once(&mut self, rule: &Directive) -> Result<Rewritten, String> {
        let found = match captures(rule.argument(0), &self.variables.path) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Rewritten::Through),
            Err(why) => {
                self.pass_over(rule, &why);
                return Ok(Rewritten::Through);
            }
        };
        found.into_iter().for_each(|(name, value)| self.variables.set(&name, value));
        self.used.push(rule.id);
        let replaced = self.variables.expand(rule.argument(1))?;
        let flag = rule.argument(2);
        let leaves = ["http://", "https://", "$scheme"].iter().any(|start| rule.argument(1).starts_with(start));
        if leaves || matches!(flag, "redirect" | "permanent") {
            return Ok(Rewritten::Done(Outcome::Redirected(replaced)));
        }
        self.variables.path = replaced.split('?').next().unwrap_or_default().to_owned();
        Ok(match flag {
            "last" => Rewritten::Last,
            "break" => Rewritten::Break,
            _ => Rewritten::Through,
        })
    }

    /// Whether an `if` is met. One that can't be judged is taken not to be.
    fn holds(&mut self, condition: &Directive) -> bool {
        self.variables.holds(&condition.arguments).unwrap_or_else(|why| {
            self.pass_over(condition, &why);
            false
        })
    }

    fn pass_over(&mut self, rule: &Directive, why: &str) {
        self.unclear.push((rule.id, format!("taken to have no effect, as it can't be followed here: {why}")));
    }

    fn answer(&mut self, directive: &Directive) -> Result<Outcome, String> {
        self.used.push(directive.id);
        let (code, text) = match directive.arguments.as_slice() {
            [url] if url.contains("://") => ("302", url.as_str()),
            [code, text, ..] => (code.as_str(), text.as_str()),
            _ => return Ok(Outcome::Answered),
        };
        match code {
            "301" | "302" | "303" | "307" | "308" => Ok(Outcome::Redirected(self.variables.expand(text)?)),
            _ => Ok(Outcome::Answered),
        }
    }

    /// The backend and the path there. `is_final`: the path has been rewritten in the location and replaces everything.
    fn pass(&mut self, pass: &Directive, location: &Directive, is_final: bool) -> Result<Outcome, String> {
        self.used.push(pass.id);
        self.at = pass.id;
        let has_variables = pass.argument(0).contains('$');
        let url = self.variables.expand(pass.argument(0))?;
        let (backend, own_path) = split_url(&url).ok_or_else(|| format!("the address {url}"))?;
        let path = &self.variables.path;
        let path = match own_path {
            Some(own) if has_variables => own.split('?').next().unwrap_or_default().to_owned(),
            Some(own) if !is_final => match prefix(location).and_then(|prefix| path.strip_prefix(prefix)) {
                Some(rest) => format!("{own}{rest}"),
                None => path.clone(),
            },
            _ => path.clone(),
        };
        Ok(Outcome::Proxied { backend, path, by: pass.id })
    }

    /// The headers of the innermost level that sets any: they replace those of all others.
    fn headers(&mut self) -> Vec<(String, String, Id)> {
        let levels = std::mem::take(&mut self.levels);
        let set =
            |level: &Vec<&'a Directive>| -> Vec<&'a Directive> { level.iter().copied().filter(|d| d.is("proxy_set_header")).collect() };
        let innermost = levels.iter().rev().map(set).find(|headers| !headers.is_empty()).unwrap_or_default();
        let mut headers = Vec::new();
        for header in innermost {
            let name = header.argument(0).to_ascii_lowercase();
            match self.variables.expand(header.argument(1)) {
                Ok(value) => headers.push((name, value, header.id)),
                Err(why) if says_where(&name) => self.unclear.push((header.id, format!("its value can't be followed here: ${why}"))),
                Err(_) => {}
            }
        }
        headers
    }
}

/// Scheme and authority of a `proxy_pass`, and its path if it has one. A socket's path ends at a colon.
fn split_url(url: &str) -> Option<(String, Option<&str>)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = match rest.strip_prefix("unix:") {
        Some(socket) => "unix:".len() + socket.find(':').unwrap_or(socket.len()),
        None => rest.find('/').unwrap_or(rest.len()),
    };
    let (authority, path) = rest.split_at(end);
    let path = path.strip_prefix(':').unwrap_or(path);
    Some((format!("{scheme}://{authority}"), (!path.is_empty()).then_some(path)))
}

/// What a location's paths begin with, if that is how it says which are its own.
fn prefix(location: &Directive) -> Option<&str> {
    match location.arguments.as_slice() {
        [prefix] if !prefix.starts_with(['~', '@']) => Some(prefix),
        [modifier, prefix] if modifier == "=" || modifier == "^~" => Some(prefix),
        _ => None,
    }
}

/// The pattern that a location's paths have to match, if that is how it says which are its own.
fn location_pattern(location: &Directive) -> Option<String> {
    match location.arguments.as_slice() {
        [modifier, pattern] if modifier == "~" => Some(pattern.clone()),
        [modifier, pattern] if modifier == "~*" => Some(format!("*{pattern}")),
        [glued] if glued.starts_with('~') => Some(glued[1..].to_owned()),
        _ => None,
    }
}
