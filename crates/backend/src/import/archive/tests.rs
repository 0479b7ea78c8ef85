use std::io::Read as _;

use berth_names::{Reference, Tag};
use futures::TryStreamExt as _;
use serde_json::{Value, json};

use super::super::fixture::{Fixture, Outcome, fixture, gzip, id, layer, sha256};
use super::super::tar::tests::{header, member};
use super::super::unpack::tests::{bzip2, xz, zstd};
use super::super::{Report, fixture};
use super::*;

const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A file of an archive, or a link.
enum Part {
    File(String, Vec<u8>),
    Link(String, String),
}

fn file(name: impl Into<String>, content: impl AsRef<[u8]>) -> Part {
    Part::File(name.into(), content.as_ref().to_vec())
}

fn link(name: impl Into<String>, target: impl Into<String>) -> Part {
    Part::Link(name.into(), target.into())
}

fn write(fixture: &Fixture, parts: &[Part]) -> std::path::PathBuf {
    let members = parts.iter().map(|part| match part {
        Part::File(name, content) => member(name, b'0', content),
        Part::Link(name, target) => header(name, b'2', 0, target),
    });
    let path = fixture.path("saved.tar");
    std::fs::write(&path, [members.collect::<Vec<_>>().concat(), vec![0; 1024]].concat()).unwrap();
    path
}

async fn run(fixture: &Fixture, repository: &str, parts: &[Part], name: Option<&str>) -> Outcome {
    let path = write(fixture, parts);
    fixture.run(repository, async |import| super::import(import, &path, name).await).await
}

fn report(tags: u64, imported: u64, present: u64, problems: u64) -> (bool, Report) {
    (problems == 0, Report { tags, imported, present, problems })
}

/// Manifest and layers, unpacked, of a tag of the V2 repository.
async fn pull(fixture: &Fixture, image: &str, tag: &str) -> Option<(Value, Vec<Vec<u8>>)> {
    let (_stores, registry) = fixture.open();
    let (key, image): (_, ImageName) = ("new".parse().unwrap(), image.parse().unwrap());
    let found = registry.manifest(&key, &image, &Reference::Tag(tag.parse::<Tag>().unwrap())).await.ok()?;
    let manifest: Value = serde_json::from_slice(&found.bytes).unwrap();
    let mut layers = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = registry.open_blob(&key, &image, &layer["digest"].as_str().unwrap().parse().unwrap()).await.unwrap();
        assert_eq!(json!(blob.size), layer["size"]);
        let packed: Vec<Bytes> = blob.read(0..blob.size).try_collect().await.unwrap();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.concat().as_slice()).read_to_end(&mut unpacked).unwrap();
        layers.push(unpacked);
    }
    Some((manifest, layers))
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
    json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string()
}

