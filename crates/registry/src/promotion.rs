//! Promotion: images go from one repository to another, by name only. No blob is copied, and it happens in one commit.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{ApiVersion, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::keys::{self, Candidate, Item};
use berth_storage::records::{self, Manifest, Record, Referrer, WithBody};
use berth_storage::{Batch, get_record};
use bytes::Bytes;

use crate::blobs::damaged;
use crate::{Error, ExistingTag, Registry, Repository, Result};

/// Tags that one promotion takes.
pub(crate) const TAGS_MAX: usize = 5_000;

/// Manifests that one promotion takes.
const MANIFESTS_MAX: usize = 20_000;

/// Bytes of manifests and of what is said about them that one promotion takes: they all go in one commit.
const MANIFESTS_BYTES_MAX: usize = 128 << 20;

/// What is to go where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The image.
    pub image: ImageName,
    /// Its tag; `None`: all of them.
    pub tag: Option<Tag>,
    /// What the image is called there.
    pub target_image: ImageName,
    /// What the tag is called there; `None`: the same.
    pub target_tag: Option<Tag>,
    /// Whether it stays here too.
    pub copy: bool,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promoted {
    /// The tags, as they are called there.
    pub tags: Vec<Tag>,
}

/// Everything that some tags of a V2 image lead to.
#[derive(Default)]
struct Closure {
    manifests: BTreeMap<Digest, (Manifest, Bytes)>,
    referrers: BTreeMap<(Digest, Digest), Bytes>,
    blobs: BTreeSet<Digest>,
}

impl Promotion {
    fn check(&self, source: &Repository, target: &Repository) -> Result<()> {
        if source.api_version != target.api_version {
            return Err(Error::ApiVersionsDiffer(target.key.clone(), source.key.clone()));
        }
        if self.tag.is_none() && self.target_tag.is_some() {
            return Err(Error::PromotionInvalid("a target tag needs a tag"));
        }
        let same_tag = self.target_tag.is_none() || self.target_tag == self.tag;
        if source.key == target.key && self.image == self.target_image && same_tag {
            return Err(Error::PromotionInvalid("the target is the source"));
        }
        if target.takes(&self.target_image) { Ok(()) } else { Err(Error::ImageNotTaken(self.target_image.clone())) }
    }

    /// What a tag of the source is called in the target.
    pub(crate) fn renamed(&self, tag: &Tag) -> Tag {
        self.target_tag.as_ref().unwrap_or(tag).clone()
    }
}

impl Registry {
    /// Copies or moves an image or one of its tags to another repository, or to another name, in one commit.
    ///
    /// What other tags of the source need stays there. What refers to a promoted manifest as its subject goes with it.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`], [`Error::ApiVersionsDiffer`], [`Error::PromotionInvalid`], [`Error::ImageNotTaken`],
    /// [`Error::ImageUnknown`], [`Error::ManifestUnknown`] or [`Error::V1TagUnknown`] if there is nothing to promote,
    /// [`Error::TagExists`], [`Error::PromotionTooLarge`], [`Error::V1ImageDiffers`].
    pub async fn promote(
        &self,
        source: &RepositoryKey,
        target: &RepositoryKey,
        promotion: &Promotion,
        existing: ExistingTag,
    ) -> Result<Promoted> {
        let (from, to) = (self.repository(source).await?, self.repository(target).await?);
        promotion.check(&from, &to)?;
        let tags = match from.api_version {
            ApiVersion::V1 => self.promote_v1(source, target, promotion, existing).await?,
            ApiVersion::V2 => self.promote_v2(source, target, promotion, existing).await?,
        };
        self.wake_collector();
        Ok(Promoted { tags })
    }

