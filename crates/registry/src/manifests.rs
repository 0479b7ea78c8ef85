//! Manifests and the tags that point to them.

mod as_schema1;
mod deletion;
mod document;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod schema1;
mod signature;

use std::collections::HashMap;

use berth_names::{Algorithm, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::keys::{Candidate, Item};
use berth_storage::records::{self, Blob, Image, Manifest, Record, Referrer, WithBody};
use berth_storage::{Batch, get_record, keys};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::blobs::{damaged, random_u64};
use crate::properties;
use crate::{Error, Registry, Result, empty_layer};
pub(crate) use as_schema1::{LAYER_TYPES, is_image_config};
pub(crate) use document::Document;
use document::Need;
pub(crate) use schema1::{is_schema1, manifest_digest, shown};

/// The largest manifest that is accepted, in bytes (as distribution, zot and Harbor do).
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestContent {
    /// Its digest.
    pub digest: Digest,
    /// The media type it was pushed with.
    pub media_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

impl ManifestContent {
    /// Whether its digest is that of what was signed, rather than of all its bytes.
    pub fn is_signed(&self) -> bool {
        self.media_type == schema1::SIGNED
    }
}

/// Rows of blobs that are looked at in one go when a manifest refers to them.
const NEEDS_AT_ONCE: usize = 256;

/// What happens to a tag that points to something else already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingTag {
    /// It is moved.
    Moves,
    /// It stays, and the push is refused: the caller may add, but not take away.
    Stays,
}

/// On whose behalf a manifest or tag is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push<'a> {
    /// What happens to the tag if it is there.
    pub existing: ExistingTag,
    /// Whose push it is: what was kept for it need not be kept any longer.
    pub holder: &'a str,
}

/// What pushing a manifest led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: Digest,
    /// The manifest it says it is about.
    pub subject: Option<Digest>,
}

/// A manifest that is about another one.
#[derive(Clone, Debug)]
pub struct ReferrerDescriptor {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// Its annotations, as JSON.
    pub annotations: Box<RawValue>,
}

