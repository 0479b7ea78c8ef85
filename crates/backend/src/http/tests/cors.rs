//! Pages of other origins that the operator lets in, and those that are kept out all the same.

use super::*;

const UI: (&str, &str) = ("Origin", "https://ui.example.com");
const EVIL: (&str, &str) = ("Origin", "https://evil.example");
const CROSS: (&str, &str) = ("Sec-Fetch-Site", "cross-site");
const NOBODY: (&str, &str) = ("Authorization", "");

async fn backend(cors: &str) -> Backend {
    let mut backend = Backend::start().await;
    backend.push_image("docker-v2", "team/app", "1").await;
    backend.config = format!("{CONFIG}[cors]\n{cors}\n");
    backend.restart().await;
    backend
}

/// What a page may know of who may read an answer.
fn shared(reply: &Reply) -> (Option<&str>, Option<&str>) {
    (reply.header("Access-Control-Allow-Origin"), reply.header("Access-Control-Allow-Credentials"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_asks_is_told_what_a_listed_page_may_do() {
    let backend = backend("origins = [\"https://ui.example.com\", \"http://localhost:3000\"]").await;
    let ask = async |origin, path: &str| {
        let headers =
            [origin, NOBODY, CROSS, ("Access-Control-Request-Method", "DELETE"), ("Access-Control-Request-Headers", "authorization")];
        backend.send("OPTIONS", path, &headers, b"").await
    };
    let path = "@docker-v2/v2/team/app/manifests/1";
    for origin in [UI, ("Origin", "http://localhost:3000")] {
        let allowed = ask(origin, path).await;
        assert_eq!((allowed.status, shared(&allowed)), (204, (Some(origin.1), None)));
        assert_eq!(allowed.header("Access-Control-Allow-Methods"), Some("GET, HEAD, PUT, DELETE, OPTIONS"));
        let headers = allowed.header("Access-Control-Allow-Headers").unwrap();
        assert!(headers.starts_with("Authorization, ") && !headers.contains('*'));
        assert_eq!((allowed.header("Access-Control-Max-Age"), allowed.header("Vary")), (Some("7200"), Some("Origin")));
    }
    for origin in [EVIL, ("Origin", "null"), ("Origin", "http://ui.example.com"), ("Origin", "https://ui.example.com:444")] {
        let refused = ask(origin, path).await;
        assert_eq!((refused.status, shared(&refused)), (204, (None, None)), "{origin:?}");
        assert_eq!(refused.header("Access-Control-Allow-Methods"), None);
    }
    // Management and V1 are for nobody's pages.
    for path in ["/artifactory/api/repositories", "/artifactory/api/docker/docker-v2/v2/promote", "@docker-v1/v1/_ping"] {
        let closed = ask(UI, path).await;
        assert_eq!((closed.status, shared(&closed), closed.header("Vary")), (204, (None, None), None), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_page_reads_refusals_and_answers_and_changes_what_its_user_may() {
    let backend = backend("origins = [\"https://ui.example.com\"]\ncredentials = true").await;
    let path = "@docker-v2/v2/team/app/manifests/1";
    let asked = backend.send("GET", path, &[UI, CROSS, NOBODY], b"").await;
    assert_eq!((asked.status, shared(&asked)), (401, (Some(UI.1), Some("true"))));
    let pulled = backend.send("GET", path, &[UI, CROSS], b"").await;
    assert_eq!((pulled.status, shared(&pulled)), (200, (Some(UI.1), Some("true"))));
    let readable = pulled.header("Access-Control-Expose-Headers").unwrap();
    assert!(readable.contains("Docker-Content-Digest") && readable.contains("WWW-Authenticate") && !readable.contains('*'));
    let vary: Vec<&str> = pulled.headers.iter().filter(|(name, _)| name == "Vary").map(|(_, value)| value.as_str()).collect();
    assert_eq!(vary, ["Accept, User-Agent", "Origin"]);
    // Whoever keeps answers must know that another page gets another one.
    assert_eq!(backend.get("@docker-v2/v2/team/app/tags/list").await.header("Vary"), Some("Origin"));
    for (origin, status) in [(EVIL, 403), (("Origin", "null"), 403), (UI, 202)] {
        assert_eq!(backend.send("DELETE", path, &[origin, CROSS], b"").await.status, status, "{origin:?}");
    }
    // What was not listed for it stays closed: management, and V1.
    for (method, path) in [
        ("PUT", "/artifactory/api/repositories/x"),
        ("POST", "/artifactory/api/docker/docker-v2/v2/promote"),
        ("PUT", "@docker-v1/v1/repositories/a/"),
    ] {
        let refused = backend.send(method, path, &[UI, CROSS], b"{}").await;
        assert_eq!((refused.status, refused.text().contains("another site")), (403, true), "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_may_be_let_in_to_read_and_no_further() {
    let backend = backend("origins = [\"*\"]").await;
    let path = "@docker-v2/v2/team/app/manifests/1";
    for origin in [EVIL, ("Origin", "null")] {
        let pulled = backend.send("GET", path, &[origin, CROSS], b"").await;
        assert_eq!((pulled.status, shared(&pulled)), (200, (Some("*"), None)));
        assert_eq!(backend.send("DELETE", path, &[origin, CROSS], b"").await.status, 403);
    }
    assert_eq!(shared(&backend.get(path).await), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_nothing_is_said_to_any_page() {
    let backend = Backend::start().await;
    for headers in [&[UI, NOBODY][..], &[UI, NOBODY, ("Access-Control-Request-Method", "GET")]] {
        let options = backend.send("OPTIONS", "@docker-v2/v2/a/tags/list", headers, b"").await;
        assert_eq!((options.status, options.header("Allow")), (204, Some("GET, HEAD, OPTIONS")));
        assert!(!options.headers.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-")));
        assert_eq!(options.header("Vary"), None);
    }
    assert_eq!(backend.send("OPTIONS", "@docker-v2/v2/nothing", &[NOBODY], b"").await.refusal(), (404, "UNSUPPORTED".into()));
    assert_eq!(backend.send("OPTIONS", "/artifactory/api/nothing", &[NOBODY], b"").await.status, 404);
}
