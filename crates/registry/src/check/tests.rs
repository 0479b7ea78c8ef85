//! Backups are made while everything else goes on; each is restored and read through.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use berth_names::{Algorithm, ApiVersion, ImageName, Reference, RepositoryKey};
use berth_storage::rocksdb::{self, Stores, restore};
use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::{CleanupTimes, Client, Clock, ExistingTag, Push, Repository};

const BACKUPS: u64 = 8;
const PUSHERS: u64 = 3;

/// Tags that each pusher keeps; the oldest but the very first goes when there are more.
const TAGS_KEPT: u64 = 4;

/// Larger than what is kept in a row.
const LAYER_BYTES: usize = 70_000;

static NUMBER: AtomicU64 = AtomicU64::new(0);

fn open(path: &Path) -> (Stores, Registry) {
    let stores = rocksdb::open(path).unwrap();
    let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
    (stores, registry)
}

fn names() -> (RepositoryKey, ImageName) {
    ("dev".parse().unwrap(), "team/app".parse().unwrap())
}

/// Pushes an image with a layer of its own and one that others have too, and returns its manifest's digest.
async fn push(registry: &Registry, tag: &berth_names::Tag, number: u64) -> Digest {
    let (repository, image) = names();
    let holder = tag.as_str();
    let mut parts = Vec::new();
    for seed in [number, number % 2] {
        let bytes = Bytes::from(seed.to_be_bytes().repeat(LAYER_BYTES / 8));
        let digest = digest_of(Algorithm::Sha256, &bytes);
        let id = registry.start_upload(&repository, &image, None).await.unwrap();
        let body = futures::stream::iter([Ok(bytes)]).boxed();
        registry.finish_upload(&repository, &image, Client { owner: None, holder }, &id, &digest, body).await.unwrap();
        parts.push(json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": LAYER_BYTES }));
    }
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": parts[0], "layers": parts,
    });
    let (bytes, push) = (Bytes::from(manifest.to_string()), Push { existing: ExistingTag::Moves, holder });
    let pushed = registry.put_manifest(&repository, &image, &Reference::Tag(tag.clone()), None, bytes, push).await.unwrap();
    pushed.digest
}

type Tags = Mutex<BTreeMap<berth_names::Tag, Digest>>;

