use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest repository key, in bytes: one DNS label is 63, and the key is a label in the sub-domain method.
const KEY_BYTES_MAX: usize = 63;

/// What a port or a host name is bound to, for instance `docker-local`.
///
/// 1–63 bytes of ASCII letters, digits, `.`, `_` and `-`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryKey(Arc<str>);

/// The text is no repository key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a repository key has 1 to {KEY_BYTES_MAX} letters, digits, '.', '_' or '-' and starts with a letter or digit")]
pub struct InvalidRepositoryKey;

impl FromStr for RepositoryKey {
    type Err = InvalidRepositoryKey;

    fn from_str(text: &str) -> Result<Self, InvalidRepositoryKey> {
        let bytes = text.as_bytes();
        let starts_well = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let all_allowed = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if starts_well && all_allowed && bytes.len() <= KEY_BYTES_MAX { Ok(Self(text.into())) } else { Err(InvalidRepositoryKey) }
    }
}

crate::text_type!(RepositoryKey, InvalidRepositoryKey);

/// Which Docker registry protocol a repository speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ApiVersion {
    /// Docker Registry V1: docker 0.6 to 1.12.
    V1,
    /// Docker Registry V2 and OCI distribution: docker 1.6 and later.
    V2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_artifactory_style_keys_and_nothing_that_could_be_a_path() {
        for good in ["docker-local", "a", "Docker.Local_2", &"a".repeat(63)] {
            assert_eq!(good.parse::<RepositoryKey>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "_a", "a/b", "a b", "a%2fb", "a\0b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<RepositoryKey>().is_err(), "{bad:?}");
        }
    }
}
