//! The vocabulary that both of Berth's services speak.
//!
//! Text from the network becomes one of these types once, at the edge; inside, the type is the proof.
//! What of paths both have to read alike is in [`wire`].
//! This crate knows no I/O, no async and no HTTP types. Every type parses with [`std::str::FromStr`],
//! prints what it parsed, and contains no NUL byte (storage joins key fields with NUL).

mod account;
mod digest;
mod hops;
mod image;
mod network;
mod origin;
mod path;
mod repository;
mod tag;
pub mod wire;
mod work;

pub use account::{AccountName, InvalidAccountName};
pub use digest::{Algorithm, Digest, InvalidDigest};
pub use hops::Hops;
pub use image::{ImageName, InvalidImageName};
pub use network::{InvalidNetwork, Network};
pub use origin::{Authority, InvalidAuthority, InvalidOrigin, Origin, Scheme};
pub use path::plain_path;
pub use repository::{ApiVersion, InvalidRepositoryKey, RepositoryKey};
pub use tag::{InvalidReference, InvalidTag, Reference, Tag};
pub use work::{Answer, Content, Work};

/// Implements `Display`, `AsRef<str>`, serde and `as_str` for a checked text newtype, so that all of them agree.
macro_rules! text_type {
    ($name:ident, $error:ident) => {
        impl $name {
            /// The text, exactly as it was parsed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }
    };
}
pub(crate) use text_type;
