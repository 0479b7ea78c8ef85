//! The metadata store: ordered keys, point reads, prefix scans, and one kind of write, the conditional batch.

use async_trait::async_trait;
use bytes::Bytes;

use crate::keys::{Key, Prefix};
use crate::records::Record;
use crate::{Error, Result};

/// Named state: ordered keys and values, changed only by conditional, atomic batches.
///
/// The conditions of a batch are all the concurrency control there is, so that the same domain code is
/// correct on one embedded engine and on a distributed one behind many backends.
#[async_trait]
pub trait MetadataStore: Send + Sync {
    /// The value under a key, if any.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>>;

    /// The values under several keys, in the order asked.
    async fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>>;

    /// Up to `limit` entries whose key starts with `prefix`, in key order, beginning behind `after` if given.
    ///
    /// `after` need not exist, and may lie before the prefix.
    async fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Bytes)>>;

    /// The keys of what [`MetadataStore::scan`] finds, without reading what is under them: that may be large.
    async fn scan_keys(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Key>>;

    /// Reads on behind what can't be read, for checks: like [`MetadataStore::scan`], but begins with `from`, and what can't
    /// be read ends the step and not the walk.
    async fn walk(&self, prefix: &Prefix, from: Option<&Key>, limit: usize) -> Result<Walked>;

    /// Whether so little space is left that only batches that [free](Batch::frees) some are applied.
    fn is_full(&self) -> bool;

    /// Applies the batch whole.
    ///
    /// # Errors
    /// [`Error::Conflict`] if an expectation does not hold; nothing was changed then, and a read sees why. [`Error::Full`] if
    /// there is no space for it.
    async fn commit(&self, batch: Batch) -> Result<()>;
}

/// One step of a [walk](MetadataStore::walk).
#[derive(Clone, Debug)]
pub struct Walked {
    /// What could be read, in key order.
    pub rows: Vec<(Key, Bytes)>,
    /// What stands behind it and can't be.
    pub damage: Option<Damage>,
    /// With what the walk goes on; `None` if this was the last step.
    pub next: Option<Key>,
}

/// Rows that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The first readable row behind them, if there is one with the same prefix.
    pub end: Option<Key>,
    /// What the engine says.
    pub what: String,
}

/// When a committed batch is safe from power loss. Either way it is visible at once, and survives the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before the commit returns. For everything that a client is told has happened.
    #[default]
    Synced,
    /// With the next synced commit. For bookkeeping whose loss costs a client at most a repeated upload.
    Deferred,
}

/// A conditional, atomic change: if every expectation holds, all deletes and puts happen.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) expect: Vec<(Key, Option<Bytes>)>,
    pub(crate) expect_there: Vec<Key>,
    pub(crate) put: Vec<(Key, Bytes)>,
    pub(crate) delete: Vec<Key>,
    pub(crate) durability: Durability,
    pub(crate) frees: bool,
}

impl Batch {
    /// An empty batch that is durable when its commit returns.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that becomes durable with the next synced one.
    pub fn deferred() -> Self {
        Self { durability: Durability::Deferred, ..Self::default() }
    }

    /// The batch takes away more than it adds: it is applied on a full disk too, out of what is reserved for it.
    pub fn frees(mut self) -> Self {
        self.frees = true;
        self
    }

    /// The batch applies only if `key` holds exactly `value` (`None`: is absent).
    pub fn expect(&mut self, key: Key, value: Option<Bytes>) -> &mut Self {
        self.expect.push((key, value));
        self
    }

    /// The batch applies only if there is something under `key`, whatever it is: for content, which is all that its key can
    /// hold and may be large.
    pub fn expect_there(&mut self, key: Key) -> &mut Self {
        self.expect_there.push(key);
        self
    }

    /// Stores `value` under `key`.
    pub fn put(&mut self, key: Key, value: Bytes) -> &mut Self {
        self.put.push((key, value));
        self
    }

    /// Stores a record under `key`.
    pub fn put_record<R: Record>(&mut self, key: Key, record: &R) -> &mut Self {
        self.put(key, record.encode())
    }

    /// Removes `key`, whether or not it is there.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.delete.push(key);
        self
    }
}

/// The record under a key, and the exact bytes it was read from, for [`Batch::expect`].
///
/// # Errors
/// [`Error::Damaged`] if the bytes are no such record.
pub async fn get_record<R: Record>(store: &dyn MetadataStore, key: &Key) -> Result<Option<(R, Bytes)>> {
    let Some(bytes) = store.get(key).await? else { return Ok(None) };
    let record = R::decode(&bytes).ok_or_else(|| Error::Damaged(key.to_string()))?;
    Ok(Some((record, bytes)))
}
