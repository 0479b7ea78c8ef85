//! Finding things by what is said about them: from the index, a page at a time.
//!
//! A question looks at rows of the index for the rarest of its properties, and compares what it finds with the rest. It
//! looks at so many and no more; then the page ends, however little was found, and says where to go on.

mod position;
#[cfg(test)]
mod tests;
mod wildcard;

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{ImageName, RepositoryKey};
use berth_storage::keys::{self, Item};
use berth_storage::{Key, Prefix};

use crate::positions::List;
use crate::properties;
use crate::v1::Viewer;
use crate::{Error, Registry, Result};
use position::Position;
pub use wildcard::Wildcard;

/// Things that one page has at most.
pub const PAGE_MAX: usize = 10_000;

/// What one page may cost, in rows of the index looked at.
const COST_MAX: usize = 100_000;

/// What reading all properties of one thing costs, in rows looked at.
const PROPERTIES_COST: usize = 10;

/// What finding out who sees a V1 image costs, in rows looked at.
const V1_COST: usize = 100;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Rows that are counted to tell which property is the rarest.
const GLANCE_ENTRIES: usize = 100;

/// Properties that one question asks for, and values of each.
const TERMS_MAX: usize = 16;

/// Nothing has a name or value with NUL, which the rows of the index put between their parts.
const NUL: Error = Error::SearchInvalid("names and values of properties have no NUL");

/// A property that what is looked for must have, with any of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its name.
    pub name: String,
    /// Its values.
    pub values: Vec<Wildcard>,
}

/// Whose eyes things are looked at with.
#[derive(Clone, Copy)]
pub struct Eyes<'a> {
    /// Whether an image of this name may be seen.
    pub sees: &'a (dyn Fn(&RepositoryKey, &ImageName) -> bool + Sync),
    /// Whether all of a repository may be seen.
    pub sees_all: &'a (dyn Fn(&RepositoryKey) -> bool + Sync),
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// Where.
    pub repository: RepositoryKey,
    /// What.
    pub item: Item,
}

/// Part of what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundPage {
    /// In the order of the index.
    pub found: Vec<Found>,
    /// Where to go on, if there may be more.
    pub next: Option<String>,
}

/// What was found by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Images first, then tags, then V1 images.
    pub found: Vec<Found>,
    /// Whether there may be more.
    pub more: bool,
}

/// One question.
struct Search<'s> {
    registry: &'s Registry,
    terms: &'s [Term],
    repositories: &'s BTreeSet<RepositoryKey>,
    eyes: Eyes<'s>,
    limit: usize,
    /// What it may still cost, in rows looked at.
    budget: usize,
    found: Vec<Found>,
}

impl Registry {
    /// What has all these properties, in these repositories, and is seen: `limit` at most, behind `from`.
    ///
    /// # Errors
    /// [`Error::SearchInvalid`] if there are no terms or too many, or `from` is not what a page gave as `next`.
    pub async fn find(
        &self,
        terms: &[Term],
        repositories: &BTreeSet<RepositoryKey>,
        eyes: Eyes<'_>,
        limit: usize,
        from: Option<&str>,
    ) -> Result<FoundPage> {
        self.find_within(COST_MAX, terms, repositories, eyes, limit, from).await
    }

    async fn find_within(
        &self,
        budget: usize,
        terms: &[Term],
        repositories: &BTreeSet<RepositoryKey>,
        eyes: Eyes<'_>,
        limit: usize,
        from: Option<&str>,
    ) -> Result<FoundPage> {
        if terms.is_empty() || terms.len() > TERMS_MAX || terms.iter().any(|term| term.values.is_empty() || term.values.len() > TERMS_MAX) {
            return Err(Error::SearchInvalid("a search has 1 to 16 properties with 1 to 16 values each"));
        }
        if terms.iter().any(|term| term.name.contains('\0') || term.values.iter().any(Wildcard::has_nul)) {
            return Err(NUL);
        }
        if repositories.is_empty() {
            return Ok(FoundPage::default());
        }
        let begin = match from {
            Some(text) => self.open_position(List::Search, text).await?.and_then(|bytes| Position::from_bytes(&bytes)),
            None => Some(Position { term: self.rarest(terms).await?, value: 0, after: None }),
        };
        let begin = begin.filter(|begin| terms.get(begin.term).is_some_and(|term| begin.value < term.values.len()));
        let begin = begin.ok_or(Error::SearchInvalid("`from` is not what a page gave as `next`"))?;
        let limit = limit.clamp(1, PAGE_MAX);
        let mut search = Search { registry: self, terms, repositories, eyes, limit, budget, found: Vec::new() };
        let end = search.run(begin).await?;
        let next = match end {
            Some(end) => Some(self.seal_position(List::Search, &end.to_bytes()).await?),
            None => None,
        };
        Ok(FoundPage { found: search.found, next })
    }

    /// The term that fewest things fit, as far as a glance tells.
    async fn rarest(&self, terms: &[Term]) -> Result<usize> {
        let (mut rarest, mut fewest) = (0, usize::MAX);
        for (number, term) in terms.iter().enumerate().filter(|_| terms.len() > 1) {
            let mut count = 0;
            for value in &term.values {
                count += self.store.scan(&rows_of(&term.name, value), None, GLANCE_ENTRIES).await?.len();
            }
            if count < fewest {
                (rarest, fewest) = (number, count);
            }
        }
        Ok(rarest)
    }

