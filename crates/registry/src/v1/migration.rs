//! Migration: tags of a V1 repository become tags of a V2 repository, while both are served.
//!
//! What must stay true:
//! - A tag appears in the target whole, in one commit, or not at all. Nothing in the source changes.
//! - A layer that is gzip is the same blob for V2 clients: no byte of it is copied. Any other is packed anew, once.
//! - The same chain becomes the same bytes each time, so migrating again changes nothing, and one that was interrupted
//!   goes on where it stopped.
//! - What is broken is said of its tag, and stops nothing else.

mod bring;
mod config;
mod jobs;
mod layers;
mod receipts;
mod unpack;
mod verify;
mod walk;

use std::sync::Arc;

use berth_names::{Algorithm, ApiVersion, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::records::v1::{Conversion, ReceiptLayer};
use berth_storage::records::{self, Record as _, v1};
use berth_storage::{Batch, Key, get_record, keys};
use bytes::Bytes;

use self::config::Descriptor;
use self::layers::{Into, Way, is_empty_tar};
use super::chain::CHAIN_IMAGES_MAX;
use super::{ImageId, TagRecord};
use crate::hash::digest_of;
use crate::{Error, ExistingTag, Push, Registry, Repository, Result, empty_layer};
pub use berth_storage::records::JobState;
pub use berth_storage::records::v1::Receipt;
pub(crate) use config::{NO_TIME, is_time};
pub(crate) use jobs::LiveJobs;
pub use jobs::{Allowed, Allows, InvalidJobId, Job, JobId, MigrationOrder};
pub use receipts::{ReceiptPage, Wanted};
pub use verify::Verified;

/// Receipts in one answer.
pub const RECEIPTS_MAX: usize = 1000;

/// How often a tag that moves while it is being migrated is begun anew.
const MOVES_MAX: usize = 8;

/// Why a tag can't be migrated, in words for whoever runs the registry.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("V1 image {0} is missing")]
    Missing(ImageId),
    #[error("the push of V1 image {0} never ended")]
    Incomplete(ImageId),
    #[error("the chain of V1 images has more than {CHAIN_IMAGES_MAX} links, or no end")]
    Endless,
    #[error("the JSON of V1 image {0} can't be read")]
    Json(ImageId),
    #[error("the layer of V1 image {0} {1}")]
    Layer(ImageId, unpack::Unusable),
    #[error("{0}")]
    Refused(Error),
    #[error("it was moved again and again meanwhile")]
    Moving,
    #[error("you may not push it to the target")]
    NotAllowed,
}

/// What became of a tag.
enum Outcome {
    Migrated,
    Unchanged,
    /// It was deleted meanwhile.
    Gone,
    Broken(Broken),
}

/// A tag that is to go from one repository to another.
struct Errand<'a> {
    source: &'a RepositoryKey,
    target: &'a Repository,
    image: &'a ImageName,
    tag: &'a Tag,
    existing: ExistingTag,
    dry_run: bool,
    /// For whom what is brought is kept until the tag is set.
    holder: &'a str,
    tally: &'a Arc<jobs::Tally>,
}

impl Errand<'_> {
    fn into(&self) -> Into<'_> {
        Into { repository: &self.target.key, image: self.image, holder: self.holder }
    }
}

/// A V1 image of the chain, and what its layer becomes.
struct Link {
    id: ImageId,
    json: Bytes,
    json_digest: Digest,
    layer: Digest,
    becomes: Conversion,
}

impl Link {
    fn is_empty(&self) -> bool {
        is_empty_tar(&self.becomes.diff_id)
    }
}

/// V1 images from the root to a tag's.
struct Chain {
    links: Vec<Link>,
    /// Whether it is known what all layers become: a dry run reads none to find out.
    is_known: bool,
}

/// Whether a commit found the source as it had been read.
enum Named {
    Done,
    Moved,
}

impl Registry {
    async fn migrate_tag(&self, errand: &Errand<'_>) -> Result<Outcome> {
        if !errand.target.takes(errand.image) {
            return Ok(Outcome::Broken(Broken::Refused(Error::ImageNotTaken(errand.image.clone()))));
        }
        for _ in 0..MOVES_MAX {
            let row = get_record::<TagRecord>(self.store.as_ref(), &keys::v1_tag(errand.source, errand.image, errand.tag)).await?;
            let Some((row, seen)) = row else { return Ok(Outcome::Gone) };
            if self.is_migrated(errand, &row.id).await? {
                return Ok(Outcome::Unchanged);
            }
            match self.migrate_tag_once(errand, &row, seen).await {
                Ok(Ok(Named::Done)) => return Ok(Outcome::Migrated),
                Ok(Ok(Named::Moved)) => {}
                Ok(Err(broken)) => return Ok(Outcome::Broken(broken)),
                Err(error @ Error::TagExists(_)) => return Ok(Outcome::Broken(Broken::Refused(error))),
                Err(error) => return Err(error),
            }
        }
        Ok(Outcome::Broken(Broken::Moving))
    }

