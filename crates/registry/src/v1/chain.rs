//! Chains of V1 images, each standing on its parent: one walk, with one limit, which is an error wherever it is reached.

use std::collections::{BTreeMap, HashSet};

use berth_names::RepositoryKey;
use berth_storage::keys::{self, Candidate};
use berth_storage::records::v1::Image;
use berth_storage::{Batch, get_record};
use bytes::Bytes;

use super::ImageId;
use crate::{Error, Registry, Result};

/// Images of one chain. Docker's storage drivers end at 127.
pub const CHAIN_IMAGES_MAX: usize = 1024;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Images that the search for loops remembers.
const REMEMBERED_MAX: usize = 200_000;

/// One image of a chain, with the exact bytes of its row.
pub(crate) struct Link {
    pub(crate) id: ImageId,
    pub(crate) image: Image,
    pub(crate) seen: Bytes,
}

/// Chains that share what is below: each image once, with the length of its own chain and what is kept of it.
pub(crate) type Chains<T> = BTreeMap<ImageId, (usize, T)>;

impl Registry {
    pub(crate) async fn v1_row(&self, repository: &RepositoryKey, id: &ImageId) -> Result<Option<(Image, Bytes)>> {
        Ok(get_record(self.store.as_ref(), &keys::v1_image(repository, id)).await?)
    }

    /// The image and everything below it, top first.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] if something is missing; [`Error::V1ChainTooLong`], which it also is if it has no end.
    pub(crate) async fn v1_links(&self, repository: &RepositoryKey, top: &ImageId) -> Result<Vec<Link>> {
        let (mut links, mut next) = (Vec::new(), Some(*top));
        while let Some(id) = next {
            if links.len() == CHAIN_IMAGES_MAX {
                return Err(Error::V1ChainTooLong(*top));
            }
            let (image, seen) = self.v1_row(repository, &id).await?.ok_or(Error::V1ImageUnknown(id))?;
            next = image.parent;
            links.push(Link { id, image, seen });
        }
        Ok(links)
    }

    /// The same, by their ids only.
    pub(crate) async fn v1_chain(&self, repository: &RepositoryKey, top: &ImageId) -> Result<Vec<ImageId>> {
        Ok(self.v1_links(repository, top).await?.into_iter().map(|link| link.id).collect())
    }

    /// Adds a chain to others, without reading again what they share. Returns whether there was room for it.
    ///
    /// # Errors
    /// As [`Registry::v1_links`], and what `keep` says.
    pub(crate) async fn add_v1_chain<T>(
        &self,
        (repository, top): (&RepositoryKey, &ImageId),
        chains: &mut Chains<T>,
        images_max: usize,
        keep: impl Fn(ImageId, Image, Bytes) -> Result<T>,
    ) -> Result<bool> {
        let (mut path, mut below, mut next) = (Vec::new(), 0, Some(*top));
        while let Some(id) = next {
            if let Some((length, _)) = chains.get(&id) {
                below = *length;
                break;
            }
            if path.len() == CHAIN_IMAGES_MAX {
                return Err(Error::V1ChainTooLong(*top));
            }
            if chains.len() + path.len() >= images_max {
                return Ok(false);
            }
            let (image, seen) = self.v1_row(repository, &id).await?.ok_or(Error::V1ImageUnknown(id))?;
            next = image.parent;
            path.push((id, keep(id, image, seen)?));
        }
        if below + path.len() > CHAIN_IMAGES_MAX {
            return Err(Error::V1ChainTooLong(*top));
        }
        let links = path.into_iter().rev().zip(below + 1..);
        chains.extend(links.map(|((id, kept), length)| (id, (length, kept))));
        Ok(true)
    }

