//! What buildx pushes beside images.

use serde_json::{Value, json};

use crate::{CONFIG, INDEX, LAYER, MANIFEST, Tool, descriptor, digest, registry, text};

/// What containerd says it takes.
pub const ACCEPT: (&str, &str) = (
    "Accept",
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*",
);

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// `--cache-to type=registry`. For years that was an index whose entries are layers and one configuration: blobs, where an
/// index has manifests. Since then it is an image manifest, if one asks for it.
#[test]
fn buildx_keeps_its_cache_in_an_index_of_blobs() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "buildkit/v0.12");
    let config = br#"{"layers":[{"blob":"sha256:x","parent":-1}],"records":[{"digest":"sha256:y"}]}"#;
    for (tag, index_type, layer_type) in [("oci", INDEX, LAYER), ("docker", DOCKER_LIST, DOCKER_LAYER)] {
        let layers: Vec<Vec<u8>> = (0..3).map(|i| format!("layer {i} of {tag}").into_bytes()).collect();
        let mut entries: Vec<Value> = layers.iter().map(|layer| annotated(layer_type, layer)).collect();
        for bytes in layers.iter().map(Vec::as_slice).chain([&config[..]]) {
            tool.push_blob("ci/cache", bytes);
        }
        entries.push(descriptor(CACHE_CONFIG, config));
        tool.ask(&format!("HEAD /v2/ci/cache/manifests/{tag} 404"), &[("Accept", &format!("{index_type}, */*"))], b"");
        let index = json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": entries });
        tool.push_manifest("ci/cache", tag, index_type, &index);
        // The next build reads it: the index, then its configuration and a layer, as the blobs that they are.
        let found = tool.ask(&format!("HEAD /v2/ci/cache/manifests/{tag} 200"), &[ACCEPT], b"");
        let by_digest = format!("GET /v2/ci/cache/manifests/{} 200", found.header("Docker-Content-Digest").unwrap());
        assert_eq!(tool.json(&by_digest, &[ACCEPT]), index);
        for bytes in [&config[..], &layers[0]] {
            assert_eq!(tool.ask(&format!("GET /v2/ci/cache/blobs/{} 200", digest(bytes)), &[("Accept", "*/*")], b"").bytes(), bytes);
        }
        // What is in the index is kept for it.
        tool.ask(&format!("DELETE /v2/ci/cache/blobs/{} 409", digest(&layers[1])), &[], b"");
        tool.ask(&format!("DELETE /v2/ci/cache/manifests/{tag} 202"), &[], b"");
    }
    let (layer, config) = (b"a layer of a cache", br#"{"layers":[],"records":[]}"#);
    tool.push_blob("ci/cache", layer);
    tool.push_blob("ci/cache", config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CACHE_CONFIG, config), "layers": [annotated(LAYER, layer)],
    });
    tool.push_manifest("ci/cache", "image", MANIFEST, &manifest);
    assert_eq!(tool.json("GET /v2/ci/cache/manifests/image 200", &[ACCEPT]), manifest);
    // An entry that says it is a manifest must be one.
    let missing = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, layer)] }).to_string();
    let refused = tool.ask("PUT /v2/ci/cache/manifests/x 400", &[("Content-Type", INDEX)], missing.as_bytes()).json();
    assert_eq!(refused["errors"][0]["code"], "MANIFEST_BLOB_UNKNOWN");
}

fn annotated(media_type: &str, layer: &[u8]) -> Value {
    let mut layer_descriptor = descriptor(media_type, layer);
    layer_descriptor["annotations"] =
        json!({ "buildkit/createdat": "2023-05-17T22:25:52.396770851+02:00", "containerd.io/uncompressed": digest(layer) });
    layer_descriptor
}

/// An image with its provenance: a manifest for no platform beside the image in one index.
#[test]
fn buildx_pushes_provenance_beside_an_image() {
    let registry = registry();
    const STATEMENT: &str = "application/vnd.in-toto+json";
    let tool = Tool::new(&registry.client(registry.first), "buildkit/v0.12");
    let mut image = tool.push_image("team/attested", "", b"a layer with provenance");
    let statement = br#"{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2"}"#;
    let config = json!({ "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest(statement)] } });
    let config = config.to_string();
    tool.push_blob("team/attested", statement);
    tool.push_blob("team/attested", config.as_bytes());
    let mut layer = descriptor(STATEMENT, statement);
    layer["annotations"] = json!({ "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" });
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config.as_bytes()), "layers": [layer] });
    let mut attestation = descriptor(MANIFEST, manifest.to_string().as_bytes());
    tool.push_manifest("team/attested", text(&attestation["digest"]), MANIFEST, &manifest);
    attestation["annotations"] =
        json!({ "vnd.docker.reference.digest": image["digest"], "vnd.docker.reference.type": "attestation-manifest" });
    attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
    image["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image, attestation] });
    tool.push_manifest("team/attested", "1", INDEX, &index);
    assert_eq!(tool.json("GET /v2/team/attested/manifests/1 200", &[ACCEPT]), index);
    // `docker buildx imagetools` moves an index under a new tag and looks at what is in it.
    tool.push_manifest("team/attested", "2", INDEX, &index);
    tool.ask(&format!("GET /v2/team/attested/manifests/{} 200", text(&attestation["digest"])), &[ACCEPT], b"");
}
