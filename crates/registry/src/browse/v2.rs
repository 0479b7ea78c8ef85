//! `<image>/<tag>/manifest.json` and its blobs.

use berth_names::{Digest, ImageName, Reference, Tag};
use berth_storage::get_record;
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, Manifest, WithBody};

use super::{Content, File, Folder, Node};
use crate::search::Eyes;
use crate::{Error, Registry, Repository, Result};

/// What a tag's manifest is called.
const MANIFEST: &str = "manifest.json";

/// What it is called if it lists others, one for each platform.
const LIST: &str = "list.manifest.json";

impl Registry {
    pub(super) async fn browse_v2(&self, repository: &Repository, path: &str, eyes: Eyes<'_>) -> Result<Node> {
        if let Some((front, file)) = path.rsplit_once('/')
            && let Some((image, tag)) = split_tag(front)
            && (eyes.sees)(&repository.key, &image)
            && let Some(found) = self.file_of_tag(repository, &image, &tag, file).await?
        {
            return Ok(Node::File(found));
        }
        let mut folder = Folder::default();
        let mut is_there = self.add_image_folders(repository, path, eyes, &mut folder).await? || path.is_empty();
        if let Ok(image) = path.parse::<ImageName>() {
            let tags = keys::tags(&repository.key, &image);
            is_there |= self.add_tag_folders(repository, &image, &tags, eyes, &mut folder).await?.is_some();
        }
        if let Some((image, tag)) = split_tag(path).filter(|(image, _)| (eyes.sees)(&repository.key, image)) {
            is_there |= self.add_tag_files(repository, &image, &tag, &mut folder).await?;
        }
        if is_there { Ok(Node::Folder(folder)) } else { Err(Error::ItemUnknown) }
    }

    async fn add_tag_files(&self, repository: &Repository, image: &ImageName, tag: &Tag, folder: &mut Folder) -> Result<bool> {
        let key = keys::tag(&repository.key, image, tag);
        let Some((row, _)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? else { return Ok(false) };
        let manifest = keys::manifest(&repository.key, image, &row.digest);
        let Some((WithBody { record, .. }, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &manifest).await? else {
            return Ok(false);
        };
        folder.children.insert(manifest_name(&record).to_owned(), false);
        folder.children.extend(record.children.iter().map(|child| (blob_name(child), false)));
        (folder.created_ms, folder.modified_ms) = (record.created_ms, row.updated_ms);
        folder.item = Some(Item::Tag(image.clone(), tag.clone()));
        Ok(true)
    }

    async fn file_of_tag(&self, repository: &Repository, image: &ImageName, tag: &Tag, file: &str) -> Result<Option<File>> {
        let key = keys::tag(&repository.key, image, tag);
        let Some((row, _)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? else { return Ok(None) };
        let manifest = keys::manifest(&repository.key, image, &row.digest);
        let Some((WithBody { record, body }, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &manifest).await? else {
            return Ok(None);
        };
        let (created_ms, modified_ms) = (record.created_ms, row.updated_ms);
        if file == manifest_name(&record) {
            return Ok(Some(File {
                created_ms,
                modified_ms,
                media_type: record.media_type,
                sha256: None,
                content: Content::Bytes(body),
                item: Some(Item::Tag(image.clone(), tag.clone())),
            }));
        }
        let Some(digest) = record.children.iter().find(|child| blob_name(child) == file) else { return Ok(None) };
        let sha256 = (digest.algorithm() == berth_names::Algorithm::Sha256).then(|| digest.hex());
        let (media_type, content) = match self.open_blob(&repository.key, image, digest).await {
            Ok(blob) => ("application/octet-stream".to_owned(), Content::Blob(blob)),
            Err(Error::BlobUnknown(_)) => match self.manifest(&repository.key, image, &Reference::Digest(*digest)).await {
                Ok(child) => (child.media_type, Content::Bytes(child.bytes)),
                Err(Error::ManifestUnknown(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(Some(File { created_ms, modified_ms: created_ms, media_type, sha256, content, item: None }))
    }
}

fn split_tag(path: &str) -> Option<(ImageName, Tag)> {
    let (image, tag) = path.rsplit_once('/')?;
    Some((image.parse().ok()?, tag.parse().ok()?))
}

fn manifest_name(manifest: &Manifest) -> &'static str {
    let lists = manifest.media_type.contains("manifest.list") || manifest.media_type.contains("image.index");
    if lists { LIST } else { MANIFEST }
}

fn blob_name(digest: &Digest) -> String {
    digest.to_string().replacen(':', "__", 1)
}
