//! Keys of properties: what people and Berth itself say about images, tags and V1 images, and the index to find them by it.

use berth_names::{ImageName, RepositoryKey, Tag};

use super::{Builder, Key, Prefix, family, text};
use crate::v1::ImageId;

/// Something in a repository that can have properties.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// An image: all its tags together.
    Image(ImageName),
    /// A tag of an image.
    Tag(ImageName, Tag),
    /// A V1 image.
    V1Image(ImageId),
}

const IMAGE: u8 = b'i';
const TAG: u8 = b't';
const V1_IMAGE: u8 = b'v';

impl Builder {
    fn item(self, item: &Item) -> Self {
        match item {
            Item::Image(image) => self.raw(&[IMAGE]).text(image.as_str()),
            Item::Tag(image, tag) => self.raw(&[TAG]).text(image.as_str()).text(tag.as_str()),
            Item::V1Image(id) => self.raw(&[V1_IMAGE]).raw(id.as_bytes()),
        }
    }
}

fn split_item(bytes: &[u8]) -> Option<Item> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        V1_IMAGE => rest.try_into().ok().map(|id| Item::V1Image(ImageId::from_bytes(id))),
        IMAGE => match text(rest)? {
            (image, []) => Some(Item::Image(image.parse().ok()?)),
            _ => None,
        },
        TAG => {
            let (image, rest) = text(rest)?;
            match text(rest)? {
                (tag, []) => Some(Item::Tag(image.parse().ok()?, tag.parse().ok()?)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What users have said about something.
pub fn properties(repository: &RepositoryKey, item: &Item) -> Key {
    family(b'p').text(repository.as_str()).item(item).key()
}

/// Everything that users have said about things in a repository.
pub fn properties_in(repository: &RepositoryKey) -> Prefix {
    family(b'p').text(repository.as_str()).prefix()
}

/// What the key of a row of [`properties_in`] is about.
pub fn split_properties(key: &Key) -> Option<(RepositoryKey, Item)> {
    let (repository, rest) = text(key.after(&family(b'p').prefix())?)?;
    Some((repository.parse().ok()?, split_item(rest)?))
}

/// Something, found by a property. Neither name nor value may contain NUL.
pub fn found_by(name: &str, value: &str, repository: &RepositoryKey, item: &Item) -> Key {
    family(b'n').text(name).text(value).text(repository.as_str()).item(item).key()
}

/// Everything in one repository that has a property.
pub fn having_in(name: &str, value: &str, repository: &RepositoryKey) -> Prefix {
    family(b'n').text(name).text(value).text(repository.as_str()).prefix()
}

/// Everything that has a property.
pub fn having(name: &str, value: &str) -> Prefix {
    family(b'n').text(name).text(value).prefix()
}

/// Everything that has a property of this name, its value beginning with `start`.
pub fn having_like(name: &str, start: &str) -> Prefix {
    family(b'n').text(name).raw(start.as_bytes()).prefix()
}

/// The property by which a row of the index finds something, and what.
pub fn split_found_by(key: &Key) -> Option<(&str, &str, RepositoryKey, Item)> {
    let (name, rest) = text(key.after(&family(b'n').prefix())?)?;
    let (value, rest) = text(rest)?;
    let (repository, rest) = text(rest)?;
    Some((name, value, repository.parse().ok()?, split_item(rest)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_come_back_out_of_both_keys(
            name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", hash in any::<[u8; 32]>(), kind in 0..3,
            property in "[^\0]{1,20}", value in "[^\0]{0,20}",
        ) {
            let repository: RepositoryKey = "docker-local".parse().unwrap();
            let item = match kind {
                0 => Item::Image(name.parse().unwrap()),
                1 => Item::Tag(name.parse().unwrap(), tag.parse().unwrap()),
                _ => Item::V1Image(ImageId::from_bytes(hash)),
            };
            let key = properties(&repository, &item);
            prop_assert!(key.as_bytes().starts_with(properties_in(&repository).as_bytes()));
            prop_assert_eq!(split_properties(&key), Some((repository.clone(), item.clone())));
            let key = found_by(&property, &value, &repository, &item);
            for prefix in [having(&property, &value), having_in(&property, &value, &repository), having_like(&property, "")] {
                prop_assert!(key.as_bytes().starts_with(prefix.as_bytes()));
            }
            prop_assert_eq!(split_found_by(&key), Some((property.as_str(), value.as_str(), repository, item)));
        }

        #[test]
        fn no_key_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = split_found_by(&Key::from_engine(&[b"n".as_slice(), &bytes].concat()));
            let _ = split_properties(&Key::from_engine(&[b"p".as_slice(), &bytes].concat()));
        }
    }
}
