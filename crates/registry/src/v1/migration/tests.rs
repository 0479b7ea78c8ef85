//! Migrations of real chains in a real store.

use std::io::{Read as _, Write as _};

use berth_storage::rocksdb::{self, Stores};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::*;
use crate::v1::Viewer;
use crate::{CleanupTimes, Clock};

struct Fixture {
    directory: tempfile::TempDir,
    _stores: Stores,
    registry: Registry,
}

const VIEWER: Viewer<'static> = Viewer { user: None, sees_all: true, sees: &|_| true };

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let stores = rocksdb::open(directory.path()).unwrap();
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    for (key, api_version) in [("old", ApiVersion::V1), ("new", ApiVersion::V2)] {
        registry.create_repository(&Repository::new(key.parse().unwrap(), api_version)).await.unwrap();
    }
    Fixture { directory, _stores: stores, registry }
}

fn old() -> RepositoryKey {
    "old".parse().unwrap()
}

fn new() -> RepositoryKey {
    "new".parse().unwrap()
}

fn id(number: u8) -> ImageId {
    ImageId::from_bytes([number; 32])
}

/// A tar of one member.
fn tar(name: &str, bytes: usize) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes as u64);
    // Bytes that no packer gets much smaller.
    let content: Vec<u8> = (0..bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ name.as_bytes()[0]).collect();
    archive.append_data(&mut header, name, content.as_slice()).unwrap();
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn sha256(bytes: &[u8]) -> Digest {
    digest_of(Algorithm::Sha256, bytes)
}

fn allow_all() -> Allows {
    Arc::new(|_| Allowed::Yes(ExistingTag::Moves))
}

fn order(image: Option<&str>, tag: Option<&str>) -> MigrationOrder {
    MigrationOrder {
        source: old(),
        target: new(),
        image: image.map(|image| image.parse().unwrap()),
        tag: tag.map(|tag| tag.parse().unwrap()),
        dry_run: false,
        owner: None,
        resumes: true,
    }
}

impl Fixture {
    async fn push_image(&self, number: u8, parent: Option<u8>, more: Value, layer: &[u8]) {
        let mut json = json!({ "id": id(number), "created": "2014-05-06T07:08:09Z" });
        if let Some(parent) = parent {
            json["parent"] = json!(id(parent));
        }
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.push_json(number, json.to_string(), layer).await;
    }

    async fn push_json(&self, number: u8, json: String, layer: &[u8]) {
        self.registry.put_v1_json(&old(), &id(number), json.into(), VIEWER, "pusher").await.unwrap();
        let body = stream::iter([Ok(Bytes::copy_from_slice(layer))]).boxed();
        self.registry.put_v1_layer(&old(), &id(number), body, VIEWER, "pusher").await.unwrap();
        let sums = self.registry.v1_row(&old(), &id(number)).await.unwrap().unwrap().0.layer.unwrap().checksums;
        self.registry.put_v1_checksum(&old(), &id(number), &sums, None).await.unwrap();
    }

    async fn tag(&self, image: &str, tag: &str, number: u8) {
        let (image, tag) = (image.parse().unwrap(), tag.parse().unwrap());
        let push = Push { existing: ExistingTag::Moves, holder: "pusher" };
        self.registry.put_v1_tag((&old(), &image, &tag), &id(number), "docker/1.5.0", push, VIEWER).await.unwrap();
    }

    async fn migrate(&self, order: MigrationOrder, allows: Allows) -> Job {
        let id = self.registry.start_migration(order, allows).await.unwrap();
        self.end(&id).await
    }

    async fn end(&self, id: &JobId) -> Job {
        let (job, watch) = self.registry.job(id).await.unwrap().unwrap();
        let Some(mut watch) = watch else { return job };
        watch.wait_for(|job| job.state != JobState::Running).await.map(|job| job.clone()).unwrap()
    }

