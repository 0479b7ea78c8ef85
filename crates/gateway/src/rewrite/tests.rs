//! Tables and properties of the rewrite.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::bindings::{Access, Bindings, Public, ServerName};
use crate::limits::Limits;

fn binding(bound: Bound) -> Binding {
    Binding {
        label: "test".into(),
        bound,
        public: Public::default(),
        redirect: None,
        access: Access::default(),
        limits: Limits::default(),
        tls: None,
        counted: Default::default(),
    }
}

fn listening(scheme: Scheme, port: u16, bindings: Bindings) -> Listener {
    Listener { address: SocketAddr::from(([127, 0, 0, 1], port)), scheme, proxy_protocol: false, bindings }
}

fn listener_of(scheme: Scheme, port: u16, binding: Binding) -> Listener {
    let mut bindings = Bindings::default();
    bindings.bind(None, binding).unwrap();
    listening(scheme, port, bindings)
}

fn listener(scheme: Scheme, port: u16) -> Listener {
    listener_of(scheme, port, binding(Bound::Repository("docker-local".parse().unwrap())))
}

fn https(port: u16) -> Listener {
    listener(Scheme::Https, port)
}

fn meaning(listener: &Listener, forwarded: &Forwarded, method: &Method, target: &[u8], hosts: &[&[u8]]) -> Result<Meaning, Refusal> {
    let arrival = Arrival { listener, port: listener.address.port(), forwarded, may_lack_host: false };
    rewrite(arrival, method, target, hosts.iter().copied())
}

fn action(listener: &Listener, target: &str, hosts: &[&str]) -> Result<Action, Refusal> {
    let hosts: Vec<_> = hosts.iter().map(|host| host.as_bytes()).collect();
    match meaning(listener, &Forwarded::default(), &Method::GET, target.as_bytes(), &hosts)? {
        Meaning::Bound(_, action) => action,
        Meaning::AcmeChallenge(token) => panic!("a challenge: {token}"),
    }
}

fn ask(listener: &Listener, target: &str, hosts: &[&str]) -> Result<Upstream, Refusal> {
    match action(listener, target, hosts)? {
        Action::Pass(upstream) => Ok(upstream),
        other => panic!("{other:?}"),
    }
}

fn path_of(target: &str) -> Result<String, Refusal> {
    ask(&https(444), target, &["r.example"]).map(|upstream| upstream.target)
}

#[test]
fn registry_paths_move_under_their_repository() {
    for (path, upstream) in [
        ("/v2/", "/v2/"),
        ("/v2", "/v2"),
        ("/v1", "/v1"),
        ("/v1/", "/v1/"),
        ("/_ping", "/v1/_ping"),
        ("/v1/_ping", "/v1/_ping"),
        ("/v2/_catalog?n=100&last=a%2Fb", "/v2/_catalog?n=100&last=a%2Fb"),
        ("/v2/jfrog/ubuntu/manifests/12.04", "/v2/jfrog/ubuntu/manifests/12.04"),
        ("/v2/a__b/c-d/blobs/sha256:00", "/v2/a__b/c-d/blobs/sha256:00"),
        ("/v2/a/blobs/uploads/?mount=sha256:0&from=x/y", "/v2/a/blobs/uploads/?mount=sha256:0&from=x/y"),
        ("/v2/a/blobs/uploads/6f1e-2?_state=ab_c-%3D%3D", "/v2/a/blobs/uploads/6f1e-2?_state=ab_c-%3D%3D"),
        ("/v1/repositories/jfrog/ubuntu/", "/v1/repositories/jfrog/ubuntu/"),
        ("/v1/search?q=", "/v1/search?q="),
        ("/v2?x=??//../", "/v2?x=??//../"),
        ("https://r.example/v2/", "/v2/"),
        ("HTTPS://R.example/v2/?n=1", "/v2/?n=1"),
    ] {
        assert_eq!(path_of(path), Ok(format!("/artifactory/api/docker/docker-local{upstream}")), "{path:?}");
    }
}

#[test]
fn other_paths_are_not_found() {
    for path in
        ["/", "/?v2/", "/v3/", "/v22/", "/v2_", "/V2/", "/_ping/", "/_ping2", "/artifactory/api/docker/other/v2/", "/api/v1/", "/ui/"]
    {
        assert_eq!(path_of(path), Err(Refusal::NotFound), "{path:?}");
    }
}