fn no_annotations() -> Box<RawValue> {
    // An object without fields: serialising it cannot fail.
    serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Reads a manifest that is stored here, or was made here.
pub(crate) fn read(media_type: &str, bytes: &[u8]) -> Result<Document> {
    Document::read(Some(media_type), bytes)
}

impl Registry {
    /// The manifest that a tag or digest names.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`].
    pub async fn manifest(&self, repository: &RepositoryKey, image: &ImageName, reference: &Reference) -> Result<ManifestContent> {
        let unknown = || Error::ManifestUnknown(reference.clone());
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => {
                let row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(repository, image, tag)).await?;
                row.ok_or_else(unknown)?.0.digest
            }
        };
        let stored = get_record::<WithBody<Manifest>>(self.store.as_ref(), &keys::manifest(repository, image, &digest)).await?;
        let (WithBody { record, body }, _) = stored.ok_or_else(unknown)?;
        Ok(ManifestContent { digest, media_type: record.media_type, bytes: body })
    }

    /// Stores a manifest and, if it was pushed by tag, points the tag to it: one commit.
    ///
    /// # Errors
    /// [`Error::ManifestTooLarge`], [`Error::ManifestInvalid`], [`Error::DigestMismatch`], [`Error::ManifestBlobUnknown`],
    /// [`Error::SizeMismatch`], [`Error::TagExists`], [`Error::RepositoryUnknown`].
    pub async fn put_manifest(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        reference: &Reference,
        media_type: Option<&str>,
        bytes: Bytes,
        push: Push<'_>,
    ) -> Result<StoredManifest> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Error::ManifestTooLarge { max: MANIFEST_BYTES_MAX });
        }
        let document = Document::parse(media_type, &bytes)?;
        let digest = match reference {
            Reference::Tag(_) => manifest_digest(Algorithm::Sha256, &document.media_type, &bytes),
            Reference::Digest(claimed) => Some(*claimed)
                .filter(|claimed| manifest_digest(claimed.algorithm(), &document.media_type, &bytes) == *claimed)
                .ok_or(Error::DigestMismatch(*claimed))?,
        };
        if let Some(manifest) = &document.schema1 {
            self.admit_schema1(repository, image, reference, manifest).await?;
        }
        self.commit_with(|| async {
            let batch =
                self.manifest_batch((repository, image, reference), (&digest, &document, &bytes), self.clock.now_ms(), push).await?;
            Ok((batch, ()))
        })
        .await?;
        Ok(StoredManifest { digest, subject: document.subject })
    }

    /// The batch that stores a manifest and points a tag to it, if that is what it is called, as of `updated_ms`.
    pub(crate) async fn manifest_batch(
        &self,
        (repository, image, reference): (&RepositoryKey, &ImageName, &Reference),
        (digest, document, bytes): (&Digest, &Document, &Bytes),
        updated_ms: u64,
        push: Push<'_>,
    ) -> Result<Batch> {
        let mut batch = Batch::new();
        self.expect_repository(&mut batch, repository).await?;
        let size = self.require(&mut batch, repository, image, document).await?;
        self.renew_image(&mut batch, repository, image).await?;
        let kept = self.kept_type(&mut batch, repository, image, digest, document).await?;
        if kept.is_none() {
            self.add_manifest(&mut batch, repository, image, digest, document, bytes);
            self.add_view(&mut batch, (repository, image), digest, bytes, (repository, image)).await?;
        }
        let media_type = kept.as_ref().unwrap_or(&document.media_type);
        match reference {
            Reference::Tag(tag) => {
                let row = records::Tag { digest: *digest, updated_ms, media_type: media_type.clone(), size };
                self.point_tag(&mut batch, (repository, image, tag), &row, push.existing).await?;
            }
            // An index, or a tag, that is to name it comes later.
            Reference::Digest(_) => self.hold(&mut batch, keys::lease(repository, image, digest), push.holder).await?,
        }
        let named = document.needs.iter().map(Need::digest).chain(&document.elsewhere);
        let named = named.map(|digest| keys::lease(repository, image, digest));
        self.release(&mut batch, named.collect(), push.holder).await?;
        Ok(batch)
    }

    /// What the manifest under this digest is, if it stays as it is; the batch then depends on that.
    ///
    /// What is under a digest is one thing for good. A document that says what it is can't be anything else, so that nothing has
    /// to be looked up for it. One that doesn't stays what it was pushed as first. And the same document of schema 1 signed
    /// again, or without its signatures, has the same digest: one with signatures takes the place of one without, which old
    /// clients refuse.
    async fn kept_type(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
        document: &Document,
    ) -> Result<Option<String>> {
        if document.says_what_it_is {
            return Ok(None);
        }
        let key = keys::manifest(repository, image, digest);
        let (stored, seen) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &key).await?.unzip();
        batch.expect(key, seen);
        let stored = stored.map(|stored| stored.record.media_type);
        let stays = |stored: &String| match document.schema1 {
            Some(_) => stored == schema1::SIGNED,
            None => *stored != document.media_type,
        };
        Ok(stored.filter(stays))
    }

    /// Makes the batch depend on everything that the manifest needs being there, with the right sizes. Returns their sum.
    async fn require(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, document: &Document) -> Result<u64> {
        let mut sizes = HashMap::new();
        for needs in document.needs.chunks(NEEDS_AT_ONCE) {
            self.require_some(batch, (repository, image), needs, &mut sizes).await?;
        }
        let mut size = 0_u64;
        for need in &document.needs {
            let actual = sizes.get(need.digest()).copied().unwrap_or_default();
            if let Some(claimed) = need.size().filter(|claimed| *claimed != actual) {
                return Err(Error::SizeMismatch { digest: *need.digest(), claimed, actual });
            }
            size = size.saturating_add(actual);
        }
        Ok(size)
    }

    /// Makes the batch depend on these being there, and finds out how large they are. What is named twice is looked at once,
    /// and manifests, which may be large, one at a time.
    async fn require_some(
        &self,
        batch: &mut Batch,
        (repository, image): (&RepositoryKey, &ImageName),
        needs: &[Need],
        sizes: &mut HashMap<Digest, u64>,
    ) -> Result<()> {
        let mut blobs = Vec::new();
        for need in needs {
            match need {
                Need::Blob { digest, .. } => blobs.push(*digest),
                Need::Manifest { digest, .. } if !sizes.contains_key(digest) => {
                    let key = keys::manifest(repository, image, digest);
                    let row = self.store.get(&key).await?.ok_or(Error::ManifestBlobUnknown(*digest))?;
                    let size = WithBody::<Manifest>::decode(&row).ok_or_else(|| damaged(&key))?.body.len() as u64;
                    sizes.insert(*digest, size);
                    batch.expect_there(key);
                }
                Need::Manifest { .. } => {}
            }
        }
        blobs.retain(|digest| !sizes.contains_key(digest));
        blobs.sort_unstable();
        blobs.dedup();
        let links: Vec<_> = blobs.iter().map(|digest| keys::link(repository, image, digest)).collect();
        let rows: Vec<_> = blobs.iter().map(keys::blob).collect();
        let (linked, found) = (self.store.multi_get(&links).await?, self.store.multi_get(&rows).await?);
        for (((digest, link), linked), found) in blobs.into_iter().zip(links).zip(linked).zip(found) {
            let size = match &linked {
                Some(_) => {
                    let blob = found.as_ref().and_then(Blob::decode).ok_or_else(|| damaged(&keys::blob(&digest)))?;
                    blob.size
                }
                None if digest == empty_layer::digest() => self.bring_empty_layer(batch, repository, image).await?,
                None => return Err(Error::ManifestBlobUnknown(digest)),
            };
            sizes.insert(digest, size);
            batch.expect(link, linked);
        }
        Ok(())
    }

    /// Gives the image's row a new revision, so that a deletion that has already looked loses, and creates it if need be.
    pub(crate) async fn renew_image(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName) -> Result<()> {
        let key = keys::image(repository, image);
        let row = match get_record::<Image>(self.store.as_ref(), &key).await? {
            Some((image, _)) => Image { revision: random_u64()?, vacant_since_ms: None, ..image },
            None => Image { vacant_since_ms: None, ..self.new_image()? },
        };
        batch.put_record(key, &row);
        Ok(())
    }

    fn add_manifest(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
        document: &Document,
        bytes: &Bytes,
    ) {
        let record = Manifest {
            media_type: document.media_type.clone(),
            children: document.needs.iter().map(|need| *need.digest()).collect(),
            elsewhere: document.elsewhere.clone(),
            subject: document.subject,
            created_ms: self.clock.now_ms(),
        };
        for held in record.holds() {
            batch.put(keys::parent_of(repository, image, held, digest), Bytes::new());
        }
        if let Some(subject) = &document.subject {
            let referrer = Referrer {
                media_type: document.media_type.clone(),
                size: bytes.len() as u64,
                artifact_type: document.artifact_type.clone(),
                annotations: document.annotations.clone().map_or_else(no_annotations, |annotations| annotations.0),
            };
            batch.put_record(keys::referrer(repository, image, subject, digest), &referrer);
        }
        batch.put(keys::manifest(repository, image, digest), WithBody { record, body: bytes.clone() }.encode());
    }

    pub(crate) async fn point_tag(
        &self,
        batch: &mut Batch,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        row: &records::Tag,
        existing: ExistingTag,
    ) -> Result<()> {
        let (key, item, digest) = (keys::tag(repository, image, tag), Item::Tag(image.clone(), tag.clone()), &row.digest);
        let before = get_record::<records::Tag>(self.store.as_ref(), &key).await?;
        if let Some((old, _)) = &before {
            if existing == ExistingTag::Stays && old.digest != *digest {
                return Err(Error::TagExists(tag.clone()));
            }
            batch.delete(keys::tag_of(repository, image, &old.digest, tag));
            properties::unindex(batch, repository, &item, &properties::of_tag(image, tag, old));
            if old.digest != *digest {
                // What was said was said about what is no longer there.
                self.forget_properties(batch, repository, &item).await?;
                batch.delete(keys::receipt(repository, image, tag));
                let replaced = Candidate::Manifest(repository.clone(), image.clone(), old.digest);
                self.look_at(batch, self.clock.now_ms() + self.cleanup_times.replaced_ms, &replaced)?;
            }
        }
        batch.expect(key.clone(), before.map(|(_, seen)| seen));
        properties::index(batch, repository, &item, &properties::of_tag(image, tag, row));
        batch.put_record(key, row);
        batch.put(keys::tag_of(repository, image, digest, tag), Bytes::new());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
