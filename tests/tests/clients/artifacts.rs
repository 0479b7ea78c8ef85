//! Signatures, attached files and charts.

use serde_json::{Value, json};

use crate::{CONFIG, INDEX, MANIFEST, Tool, descriptor, digest, registry, text};

/// Two braces: what an artifact has in place of a configuration.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A tag made of a digest: `sha256-…`.
fn tag_of(image: &Value) -> String {
    text(&image["digest"]).replace(':', "-")
}

/// `cosign sign`: under a tag that is made of the image's digest, and, if told so, as a referrer.
#[test]
fn cosign_signs_under_a_tag_and_as_a_referrer() {
    let registry = registry();
    const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
    let tool = Tool::new(&registry.client(registry.first), "cosign/v2.4.1 (linux; amd64) go-containerregistry/v0.20.2");
    let image = tool.push_image("team/signed", "1", b"a signed layer");
    let accept = [(
        "Accept",
        "application/vnd.docker.distribution.manifest.v1+json,application/vnd.docker.distribution.manifest.v1+prettyjws,application/vnd.docker.distribution.manifest.v2+json,application/vnd.oci.image.manifest.v1+json,application/vnd.docker.distribution.manifest.list.v2+json,application/vnd.oci.image.index.v1+json",
    )];
    let signed = tool.ask("HEAD /v2/team/signed/manifests/1 200", &accept, b"");
    assert_eq!(signed.header("Docker-Content-Digest"), Some(text(&image["digest"])));
    let tag = tag_of(&image) + ".sig";
    let absent = tool.json(&format!("GET /v2/team/signed/manifests/{tag} 404"), &accept);
    assert_eq!(absent["errors"][0]["code"], "MANIFEST_UNKNOWN");
    let payload = br#"{"critical":{"type":"cosign container image signature"},"optional":null}"#;
    let config = br#"{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"created":"0001-01-01T00:00:00Z"}],"os":"","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#;
    tool.stream_blob("team/signed", payload);
    tool.stream_blob("team/signed", config);
    let mut layer = descriptor(SIMPLE, payload);
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": "MEUCIQ==", "dev.sigstore.cosign/bundle": "{}" });
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, config), "layers": [layer] });
    tool.ask(&format!("HEAD /v2/team/signed/manifests/{tag} 404"), &accept, b"");
    tool.push_manifest("team/signed", &tag, MANIFEST, &signature);
    // `cosign verify`.
    assert_eq!(tool.json(&format!("GET /v2/team/signed/manifests/{tag} 200"), &accept), signature);
    assert_eq!(tool.ask(&format!("GET /v2/team/signed/blobs/{} 200", digest(payload)), &[], b"").bytes(), payload);
    // `--registry-referrers-mode=oci-1-1`.
    let referrers = format!("/v2/team/signed/referrers/{}", text(&image["digest"]));
    let filter = format!("{referrers}?artifactType={}", ARTIFACT.replace('/', "%2F").replace('+', "%2B"));
    assert_eq!(tool.json(&format!("GET {filter} 200"), &[])["manifests"], json!([]));
    let mut referrer = signature;
    referrer["config"]["mediaType"] = ARTIFACT.into();
    referrer["subject"] = image;
    let own = digest(referrer.to_string().as_bytes());
    let pushed = tool.push_manifest("team/signed", &own, MANIFEST, &referrer);
    assert_eq!(pushed.header("OCI-Subject"), Some(text(&referrer["subject"]["digest"])));
    assert_eq!(tool.json(&format!("GET {filter} 200"), &[])["manifests"][0]["digest"], own);
}

/// The artifact of one file that oras pushes.
fn attachment(tool: &Tool, image: &str, kind: &str, subject: Option<&Value>) -> Value {
    let file = format!("{kind} of {image}").into_bytes();
    tool.push_blob(image, &file);
    tool.push_blob(image, b"{}");
    let mut empty = descriptor(EMPTY, b"{}");
    empty["data"] = "e30=".into();
    let mut layer = descriptor("application/vnd.oci.image.layer.v1.tar", &file);
    layer["annotations"] = json!({ "org.opencontainers.image.title": "file.txt" });
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": empty, "layers": [layer],
        "annotations": { "org.opencontainers.image.created": "2024-09-14T12:00:00Z" },
    });
    if let Some(subject) = subject {
        manifest["subject"] = subject.clone();
    }
    manifest
}

