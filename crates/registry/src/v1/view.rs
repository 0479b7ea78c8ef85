//! V2 images for V1 clients: a repository that says so shows each image as a chain of V1 images, one for each layer.
//!
//! What must stay true:
//! - An id stands for one content for good: it is the hash of the layer's digest, of the JSON, and of the id below. What a
//!   config says its layers unpack to is a claim that nobody has verified, so no id is made of that, and whatever else is
//!   pushed changes nothing of what an id brings.
//! - The rows come and go in the commit that brings or takes the manifest, so pulls find them and write nothing.
//! - A V1 image is seen through the names of the V2 images that it is shown of.

use berth_names::{ApiVersion, Digest, ImageName, RepositoryKey, Tag};
use berth_storage::records::v1::{View, ViewImage};
use berth_storage::records::{self, Manifest, Record as _, WithBody};
use berth_storage::{Batch, Key, get_record, keys};
use bytes::Bytes;
use futures::TryStreamExt as _;

use self::synthesis::{Recipe, images, recipe_of, schema1_images, schema1_json, v1_json};
use super::{ImageContent, ImageId};
use crate::blobs::{BlobContent, damaged};
use crate::details::{CONFIG_BYTES_MAX, child_for};
use crate::{Error, Registry, Result, empty_layer};

mod synthesis;

/// The rule by which views are made. Under the ids of the first, 0, an image of one user could show another's layers; by 1,
/// images without layers had no view.
const RULE: u8 = 2;

/// The first rule whose ids are those of today: what it shows is shown until it has been made anew.
const SAFE_RULE: u8 = 1;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Manifests whose views are stored in one commit.
const VIEWS_PER_COMMIT: usize = 100;

/// A V1 image that is shown of a V2 image.
struct Shown {
    image: ImageName,
    manifest: Digest,
    view: View,
    /// Which of the view's images.
    at: usize,
}

/// Sees an image by its name.
type Sees<'a> = &'a (dyn Fn(&ImageName) -> bool + Sync);

impl Registry {
    /// Adds to the batch what V1 clients are shown of a manifest that comes, if the repository shows them anything. Its config
    /// must be in the image `from` already.
    pub(crate) async fn add_view(
        &self,
        batch: &mut Batch,
        (repository, image): (&RepositoryKey, &ImageName),
        digest: &Digest,
        bytes: &[u8],
        from: (&RepositoryKey, &ImageName),
    ) -> Result<()> {
        if !self.shows_v1(repository).await? {
            return Ok(());
        }
        if let Some(view) = self.view_of(from, bytes).await? {
            put_view(batch, repository, image, digest, &view);
        }
        Ok(())
    }

    async fn shows_v1(&self, repository: &RepositoryKey) -> Result<bool> {
        let row = get_record::<records::Repository>(self.store.as_ref(), &keys::repository(repository)).await?;
        Ok(row.is_some_and(|(row, _)| row.serve_v1 && row.api_version == ApiVersion::V2))
    }

    /// Adds to the batch that V1 clients are no longer shown anything of a manifest.
    pub(crate) async fn remove_view(
        &self,
        batch: &mut Batch,
        repository: &RepositoryKey,
        image: &ImageName,
        digest: &Digest,
    ) -> Result<()> {
        let key = keys::v1_view(repository, image, digest);
        let Some((view, seen)) = get_record::<View>(self.store.as_ref(), &key).await? else {
            batch.expect(key, None);
            return Ok(());
        };
        for shown in &view.images {
            batch.delete(keys::v1_viewed(repository, &shown.id, image, digest));
        }
        batch.expect(key.clone(), Some(seen)).delete(key);
        Ok(())
    }

