//! `<image>/<tag>/manifest.json` and its blobs.

use berth_names::{Algorithm, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::get_record;
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, Manifest, Record as _, WithBody};

use super::{File, Folder, Look, Node, split_tag};
use crate::hash::digest_of;
use crate::manifests::is_schema1;
use crate::{BlobContent, Error, Registry, Result};

/// What a tag's manifest is called.
pub(super) const MANIFEST: &str = "manifest.json";

/// What it is called too if it lists others, one for each platform: that is what is shown, and both are found.
const LIST: &str = "list.manifest.json";

impl Registry {
    pub(super) async fn browse_v2(&self, look: &Look<'_>, path: &str) -> Result<Node> {
        let key = &look.repository.key;
        if let Some((front, file)) = path.rsplit_once('/')
            && let Some((image, tag)) = split_tag(front)
            && look.sees(&image)
            && let Some(found) = self.file_of_tag(key, &image, &tag, file).await?
        {
            return Ok(Node::File(found));
        }
        let mut folder = look.folder();
        let mut is_there = self.add_image_folders(look, path, &mut folder).await? || path.is_empty();
        if let Ok(image) = path.parse::<ImageName>() {
            let moved_ms = |row: &bytes::Bytes| records::Tag::decode(row).map(|tag| tag.updated_ms);
            is_there |= self.add_tag_folders(look, &image, &keys::tags(key, &image), moved_ms, &mut folder).await?;
        }
        if let Some((image, tag)) = split_tag(path).filter(|(image, _)| look.sees(image)) {
            is_there |= self.add_tag_files(key, &image, &tag, &mut folder).await?;
        }
        if is_there { Ok(Node::Folder(folder)) } else { Err(Error::ItemUnknown) }
    }

    async fn add_tag_files(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag, folder: &mut Folder) -> Result<bool> {
        let key = keys::tag(repository, image, tag);
        let Some((row, _)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? else { return Ok(false) };
        let manifest = keys::manifest(repository, image, &row.digest);
        let Some((WithBody { record, .. }, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &manifest).await? else {
            return Ok(false);
        };
        folder.children.insert(manifest_name(&record).to_owned(), false);
        folder.children.extend(record.children.iter().map(|child| (blob_name(child), false)));
        for layer in &record.elsewhere {
            if self.store.get(&keys::link(repository, image, layer)).await?.is_some() {
                folder.children.insert(blob_name(layer), false);
            }
        }
        (folder.created_ms, folder.modified_ms) = (record.created_ms, row.updated_ms);
        folder.item = Some(Item::Tag(image.clone(), tag.clone()));
        Ok(true)
    }

    async fn file_of_tag(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag, file: &str) -> Result<Option<File>> {
        let key = keys::tag(repository, image, tag);
        let Some((row, _)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? else { return Ok(None) };
        let manifest = keys::manifest(repository, image, &row.digest);
        let Some((WithBody { record, body }, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &manifest).await? else {
            return Ok(None);
        };
        let (created_ms, modified_ms) = (record.created_ms, row.updated_ms);
        let sha256 = |digest: &Digest| (digest.algorithm() == Algorithm::Sha256).then(|| digest.hex());
        if file == MANIFEST || file == manifest_name(&record) {
            // A signed manifest is called by the digest of what was signed, which is not all that is downloaded.
            let digest = if is_schema1(&record.media_type) { digest_of(Algorithm::Sha256, &body) } else { row.digest };
            return Ok(Some(File {
                created_ms,
                modified_ms,
                media_type: record.media_type,
                sha256: sha256(&digest),
                content: BlobContent::held(body),
                item: Some(Item::Tag(image.clone(), tag.clone())),
            }));
        }
        let Some(digest) = record.holds().find(|child| blob_name(child) == file) else { return Ok(None) };
        let (media_type, content) = match self.open_blob(repository, image, digest).await {
            Ok(blob) => ("application/octet-stream".to_owned(), blob),
            Err(Error::BlobUnknown(_)) => match self.manifest(repository, image, &Reference::Digest(*digest)).await {
                Ok(child) => (child.media_type, BlobContent::held(child.bytes)),
                Err(Error::ManifestUnknown(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        Ok(Some(File { created_ms, modified_ms: created_ms, media_type, sha256: sha256(digest), content, item: None }))
    }
}

fn manifest_name(manifest: &Manifest) -> &'static str {
    let lists = manifest.media_type.contains("manifest.list") || manifest.media_type.contains("image.index");
    if lists { LIST } else { MANIFEST }
}

fn blob_name(digest: &Digest) -> String {
    digest.to_string().replacen(':', "__", 1)
}
