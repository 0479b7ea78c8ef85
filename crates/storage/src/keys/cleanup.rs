//! Keys of what is to be looked at because it may have become unreachable, and of what keeps such things for a while.

use std::fmt;

use berth_names::{Digest, ImageName, RepositoryKey};

use super::{Key, Prefix, family, text};
use crate::v1::ImageId;

/// Something that may have become unreachable: the collector looks whether it has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Candidate {
    /// A manifest that lost a tag, a parent or its subject.
    Manifest(RepositoryKey, ImageName, Digest),
    /// A link that lost a manifest, or that never got one.
    Link(RepositoryKey, ImageName, Digest),
    /// A V1 image that lost a tag or a child, or whose push may never end.
    V1Image(RepositoryKey, ImageId),
    /// A blob that lost a link or a V1 image.
    Blob(Digest),
    /// An image of which nothing may be left.
    Image(RepositoryKey, ImageName),
}

const MANIFEST: u8 = b'm';
const LINK: u8 = b'k';
const V1_IMAGE: u8 = b'v';
const BLOB: u8 = b'b';
const IMAGE: u8 = b'i';

impl Candidate {
    /// What it is, in a word, for logs.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Manifest(..) => "manifest",
            Self::Link(..) => "link",
            Self::V1Image(..) => "V1 image",
            Self::Blob(_) => "blob",
            Self::Image(..) => "image",
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.noun();
        match self {
            Self::Manifest(repository, image, digest) | Self::Link(repository, image, digest) => {
                write!(f, "{noun} {repository}/{image}@{digest}")
            }
            Self::V1Image(repository, id) => write!(f, "{noun} {repository}/{id}"),
            Self::Blob(digest) => write!(f, "{noun} {digest}"),
            Self::Image(repository, image) => write!(f, "{noun} {repository}/{image}"),
        }
    }
}

/// Something to look at once `due_ms` has passed.
pub fn candidate(due_ms: u64, candidate: &Candidate) -> Key {
    let key = family(b'c').raw(&due_ms.to_be_bytes());
    match candidate {
        Candidate::Manifest(repository, image, digest) => key.raw(&[MANIFEST]).image(repository, image).digest(digest),
        Candidate::Link(repository, image, digest) => key.raw(&[LINK]).image(repository, image).digest(digest),
        Candidate::V1Image(repository, id) => key.raw(&[V1_IMAGE]).text(repository.as_str()).raw(id.as_bytes()),
        Candidate::Blob(digest) => key.raw(&[BLOB]).digest(digest),
        Candidate::Image(repository, image) => key.raw(&[IMAGE]).image(repository, image),
    }
    .key()
}

/// Everything that is to be looked at, by the time when.
pub fn candidates() -> Prefix {
    family(b'c').prefix()
}

/// The position behind which a scan finds what is to be looked at later than `due_ms`.
pub fn candidates_after(due_ms: u64) -> Key {
    family(b'c').raw(&due_ms.to_be_bytes()).raw(&[u8::MAX]).key()
}

/// When something is to be looked at, and what.
pub fn split_candidate(key: &Key) -> Option<(u64, Candidate)> {
    let (due_ms, rest) = key.after(&candidates())?.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    let candidate = match *kind {
        BLOB => Candidate::Blob(Digest::from_key(rest)?),
        V1_IMAGE => {
            let (repository, rest) = text(rest)?;
            Candidate::V1Image(repository.parse().ok()?, ImageId::from_bytes(rest.try_into().ok()?))
        }
        kind => {
            let (repository, rest) = text(rest)?;
            let (image, rest) = text(rest)?;
            let (repository, image) = (repository.parse().ok()?, image.parse().ok()?);
            match kind {
                MANIFEST => Candidate::Manifest(repository, image, Digest::from_key(rest)?),
                LINK => Candidate::Link(repository, image, Digest::from_key(rest)?),
                IMAGE if rest.is_empty() => Candidate::Image(repository, image),
                _ => return None,
            }
        }
    };
    Some((u64::from_be_bytes(*due_ms), candidate))
}

/// Who relies on a blob or manifest staying in an image although no tag leads to it yet.
pub fn lease(repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Key {
    family(b'l').image(repository, image).digest(digest).key()
}

/// Who relies on a V1 image staying although no tag leads to it yet.
pub fn v1_lease(repository: &RepositoryKey, id: &ImageId) -> Key {
    family(b'L').text(repository.as_str()).raw(id.as_bytes()).key()
}

/// All leases of blobs and manifests.
pub fn leases() -> Prefix {
    family(b'l').prefix()
}

/// All leases of V1 images.
pub fn v1_leases() -> Prefix {
    family(b'L').prefix()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn candidates_come_back_out_of_their_keys_in_order_of_time(
            due_ms in any::<u64>(), later in any::<u64>(), name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", hash in any::<[u8; 32]>(), kind in 0..5,
        ) {
            let (repository, image): (RepositoryKey, ImageName) = ("docker-local".parse().unwrap(), name.parse().unwrap());
            let what = match kind {
                0 => Candidate::Manifest(repository, image, Digest::sha256(hash)),
                1 => Candidate::Link(repository, image, Digest::sha256(hash)),
                2 => Candidate::V1Image(repository, ImageId::from_bytes(hash)),
                3 => Candidate::Blob(Digest::sha256(hash)),
                _ => Candidate::Image(repository, image),
            };
            let key = candidate(due_ms, &what);
            prop_assert_eq!(split_candidate(&key), Some((due_ms, what.clone())));
            prop_assert_eq!(key.as_bytes().cmp(candidate(later, &what).as_bytes()), due_ms.cmp(&later));
        }

        #[test]
        fn no_key_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = split_candidate(&Key::from_engine(&[b"c".as_slice(), &bytes].concat()));
        }
    }
}
