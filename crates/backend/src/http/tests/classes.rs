//! What went wrong in other registries, tried on this one (the table in `docs/security.md`).

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;

use super::access::basic;
use super::*;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Every other parameter that is a number.
const NUMBERS: [&str; 7] = [
    "/artifactory/api/audit?limit=",
    "/artifactory/api/audit?before=0-",
    "/artifactory/api/search/prop?docker.manifest=1&limit=",
    "/artifactory/api/search/artifact?name=app&limit=",
    "/artifactory/api/storage/docker-v2?list&depth=",
    "@docker-v1/v1/search?q=a&n=",
    "@docker-v1/v1/search?q=a&page=",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_number_in_a_query_is_cut_down_or_refused_and_reserves_nothing() {
    let backend = Backend::start().await;
    backend.push_image("docker-v2", "app", "1").await;
    // 2^63, 2^64 and more: whoever reserved room for so many entries would be gone.
    for huge in ["9223372036854775808", "18446744073709551616", "99999999999999999999999999"] {
        for path in ["@docker-v2/v2/_catalog?n=", "@docker-v2/v2/app/tags/list?n="] {
            assert_eq!(backend.get(&format!("{path}{huge}")).await.status, 200, "{path}{huge}");
        }
        for path in NUMBERS {
            let status = backend.get(&format!("{path}{huge}")).await.status;
            assert!(matches!(status, 200 | 400), "{path}{huge}: {status}");
        }
    }
    for nonsense in ["-1", "x", "1.5", "0x10", "%2B1", "+1", "1_0", "%D9%A1", ""] {
        for path in ["@docker-v2/v2/_catalog?n=", "@docker-v2/v2/app/tags/list?n="].into_iter().chain(NUMBERS) {
            assert_eq!(backend.get(&format!("{path}{nonsense}")).await.status, 400, "{path}{nonsense}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_one_kind_of_thing_for_good() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "app", b"{}").await;
    let descriptor = format!(r#"{{"mediaType":"x/y","digest":"{config}","size":2}}"#);
    let put = async |tag: &str, media_type: &str, body: &str| {
        backend.send("PUT", &format!("@docker-v2/v2/app/manifests/{tag}"), &[("Content-Type", media_type)], body.as_bytes()).await
    };
    // Read by one client as an image and by another as an index.
    let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[],"manifests":[]}}"#);
    let twice = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI}","config":{descriptor},"layers":[],"layers":[{descriptor}]}}"#);
    let says = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","config":{descriptor},"layers":[]}}"#);
    for media_type in [OCI, INDEX, MANIFEST] {
        for document in [&both, &twice, &says] {
            assert_eq!(put("1", media_type, document).await.refusal(), (400, "MANIFEST_INVALID".into()), "{media_type} {document}");
        }
    }
    // One that does not say what it is stays what it was pushed as first.
    let silent = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
    assert_eq!(put("1", OCI, &silent).await.status, 201);
    assert_eq!(put("1", INDEX, &silent).await.status, 400);
    assert_eq!(put("2", MANIFEST, &silent).await.status, 201);
    for reference in ["1", "2", &sha256(silent.as_bytes())] {
        let shown = backend.send("GET", &format!("@docker-v2/v2/app/manifests/{reference}"), &[("Accept", "*/*")], b"").await;
        assert_eq!((shown.status, shown.header("Content-Type")), (200, Some(OCI)), "{reference}");
        assert_eq!(shown.text(), silent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_refers_to_elsewhere_is_kept_and_never_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/layer", listener.local_addr().unwrap());
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "app", br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).await;
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": 42 },
        "layers": [{ "mediaType": foreign, "digest": sha256(b"elsewhere"), "size": 9, "urls": [url] }],
    })
    .to_string();
    assert_eq!(backend.put_manifest("docker-v2", "app", "1", &manifest).await.status, 201);
    assert_eq!(backend.get("@docker-v2/v2/app/manifests/1").await.text(), manifest);
    assert_eq!(backend.get(&format!("@docker-v2/v2/app/blobs/{}", sha256(b"elsewhere"))).await.status, 404);
    // Whatever else looks into it.
    backend.get("/artifactory/api/storage/docker-v2/app/1?properties").await;
    backend.get("/artifactory/api/docker/docker-v2/v2/info?image=app&tag=1").await;
    let promotion = json!({ "targetRepo": "docker-open", "dockerRepository": "app", "tag": "1", "copy": true });
    assert_eq!(backend.rest("POST", "docker/docker-v2/v2/promote", promotion).await.status, 200);
    assert_eq!(backend.get("@docker-open/v2/app/manifests/1").await.text(), manifest);
    // Nor what a request says of its sender.
    let claims = [("Referer", url.as_str()), ("Origin", url.as_str()), ("From", url.as_str())];
    backend.send("GET", "@docker-v2/v2/", &claims, b"").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody fetched it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_may_be_elsewhere_belongs_to_its_manifest_if_it_is_here() {
    let backend = Backend::start().await;
    let config = backend.push_blob("docker-v2", "app", b"{}").await;
    let (before, after) = (b"pushed before the manifest".as_slice(), b"pushed after it".as_slice());
    backend.push_blob("docker-v2", "app", before).await;
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let layer =
        |bytes: &[u8]| json!({ "mediaType": foreign, "digest": sha256(bytes), "size": bytes.len(), "urls": ["https://example.com/x"] });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": { "mediaType": "a/b", "digest": config, "size": 2 },
        "layers": [layer(before), layer(after), layer(b"never pushed")],
    })
    .to_string();
    assert_eq!(backend.put_manifest("docker-v2", "app", "1", &manifest).await.status, 201);
    backend.push_blob("docker-v2", "app", after).await;
    let promotion = json!({ "targetRepo": "docker-open", "dockerRepository": "app", "tag": "1", "copy": true });
    assert_eq!(backend.rest("POST", "docker/docker-v2/v2/promote", promotion).await.status, 200);
    for repository in ["docker-v2", "docker-open"] {
        for bytes in [before, after] {
            let path = format!("@{repository}/v2/app/blobs/{}", sha256(bytes));
            assert_eq!(backend.get(&path).await.body, bytes, "{path}");
            assert_eq!(backend.send("DELETE", &path, &[], b"").await.refusal(), (409, "DENIED".to_owned()), "{path}");
        }
        let tree = backend.get(&format!("/artifactory/api/storage/{repository}/app/1")).await.json();
        assert_eq!(tree["children"].as_array().unwrap().len(), 4, "{tree}");
        // Nothing has to be there: another way in brings nothing, and the manifest stays.
        assert_eq!(backend.get(&format!("@{repository}/v2/app/blobs/{}", sha256(b"never pushed"))).await.status, 404);
    }
    // The collector keeps it as long as its manifest, and no longer.
    let path = format!("@docker-v2/v2/app/blobs/{}", sha256(before));
    backend.collect().await;
    assert_eq!(backend.get(&path).await.body, before);
    let deleted = backend.send("DELETE", &format!("@docker-v2/v2/app/manifests/{}", sha256(manifest.as_bytes())), &[], b"").await;
    assert_eq!(deleted.status, 202, "{}", deleted.text());
    backend.collect().await;
    assert_eq!(backend.get(&path).await.status, 404);
    assert_eq!(backend.get(&path.replace("docker-v2", "docker-open")).await.body, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_is_refused_as_slowly_as_a_wrong_password() {
    let backend = Backend::start().await;
    backend.add_bob("docker-v2", "**", "r").await;
    // Each from an address of its own, or waiting would begin.
    let attempt = async |user: &str, address: u8| {
        let (login, address) = (basic(user, "a wrong horse"), format!("192.0.2.{address}"));
        let begun = Instant::now();
        let refused =
            backend.send("GET", "@docker-v2/v2/", &[("Authorization", login.as_str()), ("X-Forwarded-For", address.as_str())], b"").await;
        assert_eq!(refused.refusal(), (401, "UNAUTHORIZED".into()));
        (begun.elapsed(), refused.text())
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    // Of many one of each comes through undisturbed, whatever else runs on the machine.
    for address in 0..12 {
        known.push(attempt("bob", address).await);
        unknown.push(attempt("nobody", 100 + address).await);
    }
    let fastest = |times: &[(Duration, String)]| times.iter().map(|(time, _)| *time).min().unwrap();
    let (known_time, unknown_time) = (fastest(&known), fastest(&unknown));
    // Without a hash it would be a hundredth.
    assert!(unknown_time * 2 > known_time && known_time * 2 > unknown_time, "{known_time:?} and {unknown_time:?}");
    assert!(known.iter().zip(&unknown).all(|(known, unknown)| known.1 == unknown.1), "and in the same words");
}