    /// Whether the target's tag is what the source's became before. That is so only if the ids still stand for what they stood
    /// for then: clients choose them, and once no tag leads to one it can come to mean something else.
    async fn is_migrated(&self, Errand { source, target, image, tag, .. }: &Errand<'_>, id: &ImageId) -> Result<bool> {
        let rows = self.store.multi_get(&[keys::receipt(&target.key, image, tag), keys::tag(&target.key, image, tag)]).await?;
        let [Some(receipt), Some(row)] = rows.as_slice() else { return Ok(false) };
        let (Some(receipt), Some(row)) = (Receipt::decode(receipt), records::Tag::decode(row)) else { return Ok(false) };
        if (&receipt.source, &receipt.image, &receipt.tag, &receipt.id) != (*source, *image, *tag, id) || receipt.manifest != row.digest {
            return Ok(false);
        }
        let keys: Vec<Key> = receipt.layers.iter().map(|layer| keys::v1_image(source, &layer.id)).collect();
        let rows = self.store.multi_get(&keys).await?;
        let parents = std::iter::once(None).chain(receipt.layers.iter().map(|layer| Some(layer.id)));
        Ok(receipt.layers.iter().zip(rows).zip(parents).all(|((layer, row), parent)| {
            let image = row.as_ref().and_then(v1::Image::decode).filter(|image| image.complete);
            image.is_some_and(|image| {
                let content = (Some(image.json_digest), image.layer.map(|layer| layer.digest), image.parent);
                content == (layer.json, Some(layer.layer), parent)
            })
        }))
    }

    async fn migrate_tag_once(&self, errand: &Errand<'_>, row: &TagRecord, seen: Bytes) -> Result<std::result::Result<Named, Broken>> {
        let Chain { links: chain, is_known } = match self.chain_for_v2(errand, &row.id).await? {
            Ok(chain) => chain,
            Err(broken) => return Ok(Err(broken)),
        };
        let has_layers = chain.iter().any(|link| !link.is_empty());
        let top = row.id;
        // Something must be in an image for old clients of V2: in one with nothing in it that is the empty layer.
        let diff_id_of = |link: &Link| {
            (!link.is_empty() || (!has_layers && link.id == top))
                .then(|| if link.is_empty() { empty_layer::diff_id() } else { link.becomes.diff_id })
        };
        let steps: Vec<_> = chain.iter().map(|link| config::Step { json: &link.json, diff_id: diff_id_of(link) }).collect();
        let config = match config::config(&steps) {
            Ok(config) => Bytes::from(config),
            Err(at) => return Ok(Err(Broken::Json(chain.get(at).map_or(top, |link| link.id)))),
        };
        let blobs =
            chain.iter().filter(|link| !link.is_empty()).map(|link| Descriptor { digest: link.becomes.digest, size: link.becomes.size });
        let mut layers: Vec<Descriptor> = blobs.collect();
        let mut made = vec![config.clone()];
        if !has_layers {
            made.push(empty_layer::bytes());
            layers.push(describe(&empty_layer::bytes()));
        }
        let config = describe(&config);
        let manifest = Bytes::from(config::manifest(config, &layers));
        let manifest_digest = digest_of(Algorithm::Sha256, &manifest);
        if errand.dry_run {
            return self.foresee(errand, is_known.then_some(&manifest_digest)).await.map(Ok);
        }
        for bytes in made {
            self.bring(errand.into(), bytes).await?;
        }
        if !self.bring_layers(errand.into(), &layers).await? {
            return Ok(Ok(Named::Moved));
        }
        let receipt = Receipt {
            source: errand.source.clone(),
            image: errand.image.clone(),
            tag: errand.tag.clone(),
            id: top,
            layers: chain
                .iter()
                .map(|link| ReceiptLayer {
                    id: link.id,
                    layer: link.layer,
                    diff_id: link.becomes.diff_id,
                    blob: (!link.is_empty()).then_some(link.becomes.digest),
                    json: Some(link.json_digest),
                })
                .collect(),
            config: config.digest,
            manifest: manifest_digest,
            migrated_ms: self.clock.now_ms(),
        };
        self.set_migrated_tag(errand, (row, seen), manifest, &receipt).await.map(Ok)
    }

