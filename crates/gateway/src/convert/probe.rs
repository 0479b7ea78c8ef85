//! What a server of another proxy is for, found out by asking its rules what they do with requests that registry clients
//! send. There are a dozen ways to write the same rewrite; what they have in common is what comes out.

use berth_names::wire::ALL_REPOSITORIES;
use berth_names::{Authority, RepositoryKey};

use super::ledger::Id;
use super::site::Target;

/// Stands for the key of a repository where it comes from the host.
pub(super) const HOST_LABEL: &str = "zzhost";

/// Stands for a host that nobody has named.
pub(super) const ANY_HOST: &str = "zz.example";

const FIRST: &str = "zzfirst";

const V2_PATH: &str = "/v2/zzfirst/zzsecond/tags/list";

const V1_PATH: &str = "/v1/repositories/zzfirst/zzsecond/tags";

/// Paths of management: the REST API, files, and the user interface of several versions.
const CONSOLE_PATHS: [&str; 3] = ["/artifactory/api/repositories", "/artifactory/zz-generic/a/b.jar", "/api/repositories"];

const BROWSER_PATHS: [&str; 3] = ["/", "/artifactory", "/zz"];

/// A request to ask the rules about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) https: bool,
    /// What someone in front says of the scheme; empty: there is nobody.
    pub(super) forwarded_proto: &'a str,
    /// What the host's pattern has captured, by name or number.
    pub(super) captures: &'a [(String, String)],
    pub(super) path: &'a str,
}

/// What the rules do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes to a backend (`http://127.0.0.1:8081`) with this path; the last says which rule sends it.
    Proxied { backend: String, path: String, by: Id },
    /// The client is sent elsewhere.
    Redirected(String),
    /// It is answered on the spot, from a file or with a status.
    Answered,
    /// The rules have something that can't be followed.
    Unknown(String),
}

/// What the rules do with a request, and which of them had a part in that.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// The server first.
    pub(super) used: Vec<Id>,
    /// Headers that it is given on its way, in lower case, with their values for this request.
    pub(super) headers: Vec<(String, String, Id)>,
}

/// What a server is for.
#[derive(Debug, Default)]
pub(super) struct Purpose {
    pub(super) docker: Option<Docker>,
    /// The V1 API leads to this other repository, by these rules.
    pub(super) other_v1: Option<(RepositoryKey, Found)>,
    /// The rules that lead to management.
    pub(super) console: Option<Found>,
    /// Everything is sent to this origin.
    pub(super) redirect: Option<(String, Vec<Id>)>,
    /// Rules that only send browsers to the user interface.
    pub(super) to_interface: Vec<Id>,
    /// Whether pushes are refused, and the rules that do.
    pub(super) read_only: Option<Vec<Id>>,
    /// Rules for those who come past whoever ends TLS in front.
    pub(super) past_front: Vec<Id>,
    /// Why a registry request could not be followed.
    pub(super) unknown: Option<String>,
}

/// Where requests of one kind go.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) backend: String,
    /// The rule that names the backend.
    pub(super) by: Id,
    pub(super) used: Vec<Id>,
    pub(super) headers: Vec<(String, String, Id)>,
}

#[derive(Debug)]
pub(super) struct Docker {
    pub(super) target: Target,
    /// Nothing is rewritten: the backend gets every path as it is, those of the registry APIs like all others.
    pub(super) is_whole: bool,
    pub(super) found: Found,
}

/// Asks about everything that matters here, and again as if somebody had ended TLS in front if that is what the rules
/// wait for. The first argument of `route` is what that somebody says of the scheme.
pub(super) fn purpose_behind(is_tls: bool, mut route: impl FnMut(&str, &str, &str) -> Answer) -> Purpose {
    let direct = purpose(|method, path| route("", method, path));
    if direct.docker.is_some() || is_tls {
        return direct;
    }
    let mut behind = purpose(|method, path| route("https", method, path));
    if behind.docker.is_none() {
        return direct;
    }
    // The first is the server itself, which does more than that.
    behind.past_front = direct.redirect.into_iter().flat_map(|(_, used)| used.into_iter().skip(1)).collect();
    behind
}

/// Asks `route` about everything that matters here.
fn purpose(mut route: impl FnMut(&str, &str) -> Answer) -> Purpose {
    let mut purpose = Purpose::default();
    let v2 = docker(&mut purpose, route("GET", V2_PATH), V2_PATH);
    let v1 = docker(&mut purpose, route("GET", V1_PATH), V1_PATH);
    purpose.docker = match (v2, v1) {
        (Some(mut v2), Some(v1)) if v2.target == v1.target => {
            v2.found.used.extend(v1.found.used);
            Some(v2)
        }
        (Some(v2), Some(v1)) => {
            if let Target::Repository(key) = v1.target {
                purpose.other_v1 = Some((key, v1.found));
            }
            Some(v2)
        }
        (v2, v1) => v2.or(v1),
    };
    if purpose.docker.is_some() {
        let pushed = [route("PUT", V2_PATH), route("PUT", V1_PATH)];
        if pushed.iter().all(|answer| answer.outcome == Outcome::Answered) {
            purpose.read_only = Some(pushed.into_iter().flat_map(|answer| answer.used).collect());
        }
    }
    for path in CONSOLE_PATHS {
        let Answer { outcome, used, headers } = route("GET", path);
        if let Outcome::Proxied { backend, path: upstream, by } = outcome
            && is_management(&upstream, path)
        {
            purpose.console.get_or_insert(Found { backend, by, used, headers });
        }
    }
    for path in BROWSER_PATHS {
        let Answer { outcome, used, .. } = route("GET", path);
        match outcome {
            Outcome::Redirected(to) if path == "/zz" => purpose.redirect = elsewhere(&to).map(|origin| (origin, used)),
            Outcome::Redirected(_) => purpose.to_interface.extend(used),
            Outcome::Proxied { .. } | Outcome::Answered | Outcome::Unknown(_) => {}
        }
    }
    purpose
}

