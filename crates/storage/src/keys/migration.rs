//! Keys of migration from V1 to V2: what layers became, what tags became, and the jobs that did it.

use berth_names::{Digest, ImageName, RepositoryKey, Tag};

use super::{Key, Prefix, family, text};

/// What a V1 layer became, found by the layer's digest as it was pushed.
pub fn conversion(layer: &Digest) -> Key {
    family(b'e').digest(layer).key()
}

/// What a tag of a V2 repository was made from.
pub fn receipt(repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Key {
    family(b'M').image(repository, image).text(tag.as_str()).key()
}

/// All receipts of an image.
pub fn receipts(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b'M').image(repository, image).prefix()
}

/// All receipts of a repository.
pub fn receipts_in(repository: &RepositoryKey) -> Prefix {
    family(b'M').text(repository.as_str()).prefix()
}

/// All receipts.
pub fn all_receipts() -> Prefix {
    family(b'M').prefix()
}

/// The tag that a receipt is about.
pub fn split_receipt(key: &Key) -> Option<(RepositoryKey, ImageName, Tag)> {
    let (repository, rest) = text(key.after(&all_receipts())?)?;
    let (image, rest) = text(rest)?;
    match text(rest)? {
        (tag, []) => Some((repository.parse().ok()?, image.parse().ok()?, tag.parse().ok()?)),
        _ => None,
    }
}

/// A job. Ids ascend with the time of their making.
pub fn job(id: &str) -> Key {
    family(b'j').text(id).key()
}

/// All jobs, oldest first.
pub fn jobs() -> Prefix {
    family(b'j').prefix()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn receipts_say_which_tag_they_are_about(
            name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", tag in "[A-Za-z0-9_][A-Za-z0-9._-]{0,12}",
        ) {
            let (repository, image): (RepositoryKey, ImageName) = ("docker-local".parse().unwrap(), name.parse().unwrap());
            let tag: Tag = tag.parse().unwrap();
            let key = receipt(&repository, &image, &tag);
            for prefix in [receipts(&repository, &image), receipts_in(&repository), all_receipts()] {
                prop_assert!(key.as_bytes().starts_with(prefix.as_bytes()));
            }
            prop_assert_eq!(split_receipt(&key), Some((repository, image, tag)));
        }

        #[test]
        fn no_key_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = split_receipt(&Key::from_engine(&[b"M".as_slice(), &bytes].concat()));
        }
    }
}
