//! V2 images as V1 clients see them, if the repository lets them.

use serde_json::{Value, json};

use super::access::basic;
use super::schema1::{EMPTY_LAYER, payload, signed};
use super::*;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Backend {
    async fn serve_v1(&self, repository: &str, serve: bool) {
        assert_eq!(self.rest("POST", &format!("repositories/{repository}"), json!({ "serveV1": serve })).await.status, 200);
    }

    /// Pushes an image of these layers, named by what they unpack to; returns its config's digest.
    async fn push_layers(&self, repository: &str, image: &str, tag: &str, layers: &[&[u8]]) -> String {
        self.push_layers_as(repository, image, tag, layers, layers).await
    }

    /// The same with a config that says of these layers what is true of those that are `claimed`.
    async fn push_layers_as(&self, repository: &str, image: &str, tag: &str, layers: &[&[u8]], claimed: &[&[u8]]) -> String {
        let diff_ids: Vec<String> = claimed.iter().map(|layer| sha256(&[b"unpacked ", *layer].concat())).collect();
        let history: Vec<Value> = claimed.iter().map(|layer| json!({ "created_by": String::from_utf8_lossy(layer) })).collect();
        let config = json!({ "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history })
        .to_string();
        let config_digest = self.push_blob(repository, image, config.as_bytes()).await;
        let mut descriptors = Vec::new();
        for layer in layers {
            let digest = self.push_blob(repository, image, layer).await;
            descriptors.push(json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": layer.len(), "digest": digest }));
        }
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": descriptors,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": config_digest } });
        let path = format!("@{repository}/v2/{image}/manifests/{tag}");
        let pushed = self.send("PUT", &path, &[("Content-Type", OCI_MANIFEST)], manifest.to_string().as_bytes()).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        config_digest
    }

    /// Pulls as docker 1.5 does; returns ids and layers, root first.
    pub(super) async fn pull_v1(&self, repository: &str, image: &str, tag: &str) -> Vec<(String, Value, Vec<u8>)> {
        let listed = self.send("GET", &format!("@{repository}/v1/repositories/{image}/images"), &[("X-Docker-Token", "true")], b"").await;
        assert_eq!(listed.status, 200, "{}", listed.text());
        assert_eq!((listed.header("X-Docker-Endpoints"), listed.header("X-Docker-Token").is_some()), (Some("r.example:444"), true));
        let listed: Vec<String> = listed.json().as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        let tags = self.get(&format!("@{repository}/v1/repositories/{image}/tags")).await.json();
        let top = tags[tag].as_str().unwrap().to_owned();
        assert_eq!(self.get(&format!("@{repository}/v1/repositories/{image}/tags/{tag}")).await.json(), json!(top));
        let ancestry = self.get(&format!("@{repository}/v1/images/{top}/ancestry")).await.json();
        let mut pulled = Vec::new();
        let mut parent = None;
        for id in ancestry.as_array().unwrap().iter().rev().map(|id| id.as_str().unwrap().to_owned()) {
            assert!(listed.contains(&id));
            let image = self.get(&format!("@{repository}/v1/images/{id}/json")).await;
            let size: usize = image.header("X-Docker-Size").unwrap().parse().unwrap();
            let json = image.json();
            assert_eq!((json["id"].as_str(), json["parent"].as_str()), (Some(id.as_str()), parent.as_deref()));
            let layer = self.get(&format!("@{repository}/v1/images/{id}/layer")).await;
            assert_eq!((layer.status, layer.body.len(), layer.header("Accept-Ranges")), (200, size, Some("bytes")));
            parent = Some(id.clone());
            pulled.push((id, json, layer.body));
        }
        pulled
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_client_pulls_what_was_pushed_over_v2_before_and_after() {
    let mut backend = Backend::start().await;
    backend.push_layers("docker-v2", "team/app", "1", &[b"base", b"one"]).await;
    let refused = backend.get("@docker-v2/v1/repositories/team/app/tags").await;
    assert_eq!((refused.status, refused.json()["error"].as_str().unwrap().contains("speaks V2")), (404, true));
    backend.serve_v1("docker-v2", true).await;
    backend.push_layers("docker-v2", "team/app", "2", &[b"base", b"two"]).await;
    backend.restart().await;
    assert_eq!(backend.get("@docker-v2/v1/_ping").await.header("X-Docker-Registry-Standalone"), Some("True"));
    let first = backend.pull_v1("docker-v2", "team/app", "1").await;
    assert_eq!(first.iter().map(|(_, _, layer)| layer.as_slice()).collect::<Vec<_>>(), [b"base".as_slice(), b"one"]);
    let second = backend.pull_v1("docker-v2", "team/app", "2").await;
    assert_eq!(first[0], second[0], "what images begin with is shared");
    assert_ne!(first[1].0, second[1].0);
    assert_eq!(first[0].1["container_config"]["Cmd"], json!(["base"]));
    assert_eq!((&first[1].1["config"]["Cmd"], &first[1].1["rootfs"]), (&json!(["sh"]), &json!(null)));
    // Docker goes on with a pull that broke by asking for one byte too many.
    let path = format!("@docker-v2/v1/images/{}/layer", first[1].0);
    let rest = backend.send("GET", &path, &[("Range", "bytes=1-3")], b"").await;
    assert_eq!((rest.status, rest.body.as_slice(), rest.header("Content-Range")), (206, b"ne".as_slice(), Some("bytes 1-2/3")));
    let found = backend.get("@docker-v2/v1/search?q=app").await.json();
    assert_eq!(found["results"][0]["name"], "team/app");
    // V2 clients see no difference.
    assert_eq!(backend.get("@docker-v2/v2/team/app/tags/list").await.json()["tags"], json!(["1", "2"]));

    assert_eq!(backend.send("DELETE", "@docker-v2/v2/team/app/manifests/2", &[], b"").await.status, 202);
    backend.collect().await;
    assert_eq!(backend.get(&format!("@docker-v2/v1/images/{}/json", second[1].0)).await.status, 404);
    assert_eq!(backend.get("@docker-v2/v1/repositories/team/app/tags/2").await.json()["error"], "Tag not found");
    assert_eq!(backend.pull_v1("docker-v2", "team/app", "1").await, first);
    backend.serve_v1("docker-v2", false).await;
    assert_eq!(backend.get("@docker-v2/v1/repositories/team/app/tags").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_1_6_pushed_over_v2_is_shown_under_ids_that_nobody_chose() {
    let backend = Backend::start().await;
    backend.serve_v1("docker-v2", true).await;
    let layer = backend.push_blob("docker-v2", "team/old", b"layer").await;
    for (image, tag, layers) in [("team/old", "1", [layer.as_str(), EMPTY_LAYER]), ("team/empty", "1", [EMPTY_LAYER; 2])] {
        let pushed = backend.put_schema1(&format!("{image}/manifests/{tag}"), &signed(&payload(image, tag, layers))).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
    }
    let pulled = backend.pull_v1("docker-v2", "team/old", "1").await;
    assert_eq!(pulled.iter().map(|(_, _, layer)| layer.len()).collect::<Vec<_>>(), [32, 5]);
    let (top, json, layer) = &pulled[1];
    assert_eq!((&json["config"]["Cmd"], &json["author"], layer.as_slice()), (&json!(["sh"]), &json!("A"), b"layer".as_slice()));
    assert!(*top != "2".repeat(64) && pulled[0].0 != "1".repeat(64));
    // What is the same is so in every image.
    assert_eq!(backend.pull_v1("docker-v2", "team/empty", "1").await[0], pulled[0]);
    assert_eq!(backend.send("DELETE", "@docker-v2/v2/team/old/manifests/1", &[], b"").await.status, 202);
    backend.collect().await;
    assert_eq!(backend.get(&format!("@docker-v2/v1/images/{top}/json")).await.status, 404);
    assert_eq!(backend.get(&format!("@docker-v2/v1/images/{}/json", pulled[0].0)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_client_can_only_pull_and_says_library_where_v2_says_nothing() {
    let backend = Backend::start().await;
    backend.serve_v1("docker-v2", true).await;
    backend.push_layers("docker-v2", "bare", "1", &[b"x"]).await;
    assert_eq!(backend.pull_v1("docker-v2", "bare", "1").await, backend.pull_v1("docker-v2", "library/bare", "1").await);
    let id = "1".repeat(64);
    for (method, path) in [
        ("PUT", "repositories/bare/".to_owned()),
        ("PUT", "repositories/bare/images".to_owned()),
        ("PUT", "repositories/bare/tags/2".to_owned()),
        ("DELETE", "repositories/bare/tags/1".to_owned()),
        ("DELETE", "repositories/bare".to_owned()),
        ("PUT", format!("images/{id}/json")),
        ("PUT", format!("images/{id}/layer")),
        ("PUT", format!("images/{id}/checksum")),
    ] {
        let refused = backend.send(method, &format!("@docker-v2/v1/{path}"), &[], b"[]").await;
        assert_eq!(refused.status, 403, "{method} {path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("V2 only"), "{}", refused.text());
    }
    assert_eq!(backend.get("@docker-v2/v1/users/").await.text(), "\"OK\"");
    assert_eq!(backend.get(&format!("@docker-v2/v1/images/{id}/json")).await.json()["error"], "Image not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_image_is_seen_through_the_names_that_one_may_read() {
    let backend = Backend::start().await;
    backend.serve_v1("docker-v2", true).await;
    backend.push_layers("docker-v2", "team/open", "1", &[b"base", b"open"]).await;
    backend.push_layers("docker-v2", "team/secret", "1", &[b"base", b"secret"]).await;
    let secret = backend.pull_v1("docker-v2", "team/secret", "1").await;
    let bob = backend.add_bob("docker-v2", "team/open", "r").await;
    assert_eq!(bob, basic("bob", super::access::BOB));
    let status = async |path: String| backend.as_user(&bob, "GET", &path, b"").await.status;
    for what in ["json", "layer", "ancestry"] {
        assert_eq!(status(format!("@docker-v2/v1/images/{}/{what}", secret[0].0)).await, 200, "it is in both");
        assert_eq!(status(format!("@docker-v2/v1/images/{}/{what}", secret[1].0)).await, 404);
    }
    assert_eq!(status("@docker-v2/v1/repositories/team/secret/tags".to_owned()).await, 404);
    assert_eq!(status("@docker-v2/v1/repositories/team/open/tags".to_owned()).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_v1_clients_cannot_take_is_not_shown_and_of_many_platforms_one_is() {
    let backend = Backend::start().await;
    backend.serve_v1("docker-v2", true).await;
    backend.push_image("docker-v2", "app", "no-rootfs").await;
    assert_eq!(backend.get("@docker-v2/v1/repositories/library/app/tags").await.status, 404);
    let mut children = Vec::new();
    for architecture in ["arm64", "amd64"] {
        backend.push_layers("docker-v2", "app", architecture, &[architecture.as_bytes()]).await;
        let manifest = backend.get(&format!("@docker-v2/v2/app/manifests/{architecture}")).await;
        let digest = manifest.header("Docker-Content-Digest").unwrap().to_owned();
        children.push(json!({ "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.body.len(),
            "platform": { "os": "linux", "architecture": architecture } }));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": children }).to_string();
    let put = backend.send("PUT", "@docker-v2/v2/app/manifests/all", &[("Content-Type", media_type)], index.as_bytes()).await;
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(backend.pull_v1("docker-v2", "app", "all").await, backend.pull_v1("docker-v2", "app", "amd64").await);
    let tags = backend.get("@docker-v2/v1/repositories/app/tags").await.json();
    assert_eq!(tags.as_object().unwrap().keys().collect::<Vec<_>>(), ["all", "amd64", "arm64"]);
    // Promoted, it is shown where that is wanted, and nowhere else.
    for target in ["docker-open", "docker-bearer"] {
        backend.serve_v1(target, target == "docker-open").await;
        let body = json!({ "targetRepo": target, "dockerRepository": "app", "tag": "all", "copy": true });
        assert_eq!(backend.rest("POST", "docker/docker-v2/v2/promote", body).await.status, 200);
    }
    assert_eq!(backend.pull_v1("docker-open", "app", "all").await.len(), 1);
    assert_eq!(backend.get("@docker-bearer/v1/repositories/app/tags").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_image_of_the_same_config_changes_nothing_of_what_a_v1_client_gets() {
    for good_first in [true, false] {
        let backend = Backend::start().await;
        backend.serve_v1("docker-v2", true).await;
        let (good, evil): ([&[u8]; 2], [&[u8]; 2]) = ([b"base", b"good"], [b"evil base", b"evil"]);
        let push_good = backend.push_layers("docker-v2", "team/app", "1", &good);
        // Its name comes first, and its config is the other's, byte for byte.
        let push_evil = backend.push_layers_as("docker-v2", "a-mal/x", "1", &evil, &good);
        let configs = if good_first {
            let one = push_good.await;
            let pulled = backend.pull_v1("docker-v2", "team/app", "1").await;
            let other = push_evil.await;
            assert_eq!(backend.pull_v1("docker-v2", "team/app", "1").await, pulled);
            [one, other]
        } else {
            [push_evil.await, push_good.await]
        };
        assert_eq!(configs[0], configs[1]);
        let layers_of = async |image: &str| {
            let pulled = backend.pull_v1("docker-v2", image, "1").await;
            pulled.into_iter().map(|(id, _, layer)| (layer, id)).collect::<std::collections::BTreeMap<_, _>>()
        };
        let (team, mallory) = (layers_of("team/app").await, layers_of("a-mal/x").await);
        assert!(
            team.keys().map(Vec::as_slice).eq(good) && mallory.keys().map(Vec::as_slice).eq([evil[1], evil[0]]),
            "{team:?} {mallory:?}"
        );
        assert!(team.values().all(|id| mallory.values().all(|other| id != other)));
    }
}
