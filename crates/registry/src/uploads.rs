//! Uploads: a blob on its way in, over one request or many.
//!
//! An upload's record says how many bytes are durable, where they are, and the state of their hash, so any process
//! can go on with it. It belongs to the image and the user that opened it.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use berth_names::{Algorithm, Digest, ImageName, RepositoryKey};
use berth_storage::records::{Record, Upload, WithBody};
use berth_storage::{Batch, get_record, keys};
use bytes::Bytes;

use crate::hash::{ContentHash, digest_of, digest_stream};
use crate::receive::{Body, Received, receive};
use crate::{Error, Registry, Result};

/// A name for an upload that can't be guessed: 32 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(Arc<str>);

impl UploadId {
    fn random() -> Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|_| Error::Internal("no random bytes"))?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes)).into()))
    }
}

/// Uploads that one user may have open at once: many machines may share a user, and an abandoned upload stays for a day.
const OPEN_UPLOADS_MAX: usize = 2000;

/// Users whose open uploads are counted in memory.
const COUNTED_OWNERS_MAX: usize = 10_000;

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no upload id, so there is no such upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidUploadId;

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidUploadId> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex { Ok(Self(text.into())) } else { Err(InvalidUploadId) }
    }
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are received and durable.
    pub offset: u64,
}

/// What a client sends of an upload, and where it says that it belongs.
pub struct Piece {
    /// Its first byte and the one behind its last; `None`: it begins where the upload ended, and is as long as it is.
    pub range: Option<Range<u64>>,
    /// Whether it is said to have no bytes. Such a piece may be told as what comes next or as what came last.
    pub is_empty: bool,
    /// The bytes.
    pub body: Body,
}

impl From<Body> for Piece {
    fn from(body: Body) -> Self {
        Self { range: None, is_empty: false, body }
    }
}

impl Piece {
    /// Whether it goes on where an upload of so many bytes ends.
    fn follows(&self, offset: u64) -> bool {
        self.range.as_ref().is_none_or(|range| range.start == offset || (self.is_empty && range.end == offset))
    }

    /// How long the upload is after it, if that is said.
    fn announced(&self) -> Option<u64> {
        self.range.as_ref().filter(|_| !self.is_empty).map(|range| range.end)
    }
}

/// Who is sending something in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// The user; `None`: anonymous.
    pub owner: Option<&'a str>,
    /// Whose push it belongs to: what is kept for the time of a push is kept for this name.
    pub holder: &'a str,
}

/// An upload as its record says, with the exact bytes of the record.
struct Open {
    upload: Upload,
    small: Bytes,
    seen: Bytes,
}

/// Holds an upload for one request; dropped, another request may go on with it.
struct Busy<'r> {
    registry: &'r Registry,
    id: UploadId,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.registry.busy().remove(&self.id);
    }
}

impl Registry {
    /// Opens an upload for `owner` (`None`: anonymous).
    ///
    /// # Errors
    /// [`Error::TooManyUploads`].
    pub async fn start_upload(&self, repository: &RepositoryKey, image: &ImageName, owner: Option<&str>) -> Result<UploadId> {
        self.count_upload(owner.unwrap_or_default()).await?;
        let id = UploadId::random()?;
        let now_ms = self.clock.now_ms();
        let upload = Upload {
            repository: repository.clone(),
            image: image.clone(),
            owner: owner.map(str::to_owned),
            data: None,
            offset: 0,
            sha256_state: ContentHash::default().save(),
            started_ms: now_ms,
            touched_ms: now_ms,
        };
        // Losing it in a power cut costs the client a repeated POST.
        let mut batch = Batch::deferred();
        batch.put(keys::upload_of(owner.unwrap_or_default(), &id.0), Bytes::new());
        batch.put(keys::upload(&id.0), WithBody { record: upload, body: Bytes::new() }.encode());
        self.store.commit(batch).await?;
        Ok(id)
    }

    /// How far the upload is.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`] unless it was opened for this image by this user.
    pub async fn upload_progress(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        owner: Option<&str>,
        id: &UploadId,
    ) -> Result<Progress> {
        let open = self.open_upload(repository, image, owner, id).await?;
        Ok(Progress { offset: open.upload.offset })
    }