#[test]
fn a_path_with_two_readings_is_refused() {
    for path in [
        "/v2/..%2f",
        "/v2/%2e%2e/",
        "//v2/",
        "/v2//x/",
        "/v2/%2f",
        "/v2/%2F",
        "/v2/a/../b/",
        "/v2/a/..",
        "/v2/a/./b",
        "/./v2/",
        "/../v2/",
        "/v2/.",
        "/v2/..",
        "/v2/../",
        "/v2//",
        "//",
        "///",
        "/..",
        "/v2/a\\b",
        "/v2/..\\b",
        "/v2/%5c",
        "/v2/%00",
        "/v2/%252f",
        "/v2/%c0%af",
        "/v2/a%2eb",
        "/v2/a%",
        "/v2/a;x",
        "/v2/a;x/b",
        "/v2/a#b",
        "/v2/a\0",
        "/v2/a\t",
        "/v2/a b",
        "/v2/a\u{7f}",
        "/v2/ä",
        "/v2/a,b",
        "/v2/a|b",
        "/v2/http://x/",
        "/v1/images/../json",
    ] {
        assert_eq!(path_of(path), Err(Refusal::Path), "{path:?}");
    }
    let raw = meaning(&https(444), &Forwarded::default(), &Method::GET, b"/v2/\xc0\xaf", &[b"r.example"]);
    assert_eq!(raw.unwrap_err(), Refusal::Path);
}

#[test]
fn what_need_not_be_escaped_goes_on_as_itself() {
    for (path, upstream) in [
        ("/v2/a/blobs/sha256%3A00", "/v2/a/blobs/sha256:00"),
        ("/%76%32/%78/tags/list?a=%61", "/v2/x/tags/list?a=%61"),
        ("https://r.example/v2/%61/tags/list", "/v2/a/tags/list"),
    ] {
        assert_eq!(path_of(path), Ok(format!("/artifactory/api/docker/docker-local{upstream}")), "{path:?}");
    }
    let console = listener_of(Scheme::Https, 443, binding(Bound::Console(None)));
    let user = ask(&console, "/api/security/users/jane.doe%40example.com", &["a"]).unwrap();
    assert_eq!(user.target, "/api/security/users/jane.doe@example.com");
}

#[test]
fn a_query_holds_what_a_query_may() {
    for query in ["?a=b#c", "?%", "?%0", "?%zz", "?a b", "?\\", "?\"", "?<>", "?[0]", "?\0", "?ä"] {
        assert_eq!(path_of(&format!("/v2/{query}")), Err(Refusal::Query), "{query:?}");
    }
}

#[test]
fn a_target_is_a_path_or_a_url_of_this_listener() {
    for target in
        ["", "*", "v2/", "r.example:444", "ftp://r.example/v2/", "://r.example/v2/", "https://r.example", "https://r.example?v2", "?x"]
    {
        assert_eq!(path_of(target), Err(Refusal::Target), "{target:?}");
    }
    for target in ["https://other.example/v2/", "https://r.example:444/v2/", "https://r.example:445/v2/", "http://r.example/v2/"] {
        assert_eq!(path_of(target), Err(Refusal::HostMismatch), "{target:?}");
    }
    for target in ["https:///v2/", "https://user@r.example/v2/", "https://r.example\\@other/v2/", "https://r.example%2f/v2/"] {
        assert_eq!(path_of(target), Err(Refusal::Host), "{target:?}");
    }
}

#[test]
fn there_is_one_valid_host() {
    let ask = |hosts: &[&str]| ask(&https(444), "/v2/", hosts).map(|upstream| upstream.origin.authority().to_string());
    for hosts in [
        &[][..],
        &[""],
        &["a", "a"],
        &["a", "b"],
        &["a:99999"],
        &["a:0"],
        &["a b"],
        &["a/b"],
        &["evil@a"],
        &["a,b"],
        &["::1"],
        &["a%2e"],
        &["a\0"],
        &["http://a"],
    ] {
        assert_eq!(ask(hosts), Err(Refusal::Host), "{hosts:?}");
    }
    for (host, told) in [
        ("r.example", "r.example:444"),
        ("R.Example:444", "r.example:444"),
        ("r.example:5", "r.example:444"),
        ("10.0.0.1", "10.0.0.1:444"),
        ("[::1]:444", "[::1]:444"),
        ("r.example.", "r.example:444"),
        ("r.example:", "r.example:444"),
        ("r.example.:444", "r.example:444"),
    ] {
        assert_eq!(ask(&[host]).as_deref(), Ok(told), "{host:?}");
    }
}

