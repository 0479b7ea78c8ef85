//! Repositories, deletion and promotion through the front door.

use serde_json::json;

use super::*;

impl Backend {
    /// Pushes a V1 image of one layer.
    pub(super) async fn push_v1(&self, repository: &str, id: &str, parent: Option<&str>, layer: &[u8]) {
        let json = parent.map_or_else(|| format!(r#"{{"id":"{id}"}}"#), |parent| format!(r#"{{"id":"{id}","parent":"{parent}"}}"#));
        let path = format!("@{repository}/v1/images/{id}");
        assert_eq!(self.send("PUT", &format!("{path}/json"), &[], json.as_bytes()).await.status, 200);
        assert_eq!(self.send("PUT", &format!("{path}/layer"), &[], layer).await.status, 200);
        let sum = format!("sha256:{}", hex(&Sha256::digest([json.as_bytes(), b"\n", layer].concat())));
        assert_eq!(self.send("PUT", &format!("{path}/checksum"), &[("X-Docker-Checksum-Payload", &sum)], b"").await.status, 200);
    }

    pub(super) async fn tag_v1(&self, repository: &str, image: &str, tag: &str, id: &str) {
        let path = format!("@{repository}/v1/repositories/{image}/tags/{tag}");
        assert_eq!(self.send("PUT", &path, &[], format!("\"{id}\"").as_bytes()).await.status, 200);
    }

    pub(super) async fn collect(&self) -> serde_json::Value {
        let collected = self.rest("POST", "system/storage/gc", json!(null)).await;
        assert_eq!(collected.status, 200, "{}", collected.text());
        collected.json()["freed"].clone()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_created_changed_and_deleted_over_rest_and_stay_so() {
    let mut backend = Backend::start().await;
    let new = json!({ "rclass": "local", "packageType": "docker", "dockerApiVersion": "V1", "description": "old machines",
        "repoLayoutRef": "simple-default", "handleReleases": true, "includesPattern": "team/**,library/*" });
    let created = backend.rest("PUT", "repositories/docker-new", new.clone()).await;
    assert_eq!((created.status, created.text().as_str()), (200, "Successfully created repository 'docker-new'\n"));
    let refused = backend.rest("PUT", "repositories/docker-new", new).await;
    assert_eq!((refused.status, refused.json()["errors"][0]["status"].clone()), (400, json!(400)));
    let shown = backend.rest("GET", "repositories/docker-new", json!(null)).await.json();
    for (field, value) in [
        ("key", json!("docker-new")),
        ("rclass", json!("local")),
        ("packageType", json!("docker")),
        ("dockerApiVersion", json!("V1")),
        ("description", json!("old machines")),
        ("includesPattern", json!("team/**,library/*")),
        ("excludesPattern", json!("")),
        ("handleReleases", json!(true)),
        ("maxUniqueTags", json!(0)),
    ] {
        assert_eq!(shown[field], value, "{field}");
    }
    // It can be pushed to at once, as far as its patterns go.
    backend.push_v1("docker-new", &id('a'), None, b"layer").await;
    backend.tag_v1("docker-new", "team/app", "1", &id('a')).await;
    let outside = backend.send("PUT", "@docker-new/v1/repositories/other/app/tags/1", &[], format!("\"{}\"", id('a')).as_bytes()).await;
    assert_eq!(outside.status, 403, "{}", outside.text());
    // Not empty: the protocol stays, everything else can change.
    assert_eq!(backend.rest("POST", "repositories/docker-new", json!({ "dockerApiVersion": "V2" })).await.status, 400);
    assert_eq!(backend.rest("POST", "repositories/docker-new", json!({ "description": "x", "maxUniqueTags": 2 })).await.status, 200);
    let shown = backend.rest("GET", "repositories/docker-new", json!(null)).await.json();
    assert_eq!((&shown["description"], &shown["maxUniqueTags"], &shown["dockerApiVersion"]), (&json!("x"), &json!(2), &json!("V1")));
    // Empty, it may change it.
    assert_eq!(backend.rest("POST", "repositories/docker-open", json!({ "dockerApiVersion": "V1" })).await.status, 200);
    // A deleted one stays deleted, though the configuration names it.
    for key in ["docker-new", "docker-bearer"] {
        assert_eq!(backend.rest("DELETE", &format!("repositories/{key}"), json!(null)).await.status, 200);
        assert_eq!(backend.rest("DELETE", &format!("repositories/{key}"), json!(null)).await.status, 404);
    }
    backend.restart().await;
    let listed = backend.rest("GET", "repositories?type=local&packageType=docker", json!(null)).await;
    let keys: Vec<_> = listed.json().as_array().unwrap().iter().map(|entry| entry["key"].clone()).collect();
    assert_eq!(keys, ["docker-open", "docker-v1", "docker-v2"]);
    assert_eq!(listed.json()[0]["type"], "LOCAL");
    assert_eq!(backend.rest("GET", "repositories/docker-open", json!(null)).await.json()["dockerApiVersion"], "V1");
    assert_eq!(backend.rest("GET", "repositories?type=remote", json!(null)).await.json(), json!([]));
    backend.collect().await;
    assert_eq!(backend.rest("PUT", "repositories/docker-new", json!({ "rclass": "local" })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repository_cannot_be_is_refused_with_the_reason() {
    let backend = Backend::start().await;
    for (body, reason) in [
        (json!({ "rclass": "remote" }), "rclass must be"),
        (json!({ "packageType": "maven" }), "packageType must be"),
        (json!({ "key": "other" }), "the body says other"),
        (json!({ "includePattern": "x" }), "the field includePattern is not known"),
        (json!({ "dockerApiVersion": "V3" }), "V3"),
        (json!({ "blackedOut": true }), "blackedOut is not supported"),
        (json!({ "anonymousPull": true, "forceDockerAuthentication": true }), "the opposite"),
        (json!({ "excludesPattern": "a**b" }), "excludesPattern"),
        (json!({ "maxUniqueTags": -1 }), "-1"),
        (json!([]), "not as expected"),
    ] {
        let refused = backend.rest("PUT", "repositories/docker-new", body.clone()).await;
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.text().contains(reason), "{body}: {}", refused.text());
    }
    assert_eq!(backend.rest("GET", "repositories/docker-new", json!(null)).await.status, 404);
    assert_eq!(backend.rest("PUT", "repositories/-docker", json!({})).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_v1_tag_takes_only_what_nothing_else_needs() {
    let backend = Backend::start().await;
    let layer = |byte: u8| vec![byte; 100_000];
    backend.push_v1("docker-v1", &id('1'), None, &layer(1)).await;
    backend.push_v1("docker-v1", &id('2'), Some(&id('1')), &layer(2)).await;
    backend.push_v1("docker-v1", &id('3'), Some(&id('1')), &layer(3)).await;
    backend.tag_v1("docker-v1", "jfrog/ubuntu", "two", &id('2')).await;
    backend.tag_v1("docker-v1", "jfrog/ubuntu", "three", &id('3')).await;
    let repositories = "@docker-v1/v1/repositories/jfrog/ubuntu";
    let deleted = backend.send("DELETE", &format!("{repositories}/tags/two"), &[], b"").await;
    assert_eq!((deleted.status, deleted.text().as_str()), (200, "true"));
    assert_eq!(backend.send("DELETE", &format!("{repositories}/tags/two"), &[], b"").await.json()["error"], "Tag not found");
    let freed = backend.collect().await;
    assert_eq!((&freed["v1Images"], &freed["blobs"], &freed["fileBytes"]), (&json!(1), &json!(1), &json!(100_000)));
    assert_eq!(backend.get(&format!("@docker-v1/v1/images/{}/json", id('2'))).await.status, 404);
    for kept in ['1', '3'] {
        assert_eq!(backend.get(&format!("@docker-v1/v1/images/{}/layer", id(kept))).await.body.len(), 100_000);
    }
    // With a slash or without, with `tags` or without.
    for form in ["", "/", "/tags"] {
        backend.tag_v1("docker-v1", "jfrog/ubuntu", "three", &id('3')).await;
        let deleted = backend.send("DELETE", &format!("{repositories}{form}"), &[], b"").await;
        assert_eq!((deleted.status, deleted.text().as_str()), (200, "true"), "{form}");
        assert_eq!(backend.send("DELETE", &format!("{repositories}{form}"), &[], b"").await.json()["error"], "Repository not found");
        if form != "/tags" {
            // A client that is about to push has asked: nothing goes before it has had its time.
            let asked = format!("[{{\"id\":\"{}\"}}]", id('3'));
            assert_eq!(backend.send("PUT", &format!("{repositories}/"), &[], asked.as_bytes()).await.status, 200);
            backend.collect().await;
        }
    }
    let freed = backend.collect().await;
    assert_eq!((&freed["v1Images"], &freed["fileBytes"]), (&json!(2), &json!(200_000)));
    let found = backend.get("@docker-v1/v1/search?q=").await.json();
    assert_eq!(found["results"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_tags_are_kept_if_the_repository_says_how_many() {
    let backend = Backend::start().await;
    assert_eq!(backend.rest("POST", "repositories/docker-v2", json!({ "maxUniqueTags": 2 })).await.status, 200);
    for tag in ["1", "2", "3", "2"] {
        backend.push_image("docker-v2", "a", tag).await;
    }
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list").await.json()["tags"], json!(["2", "3"]));
    backend.push_image("docker-v2", "a", "4").await;
    assert_eq!(backend.get("@docker-v2/v2/a/tags/list").await.json()["tags"], json!(["2", "4"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_promoted_by_name_with_all_it_needs() {
    let backend = Backend::start().await;
    let manifest = backend.push_image("docker-v2", "app", "1").await;
    let promote = |body: serde_json::Value| backend.rest("POST", "docker/docker-v2/v2/promote", body);
    let copied = promote(json!({ "targetRepo": "docker-open", "dockerRepository": "app", "tag": "1", "targetTag": "stable",
        "targetDockerRepository": "team/app", "copy": true }))
    .await;
    assert_eq!((copied.status, copied.text().as_str()), (200, "Promotion ended successfully"));
    for place in ["docker-open/v2/team/app/manifests/stable", "docker-v2/v2/app/manifests/1"] {
        assert_eq!(backend.get(&format!("@{place}")).await.text(), manifest);
    }
    assert_eq!(backend.get(&format!("@docker-open/v2/team/app/blobs/{}", sha256(&[7; 100]))).await.body, vec![7; 100]);
    // Moved, it is gone from where it was; and what was promoted before does not notice.
    assert_eq!(promote(json!({ "targetRepo": "docker-open", "dockerRepository": "app" })).await.status, 200);
    backend.collect().await;
    assert_eq!(backend.get("@docker-v2/v2/app/tags/list").await.status, 404);
    assert_eq!(backend.get(&format!("@docker-v2/v2/app/blobs/{}", sha256(&[7; 100]))).await.status, 404);
    for image in ["app", "team/app"] {
        assert_eq!(backend.get(&format!("@docker-open/v2/{image}/blobs/{}", sha256(&[7; 100]))).await.body, vec![7; 100]);
    }
    for (body, status) in [
        (json!({ "targetRepo": "docker-v1", "dockerRepository": "app", "tag": "1" }), 400),
        (json!({ "targetRepo": "nowhere", "dockerRepository": "app", "tag": "1" }), 404),
        (json!({ "targetRepo": "docker-open", "dockerRepository": "app", "tag": "1" }), 404),
        (json!({ "targetRepo": "docker-open", "dockerRepository": "nowhere" }), 404),
        (json!({ "targetRepo": "docker-open", "dockerRepository": "App" }), 400),
        (json!({ "targetRepo": "docker-v2", "dockerRepository": "app", "tag": "1" }), 400),
        (json!({ "dockerRepository": "app" }), 400),
    ] {
        let refused = promote(body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.text());
        assert_eq!(refused.json()["errors"][0]["status"], json!(status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_v1_image_brings_its_ancestors_and_leaves_what_others_need() {
    let backend = Backend::start().await;
    assert_eq!(backend.rest("PUT", "repositories/v1-prod", json!({ "rclass": "local", "dockerApiVersion": "V1" })).await.status, 200);
    for (number, parent) in [('1', None), ('2', Some('1')), ('3', Some('1'))] {
        backend.push_v1("docker-v1", &id(number), parent.map(id).as_deref(), &vec![number as u8; 70_000]).await;
    }
    backend.tag_v1("docker-v1", "app", "two", &id('2')).await;
    backend.tag_v1("docker-v1", "app", "three", &id('3')).await;
    let body = json!({ "targetRepo": "v1-prod", "dockerRepository": "app", "tag": "two" });
    assert_eq!(backend.rest("POST", "docker/docker-v1/v2/promote", body.clone()).await.status, 400);
    assert_eq!(backend.rest("POST", "docker/docker-v1/v1/promote", body).await.status, 200);
    backend.collect().await;
    let ancestry = |repository: &str, number: char| {
        let path = format!("@{repository}/v1/images/{}/ancestry", id(number));
        let backend = &backend;
        async move { backend.get(&path).await }
    };
    assert_eq!(ancestry("v1-prod", '2').await.json(), json!([id('2'), id('1')]));
    assert_eq!(ancestry("docker-v1", '2').await.status, 404);
    assert_eq!(ancestry("docker-v1", '3').await.json(), json!([id('3'), id('1')]));
    assert_eq!(backend.get("@v1-prod/v1/repositories/app/tags/two").await.json(), json!(id('2')));
    assert_eq!(backend.get(&format!("@v1-prod/v1/images/{}/layer", id('1'))).await.body.len(), 70_000);
    // Ids are chosen by clients: another image of the same id is not to be overwritten.
    backend.push_v1("docker-v1", &id('2'), Some(&id('1')), b"another").await;
    backend.tag_v1("docker-v1", "app", "two", &id('2')).await;
    let body = json!({ "targetRepo": "v1-prod", "dockerRepository": "app", "copy": true });
    assert_eq!(backend.rest("POST", "docker/docker-v1/v1/promote", body).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_says_whether_it_is_there() {
    let backend = Backend::start().await;
    for path in ["/healthz", "/healthz/live", "/healthz/ready", "/artifactory/api/system/ping", "/api/system/ping"] {
        assert_eq!(backend.send("GET", path, &[("Authorization", "")], b"").await.status, 200, "{path}");
    }
    assert_eq!(backend.send("GET", "/artifactory/api/system/version", &[("Authorization", "")], b"").await.status, 401);
    assert_eq!(backend.rest("GET", "system/version", json!(null)).await.json()["product"], "Berth");
    assert_eq!(backend.send("POST", "/artifactory/api/system/storage/gc", &[("Authorization", "")], b"").await.status, 401);
}
