//! What a path is about, in one of a few words: names of spans must be few, and paths are as many as there are images.

/// The kind of thing that a path names, in the words of the registry APIs. It is the same word for the path that a client
/// sends and for the one that the backend is asked for.
pub(crate) fn class(path: &str) -> &'static str {
    let Some(path) = api_path(path) else {
        return if is_below(path, "/api") || is_below(path, "/artifactory") { "rest" } else { "other" };
    };
    match path.strip_prefix("/v2") {
        Some(rest) => v2(rest),
        None => v1(path.strip_prefix("/v1").unwrap_or(path)),
    }
}

/// The part of a path that begins with `/v1` or `/v2`, or is docker's `/_ping`.
fn api_path(path: &str) -> Option<&str> {
    let is_api = |path: &&str| is_below(path, "/v1") || is_below(path, "/v2") || *path == "/_ping";
    let repositories = ["/artifactory/api/docker", "/api/docker"].iter().find_map(|prefix| path.strip_prefix(prefix));
    let Some(rest) = repositories.filter(|rest| rest.starts_with('/')) else { return Some(path).filter(is_api) };
    // Either behind a repository's key, or for all of them together.
    Some(rest).filter(is_api).or_else(|| rest.get(1 + rest.get(1..)?.find('/')?..).filter(is_api))
}

fn is_below(path: &str, front: &str) -> bool {
    path.strip_prefix(front).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// From the right-hand end, because an image may be called `tags` or `blobs/uploads`.
fn v2(rest: &str) -> &'static str {
    match rest {
        "" | "/" => return "v2 base",
        "/token" => return "v2 token",
        "/_catalog" => return "v2 catalog",
        _ => {}
    }
    let mut segments = rest.rsplit('/');
    let (last, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    match (second, last) {
        ("tags", "list") => "v2 tags",
        ("manifests", _) => "v2 manifest",
        ("uploads", _) if segments.next() == Some("blobs") => "v2 upload",
        ("blobs", "uploads") => "v2 upload",
        ("blobs", _) => "v2 blob",
        ("referrers", _) => "v2 referrers",
        _ => "v2 other",
    }
}

fn v1(rest: &str) -> &'static str {
    let (first, rest) = rest.trim_matches('/').split_once('/').unwrap_or((rest.trim_matches('/'), ""));
    let mut segments = rest.rsplit('/');
    let (last, second) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    match (first, second, last) {
        ("_ping", ..) => "v1 ping",
        ("users", ..) => "v1 user",
        ("search", ..) => "v1 search",
        ("images", _, "json") => "v1 json",
        ("images", _, "layer") => "v1 layer",
        ("images", _, "checksum") => "v1 checksum",
        ("images", _, "ancestry") => "v1 ancestry",
        ("repositories", _, "images") => "v1 images",
        ("repositories", _, "tags") | ("repositories", "tags", _) => "v1 tags",
        ("repositories", ..) => "v1 repository",
        _ => "v1 other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_same_class_in_front_of_the_gateway_and_behind_it() {
        for (path, expected) in [
            ("/v2", "v2 base"),
            ("/v2/", "v2 base"),
            ("/v2/token", "v2 token"),
            ("/v2/_catalog", "v2 catalog"),
            ("/v2/team/app/tags/list", "v2 tags"),
            ("/v2/team/app/manifests/1.0", "v2 manifest"),
            ("/v2/team/app/manifests/sha256:00", "v2 manifest"),
            ("/v2/team/app/blobs/sha256:00", "v2 blob"),
            ("/v2/team/app/blobs/uploads/", "v2 upload"),
            ("/v2/team/app/blobs/uploads", "v2 upload"),
            ("/v2/team/app/blobs/uploads/0123", "v2 upload"),
            ("/v2/team/app/referrers/sha256:00", "v2 referrers"),
            ("/v2/blobs/uploads/tags/list", "v2 tags"),
            ("/v2/uploads/manifests/list", "v2 manifest"),
            ("/v2/team/app", "v2 other"),
            ("/v1/_ping", "v1 ping"),
            ("/v1/users", "v1 user"),
            ("/v1/users/", "v1 user"),
            ("/v1/search", "v1 search"),
            ("/v1/images/00/json", "v1 json"),
            ("/v1/images/00/layer", "v1 layer"),
            ("/v1/images/00/checksum", "v1 checksum"),
            ("/v1/images/00/ancestry", "v1 ancestry"),
            ("/v1/repositories/a/b/", "v1 repository"),
            ("/v1/repositories/a/b/images", "v1 images"),
            ("/v1/repositories/a/b/tags", "v1 tags"),
            ("/v1/repositories/a/b/tags/1", "v1 tags"),
            ("/v1/nothing", "v1 other"),
            ("/v1", "v1 other"),
        ] {
            for prefix in ["", "/artifactory/api/docker/docker-local", "/api/docker/docker-local"] {
                assert_eq!(class(&format!("{prefix}{path}")), expected, "{prefix}{path}");
            }
            assert_eq!(class(&format!("/artifactory/api/docker{path}")), expected, "all repositories: {path}");
        }
    }

    #[test]
    fn what_is_no_registry_api_is_one_of_two_things() {
        for path in ["/api/system/ping", "/artifactory/api/storage/a", "/artifactory", "/api/docker", "/api/docker/", "/api/docker/a"] {
            assert_eq!(class(path), "rest", "{path}");
        }
        for path in ["", "*", "/", "/v22/", "/v2x", "/_trust", "//v2/", "/apis", "/artifactory2/x", "v2"] {
            assert_eq!(class(path), "other", "{path}");
        }
        assert_eq!(class("/_ping"), "v1 ping");
        assert_eq!(class("/api/dockers/v2/"), "rest");
    }
}
