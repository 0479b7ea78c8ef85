//! Which schemas of manifests a client understands.

use http::HeaderMap;

use super::accept::Accept;
use super::docker::Docker;

/// What docker 1.6 to 1.9 understand.
const SCHEMA1: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"];

/// What came after that.
const LATER: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];

/// Whether a client would understand nothing but schema 1: it says so, or it is a docker that knows nothing else, whatever
/// it says. Whoever else says nothing gets what is stored.
pub(crate) fn only_schema1(headers: &HeaderMap) -> bool {
    let accept = Accept::of(headers);
    // None of these dockers sends `Accept`.
    if Docker::of(headers).is_some_and(|docker| (Docker(1, 6)..Docker(1, 10)).contains(&docker)) {
        return !LATER.iter().any(|known| accept.names(known));
    }
    SCHEMA1.iter().any(|known| accept.names(known)) && !LATER.iter().any(|known| accept.takes(known))
}

/// Whether a client names schema 1 and wants it more than what is stored, which it may not understand at all: docker 1.10
/// to 1.13 don't understand OCI's manifests.
pub(crate) fn rather_schema1(headers: &HeaderMap, stored: &str) -> bool {
    let accept = Accept::of(headers);
    let wanted = SCHEMA1.iter().filter(|known| accept.names(known)).map(|known| accept.quality(known)).max();
    wanted.is_some_and(|wanted| !SCHEMA1.contains(&stored) && wanted > accept.quality(stored))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT, USER_AGENT};

    use super::*;

    #[test]
    fn who_understands_schema_1_and_not_what_is_stored_rather_gets_schema_1() {
        let asks =
            |accept: &'static str, stored| rather_schema1(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]), stored);
        let docker_1_12 = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v1+prettyjws, application/json";
        assert!(asks(docker_1_12, LATER[2]) && asks(docker_1_12, LATER[3]));
        assert!(!asks(docker_1_12, LATER[0]) && !asks(docker_1_12, LATER[1]));
        assert!(!asks("*/*", LATER[2]) && !asks(LATER[0], LATER[2]));
        assert!(!asks("application/vnd.docker.distribution.manifest.v1+json, */*", LATER[2]));
        assert!(!asks("application/vnd.docker.distribution.manifest.v1+json, application/*", LATER[2]));
        assert!(asks("application/vnd.docker.distribution.manifest.v1+json, */*;q=0.5", LATER[2]));
        assert!(asks(
            "application/vnd.docker.distribution.manifest.v1+json, */*, application/vnd.oci.image.manifest.v1+json;q=0",
            LATER[2]
        ));
        assert!(!asks("application/vnd.docker.distribution.manifest.v1+json;q=0", LATER[2]));
        assert!(!asks("application/vnd.docker.distribution.manifest.v1+json", SCHEMA1[1]));
    }

    #[test]
    fn only_those_get_schema_1_who_understand_nothing_else() {
        let ask = |agent: &'static str, accepts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(USER_AGENT, HeaderValue::from_static(agent));
            for accept in accepts {
                headers.append(ACCEPT, HeaderValue::from_static(accept));
            }
            only_schema1(&headers)
        };
        let old = "docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.13.0 os/linux arch/amd64";
        for (agent, accepts) in [
            (old, &[][..]),
            ("docker/1.9.1 go/go1.4.2", &["*/*"]),
            ("docker/1.7", &["application/json"]),
            ("curl/7.88", &[SCHEMA1[1]]),
            ("curl/7.88", &["text/html, application/vnd.docker.distribution.manifest.v1+json;q=0.5", "text/*"]),
            ("curl/7.88", &[SCHEMA1[0], "application/vnd.oci.image.manifest.v1+json;q=0"]),
        ] {
            assert!(ask(agent, accepts), "{agent} {accepts:?}");
        }
        for (agent, accepts) in [
            ("", &[][..]),
            ("curl/7.88", &["*/*"]),
            ("docker/1.10.0 go/go1.5.3", &[]),
            ("docker/1.60.0", &[]),
            ("docker/1.5.0 go/go1.4.1", &[]),
            ("docker/20.10.24", &[]),
            ("moby docker/1.6.0", &[]),
            (old, &[LATER[0]]),
            // A wildcard is for what came later too.
            ("curl/7.88", &[SCHEMA1[1], "*/*"]),
            ("curl/7.88", &[SCHEMA1[1], "application/*;q=0.1"]),
            ("curl/7.88", &["application/vnd.docker.distribution.manifest.v1+json;q=0"]),
            ("skopeo/1.9", &[SCHEMA1[0], LATER[2]]),
            (
                "docker/1.12.6",
                &["application/vnd.docker.distribution.manifest.v1+prettyjws,application/vnd.docker.distribution.manifest.list.v2+json"],
            ),
        ] {
            assert!(!ask(agent, accepts), "{agent} {accepts:?}");
        }
    }
}
