//! Finding things by what is said about them: from the index, a page at a time.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_names::{ImageName, RepositoryKey};
use berth_storage::keys::{self, Item};
use berth_storage::{Key, Prefix};

use crate::v1::Viewer;
use crate::{Error, Registry, Result};

/// Things that one page has at most.
pub const PAGE_MAX: usize = 10_000;

/// Rows that one question looks at; then the page ends, however little was found, and says where to go on.
const ROWS_MAX: usize = 100_000;

/// Rows that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// Properties that one question asks for, and values of each.
const TERMS_MAX: usize = 16;

/// A value to look for: `*` stands for any characters, `?` for one; nothing at all for any value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard(String);

impl Wildcard {
    /// What `text` stands for.
    pub fn new(text: &str) -> Self {
        Self(if text.is_empty() { "*".to_owned() } else { text.to_owned() })
    }

    /// Whether every value fits.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    fn is_exact(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// What every value that fits starts with.
    fn start(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether a value fits. Takes time in proportion to the product of both lengths at most.
    pub fn fits(&self, value: &str) -> bool {
        let (pattern, value): (Vec<char>, Vec<char>) = (self.0.chars().collect(), value.chars().collect());
        let (mut p, mut v, mut star) = (0, 0, None);
        while v < value.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, v));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == value[v] => (p, v) = (p + 1, v + 1),
                _ => match star {
                    // The last star takes one more.
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, v) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

/// A property that what is looked for must have, with any of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its name.
    pub name: String,
    /// Its values.
    pub values: Vec<Wildcard>,
}

/// Whose eyes things are looked for with.
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

