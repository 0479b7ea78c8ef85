use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Digest, InvalidDigest};

/// Longest tag, in bytes (OCI distribution specification).
const TAG_BYTES_MAX: usize = 128;

/// A name that moves between manifests (V2) or V1 images, for instance `12.04`.
///
/// 1–128 bytes of ASCII letters, digits, `_`, `.` and `-`, not starting with `.` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// The text is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a tag has 1 to {TAG_BYTES_MAX} letters, digits, '_', '.' or '-' and does not start with '.' or '-'")]
pub struct InvalidTag;

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let bytes = text.as_bytes();
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let all_allowed = bytes.iter().all(|b| is_word(b) || matches!(b, b'.' | b'-'));
        if bytes.first().is_some_and(is_word) && all_allowed && bytes.len() <= TAG_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTag)
        }
    }
}

crate::text_type!(Tag, InvalidTag);

/// What a V2 client may ask a manifest by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By a tag, which may move.
    Tag(Tag),
    /// By its digest, which may not.
    Digest(Digest),
}

/// The text is neither a tag nor a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// It has no colon, so it was read as a tag.
    #[error(transparent)]
    Tag(#[from] InvalidTag),
    /// It has a colon, so it was read as a digest.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        // A tag can't contain a colon and a digest always does.
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_are_words_that_may_hold_dots_and_dashes() {
        for good in ["latest", "12.04", "_x", "A-b.C_d", &"a".repeat(128)] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "a\0", "a%00", "ü", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_colon_decides_between_tag_and_digest() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
        assert!(matches!("sha256".parse(), Ok(Reference::Tag(_))));
        assert!(matches!("md5:00".parse::<Reference>(), Err(InvalidReference::Digest(_))));
        assert!(matches!("-".parse::<Reference>(), Err(InvalidReference::Tag(_))));
    }

    proptest! {
        #[test]
        fn references_print_what_they_parsed(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
