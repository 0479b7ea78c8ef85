//! Files are damaged behind the registry's back; who pushes the blob again heals it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_names::{ApiVersion, ImageName, RepositoryKey};
use berth_storage::rocksdb::{self, Stores};
use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

use super::*;
use crate::hash::digest_of;
use crate::{CleanupTimes, Client, Clock, Repository};

/// Larger than what is kept in a row.
const BYTES: usize = 300_000;

/// How long the hashing behind the backs of clients may take here.
const WAIT_MAX: Duration = Duration::from_secs(30);

struct Fixture {
    directory: TempDir,
    _stores: Stores,
    registry: Registry,
    repository: RepositoryKey,
    image: ImageName,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stores = rocksdb::open(directory.path()).unwrap();
        let registry = Registry::new(&stores, CleanupTimes::default(), Clock::system());
        let (repository, image): (RepositoryKey, ImageName) = ("dev".parse().unwrap(), "app".parse().unwrap());
        registry.create_repository(&Repository::new(repository.clone(), ApiVersion::V2)).await.unwrap();
        Self { directory, _stores: stores, registry, repository, image }
    }

    async fn push(&self, bytes: &Bytes) -> Digest {
        let digest = digest_of(Algorithm::Sha256, bytes);
        let id = self.registry.start_upload(&self.repository, &self.image, None).await.unwrap();
        let body = futures::stream::iter([Ok(bytes.clone())]).boxed();
        let client = Client { owner: None, holder: "test" };
        self.registry.finish_upload(&self.repository, &self.image, client, &id, &digest, body).await.unwrap();
        digest
    }

    async fn pull(&self, digest: &Digest) -> Result<Bytes> {
        let blob = self.registry.open_blob(&self.repository, &self.image, digest).await?;
        Ok(blob.read(0..blob.size).try_collect::<Vec<_>>().await?.concat().into())
    }

    async fn is_there(&self, digest: &Digest) -> bool {
        match self.registry.stat_blob(&self.repository, &self.image, digest).await {
            Ok(size) => size == BYTES as u64,
            Err(Error::BlobUnknown(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The files of data.
    fn files(&self) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.directory.path().join("data"), &mut found);
        found
    }

    fn only_file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

fn content() -> Bytes {
    (0..BYTES as u64).map(|at| ((at * at) >> 7) as u8).collect()
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[BYTES / 2] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_blob_whose_file_is_short_long_or_gone_heals_by_being_pushed() {
    for damage in
        [|path: &Path| fs::write(path, [0; 100]), |path: &Path| fs::write(path, [0; BYTES + 1]), |path: &Path| fs::remove_file(path)]
    {
        let fixture = Fixture::new().await;
        let digest = fixture.push(&content()).await;
        damage(&fixture.only_file()).unwrap();
        // Nobody is told that it is there, so clients push it; before, they were told and it could never be pulled.
        assert!(!fixture.is_there(&digest).await);
        assert!(matches!(fixture.pull(&digest).await, Err(Error::BlobUnknown(_))));
        let other: ImageName = "other".parse().unwrap();
        let mounted = fixture.registry.mount_blob(&fixture.repository, (&fixture.image, &other), &digest, "test").await.unwrap();
        assert!(!mounted, "what is damaged can't be mounted");
        fixture.push(&content()).await;
        assert_eq!(fixture.pull(&digest).await.unwrap(), content());
        // The damaged file is gone with the row that named it.
        assert_eq!(fs::read(fixture.only_file()).unwrap(), content());
        assert!(fixture.registry.check().await.unwrap().problems.is_empty());
    }
}

#[tokio::test]
async fn flipped_bytes_are_found_by_the_first_whole_pull_and_heal_by_being_pushed() {
    let fixture = Fixture::new().await;
    let digest = fixture.push(&content()).await;
    let registry = fixture.registry.clone();
    let verifying = tokio::spawn(async move { registry.keep_verifying().await });
    flip(&fixture.only_file());
    // The one who pulls it compares digests, as every client does. Afterwards it is known here too.
    assert_ne!(fixture.pull(&digest).await.unwrap(), content());
    let begun = Instant::now();
    while fixture.is_there(&digest).await {
        assert!(begun.elapsed() < WAIT_MAX, "the damage is not found");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fixture.push(&content()).await;
    assert_eq!(fixture.pull(&digest).await.unwrap(), content());
    assert!(fixture.registry.check().await.unwrap().problems.is_empty());
    verifying.abort();
}

#[tokio::test]
async fn a_whole_blob_is_hashed_once_in_a_run_and_stays() {
    let fixture = Fixture::new().await;
    let digest = fixture.push(&content()).await;
    fixture.pull(&digest).await.unwrap();
    let mut receiver = fixture.registry.suspects.receiver.lock().unwrap().take().unwrap();
    let suspect = receiver.try_recv().unwrap();
    fixture.registry.verify(suspect).await.unwrap();
    assert!(fixture.is_there(&digest).await);
    fixture.pull(&digest).await.unwrap();
    let blob = fixture.registry.open_blob(&fixture.repository, &fixture.image, &digest).await.unwrap();
    drop(blob.read(0..100));
    assert!(receiver.try_recv().is_err(), "neither again nor for a part of it");
}

#[tokio::test]
async fn check_marks_what_is_damaged_and_unmarks_what_is_whole() {
    let fixture = Fixture::new().await;
    let digest = fixture.push(&content()).await;
    flip(&fixture.only_file());
    assert!(fixture.is_there(&digest).await, "nobody has looked yet");
    let report = fixture.registry.check().await.unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert!(report.problems[0].what.contains("push it again"), "{}", report.problems[0]);
    assert!(!fixture.is_there(&digest).await);
    // The right bytes are back, from a backup for instance.
    flip(&fixture.only_file());
    assert!(fixture.registry.check().await.unwrap().problems.is_empty());
    assert!(fixture.is_there(&digest).await);
}
