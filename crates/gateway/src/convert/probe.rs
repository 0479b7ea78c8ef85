//! What a server of another proxy is for, found out by asking its rules what they do with requests that registry clients
//! send. There are a dozen ways to write the same rewrite; what they have in common is what comes out.

use berth_names::Authority;
use berth_names::wire::ALL_REPOSITORIES;

use super::ledger::Id;
use super::site::Target;

/// Stands for the key of a repository where it comes from the host.
pub(super) const HOST_LABEL: &str = "zzhost";

/// Stands for a host that nobody has named.
pub(super) const ANY_HOST: &str = "zz.example";

const FIRST: &str = "zzfirst";

/// What rules that look at the client are shown: today's docker.
pub(super) const USER_AGENT: &str =
    "docker/28.0.4 go/go1.23.7 git-commit/6430e49 kernel/6.1.0 os/linux arch/amd64 UpstreamClient(Docker-Client/28.0.4 (linux))";

/// What a request of a registry client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Pull,
    Push,
    Delete,
}

/// The requests of registry clients that rules tell apart, by method or by path. The first of a version that leads to a
/// repository says which one is bound.
const V2_REQUESTS: [(Act, &str, &str); 8] = [
    (Act::Pull, "GET", "/v2/zzfirst/zzsecond/tags/list"),
    (Act::Pull, "GET", "/v2/zzfirst/zzsecond/manifests/zztag"),
    (Act::Pull, "GET", "/v2/zzfirst/zzsecond/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (Act::Push, "POST", "/v2/zzfirst/zzsecond/blobs/uploads/"),
    (Act::Push, "PATCH", "/v2/zzfirst/zzsecond/blobs/uploads/00000000-0000-4000-8000-000000000000"),
    (Act::Push, "PUT", "/v2/zzfirst/zzsecond/blobs/uploads/00000000-0000-4000-8000-000000000000"),
    (Act::Push, "PUT", V2_LAST_PUSH),
    (Act::Delete, "DELETE", "/v2/zzfirst/zzsecond/manifests/zztag"),
];

const V1_REQUESTS: [(Act, &str, &str); 4] = [
    (Act::Pull, "GET", "/v1/repositories/zzfirst/zzsecond/tags"),
    (Act::Pull, "GET", "/v1/images/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/layer"),
    (Act::Push, "PUT", "/v1/images/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/layer"),
    (Act::Push, "PUT", V1_LAST_PUSH),
];

/// What makes a push count: whoever refuses both refuses every push.
const V2_LAST_PUSH: &str = "/v2/zzfirst/zzsecond/manifests/zztag";
const V1_LAST_PUSH: &str = "/v1/repositories/zzfirst/zzsecond/tags/zztag";

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
    Unknown { why: String, at: Id },
}

/// What the rules do with a request, and which of them had a part in that.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    /// The server first.
    pub(super) used: Vec<Id>,
    /// Headers that it is given on its way, in lower case, with their values for this request.
    pub(super) headers: Vec<(String, String, Id)>,
    /// Rules that were passed over because they can't be followed, with why.
    pub(super) unclear: Vec<(Id, String)>,
}

/// What a server is for.
#[derive(Debug, Default)]
pub(super) struct Purpose {
    pub(super) docker: Option<Docker>,
    /// What else than the repository requests of registry clients lead to.
    pub(super) elsewhere: Vec<Elsewhere>,
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
    /// What could not be followed of the way of a registry request, with why.
    pub(super) unclear: Vec<(Id, String)>,
}

/// A request of a registry client that does not get where the others do.
#[derive(Clone, Debug)]
pub(super) struct Elsewhere {
    pub(super) act: Act,
    pub(super) is_v1: bool,
    /// What is asked for, as an example.
    pub(super) request: String,
    pub(super) to: To,
    /// The rule that says so.
    pub(super) by: Id,
    pub(super) used: Vec<Id>,
}

/// Where such a request gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum To {
    Target(Target),
    Backend(String),
    /// A path that is none of a registry.
    Path(String),
    Redirect(String),
    Refusal,
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
    let mut ask = |(act, method, path): (Act, &'static str, &'static str)| Asked { act, method, path, answer: route(method, path) };
    let v2: Vec<Asked> = V2_REQUESTS.into_iter().map(&mut ask).collect();
    let v1: Vec<Asked> = V1_REQUESTS.into_iter().map(&mut ask).collect();
    for Asked { answer, .. } in v2.iter().chain(&v1) {
        let stuck = match &answer.outcome {
            Outcome::Unknown { why, at } => Some((*at, format!("can't be followed here: {why}"))),
            _ => None,
        };
        purpose.unclear.extend(answer.unclear.iter().cloned().chain(stuck));
    }
    purpose.docker = v2.iter().chain(&v1).filter(|asked| asked.act == Act::Pull).find_map(Asked::docker);
    if let Some(docker) = &mut purpose.docker {
        if v2.iter().chain(&v1).filter(|asked| asked.ends_push()).all(Asked::is_answered) {
            let refused = v2.iter().chain(&v1).filter(|asked| asked.act != Act::Pull && asked.is_answered());
            purpose.read_only = Some(refused.flat_map(|asked| asked.answer.used.iter().copied()).collect());
        }
        let is_said = |elsewhere: &Elsewhere| purpose.read_only.is_some() && elsewhere.act != Act::Pull && elsewhere.to == To::Refusal;
        for requests in [v2, v1] {
            let is_offered = requests.iter().any(|asked| asked.act == Act::Pull && asked.docker().is_some());
            for asked in requests {
                purpose.elsewhere.extend(asked.settle(docker, is_offered).filter(|elsewhere| !is_said(elsewhere)));
            }
        }
    }
    for path in CONSOLE_PATHS {
        let Answer { outcome, used, headers, .. } = route("GET", path);
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
            Outcome::Proxied { .. } | Outcome::Answered | Outcome::Unknown { .. } => {}
        }
    }
    purpose
}

