//! The one name that only Docker V1 has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A V1 image's id: 64 lowercase hexadecimal digits, chosen by the client, not a hash of anything before docker 1.10.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId([u8; 32]);

/// The text is no V1 image id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an image id has 64 lowercase hexadecimal digits")]
pub struct InvalidImageId;

impl ImageId {
    /// The raw id, for keys.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id from its raw form.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for ImageId {
    type Err = InvalidImageId;

    fn from_str(text: &str) -> Result<Self, InvalidImageId> {
        // The same digits that a SHA-256 digest is made of, and parsed as strictly.
        let digest: berth_names::Digest = format!("sha256:{text}").parse().map_err(|_| InvalidImageId)?;
        digest.hash().try_into().map(Self).map_err(|_| InvalidImageId)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for ImageId {
    type Error = InvalidImageId;

    fn try_from(text: String) -> Result<Self, InvalidImageId> {
        text.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> String {
        id.to_string()
    }
}
