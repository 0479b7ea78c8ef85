//! Which V1 images a caller may see: ids carry no name, so it is the names that lead to them which decide.

use std::collections::{HashSet, VecDeque};

use berth_names::{ImageName, RepositoryKey};
use berth_storage::keys;
use bytes::Bytes;

use super::ImageId;
use crate::{Registry, Result};

/// Images that one question looks at. Beyond that the answer is no.
const LOOKED_AT_MAX: usize = 20_000;

/// Entries that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// The JSON was sent, and is the image's.
pub(super) const KNOWS_JSON: Bytes = Bytes::from_static(b"j");

/// The layer was sent too.
pub(super) const KNOWS_ALL: Bytes = Bytes::from_static(b"jl");

/// Who wants to see V1 images.
#[derive(Clone, Copy)]
pub struct Viewer<'a> {
    /// The user, if there is one: what one has pushed, one knows.
    pub user: Option<&'a str>,
    /// Whether every image of the repository may be seen.
    pub sees_all: bool,
    /// Whether an image of this name may be seen.
    pub sees: &'a (dyn Fn(&ImageName) -> bool + Sync),
}

impl Registry {
    /// Whether the viewer may see a V1 image: through a tag of a name that it may see, or because it has pushed it.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn is_v1_visible(&self, repository: &RepositoryKey, id: &ImageId, viewer: Viewer<'_>) -> Result<bool> {
        if viewer.sees_all || self.has_pushed(repository, id, viewer.user).await? {
            return Ok(true);
        }
        let (mut seen, mut next) = (HashSet::from([*id]), VecDeque::from([*id]));
        while let Some(id) = next.pop_front() {
            if self.is_tagged_visibly(repository, &id, viewer).await? {
                return Ok(true);
            }
            let prefix = keys::v1_children(repository, &id);
            let mut after = None;
            loop {
                let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
                let children = rows.iter().filter_map(|(key, _)| key.v1_image_after(&prefix));
                next.extend(children.filter(|child| seen.insert(*child)));
                if seen.len() > LOOKED_AT_MAX {
                    tracing::warn!(%repository, %id, "too many V1 images depend on this one to tell who may see it");
                    return Ok(false);
                }
                match rows.last() {
                    Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(false)
    }

    /// Whether the viewer may see a V1 image and everything below it: else a tag would make visible what is not.
    ///
    /// # Errors
    /// [`crate::Error::V1ImageUnknown`] if something of the chain is missing.
    pub async fn is_v1_chain_visible(&self, repository: &RepositoryKey, id: &ImageId, viewer: Viewer<'_>) -> Result<bool> {
        if viewer.sees_all {
            return Ok(true);
        }
        for ancestor in self.v1_chain(repository, id).await? {
            if !self.is_v1_visible(repository, &ancestor, viewer).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn has_pushed(&self, repository: &RepositoryKey, id: &ImageId, user: Option<&str>) -> Result<bool> {
        match user {
            Some(user) => Ok(self.store.get(&keys::v1_pushed(repository, id, user)).await?.is_some_and(|known| known == KNOWS_ALL)),
            None => Ok(false),
        }
    }

    async fn is_tagged_visibly(&self, repository: &RepositoryKey, id: &ImageId, viewer: Viewer<'_>) -> Result<bool> {
        let prefix = keys::v1_tags_of(repository, id);
        let mut after = None;
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let mut names = rows.iter().filter_map(|(key, _)| key.texts_after(&prefix)?.0.parse::<ImageName>().ok());
            if names.any(|name| (viewer.sees)(&name)) {
                return Ok(true);
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(false),
            }
        }
    }
}
