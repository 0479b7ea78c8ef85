//! Where Berth's state lives: two small traits, the keys and records that go through them, and the engines behind them.
//!
//! - [`MetadataStore`] holds everything that has a name, and every small blob.
//! - [`BlobStore`] holds the bytes of larger blobs as immutable data that has no name of its own, only a [`DataId`].
//!
//! What must stay true:
//! - Data is made durable ([`BlobStore::seal`]) before the batch that names it commits: a crash leaves garbage
//!   that the sweep finds, never a name without bytes.
//! - A batch is applied whole or not at all, and only if everything it expects still holds.
//! - Nothing outside [`keys`] formats a key, nothing outside [`records`] encodes a value,
//!   and nothing outside this crate knows which engine is running.

mod blobs;
mod chunk;
#[cfg(test)]
mod conformance;
pub mod keys;
mod metadata;
pub mod records;
pub mod rocksdb;
pub mod v1;

use std::path::PathBuf;

pub use blobs::{BlobStore, BlobStream, DataId};
pub use chunk::Chunk;
pub use keys::{Key, Prefix};
pub use metadata::{Batch, Damage, Durability, MetadataStore, Walked, get_record};

/// Blobs up to this many bytes live in the metadata store; larger ones become data.
///
/// Measured: below it a file loses to its inode and its two fsyncs, above it RocksDB loses to write amplification.
pub const SMALL_BLOB_BYTES_MAX: usize = 64 * 1024;

/// What a caller can decide on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A batch expected something that no longer holds: another writer was first. Read again and decide again.
    #[error("another writer was first")]
    Conflict,
    /// The store was written by a newer Berth.
    #[error("the store has format {found}; this version of Berth knows formats up to {known}")]
    NewerFormat {
        /// The format the store says it has.
        found: u32,
        /// The newest format this build can read.
        known: u32,
    },
    /// A value that is there can't be read: damage, or a bug.
    #[error("damaged record: {0}")]
    Damaged(String),
    /// Changes that were acknowledged are missing in the write-ahead log, which can't be read as a whole. Nothing was changed.
    #[error(
        "the write-ahead log {} is damaged: {changes} changes that were acknowledged can't be read. Nothing was changed. \
         Restore a backup, or run `berth-backend salvage`: it keeps what can be read, and says what is missing",
        log.display()
    )]
    LogDamaged {
        /// The first damaged log.
        log: PathBuf,
        /// How many changes of rows are missing in all, at the least.
        changes: u64,
    },
    /// So little space is left that only what frees some is written.
    #[error("the disk is full")]
    Full,
    /// The metadata engine failed.
    #[error("metadata store: {0}")]
    Engine(String),
    /// Reading or writing data failed.
    #[error("data {data}: {source}")]
    Data {
        /// Which data.
        data: DataId,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// The result of every storage call.
pub type Result<T> = std::result::Result<T, Error>;