    /// What setting the tag would come to. Unless the manifest is known, the tag may be there as it would be.
    async fn foresee(&self, Errand { target, image, tag, existing, .. }: &Errand<'_>, manifest: Option<&Digest>) -> Result<Named> {
        let row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(&target.key, image, tag)).await?;
        match row.zip(manifest) {
            Some(((row, _), manifest)) if *existing == ExistingTag::Stays && row.digest != *manifest => {
                Err(Error::TagExists((*tag).clone()))
            }
            _ => Ok(Named::Done),
        }
    }

    /// The chain below a V1 image, root first, with what each layer becomes.
    async fn chain_for_v2(&self, errand: &Errand<'_>, top: &ImageId) -> Result<std::result::Result<Chain, Broken>> {
        let chain = match self.v1_links(errand.source, top).await {
            Ok(chain) => chain,
            Err(Error::V1ChainTooLong(_)) => return Ok(Err(Broken::Endless)),
            Err(Error::V1ImageUnknown(id)) => return Ok(Err(Broken::Missing(id))),
            Err(error) => return Err(error),
        };
        if let Some(link) = chain.iter().find(|link| !link.image.complete || link.image.layer.is_none()) {
            return Ok(Err(Broken::Incomplete(link.id)));
        }
        let mut links = Vec::with_capacity(chain.len());
        let mut is_known = true;
        for (id, image) in chain.into_iter().rev().map(|link| (link.id, link.image)) {
            let Some(layer) = image.layer else { return Ok(Err(Broken::Incomplete(id))) };
            let Some(json) = self.store.get(&keys::v1_json(errand.source, &id)).await? else { return Ok(Err(Broken::Missing(id))) };
            let becomes = match self.way_of(&layer).await? {
                Way::AsItIs(conversion) => {
                    errand.tally.reused();
                    conversion
                }
                Way::PackedBefore(conversion) => conversion,
                Way::ReadThrough if errand.dry_run => {
                    errand.tally.repacked();
                    is_known = false;
                    // Nobody knows yet; what it is called makes no difference to whether the rest can be made.
                    Conversion { diff_id: layer.digest, digest: layer.digest, size: layer.size }
                }
                Way::ReadThrough => {
                    errand.tally.repacked();
                    let tally = Arc::clone(errand.tally);
                    match self.convert(errand.into(), &layer, move |bytes| tally.read(bytes)).await? {
                        Ok(conversion) => conversion,
                        Err(unusable) => return Ok(Err(Broken::Layer(id, unusable))),
                    }
                }
            };
            links.push(Link { id, json, json_digest: image.json_digest, layer: layer.digest, becomes });
        }
        Ok(Ok(Chain { links, is_known }))
    }

    /// Stores the manifest, sets the tag and writes the receipt: one commit, if the source's tag is where it was.
    async fn set_migrated_tag(
        &self,
        errand: &Errand<'_>,
        (row, seen): (&TagRecord, Bytes),
        manifest: Bytes,
        receipt: &Receipt,
    ) -> Result<Named> {
        let Errand { source, target, image, tag, existing, holder, .. } = errand;
        let from = keys::v1_tag(source, image, tag);
        let push = Push { existing: *existing, holder };
        let reference = Reference::Tag((*tag).clone());
        let document = crate::manifests::read(config::MANIFEST_TYPE, &manifest)?;
        self.commit_with(|| async {
            if self.store.get(&from).await?.as_ref() != Some(&seen) {
                return Ok((Batch::deferred(), Named::Moved));
            }
            let place = (&target.key, *image, &reference);
            // The tag keeps its age: what is newest stays so.
            let mut batch = self.manifest_batch(place, (&receipt.manifest, &document, &manifest), row.updated_ms, push).await?;
            batch.expect(from.clone(), Some(seen.clone()));
            batch.put_record(keys::receipt(&target.key, image, tag), receipt);
            Ok((batch, Named::Done))
        })
        .await
    }

    /// The two repositories of a migration, if it can go from one to the other.
    async fn ends_of_migration(&self, source: &RepositoryKey, target: &RepositoryKey) -> Result<(Arc<Repository>, Arc<Repository>)> {
        let (from, to) = (self.repository(source).await?, self.repository(target).await?);
        match (from.api_version, to.api_version) {
            (ApiVersion::V1, ApiVersion::V2) => Ok((from, to)),
            (ApiVersion::V2, _) => Err(Error::MigrationInvalid("the source must be a V1 repository")),
            (ApiVersion::V1, ApiVersion::V1) => Err(Error::MigrationInvalid("the target must be a V2 repository")),
        }
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor { digest: digest_of(Algorithm::Sha256, bytes), size: bytes.len() as u64 }
}

#[cfg(test)]
mod tests;
