//! Keys of the V1 images that V1 clients are shown of V2 images.

use berth_names::{Digest, ImageName, RepositoryKey};

use super::{Key, Prefix, family, text};
use crate::v1::ImageId;

/// What V1 clients are shown of a manifest.
pub fn v1_view(repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Key {
    family(b'E').image(repository, image).digest(digest).key()
}

/// What V1 clients are shown of all manifests of an image.
pub fn v1_views(repository: &RepositoryKey, image: &ImageName) -> Prefix {
    family(b'E').image(repository, image).prefix()
}

/// A manifest, found by one of the V1 images that V1 clients are shown of it.
pub fn v1_viewed(repository: &RepositoryKey, id: &ImageId, image: &ImageName, digest: &Digest) -> Key {
    family(b's').text(repository.as_str()).raw(id.as_bytes()).text(image.as_str()).digest(digest).key()
}

/// All manifests of which V1 clients are shown a V1 image.
pub fn v1_viewed_in(repository: &RepositoryKey, id: &ImageId) -> Prefix {
    family(b's').text(repository.as_str()).raw(id.as_bytes()).prefix()
}

/// The image and the manifest that a key of [`v1_viewed_in`] leads to.
pub fn split_v1_viewed(key: &Key, prefix: &Prefix) -> Option<(ImageName, Digest)> {
    let (image, digest) = text(key.after(prefix)?)?;
    Some((image.parse().ok()?, Digest::from_key(digest)?))
}

/// The mark that V1 clients are not yet shown everything that they may be.
pub fn v1_view_begun(repository: &RepositoryKey) -> Key {
    family(b'F').text(repository.as_str()).key()
}

/// All such marks.
pub fn v1_views_begun() -> Prefix {
    family(b'F').prefix()
}

/// By which rule everything is shown that V1 clients are shown of V2 manifests.
pub fn v1_views_rule() -> Key {
    family(b'0').text("v1-views").key()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_v1_image_leads_to_its_manifest(name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", id in any::<[u8; 32]>(), hash in any::<[u8; 32]>()) {
            let (repository, image): (RepositoryKey, ImageName) = ("docker-local".parse().unwrap(), name.parse().unwrap());
            let (id, digest) = (ImageId::from_bytes(id), Digest::sha256(hash));
            let (key, prefix) = (v1_viewed(&repository, &id, &image, &digest), v1_viewed_in(&repository, &id));
            prop_assert_eq!(split_v1_viewed(&key, &prefix), Some((image.clone(), digest)));
            prop_assert!(v1_view(&repository, &image, &digest).as_bytes().starts_with(v1_views(&repository, &image).as_bytes()));
        }

        #[test]
        fn no_key_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = split_v1_viewed(&Key::from_engine(&[b"s".as_slice(), &bytes].concat()), &family(b's').prefix());
        }
    }
}
