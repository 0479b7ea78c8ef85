//! Tables and properties of the rewrite.

use proptest::prelude::*;

use super::*;
use crate::bindings::Bindings;

fn listener(scheme: Scheme, port: u16) -> Listener {
    let mut bindings = Bindings::default();
    bindings.bind(None, "docker-local".parse::<RepositoryKey>().unwrap()).unwrap();
    Listener { scheme, port, bindings }
}

fn https(port: u16) -> Listener {
    listener(Scheme::Https, port)
}

fn ask(listener: &Listener, target: &str, hosts: &[&str]) -> Result<Upstream, Refusal> {
    rewrite(listener, &Method::GET, target.as_bytes(), hosts.iter().map(|host| host.as_bytes()))
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
        "/v2/%61",
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
    assert_eq!(rewrite(&https(444), &Method::GET, b"/v2/\xc0\xaf", [&b"r.example"[..]]), Err(Refusal::Path));
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
    ] {
        assert_eq!(ask(&[host]).as_deref(), Ok(told), "{host:?}");
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
    bindings.bind(Some(&"a.example".parse().unwrap()), "a".parse::<RepositoryKey>().unwrap()).unwrap();
    let listener = Listener { scheme: Scheme::Https, port: 443, bindings };
    assert_eq!(ask(&listener, "/v2/", &["a.example"]).unwrap().target, "/artifactory/api/docker/a/v2/");
    assert_eq!(ask(&listener, "/v2/", &["b.example"]), Err(Refusal::UnknownHost));
    assert_eq!(ask(&listener, "/v2/..", &["b.example"]), Err(Refusal::Path));
}

#[test]
fn a_console_passes_management_as_it_is_and_nothing_else() {
    let mut bindings = Bindings::default();
    bindings.bind(None, Bound::Console).unwrap();
    let console = Listener { scheme: Scheme::Https, port: 443, bindings };
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
fn tunnels_and_traces_are_refused() {
    for (method, refused) in [("CONNECT", true), ("TRACE", true), ("GET", false), ("PATCH", false), ("PROPFIND", false)] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = rewrite(&https(443), &method, b"/v2/", [&b"a"[..]]);
        assert_eq!(answer == Err(Refusal::Method), refused, "{method}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(target in prop::collection::vec(any::<u8>(), 0..60), host in prop::collection::vec(any::<u8>(), 0..30)) {
        let _ = rewrite(&https(443), &Method::GET, &target, [&host[..]]);
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
                prop_assert!(target.contains(inner.strip_prefix('1').unwrap_or(inner).strip_prefix("/_ping").unwrap_or(&inner[1..])));
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

    #[test]
    fn the_query_goes_on_unchanged(query in "[A-Za-z0-9&=/_.:+-]{0,40}(%[0-9A-F]{2}){0,3}") {
        let upstream = path_of(&format!("/v2/_catalog?{query}")).unwrap();
        prop_assert_eq!(upstream.split_once('?').unwrap().1, query);
    }
}