/// Where a search goes on: behind this row, for this value of this term.
struct Position {
    term: usize,
    value: usize,
    after: Option<Key>,
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (term, value, key) = (*bytes.first()?, *bytes.get(1)?, bytes.get(2..)?);
        let after = (!key.is_empty()).then(|| Key::from_cursor(key));
        Some(Self { term: term.into(), value: value.into(), after })
    }

    fn text(&self) -> String {
        // Both are below TERMS_MAX.
        let mut bytes = vec![self.term as u8, self.value as u8];
        bytes.extend(self.after.iter().flat_map(|key| key.as_bytes()));
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

impl Registry {
    /// What has all these properties, in these repositories (`None`: in all), and is seen: `limit` at most.
    ///
    /// # Errors
    /// [`Error::SearchInvalid`] if there are no terms or too many, or `from` is not what a page gave as `next`.
    pub async fn find(
        &self,
        terms: &[Term],
        repositories: Option<&HashSet<RepositoryKey>>,
        eyes: Eyes<'_>,
        limit: usize,
        from: Option<&str>,
    ) -> Result<FoundPage> {
        let limit = limit.clamp(1, PAGE_MAX);
        if terms.is_empty() || terms.len() > TERMS_MAX || terms.iter().any(|term| term.values.is_empty() || term.values.len() > TERMS_MAX) {
            return Err(Error::SearchInvalid("a search has 1 to 16 properties with 1 to 16 values each"));
        }
        let mut position = match from {
            Some(text) => {
                Position::parse(text).filter(|position| terms.get(position.term).is_some_and(|term| position.value < term.values.len()))
            }
            None => Some(Position { term: self.rarest(terms).await?, value: 0, after: None }),
        }
        .ok_or(Error::SearchInvalid("`from` is not what a page gave as `next`"))?;
        let driver = &terms[position.term];
        let (mut page, mut seen, mut looked_at) = (FoundPage::default(), HashSet::new(), 0);
        while let Some(wanted) = driver.values.get(position.value) {
            let prefix = prefix_of(&driver.name, wanted);
            loop {
                let rows = self.store.scan(&prefix, position.after.as_ref(), SCAN_ENTRIES).await?;
                let is_end = rows.len() < SCAN_ENTRIES;
                for (key, _) in rows {
                    looked_at += 1;
                    let fitting = keys::split_found_by(&key)
                        .filter(|(_, value, ..)| wanted.fits(value))
                        .map(|(_, _, repository, item)| Found { repository, item });
                    position.after = Some(key);
                    if let Some(found) = fitting
                        && repositories.is_none_or(|some| some.contains(&found.repository))
                        && !seen.contains(&found)
                        && self.is_wanted(&found, terms, &position).await?
                        && self.is_seen(&found, eyes).await?
                    {
                        seen.insert(found.clone());
                        page.found.push(found);
                    }
                    if page.found.len() == limit || looked_at >= ROWS_MAX {
                        page.next = Some(position.text());
                        return Ok(page);
                    }
                }
                if is_end {
                    break;
                }
                tokio::task::yield_now().await;
            }
            position = Position { value: position.value + 1, after: None, ..position };
        }
        Ok(page)
    }

    /// The term that fewest things fit, as far as a glance tells.
    async fn rarest(&self, terms: &[Term]) -> Result<usize> {
        let (mut rarest, mut fewest) = (0, usize::MAX);
        for (number, term) in terms.iter().enumerate().filter(|_| terms.len() > 1) {
            let mut count = 0;
            for value in &term.values {
                count += self.store.scan(&prefix_of(&term.name, value), None, SCAN_ENTRIES).await?.len();
            }
            if count < fewest {
                (rarest, fewest) = (number, count);
            }
        }
        Ok(rarest)
    }

    /// Whether what was found by one value of one term fits the others, and was not found by an earlier value.
    async fn is_wanted(&self, found: &Found, terms: &[Term], position: &Position) -> Result<bool> {
        if terms.len() == 1 && position.value == 0 {
            return Ok(true);
        }
        let properties = match self.properties(&found.repository, &found.item).await {
            Ok(properties) => properties,
            Err(Error::ItemUnknown) => return Ok(false),
            Err(error) => return Err(error),
        };
        let has = |name: &str, wanted: &[Wildcard]| {
            properties.get(name).is_some_and(|values| values.iter().any(|value| wanted.iter().any(|wanted| wanted.fits(value))))
        };
        let driver = &terms[position.term];
        let before = &driver.values[..position.value];
        Ok(!has(&driver.name, before) && terms.iter().all(|term| has(&term.name, &term.values)))
    }

    async fn is_seen(&self, found: &Found, eyes: Eyes<'_>) -> Result<bool> {
        if (eyes.sees_all)(&found.repository) {
            return Ok(true);
        }
        match &found.item {
            Item::Image(image) | Item::Tag(image, _) => Ok((eyes.sees)(&found.repository, image)),
            Item::V1Image(id) => {
                let sees = |image: &ImageName| (eyes.sees)(&found.repository, image);
                self.is_v1_visible(&found.repository, id, Viewer { user: None, sees_all: false, sees: &sees }).await
            }
        }
    }

    /// Images whose name or last part of it fits, and tags and V1 images whose name fits: `limit` at most.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn find_by_name(
        &self,
        wanted: &Wildcard,
        repositories: &[RepositoryKey],
        eyes: Eyes<'_>,
        limit: usize,
    ) -> Result<Vec<Found>> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut found = Vec::new();
        for repository in repositories {
            let sees = |name: &str| {
                let last = name.rsplit('/').next().unwrap_or(name);
                (wanted.fits(name) || wanted.fits(last)) && name.parse().is_ok_and(|image| (eyes.sees)(repository, &image))
            };
            let images = self.images(repository, None, Some(limit), &sees).await?;
            let items = images.names.iter().filter_map(|name| name.parse().ok()).map(Item::Image);
            found.extend(items.map(|item| Found { repository: repository.clone(), item }));
        }
        let some: HashSet<RepositoryKey> = repositories.iter().cloned().collect();
        for name in ["docker.manifest", "docker.tag.name", "docker.imageId"] {
            if found.len() < limit {
                let term = Term { name: name.to_owned(), values: vec![wanted.clone()] };
                let more = self.find(&[term], Some(&some), eyes, limit - found.len(), None).await?;
                found.extend(more.found);
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn prefix_of(name: &str, wanted: &Wildcard) -> Prefix {
    if wanted.is_exact() { keys::having(name, &wanted.0) } else { keys::having_like(name, wanted.start()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wildcards_fit_what_they_should() {
        for (pattern, fits, fails) in [
            ("", "anything", "\u{0}never"),
            ("library/*", "library/ubuntu", "librar"),
            ("*/ubuntu", "library/ubuntu", "ubuntu"),
            ("?", "a", "ab"),
            ("a*b*c", "aXbXbc", "aXc"),
            ("1.0", "1.0", "1x0"),
            ("**", "", "\u{0}never"),
        ] {
            assert!(Wildcard::new(pattern).fits(fits), "{pattern} {fits}");
            assert!(fails.starts_with('\u{0}') || !Wildcard::new(pattern).fits(fails), "{pattern} {fails}");
        }
        assert!(Wildcard::new("").is_any() && !Wildcard::new("*a").is_any());
    }

    proptest! {
        #[test]
        fn a_value_fits_itself_and_its_start(value in "[a-z*?/]{0,12}", rest in "[a-z/]{0,12}") {
            let (start, whole) = (format!("{value}*"), format!("{value}{rest}"));
            prop_assert!(Wildcard::new(&start).fits(&whole));
            prop_assert!(Wildcard::new(&value).fits(&value));
        }

        #[test]
        fn any_position_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = Position::parse(&text);
        }
    }
}