    async fn blob(&self, image: &str, digest: &Digest) -> Vec<u8> {
        let content = self.registry.open_blob(&new(), &image.parse().unwrap(), digest).await.unwrap();
        let pieces: Vec<Bytes> = content.read(0..content.size).try_collect().await.unwrap();
        pieces.concat()
    }

    /// The image as a V2 client gets it: its config and its layers as they are stored and unpacked, each checked.
    async fn pull(&self, image: &str, tag: &str) -> (Value, Vec<(Digest, Vec<u8>)>) {
        let reference = Reference::Tag(tag.parse().unwrap());
        let manifest = self.registry.manifest(&new(), &image.parse().unwrap(), &reference).await.unwrap();
        let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
        let config = self.blob(image, &serde_json::from_value(manifest["config"]["digest"].clone()).unwrap()).await;
        assert_eq!(manifest["config"]["size"], json!(config.len()));
        let config: Value = serde_json::from_slice(&config).unwrap();
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in manifest["layers"].as_array().unwrap() {
            let digest: Digest = serde_json::from_value(layer["digest"].clone()).unwrap();
            let packed = self.blob(image, &digest).await;
            assert_eq!((sha256(&packed), json!(packed.len())), (digest, layer["size"].clone()));
            let mut unpacked = Vec::new();
            flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
            diff_ids.push(json!(sha256(&unpacked)));
            layers.push((digest, unpacked));
        }
        assert_eq!(config["rootfs"]["diff_ids"], json!(diff_ids));
        (config, layers)
    }

