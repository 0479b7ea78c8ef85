//! The tree that people browse: the storage layout that Artifactory shows, made up from the records when somebody looks.
//!
//! A V1 repository has `.images/<first two digits>/<id>/{json,layer,ancestry,_checksum}` and
//! `repositories/<image>/<tag>/tag.json`; a V2 repository has `<image>/<tag>/manifest.json` and, beside it, every blob and
//! manifest that it refers to as `sha256__<hex>`. Nothing of it is stored as such.
//!
//! A folder that stands for an image, a tag or a V1 image has its times; every other has the time at which the repository
//! was created.

mod v1;
mod v2;

use std::collections::BTreeMap;

use berth_names::{ApiVersion, ImageName};
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, Image, Record as _};
use berth_storage::{Prefix, get_record};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use self::v1::SeenV1Images;
use crate::listing::is_inhabited;
use crate::search::Eyes;
use crate::{BlobContent, Error, Registry, Repository, Result};

/// Children of one folder that are shown.
pub const CHILDREN_MAX: usize = 10_000;

/// Entries of one listing of a whole subtree.
pub const LISTED_MAX: usize = 20_000;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// The largest file that is hashed for those who look at it, in bytes.
pub const HASHED_BYTES_MAX: u64 = 8 << 20;

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
    /// When it came to be, in milliseconds since 1970.
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
    pub content: BlobContent,
    /// What can have properties here.
    pub item: Option<Item>,
}

/// What a file's content is recognised by, in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// SHA-256, if it is known, or the file is small enough to be hashed for whoever looks at it.
    pub sha256: Option<String>,
    /// SHA-1, if the file is small enough.
    pub sha1: Option<String>,
    /// MD5, if the file is small enough.
    pub md5: Option<String>,
}

/// Everything below a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Each folder before what is in it.
    pub entries: Vec<Listed>,
    /// Whether there are more than are listed.
    pub more: bool,
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

/// Where something is in the tree of a repository that speaks this protocol: of a tag, its file.
pub fn path_of(api_version: ApiVersion, item: &Item) -> String {
    match (api_version, item) {
        (_, Item::V1Image(id)) => {
            let id = id.to_string();
            format!("{}/{}/{id}", v1::IMAGES, &id[..2])
        }
        (ApiVersion::V1, Item::Image(image)) => format!("{}/{image}", v1::REPOSITORIES),
        (ApiVersion::V1, Item::Tag(image, tag)) => format!("{}/{image}/{tag}/{}", v1::REPOSITORIES, v1::TAG),
        (ApiVersion::V2, Item::Image(image)) => image.to_string(),
        (ApiVersion::V2, Item::Tag(image, tag)) => format!("{image}/{tag}/{}", v2::MANIFEST),
    }
}

impl File {
    /// What the content is recognised by. Up to [`HASHED_BYTES_MAX`] it is read for that; a larger file has only what is known.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn checksums(&self) -> Result<Checksums> {
        if self.content.size > HASHED_BYTES_MAX {
            return Ok(Checksums { sha256: self.sha256.clone(), ..Checksums::default() });
        }
        let (mut sha256, mut sha1, mut md5) = (Sha256::new(), Sha1::new(), Md5::new());
        let mut pieces = self.content.read(0..self.content.size);
        while let Some(piece) = pieces.try_next().await? {
            sha256.update(&piece);
            sha1.update(&piece);
            md5.update(&piece);
            tokio::task::yield_now().await;
        }
        Ok(Checksums { sha256: Some(hex(&sha256.finalize())), sha1: Some(hex(&sha1.finalize())), md5: Some(hex(&md5.finalize())) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One look at a repository's tree, of one request.
struct Look<'a> {
    repository: &'a Repository,
    eyes: Eyes<'a>,
    /// When the repository was created, in milliseconds since 1970.
    created_ms: u64,
    /// The V1 images that are seen, once somebody wants to know all of them.
    v1_images: OnceCell<SeenV1Images>,
}

impl Look<'_> {
    fn sees(&self, image: &ImageName) -> bool {
        (self.eyes.sees)(&self.repository.key, image)
    }

    /// A folder that stands for nothing but its place.
    fn folder(&self) -> Folder {
        Folder { created_ms: self.created_ms, modified_ms: self.created_ms, ..Folder::default() }
    }
}

impl Registry {
    /// What is at a path, as far as it is seen. The path has no slash at its ends; the empty one is the root.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`].
    pub async fn browse(&self, repository: &Repository, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        self.node_at(&self.look(repository, eyes).await?, path).await
    }

    async fn look<'a>(&self, repository: &'a Repository, eyes: Eyes<'a>) -> Result<Look<'a>> {
        let row = get_record::<records::Repository>(self.store.as_ref(), &keys::repository(&repository.key)).await?;
        let (row, _) = row.ok_or_else(|| Error::RepositoryUnknown(repository.key.clone()))?;
        Ok(Look { repository, eyes, created_ms: row.created_ms, v1_images: OnceCell::new() })
    }