    /// What V1 clients can be shown of a manifest: nothing unless it is an image whose layers they can unpack.
    async fn view_of(&self, (repository, image): (&RepositoryKey, &ImageName), bytes: &[u8]) -> Result<Option<View>> {
        let Some(Recipe { config, layers }) = recipe_of(bytes) else { return self.view_of_schema1((repository, image), bytes).await };
        let Some(text) = self.config_of(repository, image, &config).await? else { return Ok(None) };
        let Some(images) = images(&text, layers) else { return Ok(None) };
        let images = images.into_iter().map(|(id, layer)| ViewImage { id, layer: layer.digest, size: layer.size }).collect();
        Ok(Some(View { config: Some(config), images, rule: RULE }))
    }

    /// The same for what docker 1.6 to 1.9 push over V2.
    async fn view_of_schema1(&self, (repository, image): (&RepositoryKey, &ImageName), bytes: &[u8]) -> Result<Option<View>> {
        let Some(chain) = schema1_images(bytes) else { return Ok(None) };
        let mut images = Vec::with_capacity(chain.len());
        for (id, layer) in chain {
            // The empty layer may come with the very manifest.
            let size = match layer == empty_layer::digest() {
                true => empty_layer::bytes().len() as u64,
                false => self.stat_blob(repository, image, &layer).await?,
            };
            images.push(ViewImage { id, layer, size });
        }
        Ok(Some(View { config: None, images, rule: RULE }))
    }

