//! The routes of the backend and the table that the gateway reads ([`berth_names::wire`]) say the same.

use berth_names::wire::{self, Row, Under};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::string::string_regex;

use super::*;
use crate::http::rest;

const METHODS: [Method; 8] =
    [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS, Method::TRACE];

/// Names of images that look like something else.
const NAMES: &[&str] =
    &["team/app", "v1/users", "team/v2/token", "tags", "blobs/uploads", "uploads", "v2", "jobs/v1", "repositories", "json"];

/// What stands where the key of a repository does.
const KEYS: &[&str] = &["docker-local", "_all", "jobs", "v1", "v2", "users", "token"];

/// What may stand where one segment is free.
const SEGMENTS: &[&str] = &[
    "docker-local",
    "_all",
    "jobs",
    "1.0",
    "list",
    "users",
    "token",
    "properties",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0000019a0b1c2d3e4f5061728394a5b6",
    "01234567-89ab-4def-8123-456789abcdef",
];

/// Everything that a segment of some path is called.
const WORDS: &str = "v1|v2|users|token|_catalog|tags|list|manifests|blobs|uploads|referrers|_ping|search|images|json|layer|checksum|ancestry\
    |repositories|properties|promote|migrate|receipts|info|app|1.0";

/// What the backend makes of a request: what its route does, or why there is none.
fn of_routes(method: &Method, path: &str) -> Result<Effect, Refusal> {
    match target(path).map_err(|(_, refusal)| refusal)? {
        Target::Docker(target) => target.route(method).map(|route| route.effect()),
        target => rest::find(&target, method).map(|route| route.effect()),
    }
}

/// Holds a request to the table. What is called as nothing can be called is answered by neither; the table does not look at names.
fn agree(method: &Method, path: &str) -> Result<(), TestCaseError> {
    let listed = wire::effect(method.as_str(), path);
    match of_routes(method, path) {
        Ok(effect) => prop_assert_eq!(listed, Some(effect), "{} {}", method, path),
        // An id that no job can have is no path.
        Err(Refusal::NotFound) if path.contains("docker/jobs/") => prop_assert_ne!(listed, Some(Effect::LogsIn), "{} {}", method, path),
        Err(Refusal::NotFound | Refusal::MethodNotAllowed) => prop_assert_eq!(listed, None, "{} {}", method, path),
        Err(_) => {}
    }
    Ok(())
}

fn prefixes(under: Under) -> &'static [&'static str] {
    match under {
        Under::Root => &[""],
        Under::Api => &wire::API_PREFIXES,
        Under::Tree => &[wire::TREE_PREFIX],
    }
}

#[test]
fn every_row_leads_to_routes_that_do_what_it_says() {
    let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for Row { under, path, ways, .. } in wire::ROWS {
        let segment = match *path {
            "docker/jobs/*[/]" => "0000019a0b1c2d3e4f5061728394a5b6",
            "docker/*/v2/**/blobs/*" | "docker/*/v2/**/referrers/*" => &format!("sha256:{id}"),
            "docker/*/v2/**/blobs/uploads/*" => "0123456789abcdef0123456789abcdef",
            path if path.starts_with("docker/*/v1/images/") => id,
            _ => "alice",
        };
        let path = path.replace("docker/*/", "docker/docker-local/").replace("**", "docker-local/app").replace('*', segment);
        for prefix in prefixes(*under) {
            for slash in if path.ends_with("[/]") { &["", "/"][..] } else { &[""] } {
                let path = format!("{prefix}{}{slash}", path.trim_end_matches("[/]"));
                for (method, effect) in *ways {
                    assert_eq!(of_routes(&method.parse().unwrap(), &path), Ok(*effect), "{method} {path}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn routes_and_table_agree_about_images_that_are_called_like_something_else(
        row in select(wire::ROWS), key in select(KEYS), name in select(NAMES), last in select(SEGMENTS), slash in "/?", method in select(&METHODS),
    ) {
        let path = row.path.replacen("docker/*/", &format!("docker/{key}/"), 1).replace("**", name).replace('*', last).replace("[/]", &slash);
        for prefix in prefixes(row.under) {
            agree(&method, &format!("{prefix}{path}"))?;
        }
    }

    #[test]
    fn routes_and_table_agree_about_any_words_of_a_docker_path(
        key in "(docker-local|_all|jobs)", words in string_regex(&format!("(/({WORDS})){{0,7}}/?")).unwrap(), method in select(&METHODS),
    ) {
        agree(&method, &format!("/api/docker/{key}{words}"))?;
    }

    #[test]
    fn routes_and_table_agree_about_any_words_of_management(
        words in "(/(security|users|groups|permissions|tokens|password|authorization|changePassword|repositories|system|ping|version|storage|gc|backup|docker|jobs|search|prop|artifact|openapi.json|audit|api|artifactory|healthz|live|ready|alice)){0,5}/?",
        method in select(&METHODS),
    ) {
        for prefix in ["", "/api", "/artifactory", "/artifactory/api"] {
            agree(&method, &format!("{prefix}{words}"))?;
        }
    }
}
