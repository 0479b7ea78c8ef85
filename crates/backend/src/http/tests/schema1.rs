//! Schema 1 over V2: what docker 1.6 to 1.9 push and pull.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_1_6: (&str, &str) = ("User-Agent", "docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.13.0 os/linux arch/amd64");
pub(super) const EMPTY_LAYER: &str = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

/// A manifest as docker 1.6 makes it of a chain of two, top first.
pub(super) fn payload(name: &str, tag: &str, layers: [&str; 2]) -> String {
    let json = |id: &str, rest: &str| json!({ "v1Compatibility": format!(r#"{{"id":"{id}","created":"2015-04-01T00:00:00Z"{rest}}}"#) });
    let root = "1".repeat(64);
    let top = format!(r#","parent":"{root}","author":"A","architecture":"amd64","os":"linux","config":{{"Cmd":["sh"]}}"#);
    let history = [json(&"2".repeat(64), &top), json(&root, "")];
    let layers = layers.map(|layer| json!({ "blobSum": layer }));
    let text = serde_json::to_string_pretty(&json!({
        "schemaVersion": 1, "name": name, "tag": tag, "architecture": "amd64", "fsLayers": layers, "history": history,
    }));
    text.unwrap()
}

/// Signs as libtrust does, with a key of this test's own.
pub(super) fn signed(payload: &str) -> String {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let front = payload.strip_suffix("\n}").unwrap();
    let protected = json!({ "formatLength": front.len(), "formatTail": encode(b"\n}"), "time": "2015-04-01T00:00:00Z" });
    let protected = encode(protected.to_string().as_bytes());
    let message = format!("{protected}.{}", encode(payload.as_bytes()));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) });
    let signatures = json!([{ "header": { "alg": "ES256", "jwk": jwk }, "signature": encode(signature.as_ref()), "protected": protected }]);
    format!("{front},\n   \"signatures\": {signatures}\n}}")
}

/// Takes a signed manifest apart as a client does, and returns what was signed if the signature is good.
fn verified(manifest: &[u8]) -> Vec<u8> {
    let document: Value = serde_json::from_slice(manifest).unwrap();
    let decode = |value: &Value| URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
    let [signature] = document["signatures"].as_array().unwrap().as_slice() else { panic!("one signature") };
    let protected: Value = serde_json::from_slice(&decode(&signature["protected"])).unwrap();
    let length = protected["formatLength"].as_u64().unwrap() as usize;
    let payload = [&manifest[..length], &decode(&protected["formatTail"])].concat();
    let jwk = &signature["header"]["jwk"];
    let point = [vec![4], decode(&jwk["x"]), decode(&jwk["y"])].concat();
    let message = format!("{}.{}", signature["protected"].as_str().unwrap(), URL_SAFE_NO_PAD.encode(&payload));
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(message.as_bytes(), &decode(&signature["signature"])).unwrap();
    payload
}

impl Backend {
    /// As docker 1.6 puts it: without a type.
    pub(super) async fn put_schema1(&self, path: &str, manifest: &str) -> Reply {
        self.send("PUT", &format!("@docker-v2/v2/{path}"), &[DOCKER_1_6], manifest.as_bytes()).await
    }

    /// Pushes an image of today with two layers and something in between that has none.
    async fn push_schema2(&self, image: &str, tag: &str) -> Vec<String> {
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [sha256(b"one"), sha256(b"two")] },
            "history": [{ "created_by": "ADD one" }, { "created_by": "ENV a=b", "empty_layer": true }, { "created_by": "ADD two" }],
        });
        let manifest = self.schema2(image, &config, &["docker.image.rootfs.diff.tar.gzip"; 2]).await;
        let pushed = self.put_manifest("docker-v2", image, tag, &manifest).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
        vec![sha256(&[0; 50]), sha256(&[1; 50])]
    }

    /// A manifest with layers of these types, whose blobs are there.
    async fn schema2(&self, image: &str, config: &Value, types: &[&str]) -> String {
        let config_digest = self.push_blob("docker-v2", image, config.to_string().as_bytes()).await;
        let mut layers = Vec::new();
        for (number, media_type) in types.iter().enumerate() {
            let digest = self.push_blob("docker-v2", image, &[number as u8; 50]).await;
            layers.push(json!({ "mediaType": format!("application/vnd.{media_type}"), "size": 50, "digest": digest }));
        }
        let config = json!({ "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.to_string().len(), "digest": config_digest });
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }).to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_1_6_pushes_it_gets_back_byte_for_byte() {
    let mut backend = Backend::start().await;
    let layer = backend.push_blob("docker-v2", "team/app", &[7; 100]).await;
    let payload = payload("team/app", "1.0", [EMPTY_LAYER, &layer]);
    let manifest = signed(&payload);
    let digest = sha256(payload.as_bytes());
    // The empty layer was never pushed: a client that asks hears that it is there.
    let empty = backend.send("HEAD", &format!("@docker-v2/v2/team/app/blobs/{EMPTY_LAYER}"), &[DOCKER_1_6], b"").await;
    assert_eq!((empty.status, empty.header("Content-Length")), (200, Some("32")));
    let pushed = backend.put_schema1("team/app/manifests/1.0", &manifest).await;
    assert_eq!((pushed.status, pushed.header("Docker-Content-Digest")), (201, Some(digest.as_str())), "{}", pushed.text());
    assert!(pushed.header("Location").unwrap().ends_with(&digest));
    backend.restart().await;
    for reference in ["1.0", &digest] {
        // Whatever the client says that it takes: there is only this.
        for headers in [&[DOCKER_1_6][..], &[("Accept", MANIFEST)], &[("Accept", UNSIGNED)]] {
            let path = format!("@docker-v2/v2/team/app/manifests/{reference}");
            let pulled = backend.send("GET", &path, headers, b"").await;
            assert_eq!((pulled.status, pulled.text()), (200, manifest.clone()), "{reference}");
            assert_eq!((pulled.header("Content-Type"), pulled.header("Docker-Content-Digest")), (Some(SIGNED), Some(digest.as_str())));
            let seen = [("If-None-Match", pulled.header("ETag").unwrap())];
            assert_eq!(backend.send("GET", &path, &seen, b"").await.status, 304);
        }
    }
    let empty = backend.get(&format!("@docker-v2/v2/team/app/blobs/{EMPTY_LAYER}")).await;
    assert_eq!((empty.status, sha256(&empty.body).as_str()), (200, EMPTY_LAYER));
    // It is kept as anything else is.
    assert_eq!(backend.send("DELETE", &format!("@docker-v2/v2/team/app/blobs/{layer}"), &[], b"").await.refusal().0, 409);
    let info = backend.get("/artifactory/api/docker/docker-v2/v2/info?image=team/app&tag=1.0").await.json();
    assert_eq!((&info["id"], &info["author"], &info["command"]), (&json!("2".repeat(64)), &json!("A"), &json!(["sh"])));
    assert_eq!((&info["size"], &info["layers"][0]), (&json!(132), &json!({ "digest": EMPTY_LAYER, "size": 32 })));
    let file = backend.get("/artifactory/api/storage/docker-v2/team/app/1.0/manifest.json").await.json();
    assert_eq!(file["checksums"]["sha256"], sha256(manifest.as_bytes())["sha256:".len()..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_document_with_other_signatures_is_the_same_manifest() {
    let backend = Backend::start().await;
    let layer = backend.push_blob("docker-v2", "app", &[7; 100]).await;
    let payload = payload("app", "1", [&layer, &layer]);
    let (first, second) = (signed(&payload), signed(&payload));
    let put = async |manifest: &str| backend.put_schema1("app/manifests/1", manifest).await.status;
    let get = async || backend.get("@docker-v2/v2/app/manifests/1").await;
    assert_eq!(put(&payload).await, 201);
    assert_eq!((get().await.header("Content-Type"), get().await.text()), (Some(UNSIGNED), payload.clone()));
    // One with signatures takes the place of one without, and nothing the place of that.
    for manifest in [&first, &second, &payload] {
        assert_eq!(put(manifest).await, 201);
        assert_eq!((get().await.header("Content-Type"), get().await.text()), (Some(SIGNED), first.clone()));
    }
    let by_digest = format!("app/manifests/{}", sha256(payload.as_bytes()));
    assert_eq!(backend.put_schema1(&by_digest, &second).await.status, 201);
    let of_bytes = format!("app/manifests/{}", sha256(second.as_bytes()));
    assert_eq!(backend.put_schema1(&of_bytes, &second).await.refusal(), (400, "DIGEST_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_1_that_is_not_what_it_is_pushed_as_is_refused() {
    let backend = Backend::start().await;
    let layer = backend.push_blob("docker-v2", "library/app", &[7; 100]).await;
    let unknown = sha256(b"nowhere");
    let good = signed(&payload("app", "1", [EMPTY_LAYER, &layer]));
    for (manifest, path, expected) in [
        (signed(&payload("other", "1", [EMPTY_LAYER, &layer])), "1", "MANIFEST_INVALID"),
        (signed(&payload("app", "2", [EMPTY_LAYER, &layer])), "1", "MANIFEST_INVALID"),
        (good.replace("amd64", "arm64"), "1", "MANIFEST_INVALID"),
        (signed(&payload("app", "1", [&unknown, &layer])), "1", "MANIFEST_BLOB_UNKNOWN"),
    ] {
        let refused = backend.put_schema1(&format!("library/app/manifests/{path}"), &manifest).await.refusal();
        assert_eq!(refused, (400, expected.to_owned()), "{manifest}");
    }
    // Docker leaves out `library/`.
    assert_eq!(backend.put_schema1("library/app/manifests/1", &good).await.status, 201);
    let block = json!({ "blockPushingSchema1": true });
    assert_eq!(backend.rest("POST", "repositories/docker-v2", block).await.status, 200);
    let refused = backend.put_schema1("library/app/manifests/1", &good).await;
    assert_eq!(refused.refusal(), (400, "MANIFEST_INVALID".into()));
    assert!(refused.text().contains("does not take schema 1"), "{}", refused.text());
    // What is there stays, and newer images go in.
    assert_eq!(backend.send("GET", "@docker-v2/v2/library/app/manifests/1", &[DOCKER_1_6], b"").await.text(), good);
    backend.push_image("docker-v2", "library/app", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_docker_gets_a_new_image_in_the_form_it_understands() {
    let mut backend = Backend::start().await;
    let layers = backend.push_schema2("team/app", "1").await;
    let path = "@docker-v2/v2/team/app/manifests/1";
    let pulled = backend.send("GET", path, &[DOCKER_1_6], b"").await;
    assert_eq!((pulled.status, pulled.header("Content-Type"), pulled.header("Vary")), (200, Some(SIGNED), Some("Accept, User-Agent")));
    let payload = verified(&pulled.body);
    let digest = sha256(&payload);
    assert_eq!(pulled.header("Docker-Content-Digest"), Some(digest.as_str()));
    let manifest: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!((&manifest["name"], &manifest["tag"]), (&json!("team/app"), &json!("1")));
    let sums: Vec<&str> = manifest["fsLayers"].as_array().unwrap().iter().map(|layer| layer["blobSum"].as_str().unwrap()).collect();
    assert_eq!(sums, [&layers[1], EMPTY_LAYER, &layers[0]]);
    // It pulls every layer it was told of, one of which nobody ever pushed, with a HEAD first as docker 1.8 does.
    for (sum, size) in sums.iter().zip(["50", "32", "50"]) {
        for method in ["HEAD", "GET"] {
            let blob = backend.send(method, &format!("@docker-v2/v2/team/app/blobs/{sum}"), &[DOCKER_1_6], b"").await;
            assert_eq!((blob.status, blob.header("Content-Length")), (200, Some(size)), "{sum}");
            assert!(method == "HEAD" || sha256(&blob.body) == *sum);
        }
    }
    let head = backend.send("HEAD", path, &[DOCKER_1_6], b"").await;
    for name in ["Content-Length", "Content-Type", "Docker-Content-Digest", "ETag", "Vary"] {
        assert_eq!(head.header(name), pulled.header(name), "{name}");
    }
    let etag = pulled.header("ETag").unwrap().to_owned();
    assert_eq!(etag, format!("W/\"{digest}\""));
    assert_eq!(backend.send("GET", path, &[DOCKER_1_6, ("If-None-Match", &etag)], b"").await.status, 304);
    // The same is signed with the same key after a restart.
    backend.restart().await;
    let again = backend.send("GET", path, &[("Accept", SIGNED)], b"").await;
    assert_eq!((verified(&again.body), again.body.len()), (payload, pulled.body.len()));
    let key = |reply: &Reply| reply.json()["signatures"][0]["header"].clone();
    let protected = |reply: &Reply| reply.json()["signatures"][0]["protected"].clone();
    assert_eq!((key(&again), protected(&again)), (key(&pulled), protected(&pulled)));
    // Everybody else gets what is stored, and under a digest there is only that.
    let stored = backend.get(path).await;
    assert_eq!((stored.header("Content-Type"), stored.header("Vary")), (Some(MANIFEST), Some("Accept, User-Agent")));
    let by_digest = format!("@docker-v2/v2/team/app/manifests/{}", stored.header("Docker-Content-Digest").unwrap());
    assert_eq!(backend.send("GET", &by_digest, &[DOCKER_1_6], b"").await.text(), stored.text());
    let both = format!("{SIGNED}, {MANIFEST}");
    assert_eq!(backend.send("GET", path, &[("Accept", &both)], b"").await.text(), stored.text());
    let generated = format!("@docker-v2/v2/team/app/manifests/{digest}");
    assert_eq!(backend.send("GET", &generated, &[DOCKER_1_6], b"").await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_layer_is_in_every_image_and_only_for_those_who_may_read_it() {
    let backend = Backend::start().await;
    backend.push_schema2("team/app", "1").await;
    let blob = |image: &str| format!("@docker-v2/v2/{image}/blobs/{EMPTY_LAYER}");
    assert_eq!(backend.send("GET", &blob("team/app"), &[("Authorization", "")], b"").await.status, 401);
    assert_eq!(backend.get(&blob("team/nowhere")).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(backend.get("@docker-v1/v2/team/app/blobs/x").await.status, 404);
    assert_eq!(backend.send("GET", "@docker-v2/v2/team/app/manifests/1", &[DOCKER_1_6, ("Authorization", "")], b"").await.status, 401);
    // Of a range it is a part like any other's.
    let part = backend.send("GET", &blob("team/app"), &[("Range", "bytes=30-")], b"").await;
    assert_eq!((part.status, part.header("Content-Range"), part.body.len()), (206, Some("bytes 30-31/32"), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_docker_is_told_why_it_can_not_have_an_image() {
    let backend = Backend::start().await;
    let config = json!({ "rootfs": { "diff_ids": [sha256(b"x")] }, "history": [{}] });
    let gzip = "docker.image.rootfs.diff.tar.gzip";
    let zstd = backend.schema2("app", &config, &["oci.image.layer.v1.tar+zstd"]).await.replace(MANIFEST, OCI);
    let no_image = backend.schema2("app", &config, &[gzip]).await.replace("container.image.v1+json", "artifact+json");
    let odd = backend.schema2("app", &config, &[gzip, gzip]).await;
    let good = backend.schema2("app", &config, &[gzip]).await;
    for (tag, manifest) in [("zstd", &zstd), ("no-image", &no_image), ("odd", &odd), ("good", &good)] {
        let media_type = if manifest.contains(OCI) { OCI } else { MANIFEST };
        let path = format!("@docker-v2/v2/app/manifests/{tag}");
        assert_eq!(backend.send("PUT", &path, &[("Content-Type", media_type)], manifest.as_bytes()).await.status, 201, "{tag}");
    }
    // An index leads to the image for the platform that such a client has.
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    for (tag, architecture) in [("many", "amd64"), ("arm", "arm64")] {
        let entry = |architecture: &str, manifest: &str| {
            json!({ "mediaType": MANIFEST, "size": manifest.len(), "digest": sha256(manifest.as_bytes()),
                    "platform": { "os": "linux", "architecture": architecture } })
        };
        let index = json!({ "schemaVersion": 2, "mediaType": list, "manifests": [entry("s390x", &odd), entry(architecture, &good)] });
        let path = format!("@docker-v2/v2/app/manifests/{tag}");
        let pushed = backend.send("PUT", &path, &[("Content-Type", list)], index.to_string().as_bytes()).await;
        assert_eq!(pushed.status, 201, "{}", pushed.text());
    }
    let pull = async |tag: &str| backend.send("GET", &format!("@docker-v2/v2/app/manifests/{tag}"), &[DOCKER_1_6], b"").await;
    for (tag, why) in [
        ("zstd", "packed with zstd"),
        ("no-image", "no image that docker could run"),
        ("odd", "other layers than its manifest"),
        ("arm", "not for linux/amd64"),
        ("nowhere", "not known"),
    ] {
        let refused = pull(tag).await;
        assert_eq!(refused.refusal(), (404, "MANIFEST_UNKNOWN".into()), "{tag}");
        assert!(refused.text().contains(why), "{tag}: {}", refused.text());
    }
    let of = |reply: Reply| serde_json::from_slice::<Value>(&verified(&reply.body)).unwrap()["fsLayers"].clone();
    assert_eq!(of(pull("many").await), of(pull("good").await));
}