#[test]
fn who_names_no_host_because_it_speaks_http_1_0_is_answered_by_a_binding_for_every_host() {
    let ask = |listener: &Listener, hosts: &[&[u8]], may_lack_host| {
        let arrival = Arrival { listener, port: listener.address.port(), forwarded: &Forwarded::default(), may_lack_host };
        match rewrite(arrival, &Method::GET, b"/v2/", hosts.iter().copied())? {
            Meaning::Bound(_, Ok(Action::Pass(upstream))) => Ok(upstream.origin.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&https(444), &[], true).as_deref(), Ok("https://127.0.0.1:444"));
    assert_eq!(ask(&https(444), &[b"r.example"], true).as_deref(), Ok("https://r.example:444"));
    let everywhere = Listener { address: SocketAddr::from(([0, 0, 0, 0], 444)), ..https(444) };
    assert_eq!(ask(&everywhere, &[], true).as_deref(), Ok("https://127.0.0.1:444"));
    assert_eq!(ask(&https(444), &[], false), Err(Refusal::Host));
    assert_eq!(ask(&https(444), &[b"a", b"a"], true), Err(Refusal::Host));
    let mut bindings = Bindings::default();
    let host = ServerName::Host("a.example".parse().unwrap());
    bindings.bind(Some(&host), binding(Bound::Repository("a".parse().unwrap()))).unwrap();
    assert_eq!(ask(&listening(Scheme::Https, 443, bindings), &[], true), Err(Refusal::Host));
}

#[test]
fn a_load_balancer_that_asks_for_options_is_answered() {
    let console = listener_of(Scheme::Https, 443, binding(Bound::Console(None)));
    for listener in [&https(443), &console] {
        let asked = |target: &[u8]| meaning(listener, &Forwarded::default(), &Method::OPTIONS, target, &[b"a"]);
        assert!(matches!(asked(b"/"), Ok(Meaning::Bound(_, Ok(Action::Options)))));
        assert!(matches!(asked(b"/ui/"), Ok(Meaning::Bound(_, Err(Refusal::NotFound)))));
        assert_eq!(asked(b"*").unwrap_err(), Refusal::Target);
    }
}

#[test]
fn the_listeners_port_is_told_unless_the_scheme_implies_it() {
    for (listener, told) in [
        (https(443), "https://r.example"),
        (https(5000), "https://r.example:5000"),
        (listener(Scheme::Http, 80), "http://r.example"),
        (listener(Scheme::Http, 443), "http://r.example:443"),
    ] {
        for host in ["r.example", "r.example:443", "r.example:80", "r.example:5000"] {
            assert_eq!(ask(&listener, "/v2/", &[host]).unwrap().origin.to_string(), told);
        }
    }
}

#[test]
fn an_unbound_host_is_misdirected() {
    let mut bindings = Bindings::default();
    let host = ServerName::Host("a.example".parse().unwrap());
    bindings.bind(Some(&host), binding(Bound::Repository("a".parse().unwrap()))).unwrap();
    let listener = listening(Scheme::Https, 443, bindings);
    assert_eq!(ask(&listener, "/v2/", &["a.example"]).unwrap().target, "/artifactory/api/docker/a/v2/");
    assert_eq!(ask(&listener, "/v2/", &["b.example"]), Err(Refusal::UnknownHost));
    assert_eq!(ask(&listener, "/v2/..", &["b.example"]), Err(Refusal::Path));
}

#[test]
fn a_console_passes_management_as_it_is_and_nothing_else() {
    let console = listener_of(Scheme::Https, 443, binding(Bound::Console(None)));
    for path in ["/artifactory/api/security/users?x=1", "/api/audit", "/artifactory/docker-local/.images/ab", "/artifactory/docker-local/"]
    {
        let upstream = ask(&console, path, &["a"]).unwrap();
        assert_eq!((upstream.repository, upstream.target.as_str()), (None, path));
    }
    for path in ["/v2/", "/v1/_ping", "/", "/apis", "/artifactory", "/artifactorys/x"] {
        assert_eq!(ask(&console, path, &["a"]), Err(Refusal::NotFound), "{path}");
    }
    assert_eq!(ask(&console, "/api/../v2/", &["a"]), Err(Refusal::Path));
    // And a repository's port does not lead to management.
    assert_eq!(ask(&https(443), "/artifactory/api/security/users", &["a"]), Err(Refusal::NotFound));
}

#[test]
fn the_first_label_of_the_host_names_the_repository() {
    let mut bindings = Bindings::default();
    let domain = ServerName::SubdomainOf("docker.example".parse().unwrap());
    bindings.bind(Some(&domain), binding(Bound::RepositoryFromHost)).unwrap();
    let listener = listening(Scheme::Https, 443, bindings);
    let upstream = ask(&listener, "/v2/team/app/tags/list", &["Docker-Local.docker.example"]).unwrap();
    assert_eq!(upstream.target, "/artifactory/api/docker/docker-local/v2/team/app/tags/list");
    assert_eq!(upstream.origin.to_string(), "https://docker-local.docker.example");
    for host in ["docker.example", "a.b.docker.example", "other.example"] {
        assert_eq!(ask(&listener, "/v2/", &[host]), Err(Refusal::UnknownHost), "{host}");
    }
}

#[test]
fn the_first_element_of_the_path_names_the_repository() {
    let listener = listener_of(Scheme::Https, 443, binding(Bound::RepositoryFromPath));
    for (path, target, repository) in [
        ("/v2/docker-local/team/app/manifests/1?a=b", "/v2/docker-local/team/app/manifests/1?a=b", Some("docker-local")),
        ("/v2", "/v2", None),
        ("/v2/", "/v2/", None),
        ("/v2/token?scope=x", "/v2/token?scope=x", None),
        ("/v2/_catalog", "/v2/_catalog", None),
        ("/v2/docker-local", "/v2/docker-local", None),
        ("/v2/:x/app/tags/list", "/v2/:x/app/tags/list", None),
        // The backend says that V1 needs an address of its own.
        ("/_ping", "/v1/_ping", None),
        ("/v1/repositories/docker-local/app/images", "/v1/repositories/docker-local/app/images", None),
    ] {
        let upstream = ask(&listener, path, &["a"]).unwrap();
        assert_eq!(upstream.target, format!("/artifactory/api/docker/_all{target}"));
        assert_eq!(upstream.repository.as_ref().map(RepositoryKey::as_str), repository, "{path}");
    }
    assert_eq!(ask(&listener, "/", &["a"]), Err(Refusal::NotFound));
}

#[test]
fn browsers_are_redirected_and_registry_clients_never() {
    let redirect =
        Some("https://r.example:444".split_once("://").map(|(_, host)| Origin::new(Scheme::Https, host.parse().unwrap())).unwrap());
    let alone = listener_of(Scheme::Http, 80, Binding { redirect: redirect.clone(), ..binding(Bound::Nothing) });
    let beside = listener_of(Scheme::Http, 80, Binding { redirect, ..binding(Bound::Repository("a".parse().unwrap())) });
    for listener in [&alone, &beside] {
        for path in ["/", "/ui/?a=b", "/artifactory/webapp/"] {
            assert_eq!(action(listener, path, &["x"]), Ok(Action::Redirect(format!("https://r.example:444{path}"))), "{path}");
        }
        let post = meaning(listener, &Forwarded::default(), &Method::POST, b"/ui/", &[b"x"]);
        assert!(matches!(post, Ok(Meaning::Bound(_, Err(Refusal::NotFound)))), "{post:?}");
    }
    for path in ["/v1/_ping", "/v2/", "/v2/a/blobs/uploads/"] {
        assert_eq!(action(&alone, path, &["x"]), Err(Refusal::OnlyRedirects), "{path}");
        assert!(matches!(action(&beside, path, &["x"]), Ok(Action::Pass(_))), "{path}");
    }
}

#[test]
fn a_redirect_leads_to_its_own_origin_whatever_is_asked_for() {
    let to = Origin::new(Scheme::Https, "r.example".parse().unwrap());
    let listener = listener_of(Scheme::Http, 80, Binding { redirect: Some(to), ..binding(Bound::Nothing) });
    for hostile in [
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "/%5cevil.example/",
        "/%2f%2fevil.example",
        "@evil.example/",
        ".evil.example/",
        "/\r\nX: y",
    ] {
        assert!(action(&listener, hostile, &["x"]).is_err(), "{hostile:?}");
    }
    for odd in ["/@evil.example/", "/?//evil.example/", "/evil.example:80/", "/x?next=https://evil.example/"] {
        match action(&listener, odd, &["x"]) {
            Ok(Action::Redirect(url)) => assert_eq!(url, format!("https://r.example{odd}")),
            refused => assert!(refused.is_err(), "{odd:?}: {refused:?}"),
        }
    }
}

#[test]
fn what_is_public_and_what_trusted_proxies_say_becomes_the_origin() {
    let inner = listener(Scheme::Http, 8080);
    let mapped = listener_of(
        Scheme::Https,
        8443,
        Binding { public: Public { port: Some(444), ..Public::default() }, ..binding(Bound::Repository("a".parse().unwrap())) },
    );
    let said = Forwarded { client: None, scheme: Some(Scheme::Https), host: Some("r.example".parse().unwrap()), port: Some(443) };
    for (listener, forwarded, origin) in [
        (&inner, Forwarded::default(), "http://inner:8080"),
        (&inner, said.clone(), "https://r.example"),
        (&mapped, Forwarded::default(), "https://inner:444"),
        (&mapped, said, "https://r.example:444"),
    ] {
        let Meaning::Bound(_, Ok(Action::Pass(upstream))) = meaning(listener, &forwarded, &Method::GET, b"/v2/", &[b"inner:9"]).unwrap()
        else {
            panic!("not passed on")
        };
        assert_eq!(upstream.origin.to_string(), origin);
    }
}

#[test]
fn an_acme_server_is_answered_on_plain_http_whatever_host_it_asks_for() {
    let target = b"/.well-known/acme-challenge/tok_en-1";
    let asked = meaning(&listener(Scheme::Http, 80), &Forwarded::default(), &Method::GET, target, &[b"other.example"]).unwrap();
    assert!(matches!(asked, Meaning::AcmeChallenge(token) if &*token == "tok_en-1"));
    assert_eq!(action(&https(443), "/.well-known/acme-challenge/token", &["a"]), Err(Refusal::NotFound));
}

/// What the backend would be asked, at an address of every kind that passes anything on.
fn at_every_address(docker_path: &str) -> Vec<Upstream> {
    let (from_host, from_path) = (listener_of(Scheme::Https, 443, binding(Bound::RepositoryFromHost)), binding(Bound::RepositoryFromPath));
    let console = listener_of(Scheme::Https, 443, binding(Bound::Console(None)));
    let asked = [
        ask(&https(443), docker_path, &["a"]),
        ask(&from_host, docker_path, &["docker-local.example"]),
        ask(&listener_of(Scheme::Https, 443, from_path), docker_path, &["a"]),
        ask(&console, &format!("/artifactory/api/docker/docker-local{docker_path}"), &["a"]),
        ask(&console, &format!("/api/docker/docker-local{docker_path}"), &["a"]),
    ];
    asked.into_iter().map(Result::unwrap).collect()
}

#[test]
fn what_a_read_only_binding_lets_pass_is_decided_by_the_whole_path_and_the_method() {
    for (method, path, passes) in [
        ("POST", "/v2/token", true),
        ("POST", "/v2/token?service=a", true),
        ("POST", "/v1/users/", true),
        ("POST", "/v1/users", true),
        ("GET", "/v2/anything", true),
        ("HEAD", "/v1/repositories/v1/users", true),
        ("OPTIONS", "/v2/", true),
        ("DELETE", "/v2/token", false),
        ("PUT", "/v1/users/", false),
        ("POST", "/v2/a/blobs/uploads/", false),
        ("POST", "/v1/users/a/", false),
        ("POST", "/v2/team/v2/token", false),
        ("DELETE", "/v1/repositories/v1/users", false),
        ("DELETE", "/v1/repositories/team/v2/token", false),
        ("PUT", "/v1/repositories/v1/users/", false),
        ("PUT", "/v2/v1/users/manifests/users?/v2/token", false),
        ("PATCH", "/v2/nothing", false),
        ("PROPFIND", "/v2/", false),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for upstream in at_every_address(path) {
            assert_eq!(upstream.only_reads(&method), passes, "{method} {}", upstream.target);
        }
    }
    let console = listener_of(Scheme::Https, 443, binding(Bound::Console(None)));
    for path in [
        "/artifactory/docker-local/team/v2/token",
        "/artifactory/docker-local/v1/users/",
        "/artifactory/api/storage/docker-local/team/v2/token",
        "/api/security/tokens/v2/token",
        "/api/docker/v2/token",
    ] {
        for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH] {
            assert!(!ask(&console, path, &["a"]).unwrap().only_reads(&method), "{method} {path}");
        }
    }
}

