//! Properties: what Berth itself and its users say about images, tags and V1 images.
//!
//! Berth's own follow from the records and are never stored as such; users' are a row beside the thing. Both stand in one
//! index, whose rows come and go in the commit that changes what they say, so a search never finds what is not so.
//!
//! What users say is about the content: it goes when a tag is moved to something else, and with a tag that is promoted.

mod own;

use std::collections::{BTreeMap, BTreeSet};

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_storage::keys::{self, Item};
use berth_storage::records::{self, Properties};
use berth_storage::{Batch, Key, get_record};
use bytes::Bytes;

use crate::v1::TagRecord;
use crate::{Error, Registry, Result};
pub use own::OWN;
use own::Own;
pub(crate) use own::{index, of_tag, of_v1_image, of_v1_name, of_v1_tag, unindex};

/// Names that one thing may have properties under, Berth's own not counted.
pub const NAMES_MAX: usize = 100;

/// Values of one property.
pub const VALUES_MAX: usize = 100;

/// The longest name of a property, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The longest value of a property, in bytes.
pub const VALUE_BYTES_MAX: usize = 2400;

/// What all properties of one thing may take up together, in bytes.
pub const BYTES_MAX: usize = 64 << 10;

/// Tags of an image that a change of it and all its tags reaches.
const TAGS_MAX: usize = 10_000;

/// Tags that one scan brings into memory.
const SCAN_ENTRIES: usize = 1000;

/// What a change does to properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PropertyChange {
    /// These get these values, in place of those they had.
    Set(BTreeMap<String, BTreeSet<String>>),
    /// These go.
    Remove(BTreeSet<String>),
}

