//! Migration through the front door: who may, what is answered, what is told on the way.

use std::io::Write as _;

use serde_json::json;

use super::*;

/// A gzip layer with one member of so many bytes.
fn layer(bytes: u64) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    archive.append_data(&mut header, "file", std::io::Read::take(std::io::repeat(7), bytes)).unwrap();
    let mut packed = archive.into_inner().unwrap();
    packed.flush().unwrap();
    packed.finish().unwrap()
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

impl Backend {
    async fn push_chain(&self) {
        self.push_v1("docker-v1", &id('1'), None, &layer(100)).await;
        self.push_v1("docker-v1", &id('2'), Some(&id('1')), &layer(200)).await;
        self.push_v1("docker-v1", &id('3'), Some(&id('1')), b"no tar").await;
        self.tag_v1("docker-v1", "jfrog/ubuntu", "12.04", &id('2')).await;
        self.tag_v1("docker-v1", "jfrog/ubuntu", "broken", &id('3')).await;
        self.tag_v1("docker-v1", "other/app", "1", &id('1')).await;
    }

    async fn migrate(&self, body: serde_json::Value) -> Reply {
        self.rest("POST", "docker/docker-v1/v1/migrate", body).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_migrated_with_a_report_and_receipts() {
    let backend = Backend::start().await;
    backend.push_chain().await;
    let body = json!({ "targetRepo": "docker-v2", "dockerRepository": "jfrog/ubuntu" });
    let planned = backend.migrate(json!({ "targetRepo": "docker-v2", "dockerRepository": "jfrog/ubuntu", "dryRun": true })).await;
    assert_eq!((planned.status, &planned.json()["tags"]["migrated"]), (200, &json!(2)), "{}", planned.text());
    assert_eq!(backend.get("@docker-v2/v2/jfrog/ubuntu/tags/list").await.status, 404);

    let done = backend.migrate(body.clone()).await;
    let report = done.json();
    assert_eq!(
        (done.status, &report["state"], &report["tags"]),
        (200, &json!("finished"), &json!({ "migrated": 1, "unchanged": 0, "failed": 1 }))
    );
    let failure = &report["failures"][0];
    assert_eq!((&failure["dockerRepository"], &failure["tag"]), (&json!("jfrog/ubuntu"), &json!("broken")));
    assert!(failure["reason"].as_str().unwrap().contains(&id('3')), "{failure}");
    let receipt = &report["receipts"][0];
    assert_eq!(
        receipt["layers"].as_array().unwrap().iter().map(|layer| layer["v1Id"].clone()).collect::<Vec<_>>(),
        [json!(id('1')), json!(id('2'))]
    );

    let manifest = backend.get("@docker-v2/v2/jfrog/ubuntu/manifests/12.04").await;
    assert_eq!((manifest.status, manifest.header("Content-Type")), (200, Some(MANIFEST)));
    assert_eq!(manifest.header("Docker-Content-Digest"), receipt["manifest"].as_str());
    let blob = backend.get(&format!("@docker-v2/v2/jfrog/ubuntu/blobs/{}", sha256(&layer(200)))).await;
    assert_eq!(blob.body, layer(200));
    assert_eq!(backend.get("@docker-v1/v1/repositories/jfrog/ubuntu/tags/12.04").await.json(), json!(id('2')));

    // The job is remembered, and the receipt stands as long as the tag does.
    let location = done.header("Location").unwrap().strip_prefix("https://r.example:444").unwrap().to_owned();
    assert_eq!(backend.get(&location).await.json()["tags"], report["tags"]);
    assert_eq!(backend.rest("GET", "docker/jobs", json!(null)).await.json().as_array().unwrap().len(), 2);
    let receipts = backend.rest("GET", "docker/docker-v2/v2/receipts?image=jfrog/ubuntu&tag=12.04", json!(null)).await.json();
    assert_eq!((&receipts["receipts"][0]["manifest"], &receipts["next"]), (&receipt["manifest"], &json!(null)));

    // Everything else, and again: what has not changed stays.
    let rest = backend.migrate(json!({ "targetRepo": "docker-v2", "dockerRepository": "", "tag": null })).await;
    assert_eq!(rest.json()["tags"], json!({ "migrated": 1, "unchanged": 1, "failed": 1 }));
    assert_eq!(backend.get("@docker-v2/v2/other/app/tags/list").await.json()["tags"], json!(["1"]));
    let broken = backend.migrate(json!({ "targetRepo": "docker-v2", "dockerRepository": "jfrog/ubuntu", "tag": "broken" })).await;
    assert_eq!((broken.status, &broken.json()["tags"]["failed"]), (422, &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_while_it_goes_on_and_a_job_can_be_left_alone() {
    let backend = Backend::start().await;
    backend.push_chain().await;
    let body = json!({ "targetRepo": "docker-v2" }).to_string();
    let headers = [("Content-Type", "application/json"), ("Accept", "text/event-stream")];
    let told = backend.send("POST", "/artifactory/api/docker/docker-v1/v1/migrate", &headers, body.as_bytes()).await;
    assert_eq!((told.status, told.header("Content-Type"), told.header("Content-Length")), (200, Some("text/event-stream"), None));
    let text = told.text();
    let (_, end) = text.rsplit_once("event: end\ndata: ").expect(&text);
    let end: serde_json::Value = serde_json::from_str(end.lines().next().unwrap()).unwrap();
    assert_eq!((&end["state"], &end["tags"]["migrated"]), (&json!("finished"), &json!(2)));
    let left = backend.rest("POST", "docker/docker-v1/v1/migrate?async=1", json!({ "targetRepo": "docker-v2" })).await;
    assert!(matches!(left.status, 200 | 202), "{}", left.text());
    let path = format!("/artifactory/api/docker/jobs/{}", left.json()["id"].as_str().unwrap());
    let followed = backend.send("GET", &path, &[("Accept", "text/event-stream")], b"").await;
    assert!(followed.text().contains("\"unchanged\":2"), "{}", followed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_reaches_as_far_as_its_callers_rights() {
    let backend = Backend::start().await;
    backend.push_chain().await;
    let bob = backend.add_bob("docker-v1", "jfrog/**", "r").await;
    let migrate = |body: &serde_json::Value| {
        let body = body.to_string();
        let (backend, bob) = (&backend, bob.as_str());
        async move {
            let headers = [("Content-Type", "application/json"), ("Authorization", bob)];
            backend.send("POST", "@docker-v1/v1/migrate", &headers, body.as_bytes()).await
        }
    };
    let all = json!({ "targetRepo": "docker-v2" });
    assert_eq!(backend.send("POST", "@docker-v1/v1/migrate", &[("Authorization", "")], all.to_string().as_bytes()).await.status, 401);
    // Who sees nothing of the target does not hear that it is there.
    assert_eq!(migrate(&all).await.status, 404);
    backend.permit("bobs-target", "docker-v2", "jfrog/**", "bob", "rw").await;
    let hidden = migrate(&json!({ "targetRepo": "docker-v2", "dockerRepository": "other/app" })).await;
    assert_eq!(hidden.status, 404, "{}", hidden.text());
    let done = migrate(&all).await;
    assert_eq!(done.json()["tags"], json!({ "migrated": 1, "unchanged": 0, "failed": 1 }));
    assert!(!done.text().contains("other/app"));
    // One's job is one's own, and the admin's.
    let path = format!("docker/jobs/{}", done.json()["id"].as_str().unwrap());
    assert_eq!(backend.rest("GET", &path, json!(null)).await.status, 200);
    assert_eq!(backend.as_user(&bob, "GET", &format!("/artifactory/api/{path}"), b"").await.status, 200);
    let admins = backend.rest("POST", "docker/docker-v1/v1/migrate", all).await;
    let path = format!("docker/jobs/{}", admins.json()["id"].as_str().unwrap());
    assert_eq!(backend.as_user(&bob, "GET", &format!("/artifactory/api/{path}"), b"").await.status, 404);
    assert_eq!(backend.rest("GET", &format!("docker/jobs/{}", "0".repeat(32)), json!(null)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_means_nothing_is_refused() {
    let backend = Backend::start().await;
    backend.push_chain().await;
    for (body, status) in [
        (json!({ "targetRepo": "nowhere" }), 404),
        (json!({ "targetRepo": "docker-v1" }), 400),
        (json!({}), 400),
        (json!({ "targetRepo": "docker-v2", "dockerRepo": "x" }), 400),
        (json!({ "targetRepo": "docker-v2", "dockerRepository": "nowhere/app" }), 404),
        (json!({ "targetRepo": "docker-v2", "dockerRepository": "jfrog/ubuntu", "tag": "14.04" }), 404),
        (json!({ "targetRepo": "docker-v2", "dockerRepository": "jfrog/ubuntu", "tag": "a b" }), 400),
    ] {
        let refused = backend.migrate(body.clone()).await;
        assert_eq!((refused.status, &refused.json()["errors"][0]["status"]), (status, &json!(status)), "{body}: {}", refused.text());
    }
    assert_eq!(backend.rest("POST", "docker/docker-v2/v1/migrate", json!({ "targetRepo": "docker-open" })).await.status, 400);
    assert_eq!(backend.rest("GET", "docker/docker-v1/v1/migrate", json!(null)).await.status, 405);
    assert_eq!(backend.rest("GET", "docker/jobs/x", json!(null)).await.status, 404);
}
