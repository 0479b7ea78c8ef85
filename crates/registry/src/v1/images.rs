//! V1 images: JSON, layer, checksum, ancestry.

use berth_names::{Algorithm, Digest, RepositoryKey};
use berth_storage::keys::{Candidate, Item};
use berth_storage::records::v1::{Image, Layer};
use berth_storage::{Batch, get_record, keys};
use bytes::Bytes;
use serde::Deserialize;

use super::ImageId;
use super::sums::LayerSums;
use super::visible::{KNOWS_ALL, KNOWS_JSON, Viewer};
use crate::blobs::{BlobContent, damaged, random_u64};
use crate::hash::{Absorb, digest_of};
use crate::lease::LEASE_MS;
use crate::properties;
use crate::receive::{Body, Received, receive};
use crate::{Error, Registry, Result};

/// The largest image JSON that is accepted, in bytes. Docker's own are a few kilobytes.
pub const IMAGE_JSON_BYTES_MAX: usize = 1 << 20;

/// The longest chain of parents that is followed. Docker's storage drivers end at 127.
pub(super) const ANCESTORS_MAX: usize = 1024;

/// Checksums that a client may announce before the layer: docker sends two.
const ANNOUNCED_MAX: usize = 4;

/// A complete image's JSON, and what its headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageContent {
    /// The JSON, byte for byte as it was pushed.
    pub json: Bytes,
    /// Length of the layer in bytes.
    pub layer_size: u64,
    /// The payload checksum of JSON and layer.
    pub payload_checksum: Option<String>,
}

#[derive(Deserialize)]
struct Wire {
    id: Option<serde_json::Value>,
    parent: Option<String>,
}

