//! `.images/<first two digits>/<id>/…` and `repositories/<image>/<tag>/tag.json`.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys::{self, Item};
use serde_json::json;

use super::{CHILDREN_MAX, Content, File, Folder, Node, SCAN_ENTRIES};
use crate::search::Eyes;
use crate::v1::{ImageId, Viewer};
use crate::{Error, Registry, Repository, Result};

const IMAGES: &str = ".images";
const REPOSITORIES: &str = "repositories";
const TAG: &str = "tag.json";

/// The files of an image, and what they were called where tools may have learnt it.
const FILES: [(&str, &str); 4] =
    [("json", "json.json"), ("layer", "layer.tar"), ("ancestry", "ancestry.json"), ("_checksum", "_checksum.json")];

impl Registry {
    pub(super) async fn browse_v1(&self, repository: &Repository, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        let mut folder = Folder::default();
        let (top, rest) = path.split_once('/').unwrap_or((path, ""));
        match top {
            "" => {
                folder.children.extend([(IMAGES.to_owned(), true), (REPOSITORIES.to_owned(), true)]);
                Ok(Node::Folder(folder))
            }
            IMAGES => self.browse_v1_images(&repository.key, rest, eyes).await,
            REPOSITORIES => self.browse_v1_tags(repository, rest, eyes).await,
            _ => Err(Error::ItemUnknown),
        }
    }

    async fn browse_v1_tags(&self, repository: &Repository, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        let sees = |image: &ImageName| (eyes.sees)(&repository.key, image);
        if let Some(((image, tag), TAG)) = path.rsplit_once('/').and_then(|(front, file)| Some((split_tag(front)?, file)))
            && sees(&image)
        {
            return match self.v1_tag(&repository.key, &image, &tag).await {
                Ok(row) => {
                    let content = json!({
                        "id": row.id, "tag": tag, "last_update": row.updated_ms / 1000, "user_agent": row.user_agent,
                    });
                    let item = Some(Item::Tag(image, tag));
                    Ok(Node::File(small_file(content.to_string().into(), row.updated_ms, item)))
                }
                Err(_) => Err(Error::ItemUnknown),
            };
        }
        let mut folder = Folder::default();
        let mut is_there = self.add_image_folders(repository, path, eyes, &mut folder).await? || path.is_empty();
        if let Ok(image) = path.parse::<ImageName>() {
            let tags = keys::v1_tags(&repository.key, &image);
            is_there |= self.add_tag_folders(repository, &image, &tags, eyes, &mut folder).await?.is_some();
        }
        if let Some((image, tag)) = split_tag(path).filter(|(image, _)| sees(image))
            && let Ok(row) = self.v1_tag(&repository.key, &image, &tag).await
        {
            folder.children.insert(TAG.to_owned(), false);
            (folder.created_ms, folder.modified_ms) = (row.updated_ms, row.updated_ms);
            folder.item = Some(Item::Tag(image, tag));
            is_there = true;
        }
        if is_there { Ok(Node::Folder(folder)) } else { Err(Error::ItemUnknown) }
    }

