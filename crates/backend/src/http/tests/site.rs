//! Pages of other sites, in the browser of somebody whose password it remembers.

use berth_names::wire::{self, Under};
use serde_json::json;

use super::*;

const JSON: (&str, &str) = ("Content-Type", "application/json");
const EVIL: (&str, &str) = ("Origin", "https://evil.example");
const CROSS: (&str, &str) = ("Sec-Fetch-Site", "cross-site");
/// What a page of ours sends.
const OWN: (&str, &str) = ("Origin", "https://r.example:444");

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_makes_nobody_an_admin() {
    let backend = Backend::start().await;
    let path = "/artifactory/api/security/users/mallory";
    let made = backend.rest("PUT", "security/users/mallory", json!({ "password": "mallory-Pw-x8y7z6" })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let form = b"{\"admin\":true,\"email\":\"=\"}\r\n";
    let plain = ("Content-Type", "text/plain");
    for (headers, status) in [
        (&[plain, EVIL, CROSS][..], 403),
        (&[JSON, EVIL], 403),
        (&[JSON, CROSS], 403),
        (&[JSON, ("Sec-Fetch-Site", "same-site")], 403),
        (&[JSON, ("Origin", "null")], 403),
        (&[JSON, ("Origin", "http://r.example:444")], 403),
        (&[JSON, ("Origin", "https://r.example")], 403),
        // A browser that says nothing of where the page is from.
        (&[plain], 415),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 415),
        (&[("Content-Type", "multipart/form-data; boundary=a")], 415),
        (&[("Content-Type", "")], 415),
    ] {
        let reply = backend.send("POST", path, headers, form).await;
        assert_eq!(reply.status, status, "{headers:?}: {}", reply.text());
        assert_eq!(backend.get(path).await.json()["admin"], false, "{headers:?}");
    }
    let artifactorys = ("Content-Type", "application/vnd.org.jfrog.artifactory.security.User+json");
    let same = ("Sec-Fetch-Site", "same-origin");
    for headers in [&[JSON][..], &[artifactorys], &[JSON, OWN], &[JSON, OWN, same], &[JSON, ("Sec-Fetch-Site", "none")]] {
        let reply = backend.send("POST", path, headers, b"{\"email\":\"m@example.com\"}").await;
        assert_eq!(reply.status, 200, "{headers:?}: {}", reply.text());
    }
}

/// Every way that changes something or logs in, with an example of its path.
fn changing_ways() -> Vec<(&'static str, String)> {
    let rows = wire::ROWS.iter().flat_map(|row| row.ways.iter().map(move |(method, _)| (row, *method)));
    rows.filter(|(_, method)| *method != "GET")
        .map(|(row, method)| {
            let prefix = match row.under {
                Under::Root => "",
                Under::Api => wire::API_PREFIXES[0],
                Under::Tree => wire::TREE_PREFIX,
            };
            let key = if row.path.contains("/v1") { "docker-v1" } else { "docker-v2" };
            let path = row.path.replacen("docker/*", &format!("docker/{key}"), 1).replace("**", "docker-v2/team").replace('*', ID);
            (method, format!("{prefix}{}", path.replace("[/]", "")))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_changes_nothing_whatever_it_asks_for() {
    let backend = Backend::start().await;
    let ways = changing_ways();
    assert!(ways.len() > 40, "{ways:?}");
    for (method, path) in &ways {
        for headers in [&[EVIL][..], &[CROSS], &[EVIL, ("Content-Type", "text/plain")]] {
            let reply = backend.send(method, path, headers, b"").await;
            assert_eq!((reply.status, reply.text().contains("another site")), (403, true), "{method} {path}: {}", reply.text());
        }
    }
    // In the form of the API that was called.
    let refused = backend.send("POST", "@docker-v2/v2/a/blobs/uploads/", &[EVIL], b"").await;
    assert_eq!(refused.refusal(), (403, "DENIED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_reads_can_be_linked_to_from_everywhere() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "team/app", "1.0").await;
    for path in ["/artifactory/api/repositories", "/artifactory/docker-v2/team/app/1.0/manifest.json", "@docker-v2/v2/team/app/tags/list"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(backend.send(method, path, &[EVIL, CROSS], b"").await.status, 200, "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_send_none_of_these_headers_go_on_working() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "team/app", "1.0").await;
    for (method, path, status) in [
        ("PUT", "/artifactory/api/storage/docker-v2/team/app/1.0?properties=qa=passed", 204),
        ("DELETE", "/artifactory/api/storage/docker-v2/team/app/1.0?properties=qa", 204),
        ("POST", "/artifactory/api/system/storage/gc", 200),
        ("POST", "@docker-bearer/v2/token", 200),
        ("POST", "@docker-v2/v2/team/app/blobs/uploads/", 202),
        ("DELETE", "/artifactory/docker-v2/team/app/1.0", 204),
    ] {
        let reply = backend.send(method, path, &[("Content-Type", "")], b"").await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
    }
}
