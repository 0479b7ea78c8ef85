//! V1 tags, and the images that they make part of a V1 image name.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys::{Candidate, Item};
use berth_storage::records::{self, Record, v1::Image};
use berth_storage::{Batch, get_record, keys};
use bytes::Bytes;

use super::ImageId;
use super::chain::{Chains, Link};
use super::visible::Viewer;
use crate::blobs::random_u64;
use crate::properties;
use crate::{Error, ExistingTag, Push, Registry, Result};

/// Tags that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// What a V1 tag points to, and who moved it there.
pub type TagRecord = records::v1::Tag;

impl Registry {
    /// Points a tag to an image.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] unless the image and everything below it is complete, and known to the pusher;
    /// [`Error::V1ImageReplaced`] if it is not what the pusher sent; [`Error::V1ChainTooLong`]; [`Error::TagExists`].
    pub async fn put_v1_tag(
        &self,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        id: &ImageId,
        user_agent: &str,
        push: Push<'_>,
        pusher: Viewer<'_>,
    ) -> Result<()> {
        let row = TagRecord { id: *id, updated_ms: self.clock.now_ms(), user_agent: user_agent.to_owned() };
        self.commit_with(|| async {
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, repository).await?;
            let chain = self.v1_links(repository, id).await?;
            if chain.iter().any(|link| !link.image.complete) {
                return Err(Error::V1ImageUnknown(*id));
            }
            // A tag makes everything below it readable, and keeps it as it is.
            self.require_known(repository, &chain, pusher).await?;
            name_chain(&mut batch, repository, &chain)?;
            self.renew_image(&mut batch, repository, image).await?;
            self.point_v1_tag(&mut batch, (repository, image, tag), &row, push.existing).await?;
            self.release(&mut batch, chain.iter().map(|link| keys::v1_lease(repository, &link.id)).collect(), push.holder).await?;
            Ok((batch, ()))
        })
        .await
    }

    pub(crate) async fn point_v1_tag(
        &self,
        batch: &mut Batch,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        row: &TagRecord,
        existing: ExistingTag,
    ) -> Result<()> {
        let key = keys::v1_tag(repository, image, tag);
        let before = get_record::<TagRecord>(self.store.as_ref(), &key).await?;
        let item = Item::Tag(image.clone(), tag.clone());
        if let Some((old, _)) = before.as_ref().filter(|(old, _)| old.id != row.id) {
            if existing == ExistingTag::Stays {
                return Err(Error::TagExists(tag.clone()));
            }
            batch.delete(keys::v1_tag_of(repository, &old.id, image, tag));
            properties::unindex(batch, repository, &item, &properties::of_v1_tag(tag, old));
            // What was said was said about what is no longer there.
            self.forget_properties(batch, repository, &item).await?;
            let replaced_ms = self.clock.now_ms() + self.cleanup_times.replaced_ms;
            self.look_at(batch, replaced_ms, &Candidate::V1Image(repository.clone(), old.id))?;
        }
        batch.expect(key.clone(), before.map(|(_, seen)| seen)).put_record(key, row);
        batch.put(keys::v1_tag_of(repository, &row.id, image, tag), Bytes::new());
        properties::index(batch, repository, &item, &properties::of_v1_tag(tag, row));
        properties::index(batch, repository, &Item::Image(image.clone()), &properties::of_v1_name(image));
        Ok(())
    }

    /// Removes a tag; what only it led to goes soon after.
    ///
    /// # Errors
    /// [`Error::V1TagUnknown`].
    pub async fn delete_v1_tag(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<()> {
        self.commit_with(|| async {
            let mut batch = Batch::new().frees();
            self.remove_v1_tag(&mut batch, repository, image, tag).await?;
            Ok((batch, ()))
        })
        .await?;
        self.wake_collector();
        Ok(())
    }

    /// Adds to the batch that a tag goes.
    pub(crate) async fn remove_v1_tag(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<()> {
        let seen_image = self.store.get(&keys::image(repository, image)).await?;
        let key = keys::v1_tag(repository, image, tag);
        let row = get_record::<TagRecord>(self.store.as_ref(), &key).await?;
        let (row, seen) = row.ok_or_else(|| Error::V1TagUnknown(tag.clone()))?;
        batch.expect(keys::image(repository, image), seen_image.clone());
        batch.expect(key.clone(), Some(seen)).delete(key).delete(keys::v1_tag_of(repository, &row.id, image, tag));
        self.forget_v1_tag(batch, (repository, image, tag), &row).await?;
        self.look_at(batch, self.clock.now_ms(), &Candidate::V1Image(repository.clone(), row.id))?;
        let is_last = self.store.scan(&keys::v1_tags(repository, image), None, 2).await?.len() <= 1;
        self.after_removal(batch, repository, image, seen_image, is_last).await
    }

    /// Removes all tags of an image; what only they led to goes soon after. Returns how many there were.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn delete_v1_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<usize> {
        let prefix = keys::v1_tags(repository, image);
        let mut deleted = 0;
        loop {
            let gone = self
                .commit_with(|| async {
                    let mut batch = Batch::new().frees();
                    let seen_image = self.store.get(&keys::image(repository, image)).await?;
                    batch.expect(keys::image(repository, image), seen_image.clone());
                    let rows = self.store.scan(&prefix, None, SCAN_ENTRIES).await?;
                    for (key, seen) in &rows {
                        let tag = key.text_after(&prefix).and_then(|text| text.parse::<Tag>().ok());
                        let (Some(tag), Some(row)) = (tag, TagRecord::decode(seen)) else { return Err(crate::blobs::damaged(key)) };
                        batch.expect(key.clone(), Some(seen.clone()));
                        batch.delete(key.clone()).delete(keys::v1_tag_of(repository, &row.id, image, &tag));
                        self.forget_v1_tag(&mut batch, (repository, image, &tag), &row).await?;
                        self.look_at(&mut batch, self.clock.now_ms(), &Candidate::V1Image(repository.clone(), row.id))?;
                    }
                    if rows.is_empty() {
                        return Ok((Batch::deferred(), 0));
                    }
                    self.after_removal(&mut batch, repository, image, seen_image, rows.len() < SCAN_ENTRIES).await?;
                    Ok((batch, rows.len()))
                })
                .await?;
            deleted += gone;
            if gone < SCAN_ENTRIES {
                self.wake_collector();
                return Ok(deleted);
            }
        }
    }

    /// What a tag points to.
    ///
    /// # Errors
    /// [`Error::V1TagUnknown`].
    pub async fn v1_tag(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<TagRecord> {
        let row = get_record::<TagRecord>(self.store.as_ref(), &keys::v1_tag(repository, image, tag)).await?;
        row.map(|(row, _)| row).ok_or_else(|| Error::V1TagUnknown(tag.clone()))
    }

    /// All tags of an image, in byte order.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`] if it has none.
    pub async fn v1_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<(Tag, TagRecord)>> {
        let prefix = keys::v1_tags(repository, image);
        let (mut tags, mut after) = (Vec::new(), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, value) in &rows {
                let tag = key.text_after(&prefix).and_then(|text| text.parse().ok());
                let (Some(tag), Some(row)) = (tag, TagRecord::decode(value)) else { return Err(crate::blobs::damaged(key)) };
                tags.push((tag, row));
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ if tags.is_empty() => return Err(Error::ImageUnknown(image.clone())),
                _ => return Ok(tags),
            }
        }
    }

    /// The ids of every image that a tag of this image name leads to, each once.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`] if it has no tags; [`Error::V1ChainTooLong`].
    pub async fn v1_images(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<ImageId>> {
        let mut found = Chains::new();
        for (_, row) in self.v1_tags(repository, image).await? {
            self.add_v1_chain((repository, &row.id), &mut found, usize::MAX, |_, _, _| Ok(())).await?;
        }
        Ok(found.into_keys().collect())
    }
}

/// Adds to the batch that a tag leads to a chain, top first: from now on none of it makes way for anything else. The top is
/// renewed each time, which a collector that has looked already loses against; what is below stays as long as it does.
fn name_chain(batch: &mut Batch, repository: &RepositoryKey, chain: &[Link]) -> Result<()> {
    for (number, Link { id, image, seen }) in chain.iter().enumerate() {
        let is_named = image.named == Some(true);
        if number > 0 && is_named {
            continue;
        }
        let key = keys::v1_image(repository, id);
        let renewed = Image { revision: random_u64()?, named: Some(true), ..image.clone() };
        batch.expect(key.clone(), Some(seen.clone())).put_record(key, &renewed);
        if let Some(parent) = image.parent.filter(|_| !is_named) {
            batch.put(keys::v1_child(repository, &parent, id), Bytes::new());
        }
    }
    Ok(())
}