    async fn browse_v1_images(&self, repository: &RepositoryKey, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            [] => {
                let mut folder = Folder::default();
                for byte in 0..=u8::MAX {
                    if !self.seen_ids(repository, byte, eyes, 1).await?.is_empty() {
                        folder.children.insert(format!("{byte:02x}"), true);
                    }
                }
                Ok(Node::Folder(folder))
            }
            [start] => {
                let byte = u8::from_str_radix(start, 16).ok().filter(|byte| *start == format!("{byte:02x}"));
                let ids = self.seen_ids(repository, byte.ok_or(Error::ItemUnknown)?, eyes, CHILDREN_MAX + 1).await?;
                if ids.is_empty() {
                    return Err(Error::ItemUnknown);
                }
                let more = ids.len() > CHILDREN_MAX;
                let children = ids.into_iter().take(CHILDREN_MAX).map(|id| (id.to_string(), true)).collect();
                Ok(Node::Folder(Folder { children, more, ..Folder::default() }))
            }
            [start, id] | [start, id, _] => {
                let id: ImageId = id.parse().ok().filter(|_| id.starts_with(start) && start.len() == 2).ok_or(Error::ItemUnknown)?;
                if !self.sees_id(repository, &id, eyes).await? {
                    return Err(Error::ItemUnknown);
                }
                self.browse_v1_image(repository, &id, parts.get(2).copied()).await
            }
            _ => Err(Error::ItemUnknown),
        }
    }

    async fn browse_v1_image(&self, repository: &RepositoryKey, id: &ImageId, file: Option<&str>) -> Result<Node> {
        let Some((image, _)) = self.v1_row(repository, id).await?.filter(|(image, _)| image.complete) else {
            return Err(Error::ItemUnknown);
        };
        let item = Some(Item::V1Image(*id));
        let Some(file) = file else {
            let children = FILES.iter().map(|(name, _)| ((*name).to_owned(), false)).collect();
            let (created_ms, modified_ms) = (image.created_ms, image.created_ms);
            return Ok(Node::Folder(Folder { created_ms, modified_ms, children, more: false, item }));
        };
        let (name, _) = FILES.iter().find(|(name, other)| file == *name || file == *other).ok_or(Error::ItemUnknown)?;
        let layer = image.layer.ok_or(Error::ItemUnknown)?;
        Ok(Node::File(match *name {
            "json" => small_file(self.v1_json(repository, id).await?, image.created_ms, None),
            "ancestry" => {
                let chain = self.v1_ancestry(repository, id).await?;
                small_file(json!(chain).to_string().into(), image.created_ms, None)
            }
            "_checksum" => small_file(json!(layer.checksums).to_string().into(), image.created_ms, None),
            _ => File {
                created_ms: image.created_ms,
                modified_ms: image.created_ms,
                media_type: "application/octet-stream".to_owned(),
                sha256: Some(layer.digest.hex()),
                content: Content::Blob(self.v1_layer(repository, id).await?),
                item: None,
            },
        }))
    }

    /// Complete images whose id begins with `byte` and that are seen.
    async fn seen_ids(&self, repository: &RepositoryKey, byte: u8, eyes: Eyes<'_>, limit: usize) -> Result<Vec<ImageId>> {
        let prefix = keys::v1_images_like(repository, &[byte]);
        let all = keys::v1_images(repository);
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES.min(limit)).await?;
            let full = rows.len() == SCAN_ENTRIES.min(limit);
            for id in rows.iter().filter_map(|(key, _)| key.v1_image_after(&all)) {
                if self.sees_id(repository, &id, eyes).await? {
                    ids.push(id);
                }
                if ids.len() == limit {
                    return Ok(ids);
                }
            }
            match rows.last() {
                Some((last, _)) if full => after = Some(last.clone()),
                _ => return Ok(ids),
            }
        }
    }

    async fn sees_id(&self, repository: &RepositoryKey, id: &ImageId, eyes: Eyes<'_>) -> Result<bool> {
        if (eyes.sees_all)(repository) {
            return Ok(true);
        }
        let sees = |image: &ImageName| (eyes.sees)(repository, image);
        self.is_v1_visible(repository, id, Viewer { user: None, sees_all: false, sees: &sees }).await
    }
}

fn split_tag(path: &str) -> Option<(ImageName, Tag)> {
    let (image, tag) = path.rsplit_once('/')?;
    Some((image.parse().ok()?, tag.parse().ok()?))
}

fn small_file(content: bytes::Bytes, at_ms: u64, item: Option<Item>) -> File {
    File {
        created_ms: at_ms,
        modified_ms: at_ms,
        media_type: "application/json".to_owned(),
        sha256: None,
        content: Content::Bytes(content),
        item,
    }
}