    /// Appends a piece.
    ///
    /// What arrives before a client stops sending is kept, so that it can go on from there.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], [`Error::UploadBusy`], [`Error::ChunkOutOfOrder`]; [`Error::Interrupted`] or
    /// [`Error::LengthMismatch`] if less or more came than announced.
    pub async fn append_upload(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        owner: Option<&str>,
        id: &UploadId,
        piece: impl Into<Piece>,
    ) -> Result<Progress> {
        let piece = piece.into();
        let _busy = self.occupy(id)?;
        let open = self.open_upload(repository, image, owner, id).await?;
        let offset = open.upload.offset;
        if !piece.follows(offset) {
            return Err(Error::ChunkOutOfOrder { offset });
        }
        let announced = piece.announced();
        let (received, hash, end) = receive(&self.blobs, received_so_far(&open), restore(&open)?, piece.body).await?;
        let size = received.size;
        self.save_upload(id, open, received, &hash).await?;
        end.map_err(|_| Error::Interrupted)?;
        if announced.is_some_and(|announced| announced != size) {
            return Err(Error::LengthMismatch);
        }
        Ok(Progress { offset: size })
    }

    /// Takes in the last piece of the upload and makes all of it the blob `digest`, visible in the image.
    ///
    /// # Errors
    /// As [`Registry::append_upload`], and the upload stays; [`Error::DigestMismatch`] if the bytes have another digest: the
    /// upload is gone then.
    pub async fn finish_upload(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        Client { owner, holder }: Client<'_>,
        id: &UploadId,
        digest: &Digest,
        piece: impl Into<Piece>,
    ) -> Result<()> {
        let piece = piece.into();
        let _busy = self.occupy(id)?;
        let open = self.open_upload(repository, image, owner, id).await?;
        if !piece.follows(open.upload.offset) {
            return Err(Error::ChunkOutOfOrder { offset: open.upload.offset });
        }
        let announced = piece.announced();
        let (received, hash, end) = receive(&self.blobs, received_so_far(&open), restore(&open)?, piece.body).await?;
        let is_mistaken = announced.is_some_and(|announced| announced != received.size);
        if end.is_err() || is_mistaken {
            self.save_upload(id, open, received, &hash).await?;
            return Err(if end.is_err() { Error::Interrupted } else { Error::LengthMismatch });
        }
        if self.digest_received(digest.algorithm(), &received, hash).await? != *digest {
            self.discard(id, owner, open.seen, received.data).await?;
            return Err(Error::DigestMismatch(*digest));
        }
        let upload_key = keys::upload(&id.0);
        let duplicate = self
            .commit_with(|| async {
                let mut batch = Batch::new();
                // Somebody else finishing or cancelling it meanwhile must not be undone.
                if self.store.get(&upload_key).await?.as_ref() != Some(&open.seen) {
                    return Err(Error::UploadUnknown);
                }
                batch.expect(upload_key.clone(), Some(open.seen.clone())).delete(upload_key.clone());
                batch.delete(keys::upload_of(owner.unwrap_or_default(), &id.0));
                self.expect_repository(&mut batch, repository).await?;
                let duplicate = self.name_bytes(&mut batch, digest, &received).await?;
                self.link(&mut batch, repository, image, digest, holder).await?;
                Ok((batch, duplicate))
            })
            .await?;
        self.give_back(duplicate).await;
        Ok(())
    }

    /// Forgets an upload and its bytes.
    ///
    /// # Errors
    /// [`Error::UploadUnknown`], [`Error::UploadBusy`].
    pub async fn cancel_upload(&self, repository: &RepositoryKey, image: &ImageName, owner: Option<&str>, id: &UploadId) -> Result<()> {
        let _busy = self.occupy(id)?;
        let open = self.open_upload(repository, image, owner, id).await?;
        self.discard(id, owner, open.seen, open.upload.data).await
    }

    /// Forgets uploads that nobody has sent bytes to for `age_ms` milliseconds; returns how many.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn expire_uploads(&self, age_ms: u64) -> Result<usize> {
        /// Records looked at in one scan.
        const PAGE: usize = 100;
        let now_ms = self.clock.now_ms();
        let oldest_ms = now_ms.saturating_sub(age_ms);
        let prefix = keys::uploads();
        let (mut after, mut expired) = (None, 0);
        loop {
            let page = self.store.scan(&prefix, after.as_ref(), PAGE).await?;
            for (key, seen) in &page {
                let id = key.text_after(&prefix).and_then(|text| text.parse::<UploadId>().ok());
                let (Some(id), Some(stored)) = (id, WithBody::<Upload>::decode(seen)) else { continue };
                let Ok(_busy) = self.occupy(&id) else { continue };
                let Upload { touched_ms, owner, data, .. } = &stored.record;
                let (touched_ms, data) = (*touched_ms, *data);
                if touched_ms > now_ms + age_ms {
                    // The clock was set back since, by years perhaps: it must not rest until then.
                    let mut batch = Batch::deferred();
                    let touched = Upload { touched_ms: now_ms, ..stored.record.clone() };
                    batch.expect(key.clone(), Some(seen.clone()));
                    batch.put(key.clone(), WithBody { record: touched, body: stored.body.clone() }.encode());
                    self.store.commit(batch).await?;
                    continue;
                }
                if touched_ms < oldest_ms && self.discard(&id, owner.as_deref(), seen.clone(), data).await.is_ok() {
                    expired += 1;
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok(expired),
            }
        }
    }