/// What docker 1.10 to 24 saves of two images with one layer in common: old files and new ones.
fn saved_by_docker(base: &[u8], top: &[u8]) -> Vec<Part> {
    let (first, second) = (config(&[base, top]), config(&[base, base]));
    let list = json!([
        { "Config": "first.json", "RepoTags": ["localhost:5000/team/app:1", "team/app:latest", "other:1"],
          "Layers": [format!("{}/layer.tar", id('1')), format!("{}/layer.tar", id('2'))] },
        { "Config": "second.json", "RepoTags": ["r.example/team/twice:1"],
          "Layers": [format!("{}/layer.tar", id('3')), format!("{}/layer.tar", id('1'))] },
    ]);
    let repositories =
        json!({ "localhost:5000/team/app": { "1": id('2') }, "other": { "1": id('2') }, "r.example/team/twice": { "1": id('4') } });
    let mut parts = vec![
        file(format!("{}/layer.tar", id('1')), base),
        file(format!("{}/layer.tar", id('2')), top),
        // Docker links what it has written already.
        link(format!("{}/layer.tar", id('3')), format!("../{}/layer.tar", id('1'))),
        link(format!("{}/layer.tar", id('4')), format!("../{}/layer.tar", id('1'))),
        file("first.json", &first),
        file("second.json", &second),
        file("manifest.json", list.to_string()),
        file("repositories", repositories.to_string()),
    ];
    for (digit, parent) in [('1', None), ('2', Some('1')), ('3', None), ('4', Some('3'))] {
        parts.push(file(format!("{}/VERSION", id(digit)), "1.0"));
        parts.push(file(format!("{}/json", id(digit)), fixture::json(&id(digit), parent.map(id).as_deref())));
    }
    parts
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_saved_becomes_manifests_with_packed_layers() {
    let fixture = fixture("");
    let (base, top) = (layer(1, 400_000), layer(2, 1000));
    let parts = saved_by_docker(&base, &top);
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(4, 4, 0, 0));
    for (image, tag) in [("team/app", "1"), ("team/app", "latest"), ("other", "1")] {
        let (manifest, layers) = pull(&fixture, image, tag).await.unwrap();
        assert_eq!(manifest["config"]["digest"], sha256(config(&[&base, &top]).as_bytes()));
        assert_eq!(manifest["layers"][0]["mediaType"], LAYER);
        assert!(layers == [base.clone(), top.clone()]);
    }
    assert!(pull(&fixture, "team/twice", "1").await.unwrap().1 == [base.clone(), base.clone()]);
    // Two layers and two configs, each once.
    let (blobs, bytes) = fixture.check().await;
    assert_eq!(blobs, 4);
    // Once more: nothing is read; with the tags gone, the same bytes come about again and are not stored twice.
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(4, 0, 4, 0));
    {
        let (_stores, registry) = fixture.open();
        let (key, image) = ("new".parse().unwrap(), "team/app".parse().unwrap());
        registry.delete_manifest(&key, &image, &"1".parse().unwrap()).await.unwrap();
    }
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(4, 1, 3, 0));
    assert_eq!(fixture.check().await, (blobs, bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_files_of_an_archive_go_into_a_v1_repository() {
    let fixture = fixture("");
    let (base, top) = (layer(1, 400_000), layer(2, 1000));
    assert_eq!(run(&fixture, "old", &saved_by_docker(&base, &top), None).await.unwrap(), report(3, 4, 0, 0));
    let pulled = fixture.pull_v1("team/app", "1").await.unwrap();
    assert_eq!(pulled.iter().map(|(id, ..)| id.to_string()).collect::<Vec<_>>(), [id('1'), id('2')]);
    for ((_, _, packed), expected) in pulled.iter().zip([&base, &top]) {
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == *expected);
    }
    assert_eq!(fixture.pull_v1("library/other", "1").await.unwrap().len(), 2);
    assert_eq!(fixture.pull_v1("team/twice", "1").await.unwrap().len(), 2);
    // Two different layers; and V2 stores the same bytes for them.
    let (blobs, bytes) = fixture.check().await;
    assert_eq!(blobs, 2);
    run(&fixture, "new", &saved_by_docker(&base, &top), None).await.unwrap();
    assert!(fixture.check().await.1 < bytes + 2000);
    assert_eq!(run(&fixture, "old", &saved_by_docker(&base, &top), None).await.unwrap(), report(3, 0, 4, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_name_gets_the_one_that_is_given() {
    let fixture = fixture("");
    let content = layer(1, 10);
    let image = config(&[&content]);
    let list = json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["l.tar"] }]);
    let parts = [file("manifest.json", list.to_string()), file("c.json", &image), file("l.tar", &content)];
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(0, 0, 0, 1));
    assert_eq!(run(&fixture, "new", &parts, Some("team/named:2")).await.unwrap(), report(1, 1, 0, 0));
    assert!(pull(&fixture, "team/named", "2").await.unwrap().1 == [content.clone()]);
    let old = [
        file(format!("{}/json", id('1')), fixture::json(&id('1'), None)),
        file(format!("{}/layer.tar", id('1')), &content),
        file(format!("{}/json", id('2')), fixture::json(&id('2'), Some(&id('1')))),
        file(format!("{}/layer.tar", id('2')), gzip(&content)),
    ];
    assert!(run(&fixture, "old", &old, None).await.is_err());
    assert_eq!(run(&fixture, "old", &old, Some("named:2")).await.unwrap(), report(1, 2, 0, 0));
    // What was packed stays as it was packed.
    assert!(fixture.pull_v1("library/named", "2").await.unwrap()[1].2 == gzip(&content));
    let two = saved_by_docker(&content, &layer(2, 10));
    assert!(run(&fixture, "new", &two, Some("x:1")).await.is_err());
}

