//! Mirrors, lists and people's own scripts.

use e2e::Body;
use serde_json::json;

use crate::caches::ACCEPT;
use crate::{MANIFEST, Tool, digest, registry, text};

/// containerd names the registry that it mirrors in every query.
#[test]
fn containerd_names_the_registry_it_mirrors() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "containerd/v2.0.0");
    let image = tool.push_image("library/busybox", "1", b"a mirrored layer");
    let head = tool.ask("HEAD /v2/library/busybox/manifests/1?ns=docker.io 200", &[ACCEPT], b"");
    assert_eq!((head.header("Content-Type"), head.header("Docker-Content-Digest")), (Some(MANIFEST), Some(text(&image["digest"]))));
    let manifest = tool.json(&format!("GET /v2/library/busybox/manifests/{}?ns=docker.io 200", text(&image["digest"])), &[ACCEPT]);
    let layer = text(&manifest["layers"][0]["digest"]);
    assert_eq!(tool.ask(&format!("GET /v2/library/busybox/blobs/{layer}?ns=docker.io 200"), &[ACCEPT], b"").bytes(), b"a mirrored layer");
    tool.ask(&format!("GET /v2/library/busybox/referrers/{}?ns=docker.io 200", text(&image["digest"])), &[], b"");
    // What the mirror does not have is looked for elsewhere.
    tool.ask("HEAD /v2/library/alpine/manifests/3?ns=docker.io 404", &[ACCEPT], b"");
    tool.ask(&format!("GET /v2/library/busybox/blobs/{}?ns=docker.io 404", digest(b"elsewhere")), &[ACCEPT], b"");
}

/// `skopeo list-tags` goes from page to page, `skopeo delete` by digest.
#[test]
fn skopeo_lists_page_by_page_and_deletes_by_digest() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "skopeo/1.16.1");
    for tag in ["a", "b", "c"] {
        tool.push_image("team/listed", tag, b"a listed layer");
    }
    let (mut path, mut tags) = ("/v2/team/listed/tags/list?n=2".to_owned(), Vec::new());
    for page in 0.. {
        assert!(page < 3, "{path}");
        let reply = tool.ask(&format!("GET {path} 200"), &[], b"");
        let next = reply.header("Link").map(|link| link.trim_start_matches('<').split_once('>').unwrap().0.to_owned());
        tags.extend(reply.json()["tags"].as_array().unwrap().clone());
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    assert_eq!(json!(tags), json!(["a", "b", "c"]));
    let found = tool.ask("GET /v2/team/listed/manifests/b 200", &[("Accept", MANIFEST)], b"");
    let own = found.header("Docker-Content-Digest").unwrap();
    tool.ask(&format!("DELETE /v2/team/listed/manifests/{own} 202"), &[], b"");
    tool.ask("GET /v2/team/listed/manifests/b 404", &[("Accept", MANIFEST)], b"");
}

/// Programs that look for new versions: many tags at once, and HEAD to see whether one has moved.
#[test]
fn programs_that_look_for_new_versions_find_them() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "RenovateBot/38 (https://github.com/renovatebot/renovate)");
    tool.push_image("team/watched", "1.0.0", b"a watched layer");
    let tags = tool.json("GET /v2/team/watched/tags/list?n=10000 200", &[("Accept", "application/json, text/plain, */*")]);
    assert_eq!(tags, json!({ "name": "team/watched", "tags": ["1.0.0"] }));
    let accept = [
        ("Accept", "application/vnd.docker.distribution.manifest.v2+json"),
        ("Accept", "application/vnd.docker.distribution.manifest.list.v2+json"),
        ("Accept", "application/vnd.docker.distribution.manifest.v1+json"),
        ("Accept", "application/vnd.oci.image.index.v1+json"),
        ("Accept", MANIFEST),
    ];
    let head = tool.ask("HEAD /v2/team/watched/manifests/1.0.0 200", &accept, b"");
    assert!(head.header("Docker-Content-Digest").is_some_and(|digest| digest.starts_with("sha256:")));
    assert_eq!(
        tool.json("GET /v2/_catalog?n=10000 200", &[])["repositories"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|name| **name == "team/watched")
            .count(),
        1
    );
    // Before a pull without a token there is a challenge, which names what the token is for.
    let nobody = e2e::Client::tls(registry.first, &registry.ca());
    let asked = nobody.send("HEAD", "/v2/team/watched/manifests/1.0.0", &accept, Body::None).expect(401).unwrap();
    assert!(asked.header("WWW-Authenticate").unwrap().contains("scope=\"repository:team/watched:pull\""));
}

/// `DOCKER_CONTENT_TRUST` with the registry as its server: there is no trust data, which is a 404.
#[test]
fn there_is_no_trust_data() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "Docker-Client/27.3.1 (linux)");
    tool.ask("GET /v2/ 200", &[], b"");
    tool.ask(&format!("GET /v2/localhost:{}/team/app/_trust/tuf/root.json 404", registry.first), &[], b"");
    tool.ask("GET /v2/team/app/_trust/tuf/root.json 404", &[], b"");
}