#[test]
fn tunnels_and_traces_are_refused() {
    for (method, refused) in [("CONNECT", true), ("TRACE", true), ("GET", false), ("PATCH", false), ("PROPFIND", false)] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = meaning(&https(443), &Forwarded::default(), &method, b"/v2/", &[b"a"]);
        assert_eq!(matches!(answer, Err(Refusal::Method)), refused, "{method}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(target in prop::collection::vec(any::<u8>(), 0..60), host in prop::collection::vec(any::<u8>(), 0..30)) {
        let _ = meaning(&https(443), &Forwarded::default(), &Method::GET, &target, &[&host[..]]);
        let path = listener_of(Scheme::Https, 443, binding(Bound::RepositoryFromPath));
        let _ = meaning(&path, &Forwarded::default(), &Method::GET, &target, &[b"a"]);
    }

    /// Whatever a client writes, the backend sees the repository of the listener and a path with one reading.
    #[test]
    fn whatever_passes_stays_in_its_repository(target in "(/|https://a/)?[/.%v2_~:;\\\\#?a1-]{0,30}", host in "[a-b.:0-9\\[\\]]{0,12}") {
        for target in [target.clone(), format!("/v2/{target}")] {
            if let Ok(upstream) = ask(&https(444), &target, &[&host]) {
                let path = upstream.target.split('?').next().unwrap();
                let inner = path.strip_prefix("/artifactory/api/docker/docker-local/v").unwrap();
                prop_assert!(inner.starts_with(['1', '2']));
                prop_assert!(!path.contains("//") && !path.contains(['%', '\\', '#', ';']));
                prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
                let plain = plain_path(target.split(['?', '#']).next().unwrap()).unwrap();
                prop_assert!(plain.contains(inner.strip_prefix('1').unwrap_or(inner).strip_prefix("/_ping").unwrap_or(&inner[1..])));
                prop_assert_eq!(upstream.origin.authority().port(), Some(444));
            }
        }
    }

    #[test]
    fn every_image_and_digest_passes(name in "[a-z0-9]{1,8}([._-][a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}", hex in "[0-9a-f]{64}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,20}") {
        for path in [format!("/v2/{name}/blobs/sha256:{hex}"), format!("/v2/{name}/manifests/{tag}"), format!("/v1/repositories/{name}/tags/{tag}")] {
            prop_assert_eq!(path_of(&path), Ok(format!("/artifactory/api/docker/docker-local{path}")));
        }
    }

    /// The table of both services decides, whatever images are called.
    #[test]
    fn a_read_only_binding_passes_what_changes_nothing(
        row in prop::sample::select(wire::ROWS.iter().filter(|row| row.path.starts_with("docker/*/v")).collect::<Vec<_>>()),
        name in "(v1/users|team/v2/token|v2/token|tags|blobs/uploads|users|token|manifests/a)",
        last in "(users|token|1[.]0|list)",
        method in prop::sample::select(vec![Method::PUT, Method::POST, Method::PATCH, Method::DELETE]),
    ) {
        let path = row.path.strip_prefix("docker/*").unwrap().replace("**", &name).replace('*', &last).replace("[/]", "");
        for upstream in at_every_address(&path) {
            let effect = wire::effect(method.as_str(), &upstream.target);
            let logs_in = method == Method::POST && matches!(path.as_str(), "/v2/token" | "/v1/users");
            prop_assert_eq!(upstream.only_reads(&method), logs_in, "{} {} {:?}", method, path, effect);
        }
    }

    #[test]
    fn the_query_goes_on_unchanged(query in "[A-Za-z0-9&=/_.:+-]{0,40}(%[0-9A-F]{2}){0,3}") {
        let upstream = path_of(&format!("/v2/_catalog?{query}")).unwrap();
        prop_assert_eq!(upstream.split_once('?').unwrap().1, query);
    }
}