    async fn config_of(&self, repository: &RepositoryKey, image: &ImageName, config: &Digest) -> Result<Option<Bytes>> {
        let content = match self.open_blob(repository, image, config).await {
            Ok(content) if content.size <= CONFIG_BYTES_MAX => content,
            Ok(_) | Err(Error::BlobUnknown(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let pieces: Vec<Bytes> = content.read(0..content.size).try_collect().await?;
        Ok(Some(pieces.concat().into()))
    }

    /// Shows V1 clients what was pushed to a repository before it showed them anything, or under ids that an earlier version
    /// made by another rule. Goes on where it was interrupted.
    ///
    /// # Errors
    /// Only if the store fails; the rest is done at the next start.
    pub async fn finish_views(&self) -> Result<usize> {
        self.begin_views_of_other_rules().await?;
        let prefix = keys::v1_views_begun();
        let (mut added, begun) = (0, self.store.scan(&prefix, None, SCAN_ENTRIES).await?);
        for repository in begun.iter().filter_map(|(key, _)| key.text_after(&prefix)?.parse::<RepositoryKey>().ok()) {
            added += self.view_all(&repository).await?;
            let mut batch = Batch::new().frees();
            batch.delete(keys::v1_view_begun(&repository));
            self.store.commit(batch).await?;
        }
        Ok(added)
    }

    async fn begin_views_of_other_rules(&self) -> Result<()> {
        let key = keys::v1_views_rule();
        if self.store.get(&key).await?.is_some_and(|rule| rule.as_ref() == [RULE]) {
            return Ok(());
        }
        let (prefix, mut after, mut batch) = (keys::repositories(), None, Batch::new());
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for repository in rows.iter().filter_map(|(key, _)| key.text_after(&prefix)?.parse::<RepositoryKey>().ok()) {
                if self.shows_v1(&repository).await? {
                    batch.put(keys::v1_view_begun(&repository), Bytes::new());
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => break,
            }
        }
        batch.put(key, Bytes::from_static(&[RULE]));
        Ok(self.store.commit(batch).await?)
    }

    async fn view_all(&self, repository: &RepositoryKey) -> Result<usize> {
        let (prefix, mut after, mut added) = (keys::manifests_in(repository), None::<Key>, 0);
        loop {
            let (rows, stored) = self
                .commit_with(|| async {
                    let mut batch = Batch::new();
                    let rows = self.store.scan(&prefix, after.as_ref(), VIEWS_PER_COMMIT).await?;
                    if rows.is_empty() || !self.shows_v1(repository).await? {
                        return Ok((Batch::deferred(), (Vec::new(), 0)));
                    }
                    self.expect_repository(&mut batch, repository).await?;
                    let mut stored = 0;
                    for (key, row) in &rows {
                        let Some((_, image, rest)) = keys::split_image(key, &keys::all_manifests()) else { continue };
                        let (Some(digest), Some(manifest)) = (Digest::from_key(rest), WithBody::<Manifest>::decode(row)) else { continue };
                        // What there is may be of another rule.
                        self.remove_view(&mut batch, repository, &image, &digest).await?;
                        // Gone in the meantime, it must not be shown.
                        batch.expect(key.clone(), Some(row.clone()));
                        if let Some(view) = self.view_of((repository, &image), &manifest.body).await? {
                            put_view(&mut batch, repository, &image, &digest, &view);
                            stored += 1;
                        }
                    }
                    Ok((batch, (rows, stored)))
                })
                .await?;
            added += stored;
            match rows.last() {
                Some((last, _)) if rows.len() == VIEWS_PER_COMMIT => after = Some(last.clone()),
                _ => return Ok(added),
            }
        }
    }

    /// What a V1 client means by an image's name: V1 puts names without a namespace into `library`, V2 does not.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn viewed_name(&self, repository: &RepositoryKey, image: &ImageName) -> Result<ImageName> {
        let Some(bare) = image.as_str().strip_prefix("library/").and_then(|bare| bare.parse::<ImageName>().ok()) else {
            return Ok(image.clone());
        };
        let rows = self.store.multi_get(&[keys::image(repository, image), keys::image(repository, &bare)]).await?;
        Ok(if matches!(rows.as_slice(), [None, Some(_)]) { bare } else { image.clone() })
    }

    /// The tags of a V2 image that V1 clients are shown, with the V1 image that each leads to.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`] if there are none.
    pub async fn viewed_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<(Tag, ImageId)>> {
        let tags = self.views_of_tags(repository, image).await?;
        Ok(tags.into_iter().filter_map(|(tag, view)| Some((tag, view.images.last()?.id))).collect())
    }

    /// The ids of every V1 image that a tag of the image leads to, each once.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`] if there are none.
    pub async fn viewed_images(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<ImageId>> {
        let tags = self.views_of_tags(repository, image).await?;
        let ids: std::collections::BTreeSet<ImageId> = tags.iter().flat_map(|(_, view)| view.images.iter().map(|shown| shown.id)).collect();
        Ok(ids.into_iter().collect())
    }

    async fn views_of_tags(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<(Tag, View)>> {
        let (prefix, mut found, mut after) = (keys::tags(repository, image), Vec::new(), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, row) in &rows {
                let tag = key.text_after(&prefix).and_then(|text| text.parse::<Tag>().ok());
                let (tag, row) = tag.zip(records::Tag::decode(row)).ok_or_else(|| damaged(key))?;
                if let Some(view) = self.view_at(repository, image, &row.digest).await? {
                    found.push((tag, view));
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ if found.is_empty() => return Err(Error::ImageUnknown(image.clone())),
                _ => return Ok(found),
            }
        }
    }

    /// The V1 image that a tag of a V2 image leads to, for V1 clients.
    ///
    /// # Errors
    /// [`Error::V1TagUnknown`].
    pub async fn viewed_tag(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<ImageId> {
        let unknown = || Error::V1TagUnknown(tag.clone());
        let row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(repository, image, tag)).await?;
        let view = self.view_at(repository, image, &row.ok_or_else(unknown)?.0.digest).await?;
        view.and_then(|view| view.images.last().map(|top| top.id)).ok_or_else(unknown)
    }

    /// What is shown of a manifest, or of the image for `linux/amd64` among those that it lists.
    async fn view_at(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Option<View>> {
        if let Some(view) = self.stored_view(repository, image, digest).await? {
            return Ok(Some(view));
        }
        let key = keys::manifest(repository, image, digest);
        let Some((manifest, _)) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &key).await? else { return Ok(None) };
        let Some(child) = child_for(&manifest.body) else { return Ok(None) };
        self.stored_view(repository, image, &child).await
    }

    /// What is shown of a manifest. What was stored by a rule that was not safe is not, until it has been made anew.
    async fn stored_view(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Option<View>> {
        let view = get_record::<View>(self.store.as_ref(), &keys::v1_view(repository, image, digest)).await?;
        Ok(view.map(|(view, _)| view).filter(|view| view.rule >= SAFE_RULE))
    }

    /// The V1 image with this id, through an image that is seen. Whichever that is, its content is the same.
    async fn shown(&self, repository: &RepositoryKey, id: &ImageId, sees: Sees<'_>) -> Result<Shown> {
        let (prefix, mut after) = (keys::v1_viewed_in(repository, id), None);
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            for (image, digest) in rows.iter().filter_map(|(key, _)| keys::split_v1_viewed(key, &prefix)) {
                if !sees(&image) {
                    continue;
                }
                let view = self.stored_view(repository, &image, &digest).await?;
                let at = view.as_ref().and_then(|view| view.images.iter().position(|shown| shown.id == *id));
                if let Some((view, at)) = view.zip(at) {
                    return Ok(Shown { image, manifest: digest, view, at });
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Err(Error::V1ImageUnknown(*id)),
            }
        }
    }

    /// The JSON that V1 clients are shown of a V2 image's layer.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] if nothing that is seen has it.
    pub async fn viewed_image(&self, repository: &RepositoryKey, id: &ImageId, sees: Sees<'_>) -> Result<ImageContent> {
        let Shown { image, manifest, view, at } = self.shown(repository, id, sees).await?;
        let unknown = || Error::V1ImageUnknown(*id);
        let parent = at.checked_sub(1).and_then(|below| view.images.get(below)).map(|below| below.id);
        let json = match &view.config {
            Some(config) => {
                let config = self.config_of(repository, &image, config).await?.ok_or_else(unknown)?;
                v1_json(&config, (id, parent.as_ref()), at, view.images.len())
            }
            None => {
                let key = keys::manifest(repository, &image, &manifest);
                let (stored, _) = get_record::<WithBody<Manifest>>(self.store.as_ref(), &key).await?.ok_or_else(unknown)?;
                schema1_json(&stored.body, (id, parent.as_ref()), at)
            }
        };
        let json = json.ok_or_else(unknown)?;
        let layer_size = view.images.get(at).map_or(0, |shown| shown.size);
        Ok(ImageContent { json: json.into(), layer_size, payload_checksum: None })
    }

    /// A V2 image's layer, for V1 clients.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] if nothing that is seen has it.
    pub async fn viewed_layer(&self, repository: &RepositoryKey, id: &ImageId, sees: Sees<'_>) -> Result<BlobContent> {
        let Shown { image, view, at, .. } = self.shown(repository, id, sees).await?;
        let shown = view.images.get(at).ok_or(Error::V1ImageUnknown(*id))?;
        self.open_blob(repository, &image, &shown.layer).await
    }

    /// The ids of a V1 image that V1 clients are shown, and of everything below it, top first.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] if nothing that is seen has it.
    pub async fn viewed_ancestry(&self, repository: &RepositoryKey, id: &ImageId, sees: Sees<'_>) -> Result<Vec<ImageId>> {
        let Shown { view, at, .. } = self.shown(repository, id, sees).await?;
        Ok(view.images.iter().take(at + 1).rev().map(|shown| shown.id).collect())
    }
}

fn put_view(batch: &mut Batch, repository: &RepositoryKey, image: &ImageName, digest: &Digest, view: &View) {
    for shown in &view.images {
        batch.put(keys::v1_viewed(repository, &shown.id, image, digest), Bytes::new());
    }
    batch.put_record(keys::v1_view(repository, image, digest), view);
}