/// `oras attach` and `oras discover`.
#[test]
fn oras_attaches_and_discovers() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "oras/1.2.0");
    let image = tool.push_image("team/attached", "1", b"a layer with attachments");
    // Before it relies on referrers it asks for those of a digest that nothing has.
    let zero = format!("/v2/team/attached/referrers/sha256:{}", "0".repeat(64));
    assert_eq!(tool.ask(&format!("GET {zero} 200"), &[], b"").header("Content-Type"), Some(INDEX));
    let mut attached = Vec::new();
    for kind in ["sbom/example", "signature/example"] {
        let manifest = attachment(&tool, "team/attached", kind, Some(&image));
        let own = digest(manifest.to_string().as_bytes());
        tool.ask(&format!("HEAD /v2/team/attached/manifests/{own} 404"), &[("Accept", MANIFEST)], b"");
        let pushed = tool.push_manifest("team/attached", &own, MANIFEST, &manifest);
        assert_eq!(pushed.header("OCI-Subject"), Some(text(&image["digest"])));
        attached.push((kind, own));
    }
    let referrers = format!("/v2/team/attached/referrers/{}", text(&image["digest"]));
    assert_eq!(tool.json(&format!("GET {referrers} 200"), &[])["manifests"].as_array().unwrap().len(), 2);
    for (kind, own) in &attached {
        let filtered = tool.ask(&format!("GET {referrers}?artifactType={} 200", kind.replace('/', "%2F")), &[], b"");
        assert_eq!(filtered.header("OCI-Filters-Applied"), Some("artifactType"));
        let found = filtered.json();
        assert_eq!((found["manifests"].as_array().unwrap().len(), text(&found["manifests"][0]["digest"])), (1, own.as_str()));
        assert_eq!(found["manifests"][0]["annotations"]["org.opencontainers.image.created"], "2024-09-14T12:00:00Z");
    }
    // `oras manifest delete` of an attachment takes it out of the list.
    tool.ask(&format!("DELETE /v2/team/attached/manifests/{} 202", attached[0].1), &[], b"");
    assert_eq!(tool.json(&format!("GET {referrers} 200"), &[])["manifests"].as_array().unwrap().len(), 1);
    // The manifest of its own that artifacts had for a while is refused, and oras goes on with an image's.
    let old =
        json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "sbom/example", "blobs": [] }).to_string();
    let old_type = [("Content-Type", "application/vnd.oci.artifact.manifest.v1+json")];
    assert_eq!(
        tool.ask("PUT /v2/team/attached/manifests/old 400", &old_type, old.as_bytes()).json()["errors"][0]["code"],
        "MANIFEST_INVALID"
    );
}

/// The same by a client that knows no referrers: it keeps an index under a tag that is made of the subject's digest.
#[test]
fn a_client_without_referrers_keeps_its_own_list() {
    let registry = registry();
    let tool = Tool::new(&registry.client(registry.first), "oras-go");
    let image = tool.push_image("team/fallback", "1", b"a layer with a list beside it");
    let tag = tag_of(&image);
    let path = format!("/v2/team/fallback/manifests/{tag}");
    tool.ask(&format!("GET {path} 404"), &[("Accept", INDEX)], b"");
    let mut entries: Vec<Value> = Vec::new();
    let mut before = None;
    for kind in ["sbom/example", "signature/example"] {
        let manifest = attachment(&tool, "team/fallback", kind, Some(&image));
        let mut entry = descriptor(MANIFEST, manifest.to_string().as_bytes());
        tool.push_manifest("team/fallback", text(&entry["digest"]), MANIFEST, &manifest);
        entry["artifactType"] = kind.into();
        entry["annotations"] = manifest["annotations"].clone();
        entries.push(entry);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        tool.push_manifest("team/fallback", &tag, INDEX, &index);
        // The list that it replaced is deleted by its digest.
        if let Some(before) = before.replace(digest(index.to_string().as_bytes())) {
            tool.ask(&format!("DELETE /v2/team/fallback/manifests/{before} 202"), &[], b"");
        }
        assert_eq!(tool.json(&format!("GET {path} 200"), &[("Accept", INDEX)]), index);
    }
    // Whoever does know them finds the same.
    let found = tool.json(&format!("GET /v2/team/fallback/referrers/{} 200", text(&image["digest"])), &[]);
    let by_digest = |list: &[Value]| {
        list.iter().map(|one| (text(&one["digest"]).to_owned(), one.clone())).collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(by_digest(found["manifests"].as_array().unwrap()), by_digest(&entries));
}

/// `helm push` and `helm pull`: versions with a plus have an underscore in their tag.
#[test]
fn helm_pushes_and_pulls_charts() {
    let registry = registry();
    const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    const PROVENANCE: &str = "application/vnd.cncf.helm.chart.provenance.v1.prov";
    const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
    let tool = Tool::new(&registry.client(registry.first), "Helm/3.16.1");
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json, */*")];
    for version in ["0.1.0", "0.1.0+build.5"] {
        let chart = format!("the chart {version}").into_bytes();
        let config = json!({ "name": "chart", "version": version, "apiVersion": "v2" }).to_string();
        let provenance = b"-----BEGIN PGP SIGNED MESSAGE-----";
        for bytes in [&chart[..], config.as_bytes(), provenance] {
            tool.push_blob("charts/chart", bytes);
        }
        let tag = version.replace('+', "_");
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(HELM_CONFIG, config.as_bytes()),
            "layers": [descriptor(CHART, &chart), descriptor(PROVENANCE, provenance)],
            "annotations": { "org.opencontainers.image.version": version },
        });
        tool.ask(&format!("HEAD /v2/charts/chart/manifests/{tag} 404"), &accept, b"");
        tool.push_manifest("charts/chart", &tag, MANIFEST, &manifest);
        let found = tool.ask(&format!("HEAD /v2/charts/chart/manifests/{tag} 200"), &accept, b"");
        assert_eq!(found.header("Content-Type"), Some(MANIFEST));
        assert_eq!(
            tool.json(&format!("GET /v2/charts/chart/manifests/{} 200", found.header("Docker-Content-Digest").unwrap()), &accept),
            manifest
        );
        assert_eq!(tool.ask(&format!("GET /v2/charts/chart/blobs/{} 200", digest(&chart)), &[], b"").bytes(), chart);
    }
    // Which versions there are.
    assert_eq!(tool.json("GET /v2/charts/chart/tags/list 200", &[])["tags"], json!(["0.1.0", "0.1.0_build.5"]));
}
