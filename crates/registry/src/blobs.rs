//! Blobs: bytes by digest, stored once, readable where they are linked.

use std::ops::Range;
use std::sync::Arc;

use berth_names::{Digest, ImageName, RepositoryKey};
use berth_storage::records::{Blob, Image, Place, Record};
use berth_storage::{Batch, BlobStore, BlobStream, get_record, keys};
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::receive::Received;
use crate::{Error, Registry, Result};

/// A blob that the caller may read.
pub struct BlobContent {
    /// Length in bytes.
    pub size: u64,
    source: Source,
}

enum Source {
    Small(Bytes),
    Data(Arc<dyn BlobStore>, berth_storage::DataId),
}

impl BlobContent {
    /// The bytes of a range, which must lie within the size.
    pub fn read(&self, range: Range<u64>) -> BlobStream {
        match &self.source {
            // A small blob's length fits any usize.
            Source::Small(bytes) => stream::iter([Ok(bytes.slice(range.start as usize..range.end as usize))]).boxed(),
            Source::Data(blobs, data) => blobs.read(*data, range),
        }
    }
}

impl Registry {
    /// The length of a blob that is linked in the image.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not.
    pub async fn stat_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<u64> {
        Ok(self.linked_blob(repository, image, digest).await?.size)
    }

    /// A blob that is linked in the image, for reading.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not.
    pub async fn open_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<BlobContent> {
        let blob = self.linked_blob(repository, image, digest).await?;
        self.content_of(digest, &blob).await
    }

    async fn linked_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Blob> {
        let rows = self.store.multi_get(&[keys::link(repository, image, digest), keys::blob(digest)]).await?;
        match rows.as_slice() {
            [Some(_link), Some(blob)] => Blob::decode(blob).ok_or_else(|| damaged(&keys::blob(digest))),
            _ => Err(Error::BlobUnknown(*digest)),
        }
    }

    pub(crate) async fn content_of(&self, digest: &Digest, blob: &Blob) -> Result<BlobContent> {
        let source = match blob.place {
            Place::Small => {
                Source::Small(self.store.get(&keys::small_blob(digest)).await?.ok_or_else(|| damaged(&keys::small_blob(digest)))?)
            }
            Place::Data(data) => Source::Data(Arc::clone(&self.blobs), data),
        };
        Ok(BlobContent { size: blob.size, source })
    }

    /// Removes a blob from the image; if nothing else uses it, its bytes are given back.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not linked, [`Error::InUse`] if a manifest of the image refers to it.
    pub async fn delete_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<()> {
        let link = keys::link(repository, image, digest);
        self.commit_with(|| async {
            let linked = self.store.get(&link).await?.ok_or(Error::BlobUnknown(*digest))?;
            let mut batch = Batch::new();
            self.expect_unused(&mut batch, repository, image, digest).await?;
            batch.expect(link.clone(), Some(linked)).delete(link.clone()).delete(keys::linked_from(digest, repository, image));
            Ok((batch, ()))
        })
        .await?;
        self.collect(digest).await
    }

    /// Makes the batch depend on no manifest of the image referring to `digest`.
    ///
    /// Every commit that adds a manifest renews the image's row, so expecting the row unchanged covers manifests
    /// that come between looking and committing.
    pub(crate) async fn expect_unused(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
    ) -> Result<()> {
        let image_key = keys::image(repository, image);
        batch.expect(image_key.clone(), self.store.get(&image_key).await?);
        let parents = keys::parents_of(repository, image, digest);
        match self.store.scan(&parents, None, 1).await?.first().and_then(|(key, _)| key.digest_after(&parents)) {
            Some(user) => Err(Error::InUse { digest: *digest, user }),
            None => Ok(()),
        }
    }

