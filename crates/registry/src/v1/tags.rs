//! V1 tags, and the images that they make part of a V1 image name.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::records::{self, Record};
use berth_storage::{Batch, get_record, keys};

use super::ImageId;
use crate::{Error, ExistingTag, Registry, Result};

/// Tags that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// What a V1 tag points to, and who moved it there.
pub type TagRecord = records::v1::Tag;

impl Registry {
    /// Points a tag to an image.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] unless the image and everything below it is complete; [`Error::TagExists`].
    pub async fn put_v1_tag(
        &self,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        id: &ImageId,
        user_agent: &str,
        existing: ExistingTag,
    ) -> Result<()> {
        if !self.is_v1_chain_complete(repository, id).await? {
            return Err(Error::V1ImageUnknown(*id));
        }
        let row = TagRecord { id: *id, updated_ms: self.clock.now_ms(), user_agent: user_agent.to_owned() };
        self.commit_with(|| async {
            let mut batch = Batch::new();
            let image_key = keys::image(repository, image);
            if self.store.get(&image_key).await?.is_none() {
                batch.expect(image_key.clone(), None).put_record(image_key, &self.new_image()?);
            }
            let key = keys::v1_tag(repository, image, tag);
            let before = get_record::<TagRecord>(self.store.as_ref(), &key).await?;
            if let Some((old, _)) = before.as_ref().filter(|(old, _)| old.id != *id) {
                if existing == ExistingTag::Stays {
                    return Err(Error::TagExists(tag.clone()));
                }
                batch.delete(keys::v1_tag_of(repository, &old.id, image, tag));
            }
            batch.expect(key.clone(), before.map(|(_, seen)| seen)).put_record(key, &row);
            batch.put(keys::v1_tag_of(repository, id, image, tag), bytes::Bytes::new());
            Ok((batch, ()))
        })
        .await
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
    /// [`Error::ImageUnknown`] if it has no tags.
    pub async fn v1_images(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<ImageId>> {
        let mut found = std::collections::BTreeSet::new();
        for (_, row) in self.v1_tags(repository, image).await? {
            if !found.contains(&row.id) {
                found.extend(self.v1_chain(repository, &row.id).await?);
            }
        }
        Ok(found.into_iter().collect())
    }
}
