//! A store to import into, for tests.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_names::{ImageName, Tag};
use berth_registry::v1::ImageId;
use berth_storage::rocksdb::Stores;
use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use super::*;

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    config: Config,
}

pub(super) fn fixture(settings: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.toml");
    let text = "data_dir = \"data\"\n[listen]\nunix = \"backend.sock\"\n[[repository]]\nkey = \"old\"\napi_version = \"V1\"\n[[repository]]\nkey = \"new\"\napi_version = \"V2\"\n";
    std::fs::write(&path, format!("{settings}{text}")).unwrap();
    Fixture { config: Config::load(&path).unwrap(), directory }
}

/// What an import came to: whether it went well, and its report.
pub(super) type Outcome = anyhow::Result<(bool, Report)>;

impl Fixture {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens the store as the backend does.
    pub(super) fn open(&self) -> (Stores, Registry) {
        crate::open(&self.config).unwrap()
    }

    pub(super) async fn run(&self, repository: &str, work: impl AsyncFnOnce(&mut Import) -> anyhow::Result<()>) -> Outcome {
        let mut report = Report::default();
        let code = with_store(&self.config, &repository.parse().unwrap(), async |import| {
            work(import).await?;
            report = import.report.clone();
            Ok(())
        })
        .await?;
        Ok((format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS), report))
    }

    /// Everything that a tag of the V1 repository leads to, root first, or nothing.
    pub(super) async fn pull_v1(&self, image: &str, tag: &str) -> Option<Vec<(ImageId, Bytes, Vec<u8>)>> {
        let (_stores, registry) = self.open();
        let key = "old".parse().unwrap();
        let (image, tag): (ImageName, Tag) = (image.parse().unwrap(), tag.parse().unwrap());
        let top = registry.v1_tag(&key, &image, &tag).await.ok()?.id;
        let mut found = Vec::new();
        for id in registry.v1_ancestry(&key, &top).await.unwrap().into_iter().rev() {
            let (json, layer) = (registry.v1_image(&key, &id).await.unwrap().json, registry.v1_layer(&key, &id).await.unwrap());
            let pieces: Vec<Bytes> = layer.read(0..layer.size).try_collect().await.unwrap();
            found.push((id, json, pieces.concat()));
        }
        Some(found)
    }

    /// The store has no damage; returns how many blobs and bytes are in it.
    pub(super) async fn check(&self) -> (u64, u64) {
        let (_stores, registry) = self.open();
        let report = registry.check().await.unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        (report.blobs, report.bytes)
    }
}

pub(super) fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

pub(super) fn json(id: &str, parent: Option<&str>) -> String {
    parent.map_or_else(|| format!(r#"{{"id":"{id}","created":"x"}}"#), |parent| format!(r#"{{"id":"{id}","parent":"{parent}"}}"#))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    berth_names::Digest::sha256(Sha256::digest(bytes).into()).to_string()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A tar of one file with content that `seed` decides.
pub(super) fn layer(seed: u8, size: usize) -> Vec<u8> {
    let content: Vec<u8> = (0..size).map(|at| (at as u8).wrapping_mul(seed) ^ (at >> 9) as u8).collect();
    let mut tar = super::tar::tests::member("file", b'0', &content);
    tar.resize(tar.len() + 1024, 0);
    tar
}
