//! Blobs: bytes by digest, stored once, readable where they are linked.

use std::ops::Range;
use std::sync::Arc;

use berth_names::{Digest, ImageName, RepositoryKey};
use berth_storage::keys::Candidate;
use berth_storage::records::{Blob, Image, Place, Record};
use berth_storage::{Batch, BlobStore, BlobStream, DataId, get_record, keys};
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::lease::LEASE_MS;
use crate::receive::Received;
use crate::verify::Suspects;
use crate::{Error, Registry, Result, empty_layer};

/// Images that are tried as the source of a mount that names none.
const SOURCES_TRIED_MAX: usize = 1000;

/// Keys that one scan for them brings into memory.
const SCAN_KEYS: usize = 100;

/// A blob that the caller may read.
pub struct BlobContent {
    /// Length in bytes.
    pub size: u64,
    source: Source,
}

enum Source {
    /// Without a digest it is no blob.
    Small(Bytes, Option<Digest>),
    Data {
        blobs: Arc<dyn BlobStore>,
        data: DataId,
        digest: Digest,
        suspects: Arc<Suspects>,
    },
}

impl BlobContent {
    /// Something else that is read like a blob, and is in memory.
    pub(crate) fn held(bytes: Bytes) -> Self {
        Self { size: bytes.len() as u64, source: Source::Small(bytes, None) }
    }

    /// Its digest, if it is a blob.
    pub fn digest(&self) -> Option<Digest> {
        match &self.source {
            Source::Small(_, digest) => *digest,
            Source::Data { digest, .. } => Some(*digest),
        }
    }

    /// The bytes of a range, which must lie within the size.
    pub fn read(&self, range: Range<u64>) -> BlobStream {
        match &self.source {
            // A small blob's length fits any usize.
            Source::Small(bytes, _) => stream::iter([Ok(bytes.slice(range.start as usize..range.end as usize))]).boxed(),
            Source::Data { blobs, data, digest, suspects } => {
                if range == (0..self.size) {
                    suspects.note(*digest, *data, self.size);
                }
                blobs.read(*data, range)
            }
        }
    }
}

impl Registry {
    /// The length of a blob that is linked in the image.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not.
    pub async fn stat_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<u64> {
        match self.linked_blob(repository, image, digest).await {
            Err(Error::BlobUnknown(_)) if self.has_unlinked(repository, image, digest).await? => Ok(empty_layer::bytes().len() as u64),
            linked => Ok(linked?.size),
        }
    }

    /// A blob that is linked in the image, for reading.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`] if it is not.
    pub async fn open_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<BlobContent> {
        match self.linked_blob(repository, image, digest).await {
            Err(Error::BlobUnknown(_)) if self.has_unlinked(repository, image, digest).await? => {
                Ok(BlobContent::held(empty_layer::bytes()))
            }
            linked => self.content_of(digest, &linked?).await,
        }
    }

    /// Whether it is what every image has without a link: the empty layer, which generated manifests refer to.
    async fn has_unlinked(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<bool> {
        Ok(*digest == empty_layer::digest() && self.store.get(&keys::image(repository, image)).await?.is_some())
    }

    async fn linked_blob(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Blob> {
        let rows = self.store.multi_get(&[keys::link(repository, image, digest), keys::blob(digest)]).await?;
        match rows.as_slice() {
            [Some(_link), Some(blob)] => {
                let blob = Blob::decode(blob).ok_or_else(|| damaged(&keys::blob(digest)))?;
                // Told that it is there, a client would not push it, and nobody could ever pull it.
                if self.is_sound(&blob) { Ok(blob) } else { Err(Error::BlobUnknown(*digest)) }
            }
            _ => Err(Error::BlobUnknown(*digest)),
        }
    }

    pub(crate) async fn content_of(&self, digest: &Digest, blob: &Blob) -> Result<BlobContent> {
        let source = match blob.place {
            Place::Small => Source::Small(
                self.store.get(&keys::small_blob(digest)).await?.ok_or_else(|| damaged(&keys::small_blob(digest)))?,
                Some(*digest),
            ),
            Place::Data(data) => {
                Source::Data { blobs: Arc::clone(&self.blobs), data, digest: *digest, suspects: Arc::clone(&self.suspects) }
            }
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
            let mut batch = Batch::new().frees();
            self.expect_unused(&mut batch, repository, image, digest).await?;
            batch.expect(link.clone(), Some(linked)).delete(link.clone()).delete(keys::linked_from(digest, repository, image));
            batch.delete(keys::lease(repository, image, digest));
            self.look_at(&mut batch, self.clock.now_ms(), &Candidate::Blob(*digest))?;
            Ok((batch, ()))
        })
        .await?;
        self.wake_collector();
        Ok(())
    }

    /// Makes the batch depend on no manifest of the image referring to `digest`; returns the image's row.
    ///
    /// Every commit that adds a manifest renews the image's row, so expecting the row unchanged covers manifests
    /// that come between looking and committing.
    pub(crate) async fn expect_unused(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
    ) -> Result<Option<Bytes>> {
        let image_key = keys::image(repository, image);
        let seen_image = self.store.get(&image_key).await?;
        batch.expect(image_key, seen_image.clone());
        let parents = keys::parents_of(repository, image, digest);
        match self.store.scan(&parents, None, 1).await?.first().and_then(|(key, _)| key.digest_after(&parents)) {
            Some(user) => Err(Error::InUse { digest: *digest, user }),
            None => Ok(seen_image),
        }
    }

    /// An image of the repository in which the blob is linked, among those that `sees` lets through.
    ///
    /// The index from blobs to images is looked at, image by image in their order, [`SOURCES_TRIED_MAX`] at most: a blob that
    /// so many images have which the caller may not see is sent once more.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn image_with(
        &self,
        repository: &RepositoryKey,
        digest: &Digest,
        sees: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<Option<ImageName>> {
        let prefix = keys::links_in(digest, repository);
        let mut after = None;
        for _ in 0..SOURCES_TRIED_MAX / SCAN_KEYS {
            let page = self.store.scan_keys(&prefix, after.as_ref(), SCAN_KEYS).await?;
            let found = page.iter().filter_map(|key| key.text_after(&prefix)).find(|name| sees(name));
            if let Some(image) = found.and_then(|name| name.parse().ok()) {
                return Ok(Some(image));
            }
            match page.last() {
                Some(last) if page.len() == SCAN_KEYS => after = Some(last.clone()),
                _ => break,
            }
        }
        Ok(None)
    }

    /// Makes a blob of the repository visible in another of its images, without copying it.
    ///
    /// Returns whether it was there to be mounted.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn mount_blob(
        &self,
        repository: &RepositoryKey,
        (from, image): (&ImageName, &ImageName),
        digest: &Digest,
        holder: &str,
    ) -> Result<bool> {
        let source = keys::link(repository, from, digest);
        self.commit_with(|| async {
            let mut batch = Batch::new();
            let (Some(link), Some((blob, seen))) =
                (self.store.get(&source).await?, get_record::<Blob>(self.store.as_ref(), &keys::blob(digest)).await?)
            else {
                return Ok((Batch::deferred(), false));
            };
            if !self.is_sound(&blob) {
                return Ok((Batch::deferred(), false));
            }
            batch.expect(source.clone(), Some(link));
            renew_blob(&mut batch, digest, blob, seen);
            self.expect_repository(&mut batch, repository).await?;
            self.link(&mut batch, repository, image, digest, holder).await?;
            Ok((batch, true))
        })
        .await
    }