    /// Bytes of the data files.
    fn stored_bytes(&self) -> u64 {
        fn walk(directory: &std::path::Path) -> u64 {
            let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
            entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
        }
        walk(&self.directory.path().join("data"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_gzip_layers_becomes_an_image_of_the_same_blobs() {
    let fixture = fixture().await;
    let layers = [gzip(&tar("a", 200_000)), gzip(&tar("b", 100_000))];
    let cmd = |text: &str| json!({ "container_config": { "Cmd": ["/bin/sh", "-c", text] } });
    fixture.push_image(1, None, cmd("one"), &layers[0]).await;
    fixture.push_image(2, Some(1), json!({ "config": { "Env": ["a=b"] }, "author": "me" }), &layers[1]).await;
    fixture.tag("library/app", "1", 2).await;
    fixture.tag("library/app", "base", 1).await;
    let before = fixture.stored_bytes();
    let job = fixture.migrate(order(None, None), allow_all()).await;
    assert_eq!((job.state, job.done.migrated, job.done.failed, job.done.bytes_read), (JobState::Finished, 2, 0, 0), "{:?}", job.failures);
    assert_eq!(fixture.stored_bytes(), before, "no layer was copied");
    let (config, pulled) = fixture.pull("library/app", "1").await;
    assert_eq!(pulled.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), layers.iter().map(|layer| sha256(layer)).collect::<Vec<_>>());
    assert_eq!((&config["config"]["Env"], &config["history"][0]["created_by"]), (&json!(["a=b"]), &json!("/bin/sh -c one")));
    // Both tags are served as before.
    assert_eq!(fixture.registry.v1_tags(&old(), &"library/app".parse().unwrap()).await.unwrap().len(), 2);

    let receipts = fixture.registry.receipts(&new(), Wanted::All, &|_| true, None).await.unwrap().receipts;
    let ((_, tag), receipt) = &receipts[0];
    assert_eq!((receipts.len(), tag.as_str(), receipt.id), (2, "1", id(2)));
    assert_eq!(receipt.layers.iter().map(|layer| layer.id).collect::<Vec<_>>(), [id(1), id(2)]);
    let verified = fixture.registry.verify_migration(None).await.unwrap();
    assert_eq!(verified, Verified { tags: 2, moved: 0, layers: 2, problems: Vec::new() });
    assert!(fixture.registry.check().await.unwrap().problems.is_empty());

    let again = fixture.migrate(order(None, None), allow_all()).await;
    assert_eq!((again.done.migrated, again.done.unchanged), (0, 2));
    // What moved in the source moves in the target.
    fixture.tag("library/app", "base", 2).await;
    let moved = fixture.migrate(order(Some("library/app"), Some("base")), allow_all()).await;
    assert_eq!((moved.done.migrated, moved.done.unchanged), (1, 0));
    assert_eq!(fixture.pull("library/app", "base").await.1.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_gzip_are_packed_anew_once_and_a_hidden_diff_id_is_found() {
    let fixture = fixture().await;
    let tars = ["p", "b", "x", "s"].map(|name| tar(name, 150_000));
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&tars[1]).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(6)).unwrap();
    xz.write_all(&tars[2]).unwrap();
    // A sparse member: docker reads it, the sums that are made of members don't.
    let mut sparse = tars[3].clone();
    sparse[156] = b'S';
    let sum: u32 = sparse[..512].iter().enumerate().map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte })).sum();
    sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let layers = [tars[0].clone(), bzip2.finish().unwrap(), xz.finish().unwrap(), gzip(&sparse)];
    for (number, layer) in (1..).zip(&layers) {
        fixture.push_image(number, (number > 1).then(|| number - 1), json!({}), layer).await;
    }
    fixture.tag("library/app", "1", 4).await;
    fixture.tag("team/other", "1", 4).await;
    let job = fixture.migrate(order(Some("library/app"), None), allow_all()).await;
    let read: usize = layers.iter().map(Vec::len).sum();
    assert_eq!((job.done.migrated, job.done.layers_repacked, job.done.bytes_read), (1, 4, read as u64), "{:?}", job.failures);
    let (_, pulled) = fixture.pull("library/app", "1").await;
    let unpacked: Vec<&Vec<u8>> = pulled.iter().map(|(_, unpacked)| unpacked).collect();
    assert_eq!(unpacked, [&tars[0], &tars[1], &tars[2], &sparse]);
    assert_eq!(pulled[3].0, sha256(&layers[3]), "what is gzip stays as it is");
    let other = fixture.migrate(order(None, None), allow_all()).await;
    assert_eq!((other.done.migrated, other.done.unchanged, other.done.bytes_read), (1, 1, 0), "no layer is read twice");
    assert_eq!(fixture.pull("team/other", "1").await.1.len(), 4);
    assert!(fixture.registry.verify_migration(Some(&new())).await.unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_nothing_in_it_is_history_only() {
    let fixture = fixture().await;
    let real = gzip(&tar("a", 1000));
    for (number, layer) in [(1, gzip(&[0; 1024])), (2, real.clone()), (3, gzip(b"")), (4, vec![0; 1024]), (5, real), (6, Vec::new())] {
        fixture.push_image(number, (number > 1).then(|| number - 1), json!({}), &layer).await;
    }
    fixture.tag("library/app", "1", 6).await;
    fixture.tag("library/app", "empty", 1).await;
    let job = fixture.migrate(order(None, None), allow_all()).await;
    assert_eq!((job.done.migrated, job.done.bytes_read), (2, 0), "{:?}", job.failures);
    let (config, layers) = fixture.pull("library/app", "1").await;
    let empty: Vec<bool> = config["history"].as_array().unwrap().iter().map(|entry| entry["empty_layer"] == json!(true)).collect();
    assert_eq!(empty, [true, false, true, true, false, true]);
    // The same layer twice is two layers.
    assert_eq!((layers.len(), layers[0].0), (2, layers[1].0));
    // Old clients of V2 take no image without a layer.
    let (config, layers) = fixture.pull("library/app", "empty").await;
    assert_eq!((layers.len(), layers[0].1.as_slice()), (1, [0; 1024].as_slice()));
    assert_eq!(config["history"], json!([{ "created": "2014-05-06T07:08:09Z" }]));
    assert!(fixture.registry.verify_migration(None).await.unwrap().problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_is_said_of_its_tag_and_stops_nothing_else() {
    let fixture = fixture().await;
    fixture.push_image(1, None, json!({}), &gzip(&tar("a", 100))).await;
    fixture.push_image(2, Some(1), json!({}), b"this is no tar").await;
    let bad = gzip(&tar("b", 100_000));
    fixture.push_image(3, Some(1), json!({}), &bad[..bad.len() / 2]).await;
    for (tag, number) in [("1-good", 1), ("2-no-tar", 2), ("3-damaged", 3), ("4-good", 1)] {
        fixture.tag("library/app", tag, number).await;
    }
    fixture.tag("secret/app", "1", 1).await;
    fixture.tag("foreign/app", "1", 1).await;
    let allows: Allows = Arc::new(|image| match image.as_str() {
        "secret/app" => Allowed::Hidden,
        "foreign/app" => Allowed::No,
        _ => Allowed::Yes(ExistingTag::Stays),
    });
    let job = fixture.migrate(order(None, None), Arc::clone(&allows)).await;
    assert_eq!((job.done.migrated, job.done.failed), (2, 3));
    let said: Vec<String> = job.failures.iter().map(|failure| format!("{}:{} {}", failure.image, failure.tag, failure.reason)).collect();
    assert!(said[0].starts_with("foreign/app:1 you may not push"), "{said:?}");
    assert!(said[1].starts_with("library/app:2-no-tar the layer of V1 image 0202") && said[1].ends_with("is no tar"), "{said:?}");
    assert!(said[2].starts_with("library/app:3-damaged") && said[2].contains("damaged"), "{said:?}");
    assert_eq!(fixture.pull("library/app", "4-good").await.1.len(), 1);
    assert_eq!(fixture.registry.images(&new(), None, None, &|_| true).await.unwrap().names, ["library/app"]);
    // Without the right to delete, a tag that leads to something else stays.
    fixture.push_image(5, None, json!({}), &gzip(&tar("c", 100))).await;
    fixture.tag("library/app", "1-good", 5).await;
    let job = fixture.migrate(order(Some("library/app"), Some("1-good")), allows).await;
    assert_eq!((job.done.failed, job.failures[0].reason.contains("exists")), (1, true), "{:?}", job.failures);
    let errors = [
        (order(Some("nowhere"), None), "image nowhere is not known"),
        (order(Some("library/app"), Some("nope")), "tag nope is not known"),
        (MigrationOrder { target: old(), ..order(None, None) }, "the target must be a V2 repository"),
        (MigrationOrder { source: new(), ..order(None, None) }, "the source must be a V1 repository"),
    ];
    for (order, reason) in errors {
        assert_eq!(fixture.registry.start_migration(order, allow_all()).await.unwrap_err().to_string(), reason);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_and_says_what_would_be_done() {
    let fixture = fixture().await;
    fixture.push_image(1, None, json!({}), &tar("a", 100_000)).await;
    fixture.push_image(2, Some(1), json!({}), &gzip(&tar("b", 100_000))).await;
    fixture.tag("library/app", "1", 2).await;
    let before = fixture.stored_bytes();
    let job = fixture.migrate(MigrationOrder { dry_run: true, ..order(None, None) }, allow_all()).await;
    assert_eq!((job.done.migrated, job.done.layers_reused, job.done.layers_repacked, job.done.bytes_read), (1, 1, 1, 0));
    assert_eq!(fixture.stored_bytes(), before);
    assert!(fixture.registry.images(&new(), None, None, &|_| true).await.unwrap().names.is_empty());
    assert!(fixture.registry.receipts(&new(), Wanted::All, &|_| true, None).await.unwrap().receipts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_of_every_tag_what_the_real_run_will_say() {
    let fixture = fixture().await;
    for (number, layer) in [(1, gzip(&tar("a", 100))), (2, tar("b", 100))] {
        fixture.push_image(number, None, json!({}), &layer).await;
    }
    // Half a character: docker pushes and pulls it over V1, and no config can be made of it. With a layer that has to be
    // packed anew and with one that doesn't.
    for (number, layer) in [(3, gzip(&tar("c", 100))), (4, tar("d", 100))] {
        fixture.push_json(number, format!(r#"{{"id":"{}","comment":"\ud83d"}}"#, id(number)), &layer).await;
    }
    for (tag, number) in [("good", 1), ("packed", 2), ("odd", 3), ("odd-packed", 4), ("taken", 1)] {
        fixture.tag("library/app", tag, number).await;
    }
    // The target has one of the tags, and the caller may not move it.
    fixture.migrate(order(Some("library/app"), Some("packed")), allow_all()).await;
    let push = Push { existing: ExistingTag::Moves, holder: "" };
    let manifest = fixture.registry.manifest(&new(), &"library/app".parse().unwrap(), &"packed".parse().unwrap()).await.unwrap();
    let taken = "taken".parse().unwrap();
    fixture.registry.put_manifest(&new(), &"library/app".parse().unwrap(), &taken, None, manifest.bytes, push).await.unwrap();
    let said = async |dry_run| {
        let allows: Allows = Arc::new(|_| Allowed::Yes(ExistingTag::Stays));
        let job = fixture.migrate(MigrationOrder { dry_run, ..order(None, None) }, allows).await;
        let failures: Vec<_> = job.failures.iter().map(|failure| (failure.tag.to_string(), failure.reason.clone())).collect();
        (job.done.migrated, job.done.unchanged, job.done.failed, failures)
    };
    let (foreseen, happened) = (said(true).await, said(false).await);
    assert_eq!(foreseen, happened);
    assert_eq!((happened.0, happened.1, happened.2), (1, 1, 3), "{happened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_a_crash_stopped_goes_on_and_one_of_somebody_with_limits_says_that_it_was_stopped() {
    let fixture = fixture().await;
    fixture.push_image(1, None, json!({}), &gzip(&tar("a", 100))).await;
    for tag in ["1", "2", "3"] {
        fixture.tag("library/app", tag, 1).await;
    }
    fixture.migrate(order(Some("library/app"), Some("1")), allow_all()).await;
    let running = |resumes| Job {
        source: old(),
        target: new(),
        image: None,
        tag: None,
        dry_run: false,
        owner: None,
        resumes,
        state: JobState::Running,
        started_ms: 1,
        ended_ms: None,
        done: records::JobDone::default(),
        failures: Vec::new(),
    };
    let mut batch = Batch::new();
    batch.put_record(keys::job(&"a".repeat(32)), &running(true)).put_record(keys::job(&"b".repeat(32)), &running(false));
    fixture.registry.store.commit(batch).await.unwrap();
    assert_eq!(fixture.registry.resume_jobs().await.unwrap(), 1);
    let resumed = fixture.end(&"a".repeat(32).parse().unwrap()).await;
    assert_eq!((resumed.state, resumed.done.migrated, resumed.done.unchanged), (JobState::Finished, 2, 1));
    let stopped = fixture.end(&"b".repeat(32).parse().unwrap()).await;
    assert_eq!((stopped.state, stopped.done.migrated), (JobState::Interrupted, 0));
    assert_eq!(fixture.registry.jobs().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_too_many_is_refused_and_leaves_nothing_for_the_next_start() {
    let fixture = fixture().await;
    fixture.push_image(1, None, json!({}), &gzip(&tar("a", 100))).await;
    fixture.tag("library/app", "1", 1).await;
    let first = fixture.registry.start_migration(order(None, None), allow_all()).await.unwrap();
    let ended = fixture.end(&first).await;
    {
        let work = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let mut open = fixture.registry.jobs.open.lock().unwrap();
        for number in 0..jobs::OPEN_MAX {
            let id = format!("{number:032x}").parse().unwrap();
            open.insert(id, (tokio::sync::watch::channel(ended.clone()).1, work.clone()));
        }
    }
    let refused = fixture.registry.start_migration(order(None, None), allow_all()).await;
    assert!(matches!(refused, Err(Error::TooManyJobs { .. })));
    assert_eq!(fixture.registry.jobs().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_goes_with_its_tag_and_says_nothing_of_what_was_pushed_since() {
    let fixture = fixture().await;
    fixture.push_image(1, None, json!({}), &gzip(&tar("a", 100))).await;
    fixture.push_image(2, None, json!({}), &gzip(&tar("b", 100))).await;
    fixture.tag("library/app", "1", 1).await;
    fixture.tag("library/app", "2", 2).await;
    fixture.migrate(order(None, None), allow_all()).await;
    let image: ImageName = "library/app".parse().unwrap();
    let second = fixture.registry.manifest(&new(), &image, &Reference::Tag("2".parse().unwrap())).await.unwrap();
    let push = Push { existing: ExistingTag::Moves, holder: "x" };
    let tag = Reference::Tag("1".parse().unwrap());
    fixture.registry.put_manifest(&new(), &image, &tag, Some(config::MANIFEST_TYPE), second.bytes, push).await.unwrap();
    let left = fixture.registry.receipts(&new(), Wanted::Image(&image), &|_| true, None).await.unwrap().receipts;
    assert_eq!(left.iter().map(|((_, tag), _)| tag.as_str()).collect::<Vec<_>>(), ["2"]);
    fixture.registry.delete_manifest(&new(), &image, &Reference::Tag("2".parse().unwrap())).await.unwrap();
    assert!(fixture.registry.receipts(&new(), Wanted::All, &|_| true, None).await.unwrap().receipts.is_empty());
}

#[test]
fn the_empty_layer_is_known_to_be_empty() {
    assert!(is_empty_tar(&empty_layer::diff_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_has_come_to_mean_something_else_is_migrated_anew() {
    let fixture = fixture().await;
    let push = async |comment: &str, layer: &str| {
        fixture.push_image(1, None, json!({ "comment": comment }), &gzip(&tar(layer, 700))).await;
        fixture.tag("app", "1", 1).await;
    };
    push("first", "a").await;
    let migrate = async || {
        let job = fixture.migrate(order(None, None), allow_all()).await;
        (job.done.migrated, job.done.unchanged, job.done.failed)
    };
    assert_eq!((migrate().await, migrate().await), ((1, 0, 0), (0, 1, 0)));
    let image = "app".parse().unwrap();
    for (comment, layer) in [("second", "a"), ("third", "b")] {
        let before = fixture.pull("app", "1").await;
        fixture.registry.delete_v1_tag(&old(), &image, &"1".parse().unwrap()).await.unwrap();
        push(comment, layer).await;
        assert_eq!((migrate().await, migrate().await), ((1, 0, 0), (0, 1, 0)), "{comment} {layer}");
        assert_ne!(fixture.pull("app", "1").await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_layer_becomes_is_only_kept_if_it_was_made_of_that_layer() {
    let fixture = fixture().await;
    let layer = tar("plain", 100_000);
    fixture.push_image(1, None, json!({}), &layer).await;
    fixture.tag("app", "1", 1).await;
    // The disk gives other bytes than it was given, in which a tar is still a tar.
    let damaged: Vec<u8> = layer.iter().enumerate().map(|(at, byte)| if at == 50_000 { byte ^ 1 } else { *byte }).collect();
    let file = std::fs::read_dir(fixture.directory.path().join("data")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = file.collect();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if std::fs::read(&path).unwrap() == layer {
            std::fs::write(path, &damaged).unwrap();
        }
    }
    let job = fixture.migrate(order(None, None), allow_all()).await;
    assert_eq!((job.done.migrated, job.done.failed), (0, 1));
    assert!(job.failures[0].reason.contains("damaged"), "{}", job.failures[0].reason);
    assert!(fixture.registry.store.get(&keys::conversion(&sha256(&layer))).await.unwrap().is_none());
}
