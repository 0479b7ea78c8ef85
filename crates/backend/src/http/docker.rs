//! Which docker a client says it is, where versions differ in what they make of an answer.
//!
//! Nothing is granted or refused by it: it only decides in which of two true ways something is said.

use http::HeaderMap;
use http::header::USER_AGENT;

/// A docker engine's version, as far as it matters: `docker/1.12.6 go/go1.6.4 …` is 1.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Docker(pub(crate) u16, pub(crate) u16);

impl Docker {
    /// The docker that the request says it comes from, if it says so at all.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::named(headers.get(USER_AGENT)?.to_str().ok()?)
    }

    fn named(user_agent: &str) -> Option<Self> {
        let (major, rest) = user_agent.strip_prefix("docker/")?.split_once('.')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self(major.parse().ok()?, rest.get(..end)?.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_docker_is_known_by_its_user_agent() {
        for (user_agent, docker) in [
            ("docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.13.0 os/linux arch/amd64", Some(Docker(1, 6))),
            ("docker/1.12.6 go/go1.6.4 git-commit/78d1802 UpstreamClient(Docker-Client/1.12.6 \\(linux\\))", Some(Docker(1, 12))),
            ("docker/17.05.0-ce go/go1.7.5", Some(Docker(17, 5))),
            ("docker/1.9-dev", Some(Docker(1, 9))),
            ("docker/1.9", Some(Docker(1, 9))),
            ("docker/1", None),
            ("docker/1.", None),
            ("docker/.5", None),
            ("docker/99999999.1", None),
            ("Docker-Client/1.12.6 (linux)", None),
            ("skopeo/1.9", None),
            ("", None),
        ] {
            assert_eq!(Docker::named(user_agent), docker, "{user_agent}");
        }
        assert!(Docker(1, 9) < Docker(1, 10) && Docker(1, 13) < Docker(17, 3));
    }
}
