//! Whether something may go: one function for each kind of candidate, each adding to the batch what its going means.

use berth_names::{Digest, ImageName, RepositoryKey};
use berth_storage::keys::{self, Candidate, Item};
use berth_storage::records::{Blob, Image, Manifest, Place, WithBody, v1};
use berth_storage::{Batch, Key, Prefix, get_record};
use bytes::Bytes;

use super::{Freed, Verdict};
use crate::properties;
use crate::v1::ImageId;
use crate::{Registry, Result};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

impl Registry {
    pub(super) async fn judge(&self, batch: &mut Batch, candidate: &Candidate) -> Result<Verdict> {
        match candidate {
            Candidate::Manifest(repository, image, digest) => self.judge_manifest(batch, repository, image, digest).await,
            Candidate::Link(repository, image, digest) => self.judge_link(batch, repository, image, digest).await,
            Candidate::V1Image(repository, id) => self.judge_v1_image(batch, repository, id).await,
            Candidate::Blob(digest) => self.judge_blob(batch, digest).await,
            Candidate::Image(repository, image) => self.judge_image(batch, repository, image).await,
        }
    }

    async fn judge_manifest(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Verdict> {
        // Every commit that adds a way to a manifest renews the image's row, which is expected as it is read here, first.
        let seen_image = self.store.get(&keys::image(repository, image)).await?;
        let stored = get_record::<WithBody<Manifest>>(self.store.as_ref(), &keys::manifest(repository, image, digest)).await?;
        let Some((WithBody { record, .. }, _)) = stored else { return Ok(Verdict::Stays) };
        if self.any(&keys::tags_of(repository, image, digest)).await? || self.any(&keys::parents_of(repository, image, digest)).await? {
            return Ok(Verdict::Stays);
        }
        if let Some(subject) = &record.subject
            && self.store.get(&keys::manifest(repository, image, subject)).await?.is_some()
        {
            return Ok(Verdict::Stays);
        }
        if let Some(until_ms) = self.held_until(batch, keys::lease(repository, image, digest)).await? {
            return Ok(Verdict::Later(until_ms));
        }
        batch.expect(keys::image(repository, image), seen_image.clone());
        self.remove_manifest(batch, (repository, image, digest), &record, seen_image).await?;
        Ok(Verdict::Goes(Freed { manifests: 1, ..Freed::default() }, None))
    }

    /// Adds to the batch that a manifest goes, and what is to be looked at then. The image's row must be expected already.
    pub(crate) async fn remove_manifest(
        &self,
        batch: &mut Batch,
        (repository, image, digest): (&RepositoryKey, &ImageName, &Digest),
        record: &Manifest,
        seen_image: Option<Bytes>,
    ) -> Result<()> {
        let now_ms = self.clock.now_ms();
        for child in record.holds() {
            batch.delete(keys::parent_of(repository, image, child, digest));
            // One at a time: they may be thousands of megabytes.
            let is_manifest = self.store.get(&keys::manifest(repository, image, child)).await?.is_some();
            let kind = if is_manifest { Candidate::Manifest } else { Candidate::Link };
            self.look_at(batch, now_ms, &kind(repository.clone(), image.clone(), *child))?;
        }
        if let Some(subject) = &record.subject {
            batch.delete(keys::referrer(repository, image, subject, digest));
        }
        let referrers = keys::referrers(repository, image, digest);
        for key in self.keys_of(&referrers).await? {
            if let Some(referrer) = key.digest_after(&referrers) {
                self.look_at(batch, now_ms, &Candidate::Manifest(repository.clone(), image.clone(), referrer))?;
            }
        }
        self.remove_view(batch, repository, image, digest).await?;
        batch.delete(keys::manifest(repository, image, digest));
        let is_last = self.store.scan_keys(&keys::manifests(repository, image), None, 2).await?.len() <= 1;
        self.after_removal(batch, repository, image, seen_image, is_last).await
    }

    /// Adds to the batch what the removal of a manifest or V1 tag means for its image. Renewing the row each time lets only
    /// one of two removals at once win, so that one of them sees that it is the last.
    pub(crate) async fn after_removal(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        seen_image: Option<Bytes>,
        is_last: bool,
    ) -> Result<()> {
        let key = keys::image(repository, image);
        let Some(row) = seen_image.as_ref().and_then(<Image as berth_storage::records::Record>::decode) else { return Ok(()) };
        let vacant_since_ms = if is_last { row.vacant_since_ms.or(Some(self.clock.now_ms())) } else { None };
        batch.put_record(key, &Image { revision: crate::blobs::random_u64()?, vacant_since_ms, ..row });
        if is_last {
            let item = Item::Image(image.clone());
            properties::unindex(batch, repository, &item, &properties::of_v1_name(image));
            self.forget_properties(batch, repository, &item).await?;
            self.look_at(batch, self.next_prune_ms(), &Candidate::Image(repository.clone(), image.clone()))?;
        }
        Ok(())
    }

    async fn judge_link(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Verdict> {
        let image_key = keys::image(repository, image);
        let seen_image = get_record::<Image>(self.store.as_ref(), &image_key).await?;
        let link = keys::link(repository, image, digest);
        let Some(seen) = self.store.get(&link).await? else { return Ok(Verdict::Stays) };
        if self.any(&keys::parents_of(repository, image, digest)).await? {
            return Ok(Verdict::Stays);
        }
        if let Some(until_ms) = self.held_until(batch, keys::lease(repository, image, digest)).await? {
            return Ok(Verdict::Later(until_ms));
        }
        let is_vacant = seen_image.as_ref().is_some_and(|(row, _)| row.vacant_since_ms.is_some());
        batch.expect(image_key, seen_image.map(|(_, seen)| seen)).expect(link.clone(), Some(seen));
        batch.delete(link).delete(keys::linked_from(digest, repository, image));
        self.look_at(batch, self.clock.now_ms(), &Candidate::Blob(*digest))?;
        if is_vacant {
            self.look_at(batch, self.next_prune_ms(), &Candidate::Image(repository.clone(), image.clone()))?;
        }
        Ok(Verdict::Goes(Freed { links: 1, ..Freed::default() }, None))
    }

    async fn judge_v1_image(&self, batch: &mut Batch, repository: &RepositoryKey, id: &ImageId) -> Result<Verdict> {
        let key = keys::v1_image(repository, id);
        // Whoever adds a tag or a child renews the row, which is read before they are looked for.
        let Some((image, seen)) = get_record::<v1::Image>(self.store.as_ref(), &key).await? else { return Ok(Verdict::Stays) };
        if self.any(&keys::v1_tags_of(repository, id)).await? {
            return Ok(Verdict::Stays);
        }
        // Of images that stand on each other in a circle, each has one that stands on it: once one has gone, all go.
        if self.any(&keys::v1_children(repository, id)).await? && !self.is_idle_v1_loop(repository, id).await? {
            return Ok(Verdict::Stays);
        }
        if let Some(until_ms) = self.held_until(batch, keys::v1_lease(repository, id)).await? {
            return Ok(Verdict::Later(until_ms));
        }
        batch.expect(key.clone(), Some(seen)).delete(key).delete(keys::v1_json(repository, id));
        for pusher in self.keys_of(&keys::v1_pushers(repository, id)).await? {
            batch.delete(pusher);
        }
        let now_ms = self.clock.now_ms();
        if let Some(parent) = &image.parent {
            batch.delete(keys::v1_child(repository, parent, id));
            self.look_at(batch, now_ms, &Candidate::V1Image(repository.clone(), *parent))?;
        }
        self.forget_properties(batch, repository, &Item::V1Image(*id)).await?;
        if let Some(layer) = &image.layer {
            properties::unindex(batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, layer));
            batch.delete(keys::v1_user_of(&layer.digest, repository, id));
            self.look_at(batch, now_ms, &Candidate::Blob(layer.digest))?;
        }
        Ok(Verdict::Goes(Freed { v1_images: 1, ..Freed::default() }, None))
    }

    async fn judge_blob(&self, batch: &mut Batch, digest: &Digest) -> Result<Verdict> {
        let key = keys::blob(digest);
        // The row is read before its users: whoever adds one later renews the row, and this commit loses.
        let Some((blob, seen)) = get_record::<Blob>(self.store.as_ref(), &key).await? else { return Ok(Verdict::Stays) };
        if self.any(&keys::links_of(digest)).await? || self.any(&keys::v1_users_of(digest)).await? {
            return Ok(Verdict::Stays);
        }
        batch.expect(key.clone(), Some(seen)).delete(key).delete(keys::conversion(digest));
        let data = match blob.place {
            Place::Small => {
                batch.delete(keys::small_blob(digest));
                None
            }
            Place::Data(data) => {
                batch.delete(keys::data_owner(data));
                Some(data)
            }
        };
        Ok(Verdict::Goes(Freed { blobs: 1, blob_bytes: blob.size, ..Freed::default() }, data))
    }

    async fn judge_image(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName) -> Result<Verdict> {
        let key = keys::image(repository, image);
        // Whoever puts something into the image expects or renews its row.
        let Some((row, seen)) = get_record::<Image>(self.store.as_ref(), &key).await? else { return Ok(Verdict::Stays) };
        let Some(vacant_since_ms) = row.vacant_since_ms else { return Ok(Verdict::Stays) };
        // A time that has not come yet was noted before the clock was set back.
        let quiet_ms = self.cleanup_times.quiet_ms;
        if self.clock.now_ms().checked_sub(vacant_since_ms).is_some_and(|since_ms| since_ms < quiet_ms) {
            return Ok(Verdict::Later(self.next_prune_ms()));
        }
        let content = [
            keys::manifests(repository, image),
            keys::tags(repository, image),
            keys::v1_tags(repository, image),
            // A push is under way. When its blobs go, they make the image a candidate again.
            keys::links(repository, image),
        ];
        for prefix in &content {
            if self.any(prefix).await? {
                return Ok(Verdict::Stays);
            }
        }
        batch.expect(key.clone(), Some(seen)).delete(key);
        Ok(Verdict::Goes(Freed { images: 1, ..Freed::default() }, None))
    }

    async fn any(&self, prefix: &Prefix) -> Result<bool> {
        Ok(!self.store.scan_keys(prefix, None, 1).await?.is_empty())
    }

    /// All keys of a group that is small by its nature.
    pub(crate) async fn keys_of(&self, prefix: &Prefix) -> Result<Vec<Key>> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let keys = self.store.scan_keys(prefix, after.as_ref(), SCAN_ENTRIES).await?;
            after = keys.last().cloned();
            let is_end = keys.len() < SCAN_ENTRIES;
            found.extend(keys);
            if is_end {
                return Ok(found);
            }
        }
    }
}