    async fn promote_v2(
        &self,
        source: &RepositoryKey,
        target: &RepositoryKey,
        promotion: &Promotion,
        existing: ExistingTag,
    ) -> Result<Vec<Tag>> {
        let image = &promotion.image;
        self.commit_with(|| async {
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, source).await?;
            self.expect_repository(&mut batch, target).await?;
            // Whatever takes a manifest away, and so all that can make a link go, renews this row.
            let image_key = keys::image(source, image);
            let seen_image = self.store.get(&image_key).await?.ok_or_else(|| Error::ImageUnknown(image.clone()))?;
            batch.expect(image_key, Some(seen_image));
            let tags = self.tags_to_promote(source, promotion).await?;
            let closure = self.closure(source, image, tags.iter().map(|(_, row, _)| row.digest)).await?;
            self.renew_image(&mut batch, target, &promotion.target_image).await?;
            self.add_closure(&mut batch, target, &promotion.target_image, &closure);
            for (digest, (_, bytes)) in &closure.manifests {
                let body = WithBody::<Manifest>::decode(bytes).map(|manifest| manifest.body).unwrap_or_default();
                self.add_view(&mut batch, (target, &promotion.target_image), digest, &body, (source, image)).await?;
            }
            let mut promoted = Vec::new();
            for (tag, row, seen) in &tags {
                let key = keys::tag(source, image, tag);
                batch.expect(key.clone(), Some(seen.clone()));
                if !promotion.copy {
                    batch.delete(key).delete(keys::tag_of(source, image, &row.digest, tag));
                    self.forget_tag(&mut batch, (source, image, tag), row).await?;
                    self.look_at(&mut batch, self.clock.now_ms(), &Candidate::Manifest(source.clone(), image.clone(), row.digest))?;
                }
                let renamed = promotion.renamed(tag);
                let moved = records::Tag { updated_ms: self.clock.now_ms(), ..row.clone() };
                self.point_tag(&mut batch, (target, &promotion.target_image, &renamed), &moved, existing).await?;
                let (old, new) = (Item::Tag(image.clone(), tag.clone()), Item::Tag(promotion.target_image.clone(), renamed.clone()));
                self.copy_properties(&mut batch, (source, &old), (target, &new)).await?;
                promoted.push(renamed);
            }
            Ok((batch, promoted))
        })
        .await
    }

    async fn tags_to_promote(&self, source: &RepositoryKey, promotion: &Promotion) -> Result<Vec<(Tag, records::Tag, Bytes)>> {
        let image = &promotion.image;
        if let Some(tag) = &promotion.tag {
            let row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(source, image, tag)).await?;
            let (row, seen) = row.ok_or_else(|| Error::ManifestUnknown(Reference::Tag(tag.clone())))?;
            return Ok(vec![(tag.clone(), row, seen)]);
        }
        let prefix = keys::tags(source, image);
        let rows = self.store.scan(&prefix, None, TAGS_MAX + 1).await?;
        if rows.len() > TAGS_MAX {
            return Err(Error::PromotionTooLarge { what: "tags", max: TAGS_MAX });
        }
        let read = |(key, seen): (berth_storage::Key, Bytes)| {
            let tag = key.text_after(&prefix).and_then(|text| text.parse().ok());
            let (tag, row) = tag.zip(records::Tag::decode(&seen)).ok_or_else(|| damaged(&key))?;
            Ok((tag, row, seen))
        };
        let tags = rows.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        if tags.is_empty() { Err(Error::ImageUnknown(image.clone())) } else { Ok(tags) }
    }

    /// Manifests that the given ones lead to, themselves included, what is about them, and all their blobs.
    async fn closure(&self, repository: &RepositoryKey, image: &ImageName, digests: impl Iterator<Item = Digest>) -> Result<Closure> {
        let mut closure = Closure::default();
        let mut next: Vec<Digest> = digests.collect();
        let mut bytes_taken = 0;
        let mut take = |bytes: &Bytes| {
            bytes_taken += bytes.len();
            let too_large = Error::PromotionTooLarge { what: "bytes of manifests", max: MANIFESTS_BYTES_MAX };
            if bytes_taken > MANIFESTS_BYTES_MAX { Err(too_large) } else { Ok(()) }
        };
        while let Some(digest) = next.pop() {
            if closure.manifests.contains_key(&digest) || closure.blobs.contains(&digest) {
                continue;
            }
            let key = keys::manifest(repository, image, &digest);
            let Some((WithBody { record, .. }, bytes)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &key).await? else {
                closure.blobs.insert(digest);
                continue;
            };
            if closure.manifests.len() == MANIFESTS_MAX {
                return Err(Error::PromotionTooLarge { what: "manifests", max: MANIFESTS_MAX });
            }
            take(&bytes)?;
            next.extend(&record.children);
            // Of what may be absent, what is there goes along.
            for digest in &record.elsewhere {
                if self.store.get(&keys::link(repository, image, digest)).await?.is_some() {
                    closure.blobs.insert(*digest);
                }
            }
            closure.manifests.insert(digest, (record, bytes));
            let referrers = keys::referrers(repository, image, &digest);
            for row in self.keys_of(&referrers).await? {
                let Some(referrer) = row.digest_after(&referrers) else { continue };
                if let Some(value) = self.store.get(&row).await?.filter(|value| Referrer::decode(value).is_some()) {
                    take(&value)?;
                    closure.referrers.insert((digest, referrer), value);
                    next.push(referrer);
                }
            }
        }
        Ok(closure)
    }

    fn add_closure(&self, batch: &mut Batch, target: &RepositoryKey, image: &ImageName, closure: &Closure) {
        for (digest, (record, bytes)) in &closure.manifests {
            batch.put(keys::manifest(target, image, digest), bytes.clone());
            for child in record.holds() {
                batch.put(keys::parent_of(target, image, child, digest), Bytes::new());
            }
        }
        for ((subject, referrer), row) in &closure.referrers {
            batch.put(keys::referrer(target, image, subject, referrer), row.clone());
        }
        for digest in &closure.blobs {
            batch.put(keys::link(target, image, digest), Bytes::new()).put(keys::linked_from(digest, target, image), Bytes::new());
        }
    }
}
