//! How V1 images come: JSON, layer, checksum.
//!
//! What must stay true:
//! - Under an id there is one content at a time. What came first stays if what comes second is the same, written in other
//!   bytes: both clients hear that all is well. Something else takes its place ([`Registry::give_way`]), or is refused.
//! - A client's mark says what it sent, and its checksums are those of its own bytes.

use berth_names::{Algorithm, Digest, RepositoryKey};
use berth_storage::keys::{Candidate, Item};
use berth_storage::records::v1::{Image, Layer, Pushed};
use berth_storage::{Batch, DataId, keys};
use bytes::Bytes;

use super::ImageId;
use super::chain::{CHAIN_IMAGES_MAX, Link};
use super::json::parent_of;
use super::marks::{is_same_layer, knows, put_mark, renew_mark};
use super::sums::LayerSums;
use super::visible::Viewer;
use crate::blobs::random_u64;
use crate::hash::{Absorb, digest_of};
use crate::lease::LEASE_MS;
use crate::properties;
use crate::receive::{Body, Received, receive};
use crate::{Error, Registry, Result};

/// Checksums that a client may announce before the layer: docker sends two.
const ANNOUNCED_MAX: usize = 4;

impl Absorb for LayerSums {
    fn absorb(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

/// A layer that was received, described: its sums with the stored JSON, and those with the client's own.
struct Described {
    layer: Layer,
    own_checksums: Vec<String>,
}

impl Described {
    fn claims(&self) -> Vec<String> {
        self.layer.checksums.iter().chain(&self.own_checksums).cloned().collect()
    }
}

impl Registry {
    /// Stores an image's JSON: the beginning of its push.
    ///
    /// # Errors
    /// [`Error::V1JsonInvalid`], [`Error::V1ChainTooLong`]; [`Error::V1ImageExists`] if it is complete and seen already;
    /// those of [`Registry::give_way`] if another image has the id.
    pub async fn put_v1_json(&self, repository: &RepositoryKey, id: &ImageId, json: Bytes, pusher: Viewer<'_>, holder: &str) -> Result<()> {
        let parent = parent_of(id, &json)?;
        let json_digest = digest_of(Algorithm::Sha256, &json);
        self.commit_with(|| async {
            let before = self.v1_row(repository, id).await?;
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, repository).await?;
            let lease = keys::v1_lease(repository, id);
            // The list of images that began the push has counted it already.
            if !self.is_held_well(&lease, holder).await? {
                self.hold(&mut batch, lease, holder).await?;
            }
            if let Some((image, seen)) = &before
                && let Some(own_json) = self.same_v1_json((repository, id), image, (&json_digest, &json)).await?
            {
                if image.complete && self.is_v1_visible(repository, id, pusher).await? {
                    return Err(Error::V1ImageExists(*id));
                }
                // To whoever does not see the image it is not there: pushing all of it, they get to know it. What another
                // client of the same user has sent of it meanwhile counts.
                let (before, seen_mark) = self.v1_mark_seen(repository, id, pusher.user).await?;
                let own = before.as_ref().filter(|mark| mark.record.json == image.json_digest);
                let jsons = own.map_or_else(
                    || Vec::from_iter((!own_json.is_empty()).then(|| own_json.clone())),
                    |mark| mark.jsons_with(own_json.clone()),
                );
                let layer = own.filter(|mark| knows(&mark.record, image)).and_then(|mark| mark.record.layer);
                let record = Pushed { layer, ..begun(image.json_digest) };
                renew_mark(&mut batch, (repository, id, pusher.user), (before, seen_mark), record, &jsons);
                batch.expect(keys::v1_image(repository, id), Some(seen.clone()));
                return Ok((batch, ()));
            }
            let below = self.links_of_parent(repository, id, parent.as_ref(), pusher).await?;
            if let Some((image, _)) = &before {
                let has_children = self.give_way(&mut batch, (repository, id), image, holder).await?;
                if has_children {
                    // Two images that go below each other at once must see each other.
                    for link in &below {
                        batch.expect(keys::v1_image(repository, &link.id), Some(link.seen.clone()));
                    }
                }
                if let Some(old) = &image.parent {
                    batch.delete(keys::v1_child(repository, old, id));
                }
                self.forget_v1_layer(&mut batch, (repository, id), image.layer.as_ref())?;
            }
            if let Some(parent) = &parent {
                self.renew_v1_image(&mut batch, repository, parent).await?;
                batch.put(keys::v1_child(repository, parent, id), Bytes::from_static(keys::V1_UNNAMED));
            }
            if let Some(user) = pusher.user {
                put_mark(&mut batch, (repository, id, Some(user)), begun(json_digest), &[]);
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
                named: Some(false),
            };
            let key = keys::v1_image(repository, id);
            batch.expect(key.clone(), before.map(|(_, seen)| seen)).put_record(key, &image);
            batch.put(keys::v1_json(repository, id), json.clone());
            Ok((batch, ()))
        })
        .await
    }

    /// The chain that an image is to stand on. Its parent must be known to the pusher: to everybody else it is not there.
    async fn links_of_parent(
        &self,
        repository: &RepositoryKey,
        id: &ImageId,
        parent: Option<&ImageId>,
        pusher: Viewer<'_>,
    ) -> Result<Vec<Link>> {
        const UNKNOWN: Error = Error::V1JsonInvalid("Image depends on a non existing parent");
        let Some(parent) = parent else { return Ok(Vec::new()) };
        let links = match self.v1_links(repository, parent).await {
            Ok(links) => links,
            Err(Error::V1ImageUnknown(_)) => return Err(UNKNOWN),
            Err(Error::V1ChainTooLong(_)) => return Err(Error::V1ChainTooLong(*id)),
            Err(error) => return Err(error),
        };
        if links.iter().any(|link| link.id == *id) {
            return Err(Error::V1JsonInvalid("Image depends on itself"));
        }
        if links.len() >= CHAIN_IMAGES_MAX {
            return Err(Error::V1ChainTooLong(*id));
        }
        if !pusher.sees_all {
            // Docker pushes parents first, so it has sent the parent's JSON, or was told that it is there.
            let mark = self.v1_mark(repository, parent, pusher.user).await?.filter(|_| pusher.user.is_some());
            let has_sent = mark.is_some_and(|mark| links.first().is_some_and(|link| mark.record.json == link.image.json_digest));
            if !has_sent && !self.is_v1_visible(repository, parent, pusher).await? {
                return Err(UNKNOWN);
            }
        }
        Ok(links)
    }

    /// Adds to the batch that an image makes room for another content under its id, if it may. Returns whether others stand
    /// on it.
    ///
    /// It may as long as no tag leads to it. A tag that comes to lead to it at the same time changes its row, which whoever
    /// calls this expects unchanged: once one ever did, that is no longer certain, and nothing must stand on it.
    ///
    /// # Errors
    /// [`Error::V1ImageTaken`] if a tag leads to it; [`Error::V1ImageReliedOn`] if a push was told that it is there.
    pub(super) async fn give_way(
        &self,
        batch: &mut Batch,
        (repository, id): (&RepositoryKey, &ImageId),
        image: &Image,
        holder: &str,
    ) -> Result<bool> {
        let has_children = !self.store.scan(&keys::v1_children(repository, id), None, 1).await?.is_empty();
        if image.named != Some(false) {
            if self.is_v1_named(repository, id, &|_| true).await? {
                return Err(Error::V1ImageTaken(*id));
            }
            if has_children {
                return Err(Error::V1ImageReliedOn(*id));
            }
        }
        if !image.complete {
            return Ok(has_children);
        }
        if self.was_anybody_told(batch, keys::v1_lease(repository, id), holder).await? {
            return Err(Error::V1ImageReliedOn(*id));
        }
        let item = Item::V1Image(*id);
        if let Some(layer) = &image.layer {
            properties::unindex(batch, repository, &item, &properties::of_v1_image(id, layer));
        }
        // What was said was said about what is no longer there.
        self.forget_properties(batch, repository, &item).await?;
        Ok(has_children)
    }

    /// Adds to the batch that an image no longer has a layer.
    pub(super) fn forget_v1_layer(
        &self,
        batch: &mut Batch,
        (repository, id): (&RepositoryKey, &ImageId),
        layer: Option<&Layer>,
    ) -> Result<()> {
        let Some(layer) = layer else { return Ok(()) };
        batch.delete(keys::v1_user_of(&layer.digest, repository, id));
        self.look_at(batch, self.clock.now_ms(), &Candidate::Blob(layer.digest))
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
    /// [`Error::V1ImageUnknown`] without a JSON; [`Error::V1ImageIncomplete`] if another client's JSON has taken its place;
    /// [`Error::V1ImageExists`] if the image is complete with another layer and the client has not begun to send it anew;
    /// those of [`Registry::give_way`] if it has; [`Error::Interrupted`] if the client stopped sending: nothing is kept.
    pub async fn put_v1_layer(&self, repository: &RepositoryKey, id: &ImageId, body: Body, pusher: Viewer<'_>, holder: &str) -> Result<()> {
        let (image, _) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
        let json = self.v1_json(repository, id).await?;
        let mark = self.v1_mark(repository, id, pusher.user).await?;
        let own = mark.filter(|mark| mark.record.json == image.json_digest).map(|mark| mark.jsons).unwrap_or_default();
        let sums = LayerSums::new(&json).with_others(own);
        let (received, sums, end) = receive(&self.blobs, Received::default(), sums, body).await?;
        let outcome = match end {
            Ok(()) => self.name_v1_layer((repository, id), &image.json_digest, &received, sums, (pusher.user, holder)).await,
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
        (user, holder): (Option<&str>, &str),
    ) -> Result<Option<DataId>> {
        let described = tokio::task::spawn_blocking(move || describe(sums)).await.map_err(|_| Error::Internal("hashing died"))?;
        let layer = &described.layer;
        self.commit_with(|| async {
            let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
            let (mark, seen_mark) = self.v1_mark_seen(repository, id, user).await?;
            let has_sent_another = mark.as_ref().is_some_and(|mark| mark.record.json != image.json_digest);
            if image.json_digest != *json_digest || has_sent_another {
                return Err(Error::V1ImageIncomplete(*id));
            }
            let mut batch = Batch::new();
            let note = |batch: &mut Batch, stored: &Layer| {
                let Some(mark) = mark.clone() else { return };
                let checksums = described.claims().into_iter().filter(|sum| !stored.checksums.contains(sum)).collect();
                let record = Pushed { layer: Some(stored.digest), checksums, ..mark.record.clone() };
                let jsons = mark.jsons.clone();
                renew_mark(batch, (repository, id, user), (Some(mark), seen_mark.clone()), record, &jsons);
            };
            let key = keys::v1_image(repository, id);
            let is_announced =
                |stored: &Layer| image.announced.iter().any(|sum| stored.checksums.contains(sum) || described.claims().contains(sum));
            if let Some(stored) = image.layer.as_ref().filter(|stored| is_same_layer(stored, layer)) {
                note(&mut batch, stored);
                batch.expect(key.clone(), Some(seen));
                if !image.complete && is_announced(stored) {
                    properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, stored));
                    batch.put_record(key, &Image { complete: true, announced: Vec::new(), ..image.clone() });
                }
                return Ok((batch, received.data));
            }
            let named = if image.complete {
                // Only whoever has begun to send it anew means to replace it.
                if mark.as_ref().is_none_or(|mark| knows(&mark.record, &image)) {
                    return Err(Error::V1ImageExists(*id));
                }
                self.give_way(&mut batch, (repository, id), &image, holder).await?;
                Some(false)
            } else {
                image.named
            };
            self.expect_repository(&mut batch, repository).await?;
            let duplicate = self.name_bytes(&mut batch, &layer.digest, received).await?;
            self.forget_v1_layer(&mut batch, (repository, id), image.layer.as_ref())?;
            note(&mut batch, layer);
            batch.put(keys::v1_user_of(&layer.digest, repository, id), Bytes::new());
            let complete = is_announced(layer);
            if complete {
                properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, layer));
            }
            let image = Image { layer: Some(layer.clone()), complete, named, announced: Vec::new(), ..image };
            batch.expect(key.clone(), Some(seen)).put_record(key, &image);
            Ok((batch, duplicate))
        })
        .await
    }

    /// Ends an image's push: it is complete if any of the claimed checksums is one of the layer's, or of what the client sent
    /// that has the same content.
    ///
    /// Before the layer is there, the claim is kept and decides when it comes.
    ///
    /// # Errors
    /// [`Error::V1ChecksumMissing`], [`Error::V1ImageUnknown`]; [`Error::V1ChecksumMismatch`], after which JSON and layer
    /// may be pushed again.
    pub async fn put_v1_checksum(&self, repository: &RepositoryKey, id: &ImageId, claimed: &[String], user: Option<&str>) -> Result<()> {
        if claimed.is_empty() {
            return Err(Error::V1ChecksumMissing);
        }
        self.commit_with(|| async {
            let (image, seen) = self.v1_row(repository, id).await?.ok_or(Error::V1ImageUnknown(*id))?;
            let Some(layer) = &image.layer else {
                let announced = claimed.iter().take(ANNOUNCED_MAX).cloned().collect();
                let (mut batch, key) = (Batch::new(), keys::v1_image(repository, id));
                batch.expect(key.clone(), Some(seen)).put_record(key, &Image { announced, ..image });
                return Ok((batch, ()));
            };
            if !claimed.iter().any(|sum| layer.checksums.contains(sum)) {
                let mark = self.v1_mark(repository, id, user).await?.filter(|mark| knows(&mark.record, &image));
                let own = mark.map(|mark| mark.record.checksums).unwrap_or_default();
                if !claimed.iter().any(|sum| own.contains(sum)) {
                    return Err(Error::V1ChecksumMismatch);
                }
            }
            if image.complete {
                return Ok((Batch::deferred(), ()));
            }
            let (mut batch, key) = (Batch::new(), keys::v1_image(repository, id));
            properties::index(&mut batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, layer));
            batch.expect(key.clone(), Some(seen)).put_record(key, &Image { complete: true, ..image });
            Ok((batch, ()))
        })
        .await
    }
}

/// The mark of whoever has sent the JSON and nothing else.
fn begun(json: Digest) -> Pushed {
    Pushed { json, layer: None, checksums: Vec::new(), json_sizes: Vec::new() }
}

fn describe(sums: LayerSums) -> Described {
    let sums = sums.finish();
    let layer = Layer {
        digest: Digest::sha256(sums.blob),
        size: sums.size,
        diff_id: sums.diff_id.map(Digest::sha256),
        checksums: sums.checksums(),
        content: sums.content.map(Digest::sha256),
        tree: sums.tree.map(Digest::sha256),
    };
    Described { layer, own_checksums: sums.other_checksums() }
}
