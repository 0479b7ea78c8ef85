//! Which V1 images a caller may see: ids carry no name, so it is the names that lead to them which decide.

use berth_names::{ImageName, RepositoryKey};
use berth_storage::{Key, keys};

use super::ImageId;
use super::chain::{CHAIN_IMAGES_MAX, Link};
use super::marks;
use crate::{Error, Registry, Result};

/// Entries that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Images that are looked at before other requests get their turn.
const LOOKED_AT_IN_A_ROW: usize = 32;

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

/// What is left to look at, on the way from an image up to the tags.
enum Ahead {
    /// An image so many steps up.
    Image(ImageId, usize),
    /// The rest of the images that stand on one.
    Children(ImageId, Option<Key>, usize),
}

impl Registry {
    /// Whether the viewer may see a V1 image: through a tag of a name that it may see, or because it has pushed it.
    ///
    /// Who sees everything does not see what has taken the place of an image that they had pushed, until a tag leads to it:
    /// else docker would skip it, and never push its own again.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn is_v1_visible(&self, repository: &RepositoryKey, id: &ImageId, viewer: Viewer<'_>) -> Result<bool> {
        let mark = self.v1_mark(repository, id, viewer.user).await?.filter(|_| viewer.user.is_some());
        let image = match &mark {
            Some(_) => self.v1_row(repository, id).await?,
            None => None,
        };
        if let Some((mark, (image, _))) = mark.zip(image) {
            if marks::knows(&mark.record, &image) {
                return Ok(true);
            }
            if viewer.sees_all && marks::contradicts(&mark.record, &image) {
                return self.is_v1_named(repository, id, &|_| true).await;
            }
        }
        Ok(viewer.sees_all || self.is_v1_named(repository, id, viewer.sees).await?)
    }

    /// Whether a tag of a seen name leads to a V1 image.
    ///
    /// However many images stand on this one, all are looked at before the answer is no: a bound would let whoever adds
    /// some hide it from its readers. Those that no tag has ever led through cost the reading of one short row.
    pub(super) async fn is_v1_named(
        &self,
        repository: &RepositoryKey,
        id: &ImageId,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<bool> {
        // Nothing can be pulled through a longer chain.
        self.is_v1_named_within(CHAIN_IMAGES_MAX, (repository, id), sees).await
    }

    /// The same, of tags that stand at most so high, the image itself counted.
    pub(super) async fn is_v1_named_within(
        &self,
        steps_max: usize,
        (repository, id): (&RepositoryKey, &ImageId),
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<bool> {
        let (mut ahead, mut looked_at) = (vec![Ahead::Image(*id, 1)], 0_usize);
        while let Some(next) = ahead.pop() {
            looked_at += 1;
            if looked_at.is_multiple_of(LOOKED_AT_IN_A_ROW) {
                tokio::task::yield_now().await;
            }
            match next {
                Ahead::Image(at, _) if self.is_tagged_visibly(repository, &at, sees).await? => return Ok(true),
                Ahead::Image(at, steps) if steps < steps_max => ahead.push(Ahead::Children(at, None, steps + 1)),
                Ahead::Image(..) => {}
                Ahead::Children(parent, after, steps) => {
                    let prefix = keys::v1_children(repository, &parent);
                    let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
                    if let Some((last, _)) = rows.last().filter(|_| rows.len() == SCAN_ENTRIES) {
                        ahead.push(Ahead::Children(parent, Some(last.clone()), steps));
                    }
                    let maybe_named = rows.iter().filter(|(_, value)| *value != keys::V1_UNNAMED);
                    let children = maybe_named.filter_map(|(key, _)| key.v1_image_after(&prefix));
                    // Each image has one parent, so only who began in a loop comes by the same one twice.
                    ahead.extend(children.filter(|child| child != id).map(|child| Ahead::Image(child, steps)));
                }
            }
        }
        Ok(false)
    }

    /// Whether whoever puts a tag on a chain knows all of it: else the tag would make visible what is not, or would end up on
    /// something else than was pushed.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`] if something of it is not visible; [`Error::V1ImageReplaced`] if the pusher sent something else.
    pub(super) async fn require_known(&self, repository: &RepositoryKey, chain: &[Link], viewer: Viewer<'_>) -> Result<()> {
        let ids: Vec<ImageId> = chain.iter().map(|link| link.id).collect();
        let marks = self.v1_marks(repository, &ids, viewer.user).await?;
        let mut is_visible = viewer.sees_all;
        for (link, mark) in chain.iter().zip(marks) {
            if mark.as_ref().is_some_and(|mark| marks::contradicts(mark, &link.image)) {
                return Err(Error::V1ImageReplaced(link.id));
            }
            if is_visible || mark.is_some_and(|mark| marks::knows(&mark, &link.image)) {
                continue;
            }
            // What a tag leads to leads on to everything below.
            is_visible = self.is_v1_named(repository, &link.id, viewer.sees).await?;
            if !is_visible {
                return Err(Error::V1ImageUnknown(link.id));
            }
        }
        Ok(())
    }

    async fn is_tagged_visibly(
        &self,
        repository: &RepositoryKey,
        id: &ImageId,
        sees: &(dyn Fn(&ImageName) -> bool + Sync),
    ) -> Result<bool> {
        let prefix = keys::v1_tags_of(repository, id);
        let mut after = None;
        loop {
            let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
            let mut names = rows.iter().filter_map(|(key, _)| key.texts_after(&prefix)?.0.parse::<ImageName>().ok());
            if names.any(|name| sees(&name)) {
                return Ok(true);
            }
            match rows.last() {
                Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                _ => return Ok(false),
            }
        }
    }
}
