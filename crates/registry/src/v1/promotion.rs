//! Promotion of V1 images: the tags and the whole chain below each, by name only.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys::{self, Item};
use berth_storage::records::v1::Image;
use berth_storage::{Batch, get_record};
use bytes::Bytes;

use super::chain::Chains;
use super::marks::is_same_layer;
use super::{ImageId, TagRecord};
use crate::blobs::random_u64;
use crate::promotion::TAGS_MAX;
use crate::properties;
use crate::{Error, ExistingTag, Promotion, Registry, Result};

/// V1 images that one promotion takes.
const IMAGES_MAX: usize = 20_000;

/// A tag with the exact bytes of its row.
struct SeenTag {
    tag: Tag,
    row: TagRecord,
    seen: Bytes,
}

impl Registry {
    pub(crate) async fn promote_v1(
        &self,
        source: &RepositoryKey,
        target: &RepositoryKey,
        promotion: &Promotion,
        existing: ExistingTag,
    ) -> Result<Vec<Tag>> {
        self.commit_with(|| async {
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, source).await?;
            self.expect_repository(&mut batch, target).await?;
            let tags = self.v1_tags_to_promote(source, promotion).await?;
            let chains = self.chains_to_promote(source, &tags).await?;
            for (id, (_, (image, seen))) in &chains {
                // As long as the image is there, so is its layer.
                batch.expect(keys::v1_image(source, id), Some(seen.clone()));
                if source == target {
                    self.renew_v1_image(&mut batch, source, id).await?;
                } else {
                    self.add_v1_image(&mut batch, (source, target), id, image).await?;
                }
            }
            let moves_away = !promotion.copy && (source, &promotion.image) != (target, &promotion.target_image);
            if moves_away {
                self.remove_v1_tags(&mut batch, source, &promotion.image, &tags).await?;
            }
            self.renew_image(&mut batch, target, &promotion.target_image).await?;
            let mut promoted = Vec::new();
            for SeenTag { tag, row, .. } in &tags {
                let renamed = promotion.renamed(tag);
                let row = TagRecord { updated_ms: self.clock.now_ms(), ..row.clone() };
                self.point_v1_tag(&mut batch, (target, &promotion.target_image, &renamed), &row, existing).await?;
                let old = Item::Tag(promotion.image.clone(), tag.clone());
                let new = Item::Tag(promotion.target_image.clone(), renamed.clone());
                self.copy_properties(&mut batch, (source, &old), (target, &new)).await?;
                promoted.push(renamed);
            }
            if !promotion.copy && !moves_away {
                // Another tag of the same image: it stays inhabited.
                self.drop_v1_tags(&mut batch, source, &promotion.image, &tags).await?;
            }
            Ok((batch, promoted))
        })
        .await
    }

    async fn v1_tags_to_promote(&self, source: &RepositoryKey, promotion: &Promotion) -> Result<Vec<SeenTag>> {
        let names = match &promotion.tag {
            Some(tag) => vec![tag.clone()],
            None => self.v1_tags(source, &promotion.image).await?.into_iter().map(|(tag, _)| tag).collect(),
        };
        if names.len() > TAGS_MAX {
            return Err(Error::PromotionTooLarge { what: "tags", max: TAGS_MAX });
        }
        let mut tags = Vec::new();
        for tag in names {
            let found = get_record::<TagRecord>(self.store.as_ref(), &keys::v1_tag(source, &promotion.image, &tag)).await?;
            let (row, seen) = found.ok_or_else(|| Error::V1TagUnknown(tag.clone()))?;
            tags.push(SeenTag { tag, row, seen });
        }
        Ok(tags)
    }

    async fn remove_v1_tags(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, tags: &[SeenTag]) -> Result<()> {
        let seen_image = self.store.get(&keys::image(repository, image)).await?;
        batch.expect(keys::image(repository, image), seen_image.clone());
        self.drop_v1_tags(batch, repository, image, tags).await?;
        let left = self.store.scan(&keys::v1_tags(repository, image), None, tags.len() + 1).await?.len();
        self.after_removal(batch, repository, image, seen_image, left <= tags.len()).await
    }

    async fn drop_v1_tags(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, tags: &[SeenTag]) -> Result<()> {
        for SeenTag { tag, row, seen } in tags {
            let key = keys::v1_tag(repository, image, tag);
            batch.expect(key.clone(), Some(seen.clone())).delete(key).delete(keys::v1_tag_of(repository, &row.id, image, tag));
            self.forget_v1_tag(batch, (repository, image, tag), row).await?;
            self.look_at(batch, self.clock.now_ms(), &keys::Candidate::V1Image(repository.clone(), row.id))?;
        }
        Ok(())
    }

    /// The rows of every image that the tags lead to.
    async fn chains_to_promote(&self, source: &RepositoryKey, tags: &[SeenTag]) -> Result<Chains<(Image, Bytes)>> {
        let keep = |id, image: Image, seen| if image.complete { Ok((image, seen)) } else { Err(Error::V1ImageIncomplete(id)) };
        let mut chains = Chains::new();
        for SeenTag { row, .. } in tags {
            if !self.add_v1_chain((source, &row.id), &mut chains, IMAGES_MAX, keep).await? {
                return Err(Error::PromotionTooLarge { what: "V1 images", max: IMAGES_MAX });
            }
        }
        Ok(chains)
    }

    /// Whether the target has the image already, in whatever bytes.
    async fn is_same_v1_image(
        &self,
        (source, target): (&RepositoryKey, &RepositoryKey),
        id: &ImageId,
        image: &Image,
        there: &Image,
    ) -> Result<bool> {
        let layers = there.layer.as_ref().zip(image.layer.as_ref());
        if !there.complete || !layers.is_some_and(|(one, other)| is_same_layer(one, other)) {
            return Ok(false);
        }
        let json = self.v1_json(source, id).await?;
        Ok(self.same_v1_json((target, id), there, (&image.json_digest, &json)).await?.is_some())
    }

    /// Adds to the batch that the target has the image too, and that a tag leads to it. What is there already stays, if it is
    /// the same; anything else makes way as it would for a push.
    async fn add_v1_image(
        &self,
        batch: &mut Batch,
        (source, target): (&RepositoryKey, &RepositoryKey),
        id: &ImageId,
        image: &Image,
    ) -> Result<()> {
        let key = keys::v1_image(target, id);
        let before = self.v1_row(target, id).await?;
        let stays = match before.as_ref().map(|(there, _)| there) {
            Some(there) if self.is_same_v1_image((source, target), id, image, there).await? => Some(there),
            _ => None,
        };
        let is_there = stays.is_some();
        let row = Image { revision: random_u64()?, named: Some(true), ..stays.unwrap_or(image).clone() };
        if let Some((there, _)) = before.as_ref().filter(|_| !is_there) {
            // What a push that has not ended would bring is what comes now, or it is refused at its end.
            self.give_way(batch, (target, id), there, "").await.map_err(|error| match error {
                Error::V1ImageTaken(id) | Error::V1ImageReliedOn(id) => Error::V1ImageDiffers(id),
                error => error,
            })?;
            if let Some(old) = &there.parent {
                batch.delete(keys::v1_child(target, old, id));
            }
            self.forget_v1_layer(batch, (target, id), there.layer.as_ref())?;
        }
        // Renewed even if it is there: it gets a tag or a child.
        batch.expect(key.clone(), before.map(|(_, seen)| seen)).put_record(key, &row);
        if let Some(parent) = &row.parent {
            // A tag leads through it.
            batch.put(keys::v1_child(target, parent, id), Bytes::new());
        }
        if !is_there {
            batch.put(keys::v1_json(target, id), self.v1_json(source, id).await?);
            if let Some(layer) = &image.layer {
                properties::index(batch, target, &Item::V1Image(*id), &properties::of_v1_image(id, layer));
                batch.put(keys::v1_user_of(&layer.digest, target, id), Bytes::new());
            }
        }
        Ok(())
    }
}