    /// Adds to the batch that the blob is visible in the image, and stays so for as long as a push may take.
    pub(crate) async fn link(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
        holder: &str,
    ) -> Result<()> {
        self.link_for_good(batch, repository, image, digest).await?;
        self.hold(batch, keys::lease(repository, image, digest), holder).await?;
        let forgotten_ms = self.clock.now_ms() + LEASE_MS;
        self.look_at(batch, forgotten_ms, &Candidate::Link(repository.clone(), image.clone(), *digest))
    }

    /// Adds to the batch that the blob is visible in the image. Something in the same batch must lead to it.
    pub(crate) async fn link_for_good(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
    ) -> Result<()> {
        batch.put(keys::link(repository, image, digest), Bytes::new()).put(keys::linked_from(digest, repository, image), Bytes::new());
        let image_key = keys::image(repository, image);
        // An image of which nothing is left may be about to be removed: one of the two has to lose.
        match self.store.get(&image_key).await? {
            Some(seen) => batch.expect(image_key, Some(seen)),
            None => batch.expect(image_key.clone(), None).put_record(image_key, &self.new_image()?),
        };
        Ok(())
    }

    /// An image's first row: nothing in it has a name yet.
    pub(crate) fn new_image(&self) -> Result<Image> {
        let now_ms = self.clock.now_ms();
        Ok(Image { created_ms: now_ms, revision: random_u64()?, vacant_since_ms: Some(now_ms) })
    }

    /// Adds to the batch that received bytes have a name now; returns data that nobody needs then: what was received, if the
    /// blob was there, or what was there, if it was damaged.
    ///
    /// The caller deletes it after the commit.
    pub(crate) async fn name_bytes(
        &self,
        batch: &mut Batch,
        digest: &Digest,
        received: &Received,
    ) -> Result<Option<berth_storage::DataId>> {
        let (mut replaced, mut revision) = (None, 0);
        let stored = get_record::<Blob>(self.store.as_ref(), &keys::blob(digest)).await?;
        let seen = match stored {
            Some((blob, seen)) if self.can_stay(digest, &blob, received).await => {
                renew_blob(batch, digest, blob, seen);
                if let Some(data) = received.data {
                    batch.delete(keys::data_owner(data));
                }
                return Ok(received.data);
            }
            Some((blob, seen)) => {
                tracing::warn!(%digest, "a damaged blob was pushed again, and is whole now");
                if let Place::Data(data) = blob.place {
                    batch.delete(keys::data_owner(data));
                    replaced = Some(data);
                }
                revision = blob.revision + 1;
                Some(seen)
            }
            None => None,
        };
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
        batch.expect(keys::blob(digest), seen);
        batch.put_record(keys::blob(digest), &Blob { size: received.size, place, revision, damaged: false });
        Ok(replaced)
    }

    /// Whether what is stored of the blob is as good as what was just received of it, as far as that can be seen.
    async fn can_stay(&self, digest: &Digest, blob: &Blob, received: &Received) -> bool {
        let is_there = match blob.place {
            Place::Small => matches!(self.store.get(&keys::small_blob(digest)).await, Ok(Some(small)) if small.len() as u64 == blob.size),
            Place::Data(_) => self.is_sound(blob),
        };
        is_there && !blob.damaged && blob.size == received.size
    }
}

/// Gives the blob's row a new revision, so that a collector that saw no users loses.
pub(crate) fn renew_blob(batch: &mut Batch, digest: &Digest, blob: Blob, seen: Bytes) {
    batch.expect(keys::blob(digest), Some(seen));
    batch.put_record(keys::blob(digest), &Blob { revision: blob.revision + 1, ..blob });
}

pub(crate) fn damaged(key: &berth_storage::Key) -> Error {
    Error::Storage(berth_storage::Error::Damaged(key.to_string()))
}

pub(crate) fn random_u64() -> Result<u64> {
    getrandom::u64().map_err(|_| Error::Internal("no random bytes"))
}
