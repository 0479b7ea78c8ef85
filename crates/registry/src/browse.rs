//! The tree that people browse: the storage layout that Artifactory shows, made up from the records when somebody looks.
//!
//! A V1 repository has `.images/<first two digits>/<id>/{json,layer,ancestry,_checksum}` and
//! `repositories/<image>/<tag>/tag.json`; a V2 repository has `<image>/<tag>/manifest.json` and, beside it, every blob and
//! manifest that it refers to as `sha256__<hex>`. Nothing of it is stored as such.

mod v1;
mod v2;

use std::collections::BTreeMap;

use berth_names::{ApiVersion, ImageName};
use berth_storage::keys::{self, Item};
use berth_storage::records::{Image, Record as _};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};

use crate::search::Eyes;
use crate::{BlobContent, Error, Registry, Repository, Result};

/// Children of one folder that are shown.
pub const CHILDREN_MAX: usize = 10_000;

/// Entries of one listing of a whole subtree.
pub const LISTED_MAX: usize = 20_000;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Files up to so many bytes are held in memory for hashing, in bytes.
const HELD_BYTES_MAX: u64 = 8 << 20;

/// Something in the tree.
pub enum Node {
    /// Something with children.
    Folder(Folder),
    /// Something with content.
    File(File),
}

/// A folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folder {
    /// When it came to be, in milliseconds since 1970; 0: unknown.
    pub created_ms: u64,
    /// When it last changed, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its children by name, in byte order: whether each is a folder.
    pub children: BTreeMap<String, bool>,
    /// Whether there are more than are shown.
    pub more: bool,
    /// What can have properties here.
    pub item: Option<Item>,
}

/// A file.
pub struct File {
    /// When it came to be, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Its media type.
    pub media_type: String,
    /// SHA-256 of the content, in hexadecimal, if it is known without reading it.
    pub sha256: Option<String>,
    /// What is in it.
    pub content: Content,
    /// What can have properties here.
    pub item: Option<Item>,
}

/// What is in a file.
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// In the blob store.
    Blob(BlobContent),
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path below where the listing began, with a slash in front.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Length in bytes; of a folder 0.
    pub size: u64,
    /// When it last changed, in milliseconds since 1970.
    pub modified_ms: u64,
    /// SHA-256 of a file, if it is known without reading it.
    pub sha256: Option<String>,
}

impl File {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Blob(blob) => blob.size,
        }
    }

    /// The content, if it is small enough to hold.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn held(&self) -> Result<Option<Bytes>> {
        match &self.content {
            Content::Bytes(bytes) => Ok(Some(bytes.clone())),
            Content::Blob(blob) if blob.size <= HELD_BYTES_MAX => {
                let pieces: Vec<Bytes> = blob.read(0..blob.size).try_collect().await?;
                Ok(Some(pieces.concat().into()))
            }
            Content::Blob(_) => Ok(None),
        }
    }
}

impl Registry {
    /// What is at a path, as far as it is seen. The path has no slash at its ends; the empty one is the root.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`].
    pub async fn browse(&self, repository: &Repository, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        match repository.api_version {
            ApiVersion::V1 => self.browse_v1(repository, path, eyes).await,
            ApiVersion::V2 => self.browse_v2(repository, path, eyes).await,
        }
    }

    /// Everything below a path, `depth` levels deep, `LISTED_MAX` entries at most.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`] if there is no such folder.
    pub async fn list_below(&self, repository: &Repository, path: &str, depth: usize, eyes: Eyes<'_>) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        let Node::Folder(folder) = self.browse(repository, path, eyes).await? else { return Err(Error::ItemUnknown) };
        self.list_folder(repository, (path, ""), folder, depth, eyes, &mut listed).await?;
        Ok(listed)
    }

    fn list_folder<'f>(
        &'f self,
        repository: &'f Repository,
        (root, below): (&'f str, &'f str),
        folder: Folder,
        depth: usize,
        eyes: Eyes<'f>,
        listed: &'f mut Vec<Listed>,
    ) -> BoxFuture<'f, Result<()>> {
        async move {
            for name in folder.children.into_keys() {
                if listed.len() == LISTED_MAX {
                    break;
                }
                let below = format!("{below}/{name}");
                let path = if root.is_empty() { below[1..].to_owned() } else { format!("{root}{below}") };
                let node = match self.browse(repository, &path, eyes).await {
                    Ok(node) => node,
                    // It was deleted meanwhile.
                    Err(Error::ItemUnknown) => continue,
                    Err(error) => return Err(error),
                };
                match node {
                    Node::File(file) => {
                        let (size, modified_ms) = (file.size(), file.modified_ms);
                        listed.push(Listed { path: below, folder: false, size, modified_ms, sha256: file.sha256 });
                    }
                    Node::Folder(folder) => {
                        let modified_ms = folder.modified_ms;
                        listed.push(Listed { path: below.clone(), folder: true, size: 0, modified_ms, sha256: None });
                        if depth > 1 {
                            self.list_folder(repository, (root, &below), folder, depth - 1, eyes, listed).await?;
                        }
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Adds the folders that images below `path` make: the next part of each name. Returns whether there is any.
    async fn add_image_folders(&self, repository: &Repository, path: &str, eyes: Eyes<'_>, folder: &mut Folder) -> Result<bool> {
        let start = if path.is_empty() { String::new() } else { format!("{path}/") };
        let prefix = keys::images_like(&repository.key, &start);
        let (mut after, mut any) = (None, false);
        'scan: loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let Some(name) = key.text_after(&keys::images(&repository.key)) else { continue };
                let is_seen = name.parse::<ImageName>().is_ok_and(|image| (eyes.sees)(&repository.key, &image));
                let Some(image) = Image::decode(row).filter(|_| is_seen) else { continue };
                let rest = &name[start.len()..];
                let next = rest.split('/').next().unwrap_or(rest);
                any = true;
                folder.modified_ms = folder.modified_ms.max(image.created_ms);
                if folder.children.len() == CHILDREN_MAX {
                    folder.more = true;
                    return Ok(true);
                }
                if folder.children.insert(next.to_owned(), true).is_none() && rest.len() > next.len() {
                    // One of them is enough to know of the folder.
                    after = Some(keys::images_behind(&repository.key, &format!("{start}{next}/")));
                    continue 'scan;
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(any),
            }
        }
    }

    /// Adds the tags of the image called `path`, if it is one and is seen. Returns its row.
    async fn add_tag_folders(
        &self,
        repository: &Repository,
        image: &ImageName,
        tags: &berth_storage::Prefix,
        eyes: Eyes<'_>,
        folder: &mut Folder,
    ) -> Result<Option<Image>> {
        if !(eyes.sees)(&repository.key, image) {
            return Ok(None);
        }
        let row = self.store.get(&keys::image(&repository.key, image)).await?;
        let Some(row) = row.and_then(|row| Image::decode(&row)) else { return Ok(None) };
        let rows = self.store.scan(tags, None, CHILDREN_MAX + 1).await?;
        folder.more |= rows.len() > CHILDREN_MAX;
        let names = rows.iter().take(CHILDREN_MAX).filter_map(|(key, _)| key.text_after(tags));
        folder.children.extend(names.map(|tag| (tag.to_owned(), true)));
        (folder.created_ms, folder.modified_ms) = (row.created_ms, folder.modified_ms.max(row.created_ms));
        folder.item = Some(Item::Image(image.clone()));
        Ok(Some(row))
    }
}
