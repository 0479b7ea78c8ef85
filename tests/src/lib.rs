//! What the end-to-end tests share: both real binaries behind real sockets, and clients that say exactly what they are told to.

pub mod client;
pub mod collector;
pub mod engine;
pub mod image;
pub mod power;
pub mod proxy;
pub mod registry;
pub mod v1;

#[cfg(test)]
mod documents;

pub use client::{Body, Client, Reply};
pub use registry::Registry;

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of bytes in memory, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

/// Numbers that look random and are the same in every run with the same seed.
pub struct Random(pub u64);

impl Random {
    /// The next number (xorshift).
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