    /// Counts one more upload of the owner's, and refuses it if there are too many.
    ///
    /// The count kept in memory is never lower than the true one (but for other processes' uploads), so the store is
    /// asked only when it gets too high: about once in so many uploads as may be open.
    async fn count_upload(&self, owner: &str) -> Result<()> {
        let known = self.upload_counts().get(owner).copied();
        let count = match known {
            Some(count) if count < OPEN_UPLOADS_MAX => count,
            _ => self.store.scan(&keys::uploads_of(owner), None, OPEN_UPLOADS_MAX).await?.len(),
        };
        let mut counts = self.upload_counts();
        if counts.len() >= COUNTED_OWNERS_MAX {
            counts.clear();
        }
        counts.insert(owner.to_owned(), count + 1);
        if count < OPEN_UPLOADS_MAX { Ok(()) } else { Err(Error::TooManyUploads { max: OPEN_UPLOADS_MAX }) }
    }

    fn upload_counts(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, usize>> {
        self.upload_counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, std::collections::HashSet<UploadId>> {
        self.busy_uploads.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn occupy(&self, id: &UploadId) -> Result<Busy<'_>> {
        if self.busy().insert(id.clone()) { Ok(Busy { registry: self, id: id.clone() }) } else { Err(Error::UploadBusy) }
    }

    async fn open_upload(&self, repository: &RepositoryKey, image: &ImageName, owner: Option<&str>, id: &UploadId) -> Result<Open> {
        let stored = get_record::<WithBody<Upload>>(self.store.as_ref(), &keys::upload(&id.0)).await?;
        let (WithBody { record: upload, body: small }, seen) = stored.ok_or(Error::UploadUnknown)?;
        let is_theirs = upload.repository == *repository && upload.image == *image && upload.owner.as_deref() == owner;
        if is_theirs { Ok(Open { upload, small, seen }) } else { Err(Error::UploadUnknown) }
    }

    async fn save_upload(&self, id: &UploadId, open: Open, received: Received, hash: &ContentHash) -> Result<()> {
        let upload = Upload {
            data: received.data,
            offset: received.size,
            sha256_state: hash.save(),
            touched_ms: self.clock.now_ms(),
            ..open.upload
        };
        // The bytes are durable already; a record lost in a power cut costs the client a repeated chunk.
        let mut batch = Batch::deferred();
        if let Some(data) = received.data {
            batch.put(keys::data_owner(data), Bytes::new());
        }
        batch.expect(keys::upload(&id.0), Some(open.seen));
        batch.put(keys::upload(&id.0), WithBody { record: upload, body: received.small }.encode());
        Ok(self.store.commit(batch).await?)
    }

    async fn discard(&self, id: &UploadId, owner: Option<&str>, seen: Bytes, data: Option<berth_storage::DataId>) -> Result<()> {
        let mut batch = Batch::deferred().frees();
        batch.delete(keys::upload_of(owner.unwrap_or_default(), &id.0));
        batch.expect(keys::upload(&id.0), Some(seen)).delete(keys::upload(&id.0));
        if let Some(data) = data {
            batch.delete(keys::data_owner(data));
        }
        self.store.commit(batch).await?;
        self.give_back(data).await;
        Ok(())
    }

    /// Deletes data that no row names any more. Failing leaves garbage for the sweep, and no harm.
    pub(crate) async fn give_back(&self, data: Option<berth_storage::DataId>) {
        let Some(data) = data else { return };
        if let Err(error) = self.blobs.delete(data).await {
            tracing::warn!(%data, %error, "data could not be deleted; the next start sweeps it");
        }
    }

    async fn digest_received(&self, algorithm: Algorithm, received: &Received, hash: ContentHash) -> Result<Digest> {
        match (algorithm, received.data) {
            (Algorithm::Sha256, _) => Ok(hash.finish()),
            (Algorithm::Sha512, None) => Ok(digest_of(algorithm, &received.small)),
            // Hardly anybody uses it, so it is not computed along the way.
            (Algorithm::Sha512, Some(data)) => digest_stream(algorithm, self.blobs.read(data, 0..received.size)).await,
        }
    }
}

fn received_so_far(open: &Open) -> Received {
    Received { data: open.upload.data, small: open.small.clone(), size: open.upload.offset }
}

fn restore(open: &Open) -> Result<ContentHash> {
    ContentHash::restore(&open.upload.sha256_state).ok_or(Error::Internal("an upload's hash state is damaged"))
}