    async fn node_at(&self, look: &Look<'_>, path: &str) -> Result<Node> {
        match look.repository.api_version {
            ApiVersion::V1 => self.browse_v1(look, path).await,
            ApiVersion::V2 => self.browse_v2(look, path).await,
        }
    }

    /// Everything below a folder, `depth` levels deep, `LISTED_MAX` entries at most.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`] if there is no such folder.
    pub async fn list_below(&self, repository: &Repository, path: &str, depth: usize, eyes: Eyes<'_>) -> Result<Listing> {
        let look = self.look(repository, eyes).await?;
        let Node::Folder(folder) = self.node_at(&look, path).await? else { return Err(Error::ItemUnknown) };
        let mut listing = Listing::default();
        self.list_folder(&look, (path, ""), folder, depth, &mut listing).await?;
        Ok(listing)
    }

    fn list_folder<'f>(
        &'f self,
        look: &'f Look<'_>,
        (root, below): (&'f str, &'f str),
        folder: Folder,
        depth: usize,
        listing: &'f mut Listing,
    ) -> BoxFuture<'f, Result<()>> {
        async move {
            listing.more |= folder.more;
            for name in folder.children.into_keys() {
                if listing.entries.len() == LISTED_MAX {
                    listing.more = true;
                    break;
                }
                let below = format!("{below}/{name}");
                let path = if root.is_empty() { below[1..].to_owned() } else { format!("{root}{below}") };
                let node = match self.node_at(look, &path).await {
                    Ok(node) => node,
                    // It was deleted meanwhile.
                    Err(Error::ItemUnknown) => continue,
                    Err(error) => return Err(error),
                };
                match node {
                    Node::File(file) => {
                        let (size, modified_ms) = (file.content.size, file.modified_ms);
                        listing.entries.push(Listed { path: below, folder: false, size, modified_ms, sha256: file.sha256 });
                    }
                    Node::Folder(folder) => {
                        let modified_ms = folder.modified_ms;
                        listing.entries.push(Listed { path: below.clone(), folder: true, size: 0, modified_ms, sha256: None });
                        if depth > 1 {
                            self.list_folder(look, (root, &below), folder, depth - 1, listing).await?;
                        }
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Adds the folders that images below `path` make: the next part of each name. Returns whether there is any.
    async fn add_image_folders(&self, look: &Look<'_>, path: &str, folder: &mut Folder) -> Result<bool> {
        let key = &look.repository.key;
        let start = if path.is_empty() { String::new() } else { format!("{path}/") };
        let (prefix, images) = (keys::images_like(key, &start), keys::images(key));
        let (mut after, mut any) = (None, false);
        'scan: loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (row, value) in &rows {
                let Some(name) = row.text_after(&images).filter(|_| is_inhabited(value)) else { continue };
                if !name.parse::<ImageName>().is_ok_and(|image| look.sees(&image)) {
                    continue;
                }
                any = true;
                let below = &name[start.len()..];
                let next = below.split('/').next().unwrap_or(below);
                if folder.children.len() == CHILDREN_MAX && !folder.children.contains_key(next) {
                    folder.more = true;
                    return Ok(true);
                }
                folder.children.insert(next.to_owned(), true);
                if below.len() > next.len() {
                    // One of them is enough to know of the folder.
                    after = Some(keys::images_behind(key, &format!("{start}{next}/")));
                    continue 'scan;
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(any),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Adds the tags of an image, if it is there and is seen, which is returned. `moved_ms` tells from a tag's row when it
    /// last moved.
    async fn add_tag_folders(
        &self,
        look: &Look<'_>,
        image: &ImageName,
        tags: &Prefix,
        moved_ms: fn(&Bytes) -> Option<u64>,
        folder: &mut Folder,
    ) -> Result<bool> {
        let row = self.store.get(&keys::image(&look.repository.key, image)).await?.filter(|row| look.sees(image) && is_inhabited(row));
        let Some(row) = row.and_then(|row| Image::decode(&row)) else { return Ok(false) };
        (folder.created_ms, folder.modified_ms) = (row.created_ms, row.created_ms);
        folder.item = Some(Item::Image(image.clone()));
        let mut after = None;
        loop {
            let rows = self.store.scan(tags, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, value) in &rows {
                let Some(tag) = key.text_after(tags) else { continue };
                if folder.children.len() == CHILDREN_MAX {
                    folder.more = true;
                    return Ok(true);
                }
                folder.children.insert(tag.to_owned(), true);
                folder.modified_ms = folder.modified_ms.max(moved_ms(value).unwrap_or_default());
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(true),
            }
        }
    }
}

/// The image and tag that a path may stand for: its last part is the tag.
fn split_tag(path: &str) -> Option<(ImageName, berth_names::Tag)> {
    let (image, tag) = path.rsplit_once('/')?;
    Some((image.parse().ok()?, tag.parse().ok()?))
}
