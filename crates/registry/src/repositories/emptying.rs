//! Deleting a repository: it is gone at once, and its content soon after, whatever happens in between.

use berth_names::{ImageName, RepositoryKey};
use berth_storage::keys::{Candidate, Item};
use berth_storage::records::{self, Record as _};
use berth_storage::{Batch, Key, Prefix, keys};
use bytes::Bytes;

use crate::{Error, Registry, Result};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

impl Registry {
    /// Deletes a repository and everything in it.
    ///
    /// With the first commit it is gone for every client; the rest is carried on at the next start if it is interrupted.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`].
    pub async fn delete_repository(&self, key: &RepositoryKey) -> Result<()> {
        let row = keys::repository(key);
        self.commit_with(|| async {
            let seen = self.store.get(&row).await?.ok_or_else(|| Error::RepositoryUnknown(key.clone()))?;
            let mut batch = Batch::new().frees();
            batch.expect(row.clone(), Some(seen)).delete(row.clone()).put(keys::repository_emptied(key), Bytes::new());
            self.renew_repositories(&mut batch)?;
            Ok((batch, ()))
        })
        .await?;
        self.empty_repository(key).await
    }

    /// Goes on with deleting repositories where an earlier run stopped; returns how many there were.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn finish_emptying(&self) -> Result<usize> {
        let prefix = keys::repositories_emptied();
        let rows = self.store.scan(&prefix, None, SCAN_ENTRIES).await?;
        let names = rows.iter().filter_map(|(key, _)| key.text_after(&prefix)?.parse::<RepositoryKey>().ok());
        let mut emptied = 0;
        for key in names {
            self.empty_repository(&key).await?;
            emptied += 1;
        }
        Ok(emptied)
    }

    /// Deletes every image. Nothing is added meanwhile: all that names something expects the repository's row.
    async fn empty_repository(&self, key: &RepositoryKey) -> Result<()> {
        let prefix = keys::images(key);
        loop {
            let rows = self.store.scan(&prefix, None, SCAN_ENTRIES).await?;
            let names: Vec<ImageName> = rows.iter().filter_map(|(row, _)| row.text_after(&prefix)?.parse().ok()).collect();
            if names.is_empty() {
                break;
            }
            for image in &names {
                self.empty_image(key, image).await?;
            }
        }
        self.give_up_v1_images(key).await?;
        let mut batch = Batch::new().frees();
        batch.delete(keys::repository_emptied(key));
        self.store.commit(batch).await?;
        self.wake_collector();
        Ok(())
    }

    /// Deletes everything that an image has. Only where nothing can be added meanwhile.
    async fn empty_image(&self, repository: &RepositoryKey, image: &ImageName) -> Result<()> {
        let now_ms = self.clock.now_ms();
        self.forget_tags(repository, image).await?;
        for prefix in keys::rows_of_image(repository, image) {
            self.delete_rows(&prefix, |batch, row, _| {
                batch.delete(row.clone());
                Ok(())
            })
            .await?;
        }
        let views = keys::v1_views(repository, image);
        self.delete_rows(&views, |batch, row, value| {
            let (Some(digest), Some(view)) = (row.digest_after(&views), records::v1::View::decode(value)) else { return Ok(()) };
            batch.delete(row.clone());
            for shown in &view.images {
                batch.delete(keys::v1_viewed(repository, &shown.id, image, &digest));
            }
            Ok(())
        })
        .await?;
        let links = keys::links(repository, image);
        self.delete_rows(&links, |batch, row, _| {
            let Some(digest) = row.digest_after(&links) else { return Ok(()) };
            batch.delete(row.clone()).delete(keys::linked_from(&digest, repository, image));
            self.look_at(batch, now_ms, &Candidate::Blob(digest))
        })
        .await?;
        self.delete_v1_tags(repository, image).await?;
        // The collector may be looking at the same image.
        self.commit_with(|| async {
            let mut batch = Batch::new().frees();
            self.forget_properties(&mut batch, repository, &Item::Image(image.clone())).await?;
            batch.delete(keys::image(repository, image));
            Ok((batch, ()))
        })
        .await
    }

    /// Tags can no longer be found by what is said about them.
    async fn forget_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<()> {
        let (prefix, mut after) = (keys::tags(repository, image), None);
        loop {
            let rows = self
                .commit_with(|| async {
                    let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
                    let mut batch = Batch::new().frees();
                    for (key, seen) in &rows {
                        let tag = key.text_after(&prefix).and_then(|text| text.parse().ok());
                        let (Some(tag), Some(row)) = (tag, records::Tag::decode(seen)) else { continue };
                        self.forget_tag(&mut batch, (repository, image, &tag), &row).await?;
                    }
                    Ok((batch, rows))
                })
                .await?;
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    async fn delete_rows(&self, prefix: &Prefix, mut change: impl FnMut(&mut Batch, &Key, &Bytes) -> Result<()>) -> Result<()> {
        let mut after = None;
        loop {
            let rows = self.store.scan(prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let mut batch = Batch::new().frees();
            for (row, value) in &rows {
                change(&mut batch, row, value)?;
            }
            self.store.commit(batch).await?;
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// V1 images that no tag led to: pushes that were under way. What tags led to is a candidate already.
    async fn give_up_v1_images(&self, key: &RepositoryKey) -> Result<()> {
        let (prefix, mut after) = (keys::v1_images(key), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let mut batch = Batch::new().frees();
            for id in rows.iter().filter_map(|(row, _)| row.v1_image_after(&prefix)) {
                batch.delete(keys::v1_lease(key, &id));
                self.look_at(&mut batch, self.clock.now_ms(), &Candidate::V1Image(key.clone(), id))?;
            }
            self.store.commit(batch).await?;
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }
}
