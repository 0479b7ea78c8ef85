//! The write-ahead log, read by ourselves before the engine reads it: is anything missing in its middle?
//!
//! After a crash the end of a log may be torn: what was being written, and what was written without a sync, need not be there.
//! RocksDB then takes what stands in front of the tear and drops what stands behind it ("point in time"). It does the same
//! when a bit has flipped in the middle, and thousands of acknowledged changes behind that bit are gone without a word. Its
//! stricter modes take every torn end for damage. It can't tell the two apart, because it does not know what had been synced
//! when a record was written. The committer does, and says so in the log ([`mark`]), so we can:
//!
//! - Sequence numbers count changes without a gap. A gap is what can't be read.
//! - A record behind the gap that was written when the gap's changes were durable already proves that they have been
//!   acknowledged and are lost: a [`Hole`].
//! - A gap without such a record behind it is a torn end.
//!
//! What no log can tell: damage to the very last record of a process that was killed looks like a torn end. A process that
//! is stopped puts a record behind its last one.

mod reader;
mod salvage;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::Key;
use crate::keys;
pub(super) use salvage::salvage;
pub use salvage::{SalvageError, Salvaged};

/// Bytes in front of a batch's changes: the first sequence number and how many there are.
const BATCH_HEADER_BYTES: usize = 12;

/// What stands in front of a put into the default column family.
const PUT: u8 = 1;

/// Changes that were acknowledged and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// The log behind whose readable part they were.
    pub(super) log: PathBuf,
    /// How many changes of rows are missing, at the least.
    pub(super) changes: u64,
}

/// The row that says what was durable when a batch was written that followed others without a sync: its key, and the first
/// sequence number that was not. A batch without it was written when all before it was durable.
pub(super) fn mark(first_not_durable: u64) -> (Key, [u8; 8]) {
    (keys::first_not_durable(), first_not_durable.to_be_bytes())
}

/// What is of interest in a batch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    /// The number of its first change.
    first: u64,
    /// How many it has.
    changes: u64,
    /// Everything before this number was durable when it was written.
    durable_before: u64,
}

impl Batch {
    fn read(record: &[u8]) -> Option<Self> {
        let (header, changes) = record.split_at_checked(BATCH_HEADER_BYTES)?;
        let first = u64::from_le_bytes(header[..8].try_into().ok()?);
        let count = u32::from_le_bytes(header[8..].try_into().ok()?);
        Some(Self { first, changes: u64::from(count), durable_before: read_mark(changes).unwrap_or(first) })
    }
}

/// Reads what [`mark`] put in front of a batch.
fn read_mark(changes: &[u8]) -> Option<u64> {
    let key = keys::first_not_durable();
    // Both lengths are below 128, so each is one byte.
    let rest = changes.strip_prefix(&[PUT, u8::try_from(key.as_bytes().len()).ok()?])?;
    let value = rest.strip_prefix(key.as_bytes())?.strip_prefix(&[8])?;
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

/// Follows the sequence numbers through all logs.
#[derive(Default)]
struct Judge {
    /// The number that comes next; nobody knows before the first batch.
    next: Option<u64>,
    /// Numbers that are missing: the first, the one behind the last, and the log.
    gaps: Vec<(u64, u64, PathBuf)>,
    holes: Vec<Hole>,
}

impl Judge {
    fn see(&mut self, batch: Batch, log: &Path, follows_damage: bool) {
        // What was cut off at an earlier start is written again under the same numbers.
        self.gaps.retain(|(first, ..)| batch.first > *first);
        match self.next {
            Some(next) if batch.first > next => self.gaps.push((next, batch.first, log.to_owned())),
            // Where the oldest log begins is not known, but that something stood there is.
            None if follows_damage => self.gaps.push((batch.first.saturating_sub(1), batch.first, log.to_owned())),
            _ => {}
        }
        self.next = Some(batch.first + batch.changes);
        let holes = &mut self.holes;
        self.gaps.retain(|(first, end, log)| {
            let was_durable = *first < batch.durable_before;
            if was_durable {
                holes.push(Hole { log: log.clone(), changes: end - first });
            }
            !was_durable
        });
    }
}

/// The logs in the order in which they were written.
fn logs(meta: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(meta) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (number, path.extension().and_then(|extension| extension.to_str())) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads all logs of a database that is not open; returns what is missing in their middle.
pub(super) fn holes(meta: &Path) -> io::Result<Vec<Hole>> {
    let mut judge = Judge::default();
    for path in logs(meta)? {
        let mut file = match File::open(&path) {
            // Another process has the database open, as the engine is going to find out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        each_batch(&mut file, |batch, _, follows_damage| {
            judge.see(batch, &path, follows_damage);
            Ok(())
        })?;
    }
    Ok(judge.holes)
}

/// Calls `visit` with every batch that can be read, its bytes, and whether something before it can't; returns whether
/// anything can't.
fn each_batch(file: &mut File, mut visit: impl FnMut(Batch, &[u8], bool) -> io::Result<()>) -> io::Result<bool> {
    let mut strange = false;
    let damaged = reader::each_record(file, |record, follows_damage| match Batch::read(record) {
        Some(batch) => visit(batch, record, follows_damage || strange),
        None => {
            strange = true;
            Ok(())
        }
    })?;
    Ok(damaged || strange)
}

#[cfg(test)]
mod tests;
