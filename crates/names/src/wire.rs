//! What both services read in a path: the one table of everything that the backend answers, and what it does.
//!
//! The gateway decides by it what a read-only binding lets pass; the backend's route types say the same of themselves, and a
//! test holds each of their routes to its row here. What has no row is answered by nobody.

/// The prefixes under which everything is found: Artifactory's, and the same without its context path.
pub const API_PREFIXES: [&str; 2] = ["/artifactory/api/", "/api/"];

/// What stands in front of the files of a repository's tree.
pub const TREE_PREFIX: &str = "/artifactory/";

/// What stands, behind an API prefix, in front of the key of a repository and what docker asks of it.
pub const DOCKER_PREFIX: &str = "docker/";

/// What stands where the key of a repository would, for an address of all repositories. No key is like it.
pub const ALL_REPOSITORIES: &str = "_all";

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Asks whether somebody is there.
    Pings,
    /// Asks who somebody is: checks a password or issues a token. Nothing that is stored changes, whatever the method.
    LogsIn,
    /// Reads.
    Reads,
    /// Changes something.
    Writes,
}
use Effect::{LogsIn, Pings, Reads, Writes};

impl Effect {
    /// Whether it may change what is stored.
    pub const fn writes(self) -> bool {
        match self {
            Pings | LogsIn | Reads => false,
            Writes => true,
        }
    }
}

/// What stands in front of a row's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// Nothing.
    Root,
    /// One of [`API_PREFIXES`].
    Api,
    /// [`TREE_PREFIX`], if no API prefix fits.
    Tree,
}

/// A path and what the methods that it has do there.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What stands in front of the path.
    pub under: Under,
    /// The path: `*` is one segment, `**` one or more of them, `[/]` at the end a slash that may be there.
    pub path: &'static str,
    /// Methods; `GET` stands for `HEAD` as well.
    pub ways: &'static [(&'static str, Effect)],
    /// Whether another method may be that of a row below, because in it the same segments are a name.
    looks_on: bool,
}