impl Registry {
    /// Everything that is said about something: values by name.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`] if it is not there.
    pub async fn properties(&self, repository: &RepositoryKey, item: &Item) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let (own, _) = self.own_properties(repository, item).await?.ok_or(Error::ItemUnknown)?;
        let users = get_record::<Properties>(self.store.as_ref(), &keys::properties(repository, item)).await?;
        let mut all = users.map(|(Properties(users), _)| users).unwrap_or_default();
        for (name, value) in own {
            all.entry(name.to_owned()).or_default().insert(value);
        }
        Ok(all)
    }

    /// What Berth says about something, and the row that this follows from; `None` if it is not there.
    async fn own_properties(&self, repository: &RepositoryKey, item: &Item) -> Result<Option<(Vec<Own>, (Key, Bytes))>> {
        let store = self.store.as_ref();
        Ok(match item {
            Item::Image(image) => {
                let key = keys::image(repository, image);
                let Some(seen) = store.get(&key).await?.filter(crate::listing::is_inhabited) else { return Ok(None) };
                let has_v1_tags = !store.scan(&keys::v1_tags(repository, image), None, 1).await?.is_empty();
                Some((if has_v1_tags { of_v1_name(image) } else { Vec::new() }, (key, seen)))
            }
            Item::Tag(image, tag) => {
                let key = keys::tag(repository, image, tag);
                if let Some((row, seen)) = get_record::<records::Tag>(store, &key).await? {
                    return Ok(Some((of_tag(image, tag, &row), (key, seen))));
                }
                let key = keys::v1_tag(repository, image, tag);
                let row = get_record::<TagRecord>(store, &key).await?;
                row.map(|(row, seen)| (of_v1_tag(tag, &row), (key, seen)))
            }
            Item::V1Image(id) => {
                let Some((image, seen)) = self.v1_row(repository, id).await? else { return Ok(None) };
                let layer = image.layer.filter(|_| image.complete);
                layer.map(|layer| (of_v1_image(id, &layer), (keys::v1_image(repository, id), seen)))
            }
        })
    }

    /// Changes what users say about something, and if `everything`, about all tags of an image too.
    ///
    /// # Errors
    /// [`Error::ItemUnknown`]; [`Error::PropertyInvalid`] if there would be too many or too long ones, or Berth's own changed.
    pub async fn change_properties(
        &self,
        repository: &RepositoryKey,
        item: &Item,
        change: &PropertyChange,
        everything: bool,
    ) -> Result<()> {
        check(change)?;
        let tags = match item {
            Item::Image(image) if everything => self.tags_of_any_kind(repository, image).await?,
            _ => Vec::new(),
        };
        self.change_properties_of(repository, item, change).await?;
        for tag in tags {
            match self.change_properties_of(repository, &tag, change).await {
                // It was deleted meanwhile.
                Ok(()) | Err(Error::ItemUnknown) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn tags_of_any_kind(&self, repository: &RepositoryKey, image: &ImageName) -> Result<Vec<Item>> {
        let mut found = Vec::new();
        for prefix in [keys::tags(repository, image), keys::v1_tags(repository, image)] {
            let mut after = None;
            loop {
                let rows = self.store.scan(&prefix, after.as_ref(), SCAN_ENTRIES).await?;
                let tags = rows.iter().filter_map(|(key, _)| key.text_after(&prefix)?.parse().ok());
                found.extend(tags.map(|tag| Item::Tag(image.clone(), tag)));
                if found.len() > TAGS_MAX {
                    return Err(Error::PropertyInvalid(format!("the image has more than {TAGS_MAX} tags: change them one by one")));
                }
                match rows.last() {
                    Some((last, _)) if rows.len() == SCAN_ENTRIES => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(found)
    }

    async fn change_properties_of(&self, repository: &RepositoryKey, item: &Item, change: &PropertyChange) -> Result<()> {
        let key = keys::properties(repository, item);
        self.commit_with(|| async {
            let (_, (place, seen_place)) = self.own_properties(repository, item).await?.ok_or(Error::ItemUnknown)?;
            let before = get_record::<Properties>(self.store.as_ref(), &key).await?;
            let (mut properties, seen) = before.map_or_else(Default::default, |(properties, seen)| (properties, Some(seen)));
            let mut batch = Batch::new();
            self.expect_repository(&mut batch, repository).await?;
            // What goes away takes its properties with it: it must still be there.
            batch.expect(place, Some(seen_place)).expect(key.clone(), seen);
            match change {
                PropertyChange::Set(wanted) => {
                    for (name, values) in wanted {
                        let old = properties.0.insert(name.clone(), values.clone()).unwrap_or_default();
                        for value in &old {
                            batch.delete(keys::found_by(name, value, repository, item));
                        }
                        for value in values {
                            batch.put(keys::found_by(name, value, repository, item), Bytes::new());
                        }
                    }
                }
                PropertyChange::Remove(names) => {
                    for name in names {
                        for value in properties.0.remove(name).unwrap_or_default() {
                            batch.delete(keys::found_by(name, &value, repository, item));
                        }
                    }
                }
            }
            if properties.0.len() > NAMES_MAX {
                return Err(Error::PropertyInvalid(format!("there may be {NAMES_MAX} properties")));
            }
            let bytes: usize = properties.0.iter().map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>()).sum();
            if bytes > BYTES_MAX {
                return Err(Error::PropertyInvalid(format!("all properties together may have {BYTES_MAX} bytes")));
            }
            if properties.0.is_empty() {
                batch.delete(key.clone());
            } else {
                batch.put_record(key.clone(), &properties);
            }
            Ok((batch, ()))
        })
        .await
    }

    /// Adds to the batch that what users have said about something goes with it.
    pub(crate) async fn forget_properties(&self, batch: &mut Batch, repository: &RepositoryKey, item: &Item) -> Result<()> {
        let key = keys::properties(repository, item);
        let Some((Properties(properties), seen)) = get_record::<Properties>(self.store.as_ref(), &key).await? else {
            batch.expect(key, None);
            return Ok(());
        };
        for (name, values) in &properties {
            for value in values {
                batch.delete(keys::found_by(name, value, repository, item));
            }
        }
        batch.expect(key.clone(), Some(seen)).delete(key);
        Ok(())
    }

    /// Adds to the batch that what users say about something is said about another thing too.
    pub(crate) async fn copy_properties(
        &self,
        batch: &mut Batch,
        (from_repository, from): (&RepositoryKey, &Item),
        (to_repository, to): (&RepositoryKey, &Item),
    ) -> Result<()> {
        self.forget_properties(batch, to_repository, to).await?;
        let key = keys::properties(from_repository, from);
        let Some((properties, seen)) = get_record::<Properties>(self.store.as_ref(), &key).await? else { return Ok(()) };
        for (name, values) in &properties.0 {
            for value in values {
                batch.put(keys::found_by(name, value, to_repository, to), Bytes::new());
            }
        }
        batch.expect(key, Some(seen)).put_record(keys::properties(to_repository, to), &properties);
        Ok(())
    }

    /// Adds to the batch that a V2 tag, whose row is given, can no longer be found, and what was said about it is forgotten,
    /// where it was migrated from included.
    pub(crate) async fn forget_tag(
        &self,
        batch: &mut Batch,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        row: &records::Tag,
    ) -> Result<()> {
        let item = Item::Tag(image.clone(), tag.clone());
        unindex(batch, repository, &item, &of_tag(image, tag, row));
        batch.delete(keys::receipt(repository, image, tag));
        self.forget_properties(batch, repository, &item).await
    }

    /// The same for a V1 tag.
    pub(crate) async fn forget_v1_tag(
        &self,
        batch: &mut Batch,
        (repository, image, tag): (&RepositoryKey, &ImageName, &Tag),
        row: &TagRecord,
    ) -> Result<()> {
        let item = Item::Tag(image.clone(), tag.clone());
        unindex(batch, repository, &item, &of_v1_tag(tag, row));
        self.forget_properties(batch, repository, &item).await
    }
}

fn check(change: &PropertyChange) -> Result<()> {
    let invalid = |why: String| Err(Error::PropertyInvalid(why));
    let names: Vec<&String> = match change {
        PropertyChange::Set(wanted) => wanted.keys().collect(),
        PropertyChange::Remove(names) => names.iter().collect(),
    };
    for name in names {
        if name.is_empty()
            || name.len() > NAME_BYTES_MAX
            || name.chars().any(|c| c.is_control() || "(){}[]*+^$/~`!@#%&<>;=,±§| \\?\"".contains(c))
        {
            return invalid(format!("{name:?} can't be the name of a property"));
        }
        if OWN.contains(&name.as_str()) {
            return invalid(format!("{name} follows from what was pushed and can't be changed"));
        }
    }
    let PropertyChange::Set(wanted) = change else { return Ok(()) };
    for (name, values) in wanted {
        if values.is_empty() || values.len() > VALUES_MAX {
            return invalid(format!("{name} may have 1 to {VALUES_MAX} values"));
        }
        if values.iter().any(|value| value.len() > VALUE_BYTES_MAX || value.contains('\0')) {
            return invalid(format!("a value of {name} is longer than {VALUE_BYTES_MAX} bytes or has a NUL"));
        }
    }
    Ok(())
}
