//! Immutable data: the bytes of blobs that are too large for the metadata store.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Pieces of data in order, each of a size that is cheap to send.
pub type BlobStream = BoxStream<'static, Result<Bytes>>;

/// Bytes without a name: written once in order, sealed, then only read.
///
/// An upload's data becomes the blob's data; nothing is renamed or copied when an upload finishes.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// A fresh id, never given out before.
    fn allocate(&self) -> DataId;

    /// Whether the id was given out by an earlier run of this process, so that nothing can still be writing to it.
    fn is_from_earlier_run(&self, data: DataId) -> bool;

    /// Writes `bytes` at `offset`. Offset 0 creates the data. Bytes behind an offset that a crash
    /// left there are overwritten.
    async fn append(&self, data: DataId, offset: u64, bytes: Bytes) -> Result<()>;

    /// Makes what was appended so far durable, so that little is left to do for [`BlobStore::seal`].
    async fn sync(&self, data: DataId) -> Result<()>;

    /// Makes the first `size` bytes durable and drops any others. May be called again after further appends.
    async fn seal(&self, data: DataId, size: u64) -> Result<()>;

    /// The bytes of a range that lies within the sealed size.
    fn read(&self, data: DataId, range: Range<u64>) -> BlobStream;

    /// The present length, or `None` if there is no such data.
    async fn size(&self, data: DataId) -> Result<Option<u64>>;

    /// Whether the data is there and has this length. Does not wait, so it may be asked before every use.
    fn is_whole(&self, data: DataId, size: u64) -> bool;

    /// Gives the space back. Readers that are under way finish undisturbed. Absent data is no error.
    async fn delete(&self, data: DataId) -> Result<()>;

    /// Everything stored, named or not, up to `limit` ids behind `after` in an order of the store's own: for sweeps and checks.
    async fn list(&self, after: Option<DataId>, limit: usize) -> Result<Vec<DataId>>;
}

/// Where a blob's bytes physically are: the run of the process that allocated it, and 96 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataId([u8; 16]);

impl DataId {
    /// The id for a run of the process and 96 random bits.
    pub(crate) fn new(run: u32, random: [u8; 12]) -> Self {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&run.to_be_bytes());
        id[4..].copy_from_slice(&random);
        Self(id)
    }

    /// The run of the process that allocated it.
    pub(crate) fn run(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }

    /// The raw id, for keys.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no data id.
#[derive(Debug, thiserror::Error)]
#[error("a data id has 32 lowercase hexadecimal digits")]
pub struct InvalidDataId;

impl FromStr for DataId {
    type Err = InvalidDataId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidDataId> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(text, 16).map_err(|_| InvalidDataId)?;
        if is_hex { Ok(Self(id.to_be_bytes())) } else { Err(InvalidDataId) }
    }
}

impl TryFrom<String> for DataId {
    type Error = InvalidDataId;

    fn try_from(text: String) -> std::result::Result<Self, InvalidDataId> {
        text.parse()
    }
}

impl From<DataId> for String {
    fn from(data: DataId) -> String {
        data.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_in_order_of_runs() {
        let id = DataId::new(7, [0xab; 12]);
        assert_eq!(id.to_string().parse::<DataId>().unwrap(), id);
        assert_eq!(id.run(), 7);
        assert!(DataId::new(8, [0; 12]) > id);
        for bad in ["", "00", &"g".repeat(32), &"A".repeat(32), &"+".repeat(32)] {
            assert!(bad.parse::<DataId>().is_err());
        }
    }
}