const fn row(under: Under, path: &'static str, ways: &'static [(&'static str, Effect)]) -> Row {
    Row { under, path, ways, looks_on: false }
}

const fn or_a_name(row: Row) -> Row {
    Row { looks_on: true, ..row }
}

const GET: &[(&str, Effect)] = &[("GET", Reads)];
const PING: &[(&str, Effect)] = &[("GET", Pings)];
const POST: &[(&str, Effect)] = &[("POST", Writes)];
const PUT: &[(&str, Effect)] = &[("PUT", Writes)];
const GET_PUT: &[(&str, Effect)] = &[("GET", Reads), ("PUT", Writes)];
const GET_POST: &[(&str, Effect)] = &[("GET", Reads), ("POST", Writes)];
const PUT_POST: &[(&str, Effect)] = &[("PUT", Writes), ("POST", Writes)];
const DELETE: &[(&str, Effect)] = &[("DELETE", Writes)];
const PUT_DELETE: &[(&str, Effect)] = &[("PUT", Writes), ("DELETE", Writes)];
const GET_DELETE: &[(&str, Effect)] = &[("GET", Reads), ("DELETE", Writes)];
const GET_PUT_DELETE: &[(&str, Effect)] = &[("GET", Reads), ("PUT", Writes), ("DELETE", Writes)];
const MANAGED: &[(&str, Effect)] = &[("GET", Reads), ("PUT", Writes), ("POST", Writes), ("DELETE", Writes)];
const UPLOAD: &[(&str, Effect)] = &[("GET", Reads), ("PATCH", Writes), ("PUT", Writes), ("DELETE", Writes)];
const LOG_IN: &[(&str, Effect)] = &[("GET", LogsIn), ("POST", LogsIn)];

use Under::{Api, Root, Tree};

/// Everything that is answered. The first row whose path fits decides.
pub const ROWS: &[Row] = &[
    // Health.
    row(Root, "/healthz", PING),
    row(Root, "/healthz/live", PING),
    row(Root, "/healthz/ready", PING),
    // What is done to a repository, among what docker asks of it. No docker path looks like one of these.
    row(Api, "docker/*/v1/promote", POST),
    row(Api, "docker/*/v2/promote", POST),
    row(Api, "docker/*/v1/migrate", POST),
    row(Api, "docker/*/v2/receipts", GET),
    row(Api, "docker/*/v1/ancestry", GET),
    row(Api, "docker/*/v1/info", GET),
    row(Api, "docker/*/v2/info", GET),
    // Docker Registry V2.
    row(Api, "docker/*/v2[/]", PING),
    row(Api, "docker/*/v2/token", LOG_IN),
    row(Api, "docker/*/v2/_catalog", GET),
    row(Api, "docker/*/v2/**/blobs/uploads[/]", POST),
    row(Api, "docker/*/v2/**/blobs/uploads/*", UPLOAD),
    row(Api, "docker/*/v2/**/manifests/*", GET_PUT_DELETE),
    row(Api, "docker/*/v2/**/blobs/*", GET_DELETE),
    row(Api, "docker/*/v2/**/referrers/*", GET),
    row(Api, "docker/*/v2/**/tags/list", GET),
    // Docker Registry V1.
    row(Api, "docker/*/v1[/]", &[]),
    row(Api, "docker/*/v1/_ping", PING),
    row(Api, "docker/*/v1/users[/]", LOG_IN),
    row(Api, "docker/*/v1/search", GET),
    row(Api, "docker/*/v1/images/*/json", GET_PUT),
    row(Api, "docker/*/v1/images/*/layer", GET_PUT),
    row(Api, "docker/*/v1/images/*/checksum", PUT),
    row(Api, "docker/*/v1/images/*/ancestry", GET),
    or_a_name(row(Api, "docker/*/v1/repositories/**/", PUT)),
    row(Api, "docker/*/v1/repositories/**/images[/]", GET_PUT),
    or_a_name(row(Api, "docker/*/v1/repositories/**/tags[/]", GET_DELETE)),
    or_a_name(row(Api, "docker/*/v1/repositories/**/properties[/]", GET)),
    or_a_name(row(Api, "docker/*/v1/repositories/**/json[/]", GET)),
    row(Api, "docker/*/v1/repositories/**/tags/*[/]", GET_PUT_DELETE),
    row(Api, "docker/*/v1/repositories/**[/]", PUT_DELETE),
    // Jobs.
    row(Api, "docker/jobs[/]", GET),
    row(Api, "docker/jobs/*[/]", GET),
    // Management.
    row(Api, "security/users[/]", GET),
    row(Api, "security/users/authorization/changePassword[/]", POST),
    row(Api, "security/users/*[/]", MANAGED),
    row(Api, "security/groups[/]", GET),
    row(Api, "security/groups/*[/]", MANAGED),
    row(Api, "security/permissions[/]", GET),
    row(Api, "security/permissions/*[/]", MANAGED),
    row(Api, "security/tokens[/]", GET_POST),
    row(Api, "security/tokens/**[/]", DELETE),
    row(Api, "security/password[/]", PUT_POST),
    row(Api, "repositories[/]", GET),
    row(Api, "repositories/*[/]", MANAGED),
    row(Api, "system/ping[/]", PING),
    row(Api, "system/version[/]", GET),
    row(Api, "system/storage/gc[/]", GET_POST),
    row(Api, "system/backup[/]", GET_POST),
    row(Api, "storage/**[/]", GET_PUT_DELETE),
    row(Api, "search/prop[/]", GET),
    row(Api, "search/artifact[/]", GET),
    row(Api, "openapi.json[/]", GET),
    row(Api, "audit[/]", GET),
    // Files.
    row(Tree, "**[/]", GET_DELETE),
];

/// What a request with this method for this path of the backend does; `None` if nothing answers it. The path has no query.
pub fn effect(method: &str, path: &str) -> Option<Effect> {
    let method = if method == "HEAD" { "GET" } else { method };
    let (under, path) = find_prefix(path);
    for row in ROWS.iter().filter(|row| row.under == under && fits(row.path, path)) {
        let way = row.ways.iter().find(|(known, _)| *known == method);
        if way.is_some() || !row.looks_on {
            return way.map(|(_, effect)| *effect);
        }
    }
    None
}

/// The methods that a path of the backend has, `HEAD` included; none if nothing answers it.
pub fn methods(path: &str) -> Vec<&'static str> {
    let (under, path) = find_prefix(path);
    let mut methods = Vec::new();
    for row in ROWS.iter().filter(|row| row.under == under && fits(row.path, path)) {
        for (method, _) in row.ways {
            let more = if *method == "GET" { &["GET", "HEAD"][..] } else { std::slice::from_ref(method) };
            methods.extend(more.iter().filter(|method| !methods.contains(*method)).copied().collect::<Vec<_>>());
        }
        if !row.looks_on {
            break;
        }
    }
    methods
}

fn find_prefix(path: &str) -> (Under, &str) {
    if let Some(rest) = API_PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)) {
        return (Api, rest);
    }
    // The API without a path is no folder that is called `api`.
    match path.strip_prefix(TREE_PREFIX) {
        Some(rest) if rest != "api" => (Tree, rest),
        _ => (Root, path),
    }
}