fn docker(purpose: &mut Purpose, answer: Answer, path: &str) -> Option<Docker> {
    let Answer { outcome, used, headers } = answer;
    match outcome {
        Outcome::Proxied { backend, path: upstream, by } => {
            Some(Docker { target: target(&upstream, path)?, is_whole: upstream == path, found: Found { backend, by, used, headers } })
        }
        Outcome::Unknown(why) => {
            purpose.unknown.get_or_insert(why);
            None
        }
        Outcome::Redirected(_) | Outcome::Answered => None,
    }
}

/// Which repository `upstream` is in, that `path` has become.
fn target(upstream: &str, path: &str) -> Option<Target> {
    let upstream = upstream.split_once('?').map_or(upstream, |(upstream, _)| upstream);
    let is_v2 = path == V2_PATH;
    if let Some((_, below)) = upstream.split_once("/api/docker/") {
        let (key, rest) = below.split_at(below.find('/')?);
        return if rest == path {
            match key {
                HOST_LABEL => Some(Target::RepositoryFromHost),
                ALL_REPOSITORIES => Some(Target::RepositoryFromPath),
                key => key.parse().ok().map(Target::Repository),
            }
        } else {
            let from_path = is_v2 && ((key == FIRST && rest == V2_PATH.replacen("/zzfirst", "", 1)) || below == &path[1..]);
            from_path.then_some(Target::RepositoryFromPath)
        };
    }
    // Artifactory itself takes the repository from the path where nobody has put it in front.
    (is_v2 && (upstream == path || upstream.strip_prefix("/artifactory") == Some(path))).then_some(Target::RepositoryFromPath)
}

fn is_management(upstream: &str, path: &str) -> bool {
    let plain = |text: &str| text.trim_start_matches("/artifactory").trim_start_matches('/').to_owned();
    plain(upstream) == plain(path)
}

/// The origin of a redirect, if it leads away from the server and not into the user interface.
fn elsewhere(to: &str) -> Option<String> {
    let (scheme, rest) = to.split_once("://")?;
    let authority = rest.split('/').next()?;
    let path = &rest[authority.len()..];
    let is_interface = path.contains("/webapp") || path.starts_with("/ui");
    let is_origin = matches!(scheme, "http" | "https") && authority.parse::<Authority>().is_ok();
    (is_origin && !is_interface).then(|| format!("{scheme}://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_where_the_path_says() {
        let key = |key: &str| Some(Target::Repository(key.parse().unwrap()));
        for (upstream, path, expected) in [
            ("/artifactory/api/docker/docker-local/v2/zzfirst/zzsecond/tags/list", V2_PATH, key("docker-local")),
            ("/api/docker/docker-local/v2/zzfirst/zzsecond/tags/list", V2_PATH, key("docker-local")),
            ("/artifactory/api/docker/_all/v2/zzfirst/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/artifactory/api/docker/docker-local/v1/repositories/zzfirst/zzsecond/tags", V1_PATH, key("docker-local")),
            ("/artifactory/api/docker/zzhost/v2/zzfirst/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromHost)),
            ("/artifactory/api/docker/zzfirst/v2/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/artifactory/api/docker/v2/zzfirst/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/artifactory/v2/zzfirst/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/v2/zzfirst/zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/v1/repositories/zzfirst/zzsecond/tags", V1_PATH, None),
            ("/artifactory/api/docker//v2/zzfirst/zzsecond/tags/list", V2_PATH, None),
            ("/artifactory/api/docker/a/v2/zzsecond/tags/list", V2_PATH, None),
            ("/nexus/repository/a/v2/zzfirst/zzsecond/tags/list", V2_PATH, None),
        ] {
            assert_eq!(target(upstream, path), expected, "{upstream}");
        }
    }

    #[test]
    fn a_redirect_elsewhere_has_an_origin() {
        assert_eq!(elsewhere("https://r.example/zz").as_deref(), Some("https://r.example"));
        assert_eq!(elsewhere("https://r.example:444/").as_deref(), Some("https://r.example:444"));
        for inside in [
            "/ui/",
            "http://r.example/artifactory/webapp/",
            "https:///zz",
            "ftp://r.example/",
            "https://r\u{e}example/",
            "https://a b/",
            "https://r.example:0/",
            "https://x@r.example/",
            "https://r.example?zz",
        ] {
            assert_eq!(elsewhere(inside), None, "{inside}");
        }
    }
}