impl Absorb for LayerSums {
    fn absorb(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Registry {
    /// Stores an image's JSON: the beginning of its push.
    ///
    /// # Errors
    /// [`Error::V1JsonInvalid`]; [`Error::V1ImageExists`] once the image is complete.
    pub async fn put_v1_json(&self, repository: &RepositoryKey, id: &ImageId, json: Bytes, pusher: Viewer<'_>, holder: &str) -> Result<()> {
        let parent = parse_json(id, &json)?;
        if let Some(parent) = parent {
            let known = self.v1_row(repository, &parent).await?.is_some();
            let reaches_itself = parent == *id || (known && self.v1_chain(repository, &parent).await?.contains(id));
            if !known || reaches_itself {
                return Err(Error::V1JsonInvalid("Image depends on a non existing parent"));
            }
        }
        let json_digest = digest_of(Algorithm::Sha256, &json);
        let sees = self.is_v1_visible(repository, id, pusher).await?;
        self.commit_with(|| async {
            let before = self.v1_row(repository, id).await?;
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, repository).await?;
            let lease = keys::v1_lease(repository, id);
            // The list of images that began the push has counted it already.
            if !self.is_held_well(&lease, holder).await? {
                self.hold(&mut batch, lease, holder).await?;
            }
            if let Some(user) = pusher.user {
                batch.put(keys::v1_pushed(repository, id, user), KNOWS_JSON);
            }
            let replaced = match &before {
                // To whoever does not see the image it is not there: pushing all of it, they get to know it.
                Some((image, _)) if image.complete && !sees && image.json_digest == json_digest => return Ok((batch, ())),
                Some((image, _)) if image.complete => return Err(Error::V1ImageExists(*id)),
                // Two clients pushing the same image at once must not undo each other.
                Some((image, _)) if image.json_digest == json_digest => return Ok((batch, ())),
                Some((image, _)) => {
                    if let Some(old) = &image.parent {
                        batch.delete(keys::v1_child(repository, old, id));
                    }
                    image.layer.as_ref().map(|layer| layer.digest)
                }
                None => None,
            };
            if let Some(layer) = &replaced {
                batch.delete(keys::v1_user_of(layer, repository, id));
                self.look_at(&mut batch, self.clock.now_ms(), &Candidate::Blob(*layer))?;
            }
            if let Some(parent) = &parent {
                self.renew_v1_image(&mut batch, repository, parent).await?;
                batch.put(keys::v1_child(repository, parent, id), Bytes::new());
            }
            let forgotten_ms = self.clock.now_ms() + LEASE_MS;
            self.look_at(&mut batch, forgotten_ms, &Candidate::V1Image(repository.clone(), *id))?;
            let image = Image {
                parent,
                json_digest,
                json_size: json.len() as u64,
                layer: None,
                announced: Vec::new(),
                complete: false,
                created_ms: self.clock.now_ms(),
                revision: random_u64()?,
            };
            let key = keys::v1_image(repository, id);
            batch.expect(key.clone(), before.map(|(_, seen)| seen)).put_record(key, &image);
            batch.put(keys::v1_json(repository, id), json.clone());
            Ok((batch, ()))
        })
        .await
    }

    /// Adds to the batch that a V1 image has got a child or a tag: a collector that has looked already loses.
    pub(crate) async fn renew_v1_image(&self, batch: &mut Batch, repository: &RepositoryKey, id: &ImageId) -> Result<()> {
        let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
        let key = keys::v1_image(repository, id);
        batch.expect(key.clone(), Some(seen)).put_record(key, &Image { revision: random_u64()?, ..image });
        Ok(())
    }

    /// Streams an image's layer in, computing every checksum that a client may claim for it.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] without a JSON; [`Error::V1ImageExists`] if the image is complete with another layer;
    /// [`Error::Interrupted`] if the client stopped sending: nothing is kept.
    pub async fn put_v1_layer(&self, repository: &RepositoryKey, id: &ImageId, body: Body, pusher: Viewer<'_>) -> Result<()> {
        let (image, _) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
        let json = self.v1_json(repository, id).await?;
        let (received, sums, end) = receive(&self.blobs, Received::default(), LayerSums::new(&json), body).await?;
        let outcome = match end {
            Ok(()) => self.name_v1_layer((repository, id), &image.json_digest, &received, sums, pusher.user).await,
            Err(_) => Err(Error::Interrupted),
        };
        match outcome {
            Ok(duplicate) => {
                self.give_back(duplicate).await;
                Ok(())
            }
            Err(error) => {
                self.give_back(received.data).await;
                Err(error)
            }
        }
    }

    async fn name_v1_layer(
        &self,
        (repository, id): (&RepositoryKey, &ImageId),
        json_digest: &Digest,
        received: &Received,
        sums: LayerSums,
        user: Option<&str>,
    ) -> Result<Option<berth_storage::DataId>> {
        let layer = tokio::task::spawn_blocking(move || describe(sums)).await.map_err(|_| Error::Internal("hashing died"))?;
        self.commit_with(|| async {
            let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
            let mut batch = Batch::new();
            if let Some(pushed) = user.map(|user| keys::v1_pushed(repository, id, user))
                && self.store.get(&pushed).await?.is_some()
            {
                batch.put(pushed, KNOWS_ALL);
            }
            if image.complete {
                // The slower of two clients that pushed the same image hears that all is well.
                let same = image.layer.is_some_and(|stored| stored.digest == layer.digest);
                return if same { Ok((batch, received.data)) } else { Err(Error::V1ImageExists(*id)) };
            }
            if image.json_digest != *json_digest {
                return Err(Error::V1ImageIncomplete(*id));
            }
            self.expect_repository(&mut batch, repository).await?;
            let duplicate = self.name_bytes(&mut batch, &layer.digest, received).await?;
            if let Some(old) = image.layer.map(|old| old.digest).filter(|old| *old != layer.digest) {
                batch.delete(keys::v1_user_of(&old, repository, id));
                self.look_at(&mut batch, self.clock.now_ms(), &Candidate::Blob(old))?;
            }
            batch.put(keys::v1_user_of(&layer.digest, repository, id), Bytes::new());
            let complete = image.announced.iter().any(|sum| layer.checksums.contains(sum));
            let image = Image { layer: Some(layer.clone()), complete, announced: Vec::new(), ..image };
            if complete {
                properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, &layer));
            }
            let key = keys::v1_image(repository, id);
            batch.expect(key.clone(), Some(seen)).put_record(key, &image);
            Ok((batch, duplicate))
        })
        .await
    }

    /// Ends an image's push: it is complete if any of the claimed checksums is one of the layer's.
    ///
    /// Before the layer is there, the claim is kept and decides when it comes.
    ///
    /// # Errors
    /// [`Error::V1ChecksumMissing`], [`Error::V1ImageUnknown`]; [`Error::V1ChecksumMismatch`], after which JSON and layer
    /// may be pushed again; [`Error::V1ImageExists`] if the image is complete with another checksum.
    pub async fn put_v1_checksum(&self, repository: &RepositoryKey, id: &ImageId, claimed: &[String]) -> Result<()> {
        if claimed.is_empty() {
            return Err(Error::V1ChecksumMissing);
        }
        self.commit_with(|| async {
            let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
            let matches = image.layer.as_ref().map(|layer| claimed.iter().any(|sum| layer.checksums.contains(sum)));
            let image = match (image.complete, matches) {
                (true, Some(true)) => return Ok((Batch::deferred(), ())),
                (true, _) => return Err(Error::V1ImageExists(*id)),
                (false, Some(true)) => Image { complete: true, ..image },
                (false, Some(false)) => return Err(Error::V1ChecksumMismatch),
                (false, None) => Image { announced: claimed.iter().take(ANNOUNCED_MAX).cloned().collect(), ..image },
            };
            let mut batch = Batch::new();
            if let Some(layer) = image.layer.as_ref().filter(|_| image.complete) {
                properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, layer));
            }
            let key = keys::v1_image(repository, id);
            batch.expect(key.clone(), Some(seen)).put_record(key, &image);
            Ok((batch, ()))
        })
        .await
    }

    /// A complete image's JSON.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_image(&self, repository: &RepositoryKey, id: &ImageId) -> Result<ImageContent> {
        let layer = self.complete_v1_layer(repository, id).await?;
        let json = self.v1_json(repository, id).await?;
        let payload_checksum = layer.checksums.into_iter().find(|sum| sum.starts_with("sha256:"));
        Ok(ImageContent { json, layer_size: layer.size, payload_checksum })
    }

    /// A complete image's layer, for reading.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_layer(&self, repository: &RepositoryKey, id: &ImageId) -> Result<BlobContent> {
        let layer = self.complete_v1_layer(repository, id).await?;
        let key = keys::blob(&layer.digest);
        let (blob, _) = get_record(self.store.as_ref(), &key).await?.ok_or_else(|| damaged(&key))?;
        if !self.is_sound(&blob) {
            return Err(Error::V1ImageUnknown(*id));
        }
        self.content_of(&layer.digest, &blob).await
    }

    /// The ids of a complete image and everything below it, top first.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_ancestry(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Vec<ImageId>> {
        self.complete_v1_layer(repository, id).await?;
        self.v1_chain(repository, id).await
    }

    /// Whether the image and everything below it can be pulled.
    pub(crate) async fn is_v1_chain_complete(&self, repository: &RepositoryKey, id: &ImageId) -> Result<bool> {
        for ancestor in self.v1_chain(repository, id).await? {
            match self.v1_row(repository, &ancestor).await? {
                Some((image, _)) if image.complete => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(crate) async fn v1_chain(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Vec<ImageId>> {
        let (mut chain, mut next) = (Vec::new(), Some(*id));
        while let Some(id) = next.filter(|_| chain.len() < ANCESTORS_MAX) {
            let (image, _) = self.v1_row(repository, &id).await?.ok_or(Error::V1ImageUnknown(id))?;
            chain.push(id);
            next = image.parent;
        }
        Ok(chain)
    }

    async fn complete_v1_layer(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Layer> {
        let (image, _) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
        image.layer.filter(|_| image.complete).ok_or(Error::V1ImageIncomplete(*id))
    }

    pub(crate) async fn v1_row(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Option<(Image, Bytes)>> {
        Ok(get_record(self.store.as_ref(), &keys::v1_image(repository, id)).await?)
    }

    pub(crate) async fn v1_json(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Bytes> {
        let key = keys::v1_json(repository, id);
        self.store.get(&key).await?.ok_or_else(|| damaged(&key))
    }
}

/// The parent that the JSON names, if it is the JSON of the image `id`.
fn parse_json(id: &ImageId, json: &[u8]) -> Result<Option<ImageId>> {
    let wire: Option<Wire> = Some(json).filter(|json| crate::json::is_sane(json)).and_then(|json| serde_json::from_slice(json).ok());
    let wire = wire.ok_or(Error::V1JsonInvalid("Invalid JSON"))?;
    let said = wire.id.ok_or(Error::V1JsonInvalid("Missing key `id' in JSON"))?;
    if said.as_str() != Some(&id.to_string()) {
        return Err(Error::V1JsonInvalid("JSON data contains invalid id"));
    }
    // Docker writes an empty parent for an image that has none.
    let parent = wire.parent.filter(|parent| !parent.is_empty());
    parent.map(|parent| parent.parse().map_err(|_| Error::V1JsonInvalid("Image depends on a non existing parent"))).transpose()
}

fn describe(sums: LayerSums) -> Layer {
    let sums = sums.finish();
    Layer { digest: Digest::sha256(sums.blob), size: sums.size, diff_id: sums.diff_id.map(Digest::sha256), checksums: sums.checksums() }
}