/// Whether a path is one of those that a pattern of [`Row::path`] describes.
fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path) = match pattern.strip_suffix("[/]") {
        Some(pattern) => (pattern, path.strip_suffix('/').unwrap_or(path)),
        None => (pattern, path),
    };
    let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    let alike = |pattern: &[&str], path: &[&str]| {
        pattern.len() == path.len()
            && pattern.iter().zip(path).all(|(wanted, segment)| if *wanted == "*" { !segment.is_empty() } else { wanted == segment })
    };
    let Some(at) = pattern.iter().position(|wanted| *wanted == "**") else { return alike(&pattern, &path) };
    let behind = pattern.len() - at - 1;
    if path.len() < pattern.len() {
        return false;
    }
    let (front, rest) = path.split_at(at);
    let (names, back) = rest.split_at(rest.len() - behind);
    alike(&pattern[..at], front) && alike(&pattern[at + 1..], back) && names.iter().all(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "/artifactory/api/docker/docker-local";

    #[test]
    fn how_a_path_ends_says_nothing_of_what_it_is() {
        for (method, path, expected) in [
            ("POST", "/v2/token", Some(LogsIn)),
            ("GET", "/v2/token", Some(LogsIn)),
            ("DELETE", "/v2/token", None),
            ("POST", "/v1/users", Some(LogsIn)),
            ("POST", "/v1/users/", Some(LogsIn)),
            ("PUT", "/v1/users/", None),
            // Images that are called like them.
            ("DELETE", "/v1/repositories/v1/users", Some(Writes)),
            ("PUT", "/v1/repositories/v1/users/", Some(Writes)),
            ("PUT", "/v1/repositories/v1/users", Some(Writes)),
            ("DELETE", "/v1/repositories/team/v2/token", Some(Writes)),
            ("PUT", "/v2/team/v2/token/manifests/token", Some(Writes)),
            ("PUT", "/v2/v1/users/manifests/users", Some(Writes)),
            ("POST", "/v2/v1/users/blobs/uploads/", Some(Writes)),
            ("POST", "/v2/blobs/uploads/blobs/uploads", Some(Writes)),
            ("GET", "/v2/blobs/uploads", None),
            ("GET", "/v2/a/blobs/uploads/", None),
            ("GET", "/v2/tags/tags/list", Some(Reads)),
            ("POST", "/v2/team/v2/token", None),
            ("DELETE", "/v1/repositories/foo/images", None),
            ("PUT", "/v1/repositories/foo/tags", Some(Writes)),
            ("HEAD", "/v2/a/manifests/b", Some(Reads)),
            ("GET", "/v2/", Some(Pings)),
        ] {
            assert_eq!(effect(method, &format!("{KEY}{path}")), expected, "{method} {path}");
        }
        for (method, path, expected) in [
            ("DELETE", "/artifactory/docker-local/team/v2/token", Some(Writes)),
            ("DELETE", "/artifactory/docker-local/v1/users", Some(Writes)),
            ("PUT", "/api/storage/docker-local/v1/users", Some(Writes)),
            ("PUT", "/artifactory/api/storage/docker-local/team/v2/token", Some(Writes)),
            ("DELETE", "/api/security/tokens/v2/token", Some(Writes)),
            ("DELETE", "/api/security/users/users", Some(Writes)),
            ("POST", "/api/docker/docker-local/v2/token", Some(LogsIn)),
            ("POST", "/api/docker/_all/v2/token", Some(LogsIn)),
            ("POST", "/api/docker/jobs/v2/token", Some(LogsIn)),
            ("GET", "/artifactory/api", None),
            ("GET", "/artifactory/", None),
            ("POST", "/v2/token", None),
            ("GET", "/healthz", Some(Pings)),
        ] {
            assert_eq!(effect(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn the_methods_of_a_path_are_those_that_do_something_there() {
        let all = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"];
        for Row { under, path, .. } in ROWS {
            let prefix = match under {
                Under::Root => "",
                Under::Api => API_PREFIXES[0],
                Under::Tree => TREE_PREFIX,
            };
            let path = format!("{prefix}{}", path.replace("[/]", "").replace("**", "a").replace('*', "a"));
            let found = methods(&path);
            assert!(all.iter().all(|method| found.contains(method) == effect(method, &path).is_some()), "{path} {found:?}");
        }
        assert_eq!(methods("/artifactory/api/docker/a/v2/team/app/manifests/1"), ["GET", "HEAD", "PUT", "DELETE"]);
        assert_eq!(methods("/nothing"), [""; 0]);
    }

    #[test]
    fn reading_methods_change_nothing_and_other_methods_do_unless_they_log_in() {
        for Row { path, ways, .. } in ROWS {
            for (method, effect) in *ways {
                assert_eq!(effect.writes(), !(*method == "GET" || *effect == LogsIn), "{method} {path}");
            }
        }
    }

    proptest! {
        #[test]
        fn only_two_paths_of_a_repository_log_in(path in "(/(v1|v2|users|token|tags|a|repositories|manifests)){0,6}/?", method in "(PUT|POST|DELETE|PATCH|GET)") {
            let logs_in = matches!(path.as_str(), "/v2/token" | "/v1/users" | "/v1/users/") && matches!(method.as_str(), "GET" | "POST");
            prop_assert_eq!(effect(&method, &format!("{KEY}{path}")) == Some(LogsIn), logs_in);
        }

        #[test]
        fn any_text_is_judged(method in "[A-Z]{0,7}", path in "\\PC{0,60}") {
            let _ = effect(&method, &path);
        }
    }
}