/// Pushes and deletes for as long as it may. `acknowledged` never holds a tag whose deletion has begun.
async fn push_and_delete(registry: &Registry, pusher: u64, acknowledged: &Tags, stop: &AtomicBool) {
    let (repository, image) = names();
    let mut own = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag: berth_names::Tag = format!("p{pusher}-{number}").parse().unwrap();
        let digest = push(registry, &tag, number).await;
        acknowledged.lock().unwrap().insert(tag.clone(), digest);
        own.push(tag);
        if own.len() as u64 > TAGS_KEPT {
            let oldest = own.remove(1);
            acknowledged.lock().unwrap().remove(&oldest);
            registry.delete_manifest(&repository, &image, &Reference::Tag(oldest)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_under_pushes_deletions_and_collections_are_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (stores, registry) = open(&directory.path().join("store"));
    let (repository, image) = names();
    registry.create_repository(&Repository::new(repository.clone(), ApiVersion::V2)).await.unwrap();
    // An upload that never ends: it is in no backup.
    let open_upload = registry.start_upload(&repository, &image, None).await.unwrap();
    let begun = futures::stream::iter([Ok(Bytes::from(vec![1; LAYER_BYTES]))]).boxed();
    registry.append_upload(&repository, &image, None, &open_upload, begun).await.unwrap();

    let (acknowledged, stop) = (Tags::default(), AtomicBool::new(false));
    let pushing = futures::future::join_all((0..PUSHERS).map(|pusher| push_and_delete(&registry, pusher, &acknowledged, &stop)));
    let collecting = async {
        let mut files = 0;
        while !stop.load(Ordering::Relaxed) {
            files += registry.collect_garbage().await.unwrap().files;
            tokio::task::yield_now().await;
        }
        files
    };
    let backing_up = async {
        let mut taken = Vec::new();
        for number in 0..BACKUPS {
            let before = acknowledged.lock().unwrap().clone();
            let (backups, to) = (stores.backups.clone(), directory.path().join("backups"));
            let backup = tokio::task::spawn_blocking(move || backups.take(&to, number)).await.unwrap().unwrap();
            let after = acknowledged.lock().unwrap().clone();
            taken.push((backup, before.into_iter().filter(|(tag, _)| after.contains_key(tag)).collect::<Vec<_>>()));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        stop.store(true, Ordering::Relaxed);
        taken
    };
    let (_, collected, taken) = tokio::join!(pushing, collecting, backing_up);
    assert!(collected > 0, "the collector had nothing to do");
    assert!(taken.iter().map(|(_, tags)| tags.len()).sum::<usize>() > 0, "no tag stayed for as long as a backup took");

    for (number, (backup, tags)) in taken.iter().enumerate() {
        assert_eq!(backup.manifest.missing, 0);
        let to = directory.path().join(format!("restored-{number}"));
        restore(&backup.path, &to, |_| {}).unwrap();
        let (_stores, restored) = open(&to);
        let report = restored.check().await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        for (tag, digest) in tags {
            let found = restored.manifest(&repository, &image, &Reference::Tag(tag.clone())).await.unwrap();
            assert_eq!(found.digest, *digest);
        }
        // What a client had not finished it begins anew; nothing of it is left behind.
        assert!(restored.upload_progress(&repository, &image, None, &open_upload).await.is_err());
        assert_eq!(restored.sweep_data().await.unwrap(), 0);
        // It goes on: pushes, and what they replaced goes.
        push(&restored, &"next".parse().unwrap(), u64::MAX).await;
        restored.collect_garbage().await.unwrap();
        assert!(restored.check().await.unwrap().problems.is_empty());
    }
    assert!(registry.check().await.unwrap().problems.is_empty());
}

/// Flips a bit in the middle of every table of the store.
fn damage_tables(store: &Path) -> usize {
    let mut damaged = 0;
    for entry in std::fs::read_dir(store.join("meta")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() * 2 / 5;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    damaged
}

#[tokio::test]
async fn a_damaged_block_ends_neither_a_check_nor_a_backup_and_what_was_in_it_is_named() {
    const TAGS: u64 = 150;
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    let (repository, image) = names();
    {
        let (_stores, registry) = open(&store);
        registry.create_repository(&Repository::new(repository.clone(), ApiVersion::V2)).await.unwrap();
        for number in 0..TAGS {
            push(&registry, &format!("t{number}").parse().unwrap(), number).await;
        }
    }
    // The log is brought into tables.
    drop(open(&store));
    assert!(damage_tables(&store) >= 2, "a table of records and one of content");
    let (stores, registry) = open(&store);
    let report = registry.check().await.unwrap();
    assert!(report.unreadable >= 2, "{:?}", report.problems);
    assert!(report.rows > 10 * TAGS, "{} rows read", report.rows);
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|problem| problem.contains("can't be read") && problem.contains("checksum")), "{problems:?}");
    // Whatever can't be had any more is named.
    let mut lost = 0;
    for number in 0..TAGS {
        let tag: berth_names::Tag = format!("t{number}").parse().unwrap();
        if registry.manifest(&repository, &image, &Reference::Tag(tag.clone())).await.is_err() {
            lost += 1;
        }
    }
    let named =
        problems.iter().filter(|problem| problem.contains("the manifest dev/team/app@") || problem.contains("the tag dev/team/app:"));
    assert!(lost > 0 && named.count() >= 1, "{lost} lost: {problems:?}");
    let backups = stores.backups.clone();
    let to = directory.path().join("backups");
    let taken = tokio::task::spawn_blocking(move || backups.take(&to, 1)).await.unwrap().unwrap();
    assert!(taken.manifest.unreadable >= 2, "{:?}", taken.manifest);
    // It has all that can be had.
    let restored = directory.path().join("restored");
    restore(&taken.path, &restored, |_| {}).unwrap();
}
