//! Checking migrations again: is every migrated tag still what its receipt says, down to the unpacked layers?

use std::collections::HashSet;

use berth_names::{Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::records::v1::{Receipt, ReceiptLayer};
use berth_storage::records::{self, Record as _};
use berth_storage::{Key, get_record, keys};
use futures::TryStreamExt as _;
use serde::Deserialize;

use super::layers::{is_empty_tar, look_through};
use crate::blobs::damaged;
use crate::details::CONFIG_BYTES_MAX;
use crate::manifests::manifest_digest;
use crate::{Error, Registry, Result};

/// Rows brought into memory at a time.
const SCAN_ENTRIES: usize = 100;

/// What a check of migrations saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Tags that are what their receipts say.
    pub tags: u64,
    /// Tags that something else was pushed to since: their receipts say nothing about that.
    pub moved: u64,
    /// Layers that were unpacked and hashed, each once.
    pub layers: u64,
    /// What is wrong, a line each.
    pub problems: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Registry {
    /// Checks every receipt, of one repository or of all: manifest and config are what was made, and every layer unpacks
    /// to what the V1 layer did.
    ///
    /// # Errors
    /// Only if the store fails as a whole; what is wrong is reported.
    pub async fn verify_migration(&self, target: Option<&RepositoryKey>) -> Result<Verified> {
        let prefix = target.map_or_else(keys::all_receipts, keys::receipts_in);
        let (mut verified, mut seen, mut after) = (Verified::default(), HashSet::new(), None::<Key>);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let (Some((repository, image, tag)), Some(receipt)) = (keys::split_receipt(key), Receipt::decode(row)) else {
                    return Err(damaged(key));
                };
                let tag_row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(&repository, &image, &tag)).await?;
                if tag_row.is_none_or(|(tag, _)| tag.digest != receipt.manifest) {
                    verified.moved += 1;
                    continue;
                }
                match self.verify_receipt((&repository, &image), &receipt, &mut seen, &mut verified.layers).await? {
                    Ok(()) => verified.tags += 1,
                    Err(what) => verified.problems.push(format!("{}: {what}", named(&repository, &image, &tag))),
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(verified),
            }
        }
    }

    async fn verify_receipt(
        &self,
        (repository, image): (&RepositoryKey, &ImageName),
        receipt: &Receipt,
        seen: &mut HashSet<Digest>,
        layers: &mut u64,
    ) -> Result<std::result::Result<(), String>> {
        match self.manifest(repository, image, &Reference::Digest(receipt.manifest)).await {
            Ok(manifest) if manifest_digest(receipt.manifest.algorithm(), &manifest.media_type, &manifest.bytes) == receipt.manifest => {}
            Ok(_) => return Ok(Err("its manifest is damaged".to_owned())),
            Err(Error::ManifestUnknown(_)) => return Ok(Err("its manifest is missing".to_owned())),
            Err(error) => return Err(error),
        }
        let content = match self.open_blob(repository, image, &receipt.config).await {
            Ok(content) if content.size <= CONFIG_BYTES_MAX => content,
            Ok(_) => return Ok(Err("its config is too large".to_owned())),
            Err(Error::BlobUnknown(_)) => return Ok(Err("its config is missing".to_owned())),
            Err(error) => return Err(error),
        };
        let pieces: Vec<bytes::Bytes> = content.read(0..content.size).try_collect().await?;
        let expected: Vec<Digest> = receipt.layers.iter().filter(|layer| layer.blob.is_some()).map(|layer| layer.diff_id).collect();
        let found = serde_json::from_slice::<Config>(&pieces.concat()).map(|config| config.rootfs.diff_ids);
        // An image with nothing in it has the one empty layer.
        let fits = found.is_ok_and(|found| found == expected || (expected.is_empty() && found.iter().all(is_empty_tar)));
        if !fits {
            return Ok(Err("its config has other layers than its receipt".to_owned()));
        }
        for layer in &receipt.layers {
            if let Some(blob) = layer.blob.filter(|blob| seen.insert(*blob)) {
                *layers += 1;
                if let Err(what) = self.verify_layer((repository, image), layer, &blob).await? {
                    return Ok(Err(what));
                }
            }
        }
        Ok(Ok(()))
    }

    async fn verify_layer(
        &self,
        (repository, image): (&RepositoryKey, &ImageName),
        layer: &ReceiptLayer,
        blob: &Digest,
    ) -> Result<std::result::Result<(), String>> {
        let content = match self.open_blob(repository, image, blob).await {
            Ok(content) => content,
            Err(Error::BlobUnknown(_)) => return Ok(Err(format!("layer {blob} is missing"))),
            Err(error) => return Err(error),
        };
        Ok(match look_through(blob, &content, |_| {}).await? {
            Ok(diff_id) if diff_id == layer.diff_id => Ok(()),
            Ok(diff_id) => Err(format!("layer {blob} unpacks to {diff_id}, not to {} as V1 image {} does", layer.diff_id, layer.id)),
            Err(unusable) => Err(format!("layer {blob} {unusable}")),
        })
    }
}

fn named(repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> String {
    format!("{repository}/{image}:{tag}")
}
