use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The hash functions that Berth computes and therefore accepts (the two registered by the OCI image specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// 32 bytes.
    Sha256,
    /// 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash, in bytes.
    pub const fn hash_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }
}

/// The name of bytes by their content, for instance `sha256:e3b0…b855`: lowercase hexadecimal, exact length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: Algorithm,
    /// The hash; bytes after the algorithm's length are zero.
    hash: [u8; 64],
}

/// The text is no digest, or one of an algorithm that Berth does not compute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 'sha256:' and 64, or 'sha512:' and 128, lowercase hexadecimal digits")]
pub struct InvalidDigest;

impl Digest {
    /// The digest of a SHA-256 hash.
    pub fn sha256(hash: [u8; 32]) -> Self {
        Self::new(Algorithm::Sha256, &hash)
    }

    /// The digest of a SHA-512 hash.
    pub fn sha512(hash: [u8; 64]) -> Self {
        Self { algorithm: Algorithm::Sha512, hash }
    }

    fn new(algorithm: Algorithm, hash: &[u8]) -> Self {
        let mut padded = [0; 64];
        padded[..hash.len()].copy_from_slice(hash);
        Self { algorithm, hash: padded }
    }

    /// The function that made it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself: 32 or 64 bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.hash_bytes()]
    }

    /// The hash in lowercase hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(2 * self.hash().len());
        for byte in self.hash() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// A binary form for storage keys: one byte for the algorithm, then the hash.
    pub fn to_key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + self.hash().len());
        key.push(self.algorithm.code());
        key.extend_from_slice(self.hash());
        key
    }

    /// Reads what [`Digest::to_key`] wrote, or `None` if it did not.
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let (code, hash) = key.split_first()?;
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|a| a.code() == *code)?;
        (hash.len() == algorithm.hash_bytes()).then(|| Self::new(algorithm, hash))
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let (name, hex) = text.split_once(':').ok_or(InvalidDigest)?;
        let algorithm = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|a| a.as_str() == name).ok_or(InvalidDigest)?;
        if hex.len() != 2 * algorithm.hash_bytes() {
            return Err(InvalidDigest);
        }
        let mut hash = [0; 64];
        for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = (nibble(pair[0]).ok_or(InvalidDigest)? << 4) | nibble(pair[1]).ok_or(InvalidDigest)?;
        }
        Ok(Self { algorithm, hash })
    }
}

/// Upper case is refused: a digest has one spelling, or it would not be a name.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_every_other_spelling() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(format!("sha256:{hex}").parse::<Digest>().is_ok());
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("SHA256:{hex}"),
            format!("md5:{hex}"),
            format!("sha512:{hex}"),
            format!("sha256+b64:{hex}"),
            format!("sha256/{hex}"),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn text_and_key_forms_round_trip(hash in any::<[u8; 32]>(), low in any::<[u8; 32]>()) {
            let mut long = [0; 64];
            long[..32].copy_from_slice(&hash);
            long[32..].copy_from_slice(&low);
            for digest in [Digest::sha256(hash), Digest::sha512(long)] {
                prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
                prop_assert_eq!(Digest::from_key(&digest.to_key()), Some(digest));
            }
        }

        #[test]
        fn keys_of_any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Some(digest) = Digest::from_key(&bytes) {
                prop_assert_eq!(digest.to_key(), bytes);
            }
        }
    }
}
