//! The tree of V1 images that `docker images --tree` shows: every image that some tags lead to, below its parent.

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys;
use berth_storage::records::v1::Image;

use super::ImageId;
use super::chain::Chains;
use crate::{Error, Registry, Result};

/// Images of one tree.
pub const TREE_IMAGES_MAX: usize = 20_000;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Tags that are shown at one image.
const TAGS_SHOWN_MAX: usize = 1000;

/// An image in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeImage {
    /// Its id.
    pub id: ImageId,
    /// The image below.
    pub parent: Option<ImageId>,
    /// How many images are below.
    pub depth: usize,
    /// Length of its layer in bytes, as pushed.
    pub size: u64,
    /// The same with all layers below.
    pub virtual_size: u64,
    /// Every tag of the repository that points to it and is seen.
    pub tags: Vec<(ImageName, Tag)>,
    /// Those that stand on it, in order of their ids.
    pub children: Vec<ImageId>,
}

impl Registry {
    /// The trees that tags of an image, or of all images, lead to, each image before what stands on it.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`], [`Error::V1TagUnknown`], [`Error::V1ChainTooLong`]; [`Error::SearchInvalid`] beyond
    /// [`TREE_IMAGES_MAX`].
    pub async fn v1_tree(
        &self,
        repository: &RepositoryKey,
        image: Option<&ImageName>,
        tag: Option<&Tag>,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<Vec<TreeImage>> {
        const TOO_MANY: Error = Error::SearchInvalid("there are too many images for one tree: ask for one image or tag");
        let tops: BTreeSet<ImageId> = match (image, tag) {
            (Some(image), Some(tag)) => BTreeSet::from([self.v1_tag(repository, image, tag).await?.id]),
            (Some(image), None) => self.v1_tags(repository, image).await?.into_iter().map(|(_, row)| row.id).collect(),
            (None, _) => match self.seen_v1_tops(repository, sees).await? {
                (tops, true) => tops,
                (_, false) => return Err(TOO_MANY),
            },
        };
        let mut known: Chains<(Option<ImageId>, u64)> = Chains::new();
        for top in tops {
            let keep = |_, row: Image, _| Ok((row.parent, row.layer.map_or(0, |layer| layer.size)));
            if !self.add_v1_chain((repository, &top), &mut known, TREE_IMAGES_MAX, keep).await? {
                return Err(TOO_MANY);
            }
        }
        let mut children: BTreeMap<Option<ImageId>, BTreeSet<ImageId>> = BTreeMap::new();
        for (id, (_, (parent, _))) in &known {
            children.entry(*parent).or_default().insert(*id);
        }
        let of = |parent: Option<ImageId>| children.get(&parent).into_iter().flatten().copied();
        let mut tree = Vec::with_capacity(known.len());
        let mut open: Vec<(ImageId, usize, u64)> = of(None).rev().map(|id| (id, 0, 0)).collect();
        while let Some((id, depth, below)) = open.pop() {
            let Some((_, (parent, size))) = known.get(&id).copied() else { continue };
            let virtual_size = below.saturating_add(size);
            open.extend(of(Some(id)).rev().map(|child| (child, depth + 1, virtual_size)));
            let tags = self.tags_at(repository, &id, sees).await?;
            tree.push(TreeImage { id, parent, depth, size, virtual_size, tags, children: of(Some(id)).collect() });
        }
        Ok(tree)
    }

    /// The images that seen tags point to, [`TREE_IMAGES_MAX`] at most, and whether these are all.
    pub(crate) async fn seen_v1_tops(
        &self,
        repository: &RepositoryKey,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<(BTreeSet<ImageId>, bool)> {
        let fits = |name: &str| name.parse().is_ok_and(|image| sees(&image));
        let images = self.images(repository, None, Some(TREE_IMAGES_MAX), &fits).await?;
        let mut tops = BTreeSet::new();
        for image in images.names.iter().filter_map(|name| name.parse().ok()) {
            match self.v1_tags(repository, &image).await {
                Ok(tags) => tops.extend(tags.into_iter().map(|(_, row)| row.id)),
                // It was deleted meanwhile.
                Err(Error::ImageUnknown(_)) => {}
                Err(error) => return Err(error),
            }
            if tops.len() > TREE_IMAGES_MAX {
                return Ok((tops.into_iter().take(TREE_IMAGES_MAX).collect(), false));
            }
        }
        Ok((tops, !images.more))
    }

    async fn tags_at(
        &self,
        repository: &RepositoryKey,
        id: &ImageId,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<Vec<(ImageName, Tag)>> {
        let prefix = keys::v1_tags_of(repository, id);
        let (mut tags, mut after) = (Vec::new(), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let names = rows.iter().filter_map(|(key, _)| {
                let (image, tag) = key.texts_after(&prefix)?;
                Some((image.parse().ok()?, tag.parse().ok()?))
            });
            tags.extend(names.filter(|(image, _)| sees(image)));
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES && tags.len() < TAGS_SHOWN_MAX => after = Some(last.clone()),
                _ => break,
            }
        }
        tags.truncate(TAGS_SHOWN_MAX);
        Ok(tags)
    }
}
