//! `.images/<first two digits>/<id>/…` and `repositories/<image>/<tag>/tag.json`.

use std::collections::BTreeSet;

use berth_names::{ImageName, RepositoryKey};
use berth_storage::keys::{self, Item};
use berth_storage::records::Record as _;
use serde_json::json;

use super::{CHILDREN_MAX, File, Folder, Look, Node, SCAN_ENTRIES, split_tag};
use crate::v1::{Chains, ImageId, TREE_IMAGES_MAX, TagRecord, Viewer};
use crate::{BlobContent, Error, Registry, Result};

/// The V1 images that seen tags lead to.
pub(super) struct SeenV1Images {
    ids: BTreeSet<ImageId>,
    /// Whether there are more, which are found one by one only.
    more: bool,
}

/// Where the images are.
pub(super) const IMAGES: &str = ".images";

/// Where the names are.
pub(super) const REPOSITORIES: &str = "repositories";

/// What a tag's file is called.
pub(super) const TAG: &str = "tag.json";

/// The files of an image, and what they were called where tools may have learnt it.
const FILES: [(&str, &str); 4] =
    [("json", "json.json"), ("layer", "layer.tar"), ("ancestry", "ancestry.json"), ("_checksum", "_checksum.json")];

impl Registry {
    pub(super) async fn browse_v1(&self, look: &Look<'_>, path: &str) -> Result<Node> {
        let (top, rest) = path.split_once('/').unwrap_or((path, ""));
        match top {
            "" => {
                let mut folder = look.folder();
                folder.children.extend([(IMAGES.to_owned(), true), (REPOSITORIES.to_owned(), true)]);
                Ok(Node::Folder(folder))
            }
            IMAGES => self.browse_v1_images(look, rest).await,
            REPOSITORIES => self.browse_v1_tags(look, rest).await,
            _ => Err(Error::ItemUnknown),
        }
    }