/// One request of a registry client, and what became of it.
struct Asked {
    act: Act,
    method: &'static str,
    path: &'static str,
    answer: Answer,
}

impl Asked {
    fn is_v1(&self) -> bool {
        self.path.starts_with("/v1/")
    }

    fn is_answered(&self) -> bool {
        self.answer.outcome == Outcome::Answered
    }

    /// Whether it makes a push count.
    fn ends_push(&self) -> bool {
        self.act == Act::Push && [V1_LAST_PUSH, V2_LAST_PUSH].contains(&self.path)
    }

    /// The repository that it leads to.
    fn docker(&self) -> Option<Docker> {
        let Answer { outcome: Outcome::Proxied { backend, path: upstream, by }, used, headers, .. } = &self.answer else { return None };
        let found = Found { backend: backend.clone(), by: *by, used: used.clone(), headers: headers.clone() };
        Some(Docker { target: target(upstream, self.path)?, is_whole: upstream == self.path, found })
    }

    /// Adds its rules to those of `docker` if it gets there too, or says where else it gets. `is_offered`: some request of its
    /// version leads to a repository.
    fn settle(self, docker: &mut Docker, is_offered: bool) -> Option<Elsewhere> {
        let (is_v1, request) = (self.is_v1(), format!("{} {}", self.method, self.path.replace(FIRST, "…").replace("zzsecond/", "")));
        let Answer { outcome, used, .. } = self.answer;
        let (to, by) = match outcome {
            Outcome::Proxied { backend, path: upstream, by } => {
                let to = match target(&upstream, self.path) {
                    Some(target) if target != docker.target => To::Target(target),
                    _ if backend != docker.found.backend => To::Backend(backend),
                    // V1 has no repository in its paths.
                    None if is_v1 && (docker.is_whole || docker.target == Target::RepositoryFromPath) => return None,
                    None => To::Path(upstream),
                    Some(_) => {
                        docker.found.used.extend(used);
                        return None;
                    }
                };
                (to, by)
            }
            // Whoever offers one version alone answers the other somehow.
            Outcome::Redirected(_) | Outcome::Answered if !is_offered => return None,
            Outcome::Redirected(to) => (To::Redirect(to), *used.last()?),
            Outcome::Answered => (To::Refusal, *used.last()?),
            Outcome::Unknown { .. } => return None,
        };
        Some(Elsewhere { act: self.act, is_v1, request, to, by, used })
    }
}

/// Which repository `upstream` is in, that `path` has become.
fn target(upstream: &str, path: &str) -> Option<Target> {
    let upstream = upstream.split_once('?').map_or(upstream, |(upstream, _)| upstream);
    let is_v2 = path.starts_with("/v2/");
    if let Some((_, below)) = upstream.split_once("/api/docker/") {
        let (key, rest) = below.split_at(below.find('/')?);
        // Rules that put a group with its slash behind a slash: servers take two for one.
        let rest = merged(rest);
        return if rest == path {
            match key {
                HOST_LABEL => Some(Target::RepositoryFromHost),
                ALL_REPOSITORIES => Some(Target::RepositoryFromPath),
                key => key.parse().ok().map(Target::Repository),
            }
        } else {
            let from_path = is_v2 && ((key == FIRST && rest == path.replacen("/zzfirst", "", 1)) || merged(below) == path[1..]);
            from_path.then_some(Target::RepositoryFromPath)
        };
    }
    // Artifactory itself takes the repository from the path where nobody has put it in front.
    (is_v2 && (upstream == path || upstream.strip_prefix("/artifactory") == Some(path))).then_some(Target::RepositoryFromPath)
}

/// The path with one slash for several.
fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    merged
}

/// Whether a header that rules set, in lower case, says where the server is to be found.
pub(super) fn says_where(header: &str) -> bool {
    matches!(header, "host" | "x-forwarded-proto" | "x-forwarded-port" | "x-artifactory-override-base-url" | "x-jfrog-override-base-url")
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

    const V1_PATH: &str = V1_REQUESTS[0].2;
    const V2_PATH: &str = V2_REQUESTS[0].2;

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
            ("/artifactory/api/docker/zzfirst/v2//zzsecond/tags/list", V2_PATH, Some(Target::RepositoryFromPath)),
            ("/artifactory/api/docker/docker-local/v2//zzfirst/zzsecond/tags/list", V2_PATH, key("docker-local")),
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