/// An OCI layout of one index with one image, as docker 25 with containerd's store saves it.
fn oci_layout(content: &[u8], packed: &[u8], media_type: &str, name: Option<&str>) -> (Vec<Part>, String) {
    let image = config(&[content]);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(image.as_bytes()), "size": image.len() },
        "layers": [{ "mediaType": media_type, "digest": sha256(packed), "size": packed.len() }],
    })
    .to_string();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(manifest.as_bytes()), "size": manifest.len() }],
    })
    .to_string();
    let annotations = name.map(|name| json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1" }));
    let top = json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": sha256(index.as_bytes()), "size": index.len(),
            "annotations": annotations.unwrap_or_else(|| json!({})) }],
    });
    let mut parts = vec![file("index.json", top.to_string()), file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)];
    for blob in [image.as_bytes(), manifest.as_bytes(), index.as_bytes(), packed] {
        parts.push(file(sha256(blob).replace("sha256:", "blobs/sha256/"), blob));
    }
    (parts, sha256(index.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_layout_goes_in_as_it_is() {
    let fixture = fixture("");
    let content = layer(1, 200_000);
    let packed = gzip(&content);
    let (mut parts, digest) = oci_layout(&content, &packed, "application/vnd.oci.image.layer.v1.tar+gzip", Some("docker.io/library/box:1"));
    // Beside it stands what older dockers read; what keeps every digest goes before.
    parts.push(file("manifest.json", "[]"));
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(1, 2, 0, 0));
    {
        let (_stores, registry) = fixture.open();
        let found = registry.manifest(&"new".parse().unwrap(), &"box".parse().unwrap(), &"1".parse().unwrap()).await.unwrap();
        assert_eq!(found.digest.to_string(), digest);
    }
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(1, 0, 1, 0));
    let (nameless, _) = oci_layout(&content, &packed, "application/vnd.oci.image.layer.v1.tar+gzip", None);
    assert_eq!(run(&fixture, "new", &nameless, None).await.unwrap(), report(0, 0, 0, 1));
    assert_eq!(run(&fixture, "new", &nameless, Some("team/box:2")).await.unwrap(), report(1, 2, 0, 0));
    fixture.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_25_names_unpacked_blobs_in_both_lists() {
    let fixture = fixture("");
    let content = layer(1, 1000);
    let (mut parts, _) = oci_layout(&content, &content, "application/vnd.oci.image.layer.v1.tar", Some("docker.io/library/box:1"));
    let image = config(&[&content]);
    let blob = |bytes: &[u8]| sha256(bytes).replace("sha256:", "blobs/sha256/");
    let list = json!([{ "Config": blob(image.as_bytes()), "RepoTags": ["box:1"], "Layers": [blob(&content)] }]);
    parts.extend([file("manifest.json", list.to_string()), file(blob(image.as_bytes()), &image)]);
    assert_eq!(run(&fixture, "new", &parts, None).await.unwrap(), report(1, 1, 0, 0));
    let (manifest, layers) = pull(&fixture, "box", "1").await.unwrap();
    assert_eq!(manifest["layers"][0]["mediaType"], LAYER);
    assert!(layers == [content]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_and_broken_archives_are_refused_and_leave_nothing() {
    let content = layer(1, 10);
    let image = config(&[&content]);
    let saved = |config: &str, tags: Value, layers: Value| {
        file("manifest.json", json!([{ "Config": config, "RepoTags": tags, "Layers": layers }]).to_string())
    };
    let good = || [file("c.json", &image), file("l.tar", &content)];
    let with = |part: Part| good().into_iter().chain([part]).collect::<Vec<_>>();
    let (one, two) = (id('1'), id('2'));
    let v1 = |parts: Vec<Part>| {
        let tags = json!({ "team/app": { "1": one } });
        parts.into_iter().chain([file("repositories", tags.to_string())]).collect::<Vec<_>>()
    };
    let json_of = |id: &str, parent: Option<&str>| file(format!("{id}/json"), fixture::json(id, parent));
    let layer_of = |id: &str| file(format!("{id}/layer.tar"), layer(1, 10));
    // What one image does wrong is said; what the archive does wrong refuses all of it.
    for (what, repository, parts, refuses_all) in [
        ("nothing", "new", vec![file("x", "")], true),
        ("a path out", "new", with(file("../evil", "x")), true),
        ("a link out", "new", with(link("evil", "../../../etc/passwd")), true),
        ("a list that is none", "new", with(file("manifest.json", "{")), true),
        ("a config out", "new", with(saved("../../etc/passwd", json!(["a:1"]), json!(["l.tar"]))), false),
        ("a config that is none", "new", with(saved("l.tar", json!(["a:1"]), json!(["l.tar"]))), false),
        ("no config", "new", with(saved("none.json", json!(["a:1"]), json!(["l.tar"]))), false),
        ("a layer too many", "new", with(saved("c.json", json!(["a:1"]), json!(["l.tar", "l.tar"]))), false),
        ("no layer", "new", with(saved("c.json", json!(["a:1"]), json!(["none.tar"]))), false),
        ("another layer", "new", with(saved("c.json", json!(["a:1"]), json!(["c.json"]))), false),
        (
            "a layer that is a loop",
            "new",
            [with(saved("c.json", json!(["a:1"]), json!(["x"]))), vec![link("x", "x")]].concat_parts(),
            false,
        ),
        ("a name that is none", "new", with(saved("c.json", json!(["../../a:1"]), json!(["l.tar"]))), false),
        ("only old files", "new", v1(vec![json_of(&one, None), layer_of(&one)]), true),
        ("only new files", "old", with(saved("c.json", json!(["a:1"]), json!(["l.tar"]))), true),
        ("cyclic parents", "old", v1(vec![json_of(&one, Some(&two)), json_of(&two, Some(&one)), layer_of(&one), layer_of(&two)]), false),
        ("its own parent", "old", v1(vec![json_of(&one, Some(&one)), layer_of(&one)]), false),
        ("no parent", "old", v1(vec![json_of(&one, Some(&two)), layer_of(&one)]), false),
        ("no old layer", "old", v1(vec![json_of(&one, None)]), false),
        ("another id", "old", v1(vec![file(format!("{one}/json"), fixture::json(&two, None)), layer_of(&one)]), false),
        ("a huge JSON", "old", v1(vec![file(format!("{one}/json"), vec![b' '; 2 << 20]), layer_of(&one)]), false),
        ("a huge list", "new", with(file("manifest.json", vec![b' '; 17 << 20])), true),
    ] {
        let fixture = fixture("");
        match run(&fixture, repository, &parts, None).await {
            Err(refused) => assert!(refuses_all, "{what}: {refused:#}"),
            Ok(outcome) => {
                assert!(!refuses_all, "{what}: {outcome:?}");
                assert_eq!(outcome, report(0, 0, 0, 1), "{what}");
            }
        }
        let (_stores, registry) = fixture.open();
        assert!(registry.check().await.unwrap().problems.is_empty(), "{what}");
        assert!(registry.v1_tags(&"old".parse().unwrap(), &"team/app".parse().unwrap()).await.is_err(), "{what}");
        assert!(registry.manifest(&"new".parse().unwrap(), &"a".parse().unwrap(), &"1".parse().unwrap()).await.is_err(), "{what}");
    }
}

trait ConcatParts {
    fn concat_parts(self) -> Vec<Part>;
}

impl ConcatParts for [Vec<Part>; 2] {
    fn concat_parts(self) -> Vec<Part> {
        self.into_iter().flatten().collect()
    }
}

/// `docker load` takes what `docker save | gzip` made, and the other three; so does this, whatever the file is called.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_may_be_packed_in_every_way_that_docker_unpacks() {
    let (base, top) = (layer(1, 400_000), layer(2, 1000));
    let fixture = fixture("");
    let path = write(&fixture, &saved_by_docker(&base, &top));
    let saved = std::fs::read(&path).unwrap();
    assert_eq!(fixture.run("new", async |import| super::import(import, &path, None).await).await.unwrap(), report(4, 4, 0, 0));
    let kept = fixture.check().await;
    for packed in [gzip(&saved), bzip2(&saved), xz(&saved), zstd(&saved)] {
        let other = fixture::fixture("");
        let path = other.path("saved.tar");
        std::fs::write(&path, packed).unwrap();
        assert_eq!(other.run("new", async |import| super::import(import, &path, None).await).await.unwrap(), report(4, 4, 0, 0));
        // The same bytes, and nothing beside them.
        assert_eq!(other.check().await, kept);
        assert!(pull(&other, "team/app", "1").await.unwrap().1 == [base.clone(), top.clone()]);
        assert_eq!(other.run("old", async |import| super::import(import, &path, None).await).await.unwrap(), report(3, 4, 0, 0));
        let left: Vec<_> = std::fs::read_dir(other.path("data")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("import")), "{left:?}");
    }
}

/// What kaniko and others write: `manifest.json` with packed layers.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_layer_must_hold_what_the_config_says() {
    let content = layer(1, 100_000);
    let image = config(&[&content]);
    let list = json!([{ "Config": "c.json", "RepoTags": ["team/app:1"], "Layers": ["l.tar.gz"] }]).to_string();
    let with = |packed: Vec<u8>| [file("manifest.json", &list), file("c.json", &image), file("l.tar.gz", packed)];
    for packed in [gzip(&content), bzip2(&content), xz(&content), zstd(&content)] {
        let fixture = fixture("");
        assert_eq!(run(&fixture, "new", &with(packed.clone()), None).await.unwrap(), report(1, 1, 0, 0));
        let (manifest, layers) = pull(&fixture, "team/app", "1").await.unwrap();
        assert!(layers == [content.clone()]);
        // What is in gzip stays as it is.
        assert_eq!(manifest["layers"][0]["digest"] == sha256(&packed), packed.starts_with(b"\x1f\x8b"));
    }
    let other = layer(2, 100_000);
    for packed in [gzip(&other), bzip2(&other), xz(&other), zstd(&other), gzip(&content)[..5000].to_vec()] {
        let fixture = fixture("");
        assert_eq!(run(&fixture, "new", &with(packed), None).await.unwrap(), report(0, 0, 0, 1));
        assert!(pull(&fixture, "team/app", "1").await.is_none());
        assert_eq!(fixture.check().await.0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_an_oci_layout_must_unpack_to_what_its_config_says() {
    let (content, other) = (layer(1, 100_000), layer(2, 100_000));
    for (media_type, pack) in [("tar+gzip", gzip as fn(&[u8]) -> Vec<u8>), ("tar+zstd", zstd), ("tar", <[u8]>::to_vec)] {
        let media_type = format!("application/vnd.oci.image.layer.v1.{media_type}");
        let fixture = fixture("");
        let (good, _) = oci_layout(&content, &pack(&content), &media_type, Some("team/box:1"));
        let (wrong, _) = oci_layout(&content, &pack(&other), &media_type, Some("team/box:2"));
        assert_eq!(run(&fixture, "new", &wrong, None).await.unwrap(), report(0, 0, 0, 1), "{media_type}");
        assert_eq!(fixture.check().await.0, 0, "{media_type}");
        assert_eq!(run(&fixture, "new", &good, None).await.unwrap(), report(1, 2, 0, 0), "{media_type}");
    }
    // What no client would look for in a layer is none of a config's business.
    let fixture = fixture("");
    let (artifact, _) =
        oci_layout(b"something else", b"a signature", "application/vnd.dev.cosign.simplesigning.v1+json", Some("team/box:3"));
    assert_eq!(run(&fixture, "new", &artifact, None).await.unwrap(), report(1, 2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_an_oci_layout_is_refused_with_what_is_missing() {
    let content = layer(1, 1000);
    let packed = gzip(&content);
    let (parts, _) = oci_layout(&content, &packed, "application/vnd.oci.image.layer.v1.tar+gzip", Some("team/box:1"));
    let layer = sha256(&packed);
    let without = |digest: &str| -> Vec<Part> {
        let path = digest.replace("sha256:", "blobs/sha256/");
        let keep = |part: &&Part| !matches!(part, Part::File(name, _) if *name == path);
        let copy = |part: &Part| match part {
            Part::File(name, content) => Part::File(name.clone(), content.clone()),
            Part::Link(name, target) => Part::Link(name.clone(), target.clone()),
        };
        parts.iter().filter(keep).map(copy).collect()
    };
    let fixture = fixture("");
    let image = sha256(config(&[&content]).as_bytes());
    for (digest, what) in [(&layer, "the layer"), (&image, "the config")] {
        let refused = format!("{:#}", run(&fixture, "new", &without(digest), None).await.unwrap_err());
        assert!(refused.contains(&format!("{what} {digest} is missing")), "{refused}");
    }
    // Docker names every platform of an index, and saves one.
    let mut cut = without(&layer);
    cut.push(file(layer.replace("sha256:", "blobs/sha256/"), &packed[1..]));
    let top = json!({ "schemaVersion": 2, "manifests": [{ "digest": layer, "size": 7, "platform": { "os": "linux", "architecture": "arm64" } }] });
    cut.retain(|part| !matches!(part, Part::File(name, _) if name == "index.json"));
    cut.push(file("index.json", top.to_string()));
    let refused = format!("{:#}", run(&fixture, "new", &cut, None).await.unwrap_err());
    assert!(refused.contains(&format!("the manifest {layer} for linux/arm64 has {} bytes instead of 7", packed.len() - 1)), "{refused}");
    // Lists that are null are empty ones.
    let nothing = [file("index.json", r#"{"schemaVersion":2,"manifests":null}"#)];
    assert_eq!(run(&fixture, "new", &nothing, None).await.unwrap(), report(0, 0, 0, 0));
}

/// A root file system that was packed beside the image has links to everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_nobody_uses_is_no_reason_to_refuse() {
    let content = layer(1, 10);
    let list = |layer: &str| json!([{ "Config": "c.json", "RepoTags": ["team/app:1"], "Layers": [layer] }]).to_string();
    let with = |layer: &str| {
        [
            file("manifest.json", list(layer)),
            file("c.json", config(&[&content])),
            file("l.tar", &content),
            link("rootfs/etc/mtab", "../../../proc/mounts"),
            link("rootfs/bin/sh", "/bin/busybox"),
        ]
    };
    let fixture = fixture("");
    assert_eq!(run(&fixture, "new", &with("rootfs/bin/sh"), None).await.unwrap(), report(0, 0, 0, 1));
    assert_eq!(run(&fixture, "new", &with("l.tar"), None).await.unwrap(), report(1, 1, 0, 0));
}