    async fn browse_v1_tags(&self, look: &Look<'_>, path: &str) -> Result<Node> {
        let key = &look.repository.key;
        if let Some(((image, tag), TAG)) = path.rsplit_once('/').and_then(|(front, file)| Some((split_tag(front)?, file)))
            && look.sees(&image)
        {
            let row = self.v1_tag(key, &image, &tag).await.map_err(as_no_item)?;
            let content = json!({ "id": row.id, "tag": tag, "last_update": row.updated_ms / 1000, "user_agent": row.user_agent });
            return Ok(Node::File(small_file(content.to_string().into(), row.updated_ms, Some(Item::Tag(image, tag)))));
        }
        let mut folder = look.folder();
        let mut is_there = self.add_image_folders(look, path, &mut folder).await? || path.is_empty();
        if let Ok(image) = path.parse::<ImageName>() {
            let moved_ms = |row: &bytes::Bytes| TagRecord::decode(row).map(|tag| tag.updated_ms);
            is_there |= self.add_tag_folders(look, &image, &keys::v1_tags(key, &image), moved_ms, &mut folder).await?;
        }
        if let Some((image, tag)) = split_tag(path).filter(|(image, _)| look.sees(image)) {
            match self.v1_tag(key, &image, &tag).await {
                Ok(row) => {
                    folder.children.insert(TAG.to_owned(), false);
                    (folder.created_ms, folder.modified_ms) = (row.updated_ms, row.updated_ms);
                    folder.item = Some(Item::Tag(image, tag));
                    is_there = true;
                }
                Err(Error::V1TagUnknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if is_there { Ok(Node::Folder(folder)) } else { Err(Error::ItemUnknown) }
    }

    async fn browse_v1_images(&self, look: &Look<'_>, path: &str) -> Result<Node> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut folder = look.folder();
        match parts.as_slice() {
            [] => {
                for byte in 0..=u8::MAX {
                    if !self.seen_v1_images(look, byte, 1).await?.is_empty() {
                        folder.children.insert(format!("{byte:02x}"), true);
                    }
                }
                Ok(Node::Folder(folder))
            }
            [start] => {
                let byte = u8::from_str_radix(start, 16).ok().filter(|byte| *start == format!("{byte:02x}"));
                let ids = self.seen_v1_images(look, byte.ok_or(Error::ItemUnknown)?, CHILDREN_MAX + 1).await?;
                if ids.is_empty() {
                    return Err(Error::ItemUnknown);
                }
                folder.more = ids.len() > CHILDREN_MAX || look.v1_images.get().is_some_and(|seen| seen.more);
                folder.children.extend(ids.into_iter().take(CHILDREN_MAX).map(|id| (id.to_string(), true)));
                Ok(Node::Folder(folder))
            }
            [start, id] | [start, id, _] => {
                let id: ImageId = id.parse().ok().filter(|_| start.len() == 2 && id.starts_with(start)).ok_or(Error::ItemUnknown)?;
                if !self.sees_v1_image(look, &id).await? {
                    return Err(Error::ItemUnknown);
                }
                self.browse_v1_image(&look.repository.key, &id, parts.get(2).copied()).await
            }
            _ => Err(Error::ItemUnknown),
        }
    }

    async fn browse_v1_image(&self, repository: &RepositoryKey, id: &ImageId, file: Option<&str>) -> Result<Node> {
        let image = self.v1_row(repository, id).await?.map(|(image, _)| image).filter(|image| image.complete);
        let image = image.ok_or(Error::ItemUnknown)?;
        let Some(file) = file else {
            let children = FILES.iter().map(|(name, _)| ((*name).to_owned(), false)).collect();
            let (created_ms, modified_ms) = (image.created_ms, image.created_ms);
            return Ok(Node::Folder(Folder { created_ms, modified_ms, children, more: false, item: Some(Item::V1Image(*id)) }));
        };
        let (name, _) = FILES.iter().find(|(name, other)| file == *name || file == *other).ok_or(Error::ItemUnknown)?;
        let layer = image.layer.ok_or(Error::ItemUnknown)?;
        Ok(Node::File(match *name {
            "json" => small_file(self.v1_json(repository, id).await?, image.created_ms, None),
            "ancestry" => {
                let chain = self.v1_ancestry(repository, id).await.map_err(as_no_item)?;
                small_file(json!(chain).to_string().into(), image.created_ms, None)
            }
            "_checksum" => small_file(json!(layer.checksums).to_string().into(), image.created_ms, None),
            _ => File {
                created_ms: image.created_ms,
                modified_ms: image.created_ms,
                media_type: "application/octet-stream".to_owned(),
                sha256: Some(layer.digest.hex()),
                content: self.v1_layer(repository, id).await.map_err(as_no_item)?,
                item: None,
            },
        }))
    }

    /// Complete images whose id begins with `byte` and that are seen.
    async fn seen_v1_images(&self, look: &Look<'_>, byte: u8, limit: usize) -> Result<Vec<ImageId>> {
        if !(look.eyes.sees_all)(&look.repository.key) {
            let SeenV1Images { ids, .. } = look.v1_images.get_or_try_init(|| self.v1_images_of_seen_tags(look)).await?;
            let (first, last) = ([0; 32], [u8::MAX; 32]);
            let bound = |mut id: [u8; 32]| {
                id[0] = byte;
                ImageId::from_bytes(id)
            };
            return Ok(ids.range(bound(first)..=bound(last)).take(limit).copied().collect());
        }
        let (prefix, all) = (keys::v1_images_like(&look.repository.key, &[byte]), keys::v1_images(&look.repository.key));
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let wanted = SCAN_ENTRIES.min(limit);
            let rows = self.store.scan(&prefix, after.as_ref(), wanted).await?;
            let complete = rows.iter().filter(|(_, row)| berth_storage::records::v1::Image::decode(row).is_some_and(|row| row.complete));
            ids.extend(complete.filter_map(|(key, _)| key.v1_image_after(&all)));
            match rows.last() {
                Some((last, _)) if rows.len() == wanted && ids.len() < limit => after = Some(last.clone()),
                _ => break,
            }
        }
        ids.truncate(limit);
        Ok(ids)
    }

    /// Every image that a seen tag leads to, [`TREE_IMAGES_MAX`] at most: in proportion to what is seen, not to what is there.
    async fn v1_images_of_seen_tags(&self, look: &Look<'_>) -> Result<SeenV1Images> {
        let key = &look.repository.key;
        let (tops, mut all) = self.seen_v1_tops(key, &|image| look.sees(image)).await?;
        let mut found = Chains::new();
        for top in tops {
            match self.add_v1_chain((key, &top), &mut found, TREE_IMAGES_MAX, |_, _, _| Ok(())).await {
                Ok(has_room) => all &= has_room,
                // It was deleted meanwhile, or can't be pulled: whoever asks for the image itself hears why.
                Err(Error::V1ImageUnknown(_) | Error::V1ChainTooLong(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(SeenV1Images { ids: found.into_keys().collect(), more: !all })
    }

    async fn sees_v1_image(&self, look: &Look<'_>, id: &ImageId) -> Result<bool> {
        match look.v1_images.get() {
            Some(SeenV1Images { ids, .. }) if ids.contains(id) => return Ok(true),
            Some(SeenV1Images { more: false, .. }) => return Ok(false),
            _ => {}
        }
        let sees = |image: &ImageName| look.sees(image);
        let viewer = Viewer { user: None, sees_all: (look.eyes.sees_all)(&look.repository.key), sees: &sees };
        self.is_v1_visible(&look.repository.key, id, viewer).await
    }
}

/// What was there a moment ago and is no more.
fn as_no_item(error: Error) -> Error {
    match error {
        Error::V1TagUnknown(_) | Error::V1ImageUnknown(_) | Error::V1ImageIncomplete(_) => Error::ItemUnknown,
        error => error,
    }
}

fn small_file(content: bytes::Bytes, at_ms: u64, item: Option<Item>) -> File {
    File {
        created_ms: at_ms,
        modified_ms: at_ms,
        media_type: "application/json".to_owned(),
        sha256: None,
        content: BlobContent::held(content),
        item,
    }
}