    /// Whether an image stands on itself, as earlier versions let it. No limit here: such a loop can be of any length.
    async fn is_v1_loop(&self, repository: &RepositoryKey, id: &ImageId) -> Result<bool> {
        let Some(member) = self.v1_loop_below(repository, id, &Known::default()).await? else { return Ok(false) };
        let mut at = member;
        while at != *id {
            match self.v1_row(repository, &at).await?.and_then(|(image, _)| image.parent) {
                Some(parent) if parent != member => at = parent,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The same, if no tag leads to any of it. Nor will one: a chain without end takes no tag.
    pub(crate) async fn is_idle_v1_loop(&self, repository: &RepositoryKey, id: &ImageId) -> Result<bool> {
        // In a loop everything is above everything else.
        Ok(self.is_v1_loop(repository, id).await? && !self.is_v1_named_within(usize::MAX, (repository, id), &|_| true).await?)
    }

    /// An image of the loop that the chain ends in, if it has no end: found with two ids in memory, as Brent does it.
    async fn v1_loop_below(&self, repository: &RepositoryKey, id: &ImageId, known: &Known) -> Result<Option<ImageId>> {
        let (mut resting, mut walking) = (*id, *id);
        let (mut steps, mut rests_at) = (0_u64, 2_u64);
        loop {
            let parent = self.v1_row(repository, &walking).await?.and_then(|(image, _)| image.parent);
            match parent.filter(|parent| !known.harmless.contains(parent)) {
                Some(parent) if parent == resting || known.looping.contains(&parent) => return Ok(Some(parent)),
                Some(parent) => walking = parent,
                None => return Ok(None),
            }
            steps += 1;
            if steps == rests_at {
                (resting, steps, rests_at) = (walking, 0, rests_at.saturating_mul(2));
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets the collector look at images that stand on themselves: earlier versions took such. Carried through once, it does
    /// nothing more. Returns how many images were found, those that stand on such a loop with them.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn find_v1_loops(&self) -> Result<usize> {
        if self.store.get(&keys::v1_loops_sought()).await?.is_some() {
            return Ok(0);
        }
        let (family, mut after, mut found) = (keys::all_v1_images(), None, 0);
        let (mut of, mut known) = (None, Known::default());
        loop {
            let rows = self.store.scan(&family, after.as_ref(), SCAN_ENTRIES).await?;
            for (key, _) in &rows {
                let Some((repository, id)) = keys::split_repository(key, &family) else { continue };
                let Some(id) = id.try_into().ok().map(ImageId::from_bytes) else { continue };
                if of.as_ref() != Some(&repository) || known.harmless.len() + known.looping.len() >= REMEMBERED_MAX {
                    (of, known) = (Some(repository.clone()), Known::default());
                }
                if !self.has_no_end(&repository, &id, &mut known).await? {
                    continue;
                }
                let mut batch = Batch::deferred();
                self.look_at(&mut batch, self.clock.now_ms(), &Candidate::V1Image(repository, id))?;
                self.store.commit(batch).await?;
                found += 1;
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => break,
            }
        }
        let mut batch = Batch::new();
        batch.put(keys::v1_loops_sought(), Bytes::new());
        self.store.commit(batch).await?;
        self.wake_collector();
        Ok(found)
    }

    /// Whether a chain ends in a loop; what is found out on the way is remembered.
    async fn has_no_end(&self, repository: &RepositoryKey, id: &ImageId, known: &mut Known) -> Result<bool> {
        if known.looping.contains(id) {
            return Ok(true);
        }
        let Some(member) = self.v1_loop_below(repository, id, known).await? else {
            known.harmless.insert(*id);
            return Ok(false);
        };
        let mut at = member;
        while known.looping.len() < REMEMBERED_MAX && known.looping.insert(at) {
            match self.v1_row(repository, &at).await?.and_then(|(image, _)| image.parent) {
                Some(parent) => at = parent,
                None => break,
            }
        }
        Ok(true)
    }
}

/// What is known of the images of a repository, while loops are looked for.
#[derive(Default)]
struct Known {
    /// Their chains end.
    harmless: HashSet<ImageId>,
    /// They stand on themselves.
    looping: HashSet<ImageId>,
}