    /// Images whose name or last part of it fits, and tags and V1 images whose name fits: `limit` at most.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn find_by_name(
        &self,
        wanted: &Wildcard,
        repositories: &BTreeSet<RepositoryKey>,
        eyes: Eyes<'_>,
        limit: usize,
    ) -> Result<Named> {
        if wanted.has_nul() {
            return Err(NUL);
        }
        let limit = limit.clamp(1, PAGE_MAX);
        let mut named = Named::default();
        for repository in repositories {
            let sees = |name: &str| {
                let last = name.rsplit('/').next().unwrap_or(name);
                (wanted.fits(name) || wanted.fits(last)) && name.parse().is_ok_and(|image| (eyes.sees)(repository, &image))
            };
            let images = self.images(repository, None, Some(limit - named.found.len()), &sees).await?;
            let items = images.names.iter().filter_map(|name| name.parse().ok()).map(Item::Image);
            named.found.extend(items.map(|item| Found { repository: repository.clone(), item }));
            named.more |= images.more;
        }
        for name in ["docker.manifest", "docker.tag.name", "docker.imageId"] {
            let left = limit - named.found.len();
            if left == 0 {
                named.more = true;
                break;
            }
            let term = Term { name: name.to_owned(), values: vec![wanted.clone()] };
            let page = self.find(&[term], repositories, eyes, left, None).await?;
            named.more |= page.next.is_some();
            named.found.extend(page.found);
        }
        Ok(named)
    }
}

impl Search<'_> {
    /// Looks on from `position`. Returns where it stopped, if that is not the end.
    async fn run(&mut self, mut position: Position) -> Result<Option<Position>> {
        let terms = self.terms;
        let driver = &terms[position.term];
        while let Some(wanted) = driver.values.get(position.value) {
            for prefix in self.ranges(&driver.name, wanted) {
                loop {
                    let rows = self.registry.store.scan(&prefix, position.after.as_ref(), SCAN_ENTRIES).await?;
                    let is_end = rows.len() < SCAN_ENTRIES;
                    // An empty range costs something too.
                    self.spend(1);
                    for (key, _) in rows {
                        if let Some(found) = self.look_at(&key, &position).await? {
                            self.found.push(found);
                        }
                        position.after = Some(key);
                        if self.found.len() == self.limit || self.budget == 0 {
                            return Ok(Some(position));
                        }
                    }
                    if is_end {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            position = Position { value: position.value + 1, after: None, ..position };
        }
        Ok(None)
    }

    /// The parts of the index to look at, in its order. Of one value only those repositories that are asked for.
    fn ranges(&self, name: &str, wanted: &Wildcard) -> Vec<Prefix> {
        match wanted.exact() {
            Some(value) => self.repositories.iter().map(|repository| keys::having_in(name, value, repository)).collect(),
            None => vec![rows_of(name, wanted)],
        }
    }

    fn spend(&mut self, cost: usize) {
        self.budget = self.budget.saturating_sub(cost);
    }

    async fn look_at(&mut self, row: &Key, position: &Position) -> Result<Option<Found>> {
        self.spend(1);
        let driver = &self.terms[position.term];
        let (wanted, earlier) = (&driver.values[position.value], &driver.values[..position.value]);
        let Some((_, value, repository, item)) = keys::split_found_by(row) else { return Ok(None) };
        if !wanted.fits(value) || earlier.iter().any(|wanted| wanted.fits(value)) || !self.repositories.contains(&repository) {
            return Ok(None);
        }
        let sees_all = (self.eyes.sees_all)(&repository);
        let is_hidden = match &item {
            Item::Image(image) | Item::Tag(image, _) => !sees_all && !(self.eyes.sees)(&repository, image),
            Item::V1Image(_) => false,
        };
        if is_hidden {
            return Ok(None);
        }
        // Of its own properties everything has one value: what is asked for that alone is answered by the row.
        let is_single = properties::OWN.contains(&driver.name.as_str()) || (wanted.exact().is_some() && earlier.is_empty());
        if self.terms.len() > 1 || !is_single {
            self.spend(PROPERTIES_COST);
            let said = match self.registry.properties(&repository, &item).await {
                Ok(said) => said,
                // It was deleted meanwhile.
                Err(Error::ItemUnknown) => return Ok(None),
                Err(error) => return Err(error),
            };
            if !self.terms.iter().all(|term| has(&said, &term.name, &term.values))
                || is_found_before(&said, &driver.name, value, wanted, earlier)
            {
                return Ok(None);
            }
        }
        if let (Item::V1Image(id), false) = (&item, sees_all) {
            self.spend(V1_COST);
            let sees = |image: &ImageName| (self.eyes.sees)(&repository, image);
            let viewer = Viewer { user: None, sees_all: false, sees: &sees };
            if !self.registry.is_v1_visible(&repository, id, viewer).await? {
                return Ok(None);
            }
        }
        Ok(Some(Found { repository, item }))
    }
}

type Said = BTreeMap<String, BTreeSet<String>>;

fn has(said: &Said, name: &str, wanted: &[Wildcard]) -> bool {
    said.get(name).is_some_and(|values| values.iter().any(|value| wanted.iter().any(|wanted| wanted.fits(value))))
}

/// Whether another row, one that was looked at before, has found the same.
fn is_found_before(said: &Said, name: &str, value: &str, wanted: &Wildcard, earlier: &[Wildcard]) -> bool {
    has(said, name, earlier)
        || said.get(name).is_some_and(|values| values.iter().take_while(|one| one.as_str() < value).any(|one| wanted.fits(one)))
}

/// The rows of the index that a value can be found in, in whichever repository.
fn rows_of(name: &str, wanted: &Wildcard) -> Prefix {
    match wanted.exact() {
        Some(value) => keys::having(name, value),
        None => keys::having_like(name, wanted.start()),
    }
}
