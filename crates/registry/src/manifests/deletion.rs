//! Deleting tags and manifests. What only they led to goes soon after.

use berth_names::{Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::keys::Candidate;
use berth_storage::records::{self, Manifest, Record as _, WithBody};
use berth_storage::{Batch, get_record, keys};

use crate::blobs::damaged;
use crate::{Error, Registry, Result};

/// Tags of one manifest that are removed with it in one commit; more take further commits.
const TAGS_PER_COMMIT_MAX: usize = 1000;

impl Registry {
    /// Removes a tag, or a manifest with all tags that point to it.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`]; [`Error::InUse`] if an index refers to the manifest.
    pub async fn delete_manifest(&self, repository: &RepositoryKey, image: &ImageName, reference: &Reference) -> Result<()> {
        match reference {
            Reference::Tag(tag) => self.delete_tag(repository, image, tag).await?,
            Reference::Digest(digest) => while self.delete_manifest_and_tags(repository, image, digest).await? == Deleted::SomeTags {},
        }
        self.wake_collector();
        Ok(())
    }

    pub(crate) async fn delete_tag(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<()> {
        let key = keys::tag(repository, image, tag);
        self.commit_with(|| async {
            let row = get_record::<records::Tag>(self.store.as_ref(), &key).await?;
            let (row, seen) = row.ok_or_else(|| Error::ManifestUnknown(Reference::Tag(tag.clone())))?;
            let mut batch = Batch::new().frees();
            batch.expect(key.clone(), Some(seen));
            self.remove_tag(&mut batch, (repository, image, tag), &row).await?;
            Ok((batch, ()))
        })
        .await
    }

    /// Removes all tags of an image; what only they led to goes soon after. Returns how many there were.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn delete_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<usize> {
        let prefix = keys::tags(repository, image);
        let mut deleted = 0;
        loop {
            let gone = self
                .commit_with(|| async {
                    let mut batch = Batch::new().frees();
                    let rows = self.store.scan(&prefix, None, TAGS_PER_COMMIT_MAX).await?;
                    for (key, seen) in &rows {
                        let tag = key.text_after(&prefix).and_then(|text| text.parse::<Tag>().ok());
                        let (Some(tag), Some(row)) = (tag, records::Tag::decode(seen)) else { return Err(damaged(key)) };
                        batch.expect(key.clone(), Some(seen.clone()));
                        self.remove_tag(&mut batch, (repository, image, &tag), &row).await?;
                    }
                    Ok((batch, rows.len()))
                })
                .await?;
            deleted += gone;
            if gone < TAGS_PER_COMMIT_MAX {
                self.wake_collector();
                return Ok(deleted);
            }
        }
    }

    /// Adds to the batch that a tag, whose row must be expected already, goes.
    async fn remove_tag(
        &self,
        batch: &mut Batch,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        row: &records::Tag,
    ) -> Result<()> {
        batch.delete(keys::tag(repository, image, tag)).delete(keys::tag_of(repository, image, &row.digest, tag));
        self.forget_tag(batch, (repository, image, tag), row).await?;
        self.look_at(batch, self.clock.now_ms(), &Candidate::Manifest(repository.clone(), image.clone(), row.digest))
    }

    async fn delete_manifest_and_tags(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Deleted> {
        let key = keys::manifest(repository, image, digest);
        self.commit_with(|| async {
            let stored = get_record::<WithBody<Manifest>>(self.store.as_ref(), &key).await?;
            let (WithBody { record, .. }, seen) = stored.ok_or(Error::ManifestUnknown(Reference::Digest(*digest)))?;
            let mut batch = Batch::new().frees();
            // Tags that come meanwhile renew the image's row, which this expects unchanged.
            let seen_image = self.expect_unused(&mut batch, repository, image, digest).await?;
            let tags = keys::tags_of(repository, image, digest);
            let found = self.store.scan(&tags, None, TAGS_PER_COMMIT_MAX).await?;
            for tag in found.iter().filter_map(|(tag, _)| tag.text_after(&tags)?.parse::<Tag>().ok()) {
                let key = keys::tag(repository, image, &tag);
                if let Some((row, seen)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? {
                    batch.expect(key.clone(), Some(seen));
                    self.forget_tag(&mut batch, (repository, image, &tag), &row).await?;
                }
                batch.delete(key).delete(keys::tag_of(repository, image, digest, &tag));
            }
            if found.len() == TAGS_PER_COMMIT_MAX {
                return Ok((batch, Deleted::SomeTags));
            }
            batch.expect(key.clone(), Some(seen)).delete(keys::lease(repository, image, digest));
            self.remove_manifest(&mut batch, (repository, image, digest), &record, seen_image).await?;
            Ok((batch, Deleted::Everything))
        })
        .await
    }
}

/// How far a deletion got in one commit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deleted {
    SomeTags,
    Everything,
}
