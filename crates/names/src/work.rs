//! How much of a request there is to send, and how long its answer may take: what its method and path tell of that.
//!
//! The gateway, which parses no routes, bounds its waits by this table; the backend says the same of its own routes, and a
//! test there holds the two together. A path that leads nowhere is answered at once, so what this says of one is all the
//! same.

use crate::wire::{API_PREFIXES, DOCKER_PREFIX};

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A document of a few kilobytes, some megabytes at most, read into memory. Nobody takes long to send that.
    Small,
    /// A blob or layer, streamed, of any size: it may take days.
    Large,
}

/// When an answer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// After a bounded number of reads and one commit, however much is stored.
    Soon,
    /// After work that grows with what is stored or was sent: a whole layer is hashed and synced, a repository looked
    /// through, thousands of tags are moved or deleted, migrated layers packed anew.
    Late,
}

/// What a request asks for, as work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// What is sent.
    pub content: Content,
    /// When it is answered.
    pub answer: Answer,
}

impl Work {
    /// A small document, and a quick answer: most requests.
    pub const QUICK: Self = Self { content: Content::Small, answer: Answer::Soon };
    /// A small request for much work.
    pub const LONG: Self = Self { content: Content::Small, answer: Answer::Late };
    /// Bytes of a blob, which are durable before the answer.
    pub const UPLOAD: Self = Self { content: Content::Large, answer: Answer::Late };

    /// What a request with this method asks for at this path of the backend's, which has no query.
    pub fn of(method: &str, path: &str) -> Self {
        let method = if method == "HEAD" { "GET" } else { method };
        let path = path.strip_suffix('/').unwrap_or(path);
        match API_PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix)) {
            Some(rest) => rest.strip_prefix(DOCKER_PREFIX).map_or_else(|| management(method, rest), |rest| docker(method, rest)),
            // The files of a repository's tree; a folder goes with all that is in it.
            None if method == "DELETE" => Self::LONG,
            None => Self::QUICK,
        }
    }
}

/// Behind `api/docker/`.
fn docker(method: &str, path: &str) -> Work {
    let (_, tail) = path.split_once('/').unwrap_or((path, ""));
    match (method, tail) {
        ("POST", "v1/promote" | "v2/promote" | "v1/migrate") | ("GET", "v1/ancestry" | "v1/info" | "v2/info") => return Work::LONG,
        _ => {}
    }
    if let Some(rest) = tail.strip_prefix("v2/") {
        return v2(method, rest);
    }
    tail.strip_prefix("v1/").map_or(Work::QUICK, |rest| v1(method, rest))
}

/// From the right-hand end, because an image may be called like any part of a path.
fn v2(method: &str, rest: &str) -> Work {
    let front = rest.rsplit_once('/').map_or("", |(front, _)| front);
    match method {
        "POST" if rest.ends_with("/blobs/uploads") => Work::UPLOAD,
        "PATCH" | "PUT" if front.ends_with("/blobs/uploads") => Work::UPLOAD,
        // All tags go with their manifest.
        "DELETE" if front.ends_with("/manifests") => Work::LONG,
        _ => Work::QUICK,
    }
}

fn v1(method: &str, rest: &str) -> Work {
    let is_tag = |path: &str| path.rsplit_once('/').is_some_and(|(front, tag)| front.ends_with("/tags") && tag != "tags");
    match (method, rest.split_once('/')) {
        ("PUT", Some(("images", path))) if path.ends_with("/layer") => Work::UPLOAD,
        // What this protocol calls a repository is an image with all its tags.
        ("DELETE", Some(("repositories", path))) if !is_tag(path) => Work::LONG,
        _ => Work::QUICK,
    }
}

/// Behind `api/`, but for `docker/`.
fn management(method: &str, rest: &str) -> Work {
    let (noun, what) = rest.split_once('/').unwrap_or((rest, ""));
    match (method, noun, what) {
        ("POST", "system", "storage/gc" | "backup") | ("DELETE", "repositories", _) => Work::LONG,
        // Properties of a folder are those of all that is in it.
        ("PUT" | "DELETE", "storage", _) => Work::LONG,
        _ => Work::QUICK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_by_the_route_and_not_by_a_name_in_it() {
        for (method, tail, work) in [
            ("POST", "v2/a/blobs/uploads/", Work::UPLOAD),
            ("POST", "v2/a/blobs/uploads", Work::UPLOAD),
            ("PATCH", "v2/a/b/blobs/uploads/id", Work::UPLOAD),
            ("PUT", "v2/a/blobs/uploads/id", Work::UPLOAD),
            ("GET", "v2/a/blobs/uploads/id", Work::QUICK),
            ("PUT", "v2/a/blobs/uploads/manifests/1", Work::QUICK),
            ("POST", "v2/token", Work::QUICK),
            ("HEAD", "v2/promote/manifests/1", Work::QUICK),
            ("DELETE", "v2/a/manifests/1", Work::LONG),
            ("PUT", "v1/images/id/layer", Work::UPLOAD),
            ("GET", "v1/images/id/layer", Work::QUICK),
            ("PUT", "v1/repositories/images/layer", Work::QUICK),
            ("DELETE", "v1/repositories/a/", Work::LONG),
            ("DELETE", "v1/repositories/tags/tags", Work::LONG),
            ("DELETE", "v1/repositories/a/tags/1", Work::QUICK),
            ("DELETE", "v1/repositories/tags/1", Work::LONG),
            ("POST", "v2/promote", Work::LONG),
            ("POST", "v1/migrate", Work::LONG),
        ] {
            for root in ["/artifactory/api/docker/docker-local/", "/api/docker/_all/"] {
                assert_eq!(Work::of(method, &format!("{root}{tail}")), work, "{method} {tail}");
            }
        }
        assert_eq!(Work::of("DELETE", "/artifactory/docker-local/team"), Work::LONG);
        assert_eq!(Work::of("GET", "/artifactory/docker-local/team"), Work::QUICK);
        assert_eq!(Work::of("POST", "/artifactory/api/security/token"), Work::QUICK);
    }
}
