//! What earlier versions stored can be found by what is said about it too: it is put into the index once, while everything
//! else goes on.

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, Manifest, WithBody};
use berth_storage::{Batch, Key, Prefix, get_record};
use bytes::Bytes;

use crate::v1::{ImageId, TagRecord};
use crate::{Registry, Result, manifests, properties};

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// What has a name, and so properties.
enum Named {
    Tag(RepositoryKey, ImageName, Tag),
    V1Tag(RepositoryKey, ImageName, Tag),
    V1Image(RepositoryKey, ImageId),
}

impl Registry {
    /// Indexes everything that has a name; returns how many things that were. Once it was carried through it does nothing.
    ///
    /// Interrupted, it begins anew: what is indexed already is only written again.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn index_once(&self) -> Result<u64> {
        if self.store.get(&keys::indexed()).await?.is_some() {
            return Ok(0);
        }
        let mut indexed = 0;
        for family in [keys::all_tags(), keys::all_v1_tags(), keys::all_v1_images()] {
            let mut after = None;
            loop {
                let rows = self.store.scan(&family, after.as_ref(), SCAN_ENTRIES).await?;
                for named in rows.iter().filter_map(|(key, _)| read(key, &family)) {
                    indexed += u64::from(self.index_one(&named).await?);
                }
                match rows.last() {
                    Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        let mut batch = Batch::new();
        batch.put(keys::indexed(), Bytes::new());
        self.store.commit(batch).await?;
        Ok(indexed)
    }

    /// Returns whether it is still there.
    async fn index_one(&self, named: &Named) -> Result<bool> {
        self.commit_with(|| async {
            // All of it becomes durable with the mark that it was done.
            let mut batch = Batch::deferred();
            let is_there = match named {
                Named::Tag(repository, image, tag) => self.index_tag(&mut batch, repository, image, tag).await?,
                Named::V1Tag(repository, image, tag) => self.index_v1_tag(&mut batch, repository, image, tag).await?,
                Named::V1Image(repository, id) => self.index_v1_image(&mut batch, repository, id).await?,
            };
            Ok((batch, is_there))
        })
        .await
    }

    async fn index_tag(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<bool> {
        let key = keys::tag(repository, image, tag);
        let Some((mut row, seen)) = get_record::<records::Tag>(self.store.as_ref(), &key).await? else { return Ok(false) };
        batch.expect(key.clone(), Some(seen));
        if row.media_type.is_empty() {
            // Earlier versions left this to the manifest.
            let manifest = keys::manifest(repository, image, &row.digest);
            if let Some((WithBody { record, body }, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &manifest).await? {
                row.size = manifests::read(&record.media_type, &body).map_or(0, |document| document.size());
                row.media_type = record.media_type;
                batch.put_record(key, &row);
            }
        }
        let item = Item::Tag(image.clone(), tag.clone());
        properties::index(batch, repository, &item, &properties::of_tag(image, tag, &row));
        Ok(true)
    }

    async fn index_v1_tag(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<bool> {
        let key = keys::v1_tag(repository, image, tag);
        let Some((row, seen)) = get_record::<TagRecord>(self.store.as_ref(), &key).await? else { return Ok(false) };
        batch.expect(key, Some(seen));
        properties::index(batch, repository, &Item::Tag(image.clone(), tag.clone()), &properties::of_v1_tag(tag, &row));
        properties::index(batch, repository, &Item::Image(image.clone()), &properties::of_v1_name(image));
        Ok(true)
    }

    async fn index_v1_image(&self, batch: &mut Batch, repository: &RepositoryKey, id: &ImageId) -> Result<bool> {
        let Some((row, seen)) = self.v1_row(repository, id).await? else { return Ok(false) };
        // One whose push has not ended is indexed when it does.
        let Some(layer) = row.layer.filter(|_| row.complete) else { return Ok(false) };
        batch.expect(keys::v1_image(repository, id), Some(seen));
        properties::index(batch, repository, &Item::V1Image(*id), &properties::of_v1_image(id, &layer));
        Ok(true)
    }
}

fn read(key: &Key, family: &Prefix) -> Option<Named> {
    if *family == keys::all_v1_images() {
        let (repository, id) = keys::split_repository(key, family)?;
        return Some(Named::V1Image(repository, ImageId::from_bytes(id.try_into().ok()?)));
    }
    let (repository, image, rest) = keys::split_image(key, family)?;
    let tag = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?.parse().ok()?;
    let named = if *family == keys::all_tags() { Named::Tag } else { Named::V1Tag };
    Some(named(repository, image, tag))
}