    /// Makes a blob of the repository visible in another of its images, without copying it.
    ///
    /// Returns whether it was there to be mounted.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn mount_blob(&self, repository: &RepositoryKey, from: &ImageName, image: &ImageName, digest: &Digest) -> Result<bool> {
        let source = keys::link(repository, from, digest);
        self.commit_with(|| async {
            let mut batch = Batch::new();
            let (Some(link), Some((blob, seen))) =
                (self.store.get(&source).await?, get_record::<Blob>(self.store.as_ref(), &keys::blob(digest)).await?)
            else {
                return Ok((Batch::deferred(), false));
            };
            batch.expect(source.clone(), Some(link));
            renew_blob(&mut batch, digest, blob, seen);
            self.link(&mut batch, repository, image, digest).await?;
            Ok((batch, true))
        })
        .await
    }

    /// Adds to the batch that the blob is visible in the image, and that the image exists.
    pub(crate) async fn link(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<()> {
        batch.put(keys::link(repository, image, digest), Bytes::new()).put(keys::linked_from(digest, repository, image), Bytes::new());
        let image_key = keys::image(repository, image);
        if self.store.get(&image_key).await?.is_none() {
            batch.expect(image_key.clone(), None).put_record(image_key, &self.new_image()?);
        }
        Ok(())
    }

    /// An image's first row.
    pub(crate) fn new_image(&self) -> Result<Image> {
        Ok(Image { created_ms: self.clock.now_ms(), revision: random_u64()? })
    }

    /// Adds to the batch that received bytes have a name now; returns data that turned out to be a duplicate.
    ///
    /// The caller deletes the duplicate after the commit.
    pub(crate) async fn name_bytes(
        &self,
        batch: &mut Batch,
        digest: &Digest,
        received: &Received,
    ) -> Result<Option<berth_storage::DataId>> {
        if let Some((blob, seen)) = get_record::<Blob>(self.store.as_ref(), &keys::blob(digest)).await? {
            renew_blob(batch, digest, blob, seen);
            if let Some(data) = received.data {
                batch.delete(keys::data_owner(data));
            }
            return Ok(received.data);
        }
        let place = match received.data {
            Some(data) => {
                batch.put(keys::data_owner(data), Bytes::new());
                Place::Data(data)
            }
            None => {
                batch.put(keys::small_blob(digest), received.small.clone());
                Place::Small
            }
        };
        batch.expect(keys::blob(digest), None);
        batch.put_record(keys::blob(digest), &Blob { size: received.size, place, revision: 0 });
        Ok(None)
    }

    /// Gives a blob's bytes back if no image links it and no V1 image has it as its layer.
    pub(crate) async fn collect(&self, digest: &Digest) -> Result<()> {
        let users = [keys::links_of(digest), keys::v1_users_of(digest)];
        let freed = self
            .commit_with(|| async {
                // The row is read before its users: whoever adds one later renews the row, and this commit loses.
                let Some((blob, seen)) = get_record::<Blob>(self.store.as_ref(), &keys::blob(digest)).await? else {
                    return Ok((Batch::deferred(), None));
                };
                for prefix in &users {
                    if !self.store.scan(prefix, None, 1).await?.is_empty() {
                        return Ok((Batch::deferred(), None));
                    }
                }
                let mut batch = Batch::new();
                batch.expect(keys::blob(digest), Some(seen)).delete(keys::blob(digest));
                match blob.place {
                    Place::Small => batch.delete(keys::small_blob(digest)),
                    Place::Data(data) => batch.delete(keys::data_owner(data)),
                };
                Ok((batch, Some(blob.place)))
            })
            .await?;
        if let Some(Place::Data(data)) = freed {
            self.blobs.delete(data).await?;
        }
        Ok(())
    }
}

/// Gives the blob's row a new revision, so that a collector that saw no users loses.
fn renew_blob(batch: &mut Batch, digest: &Digest, blob: Blob, seen: Bytes) {
    batch.expect(keys::blob(digest), Some(seen));
    batch.put_record(keys::blob(digest), &Blob { revision: blob.revision + 1, ..blob });
}

pub(crate) fn damaged(key: &berth_storage::Key) -> Error {
    Error::Storage(berth_storage::Error::Damaged(key.to_string()))
}

pub(crate) fn random_u64() -> Result<u64> {
    getrandom::u64().map_err(|_| Error::Internal("no random bytes"))
}
