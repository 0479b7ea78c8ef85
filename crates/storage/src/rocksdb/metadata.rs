//! The metadata store on RocksDB.
//!
//! Reads go straight to the database. Writes go through one committer thread: it takes every batch that is waiting,
//! checks each against the database and against the batches before it, and writes all that passed with one synced
//! write. That is the group commit and the compare-and-set in one place, without a lock.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use tokio::sync::{mpsc, oneshot};

use super::options::{Memory, open_database};
use super::space::Space;
use super::tables::note_old;
use super::walk::walk;
use super::{log, private};
use crate::keys::{self, Key, Prefix};
use crate::metadata::{Batch, Durability, MetadataStore, Walked};
use crate::{Error, Result};

/// The format of keys and records that this build reads and writes.
const FORMAT: u32 = 1;

/// Batches that may wait for the committer before their callers do.
const QUEUE_BATCHES_MAX: usize = 1024;

/// Batches that share one synced write.
const GROUP_BATCHES_MAX: usize = 256;

/// Bytes after which a group is written even if more batches wait.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The column family of content; records are in the default one.
pub(super) const CONTENT: &str = "content";

/// What RocksDB says when there is no space left, and says to every write until it has found some.
const OUT_OF_SPACE: &str = "No space left on device";

/// Entries that are read ahead of the caller's limit, as a sanity bound on one scan.
const SCAN_ENTRIES_MAX: usize = 10_000;

pub(super) struct RocksMetadata {
    db: Arc<DB>,
    queue: Option<mpsc::Sender<Request>>,
    committer: Option<JoinHandle<()>>,
    space: Arc<Space>,
}

struct Request {
    batch: Batch,
    reply: oneshot::Sender<Result<()>>,
}

impl RocksMetadata {
    /// Opens the database and returns it with the number of this run, which no earlier run had.
    ///
    /// A log with a hole in it is refused before anything is touched, unless it was salvaged.
    pub(super) fn open(path: &Path, memory: Memory, space: Arc<Space>, is_salvaged: bool) -> Result<(Self, u32)> {
        let failed = |error| Error::Engine(format!("{}: {error}", path.display()));
        private::create_directories(path).map_err(failed)?;
        let holes = if is_salvaged { Vec::new() } else { log::holes(path).map_err(failed)? };
        if let Some(hole) = holes.first() {
            return Err(Error::LogDamaged { log: hole.log.clone(), changes: holes.iter().map(|hole| hole.changes).sum() });
        }
        let db = Arc::new(open_database(path, memory, |_| {})?);
        let run = begin_run(&db)?;
        note_old(&db)?;
        let (queue, requests) = mpsc::channel(QUEUE_BATCHES_MAX);
        let (for_thread, its_space) = (Arc::clone(&db), Arc::clone(&space));
        let committer = std::thread::Builder::new()
            .name("berth-committer".into())
            .spawn(move || commit_forever(&for_thread, &its_space, requests))
            .map_err(|error| Error::Engine(format!("committer thread: {error}")))?;
        Ok((Self { db, queue: Some(queue), committer: Some(committer), space }, run))
    }

    /// The database, for those who work on its files.
    pub(super) fn database(&self) -> Arc<DB> {
        Arc::clone(&self.db)
    }
}

/// Waits until every queued batch is written, then makes the deferred ones durable too.
impl Drop for RocksMetadata {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
        let (key, value) = log::mark(self.db.latest_sequence_number() + 1);
        // A record behind the last one: without it, damage to that one would look like the torn end of a crash.
        let closed = self.db.flush_wal(true).and_then(|()| self.db.put_opt(key.as_bytes(), value, &synced(true)));
        if let Err(error) = closed {
            tracing::error!(%error, "the write-ahead log could not be synced at shutdown");
        }
    }
}

#[async_trait]
impl MetadataStore for RocksMetadata {
    // Reads run on the caller's thread: a cached get takes microseconds, less than handing it to another thread would.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>> {
        get(&self.db, key)
    }

    async fn multi_get(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>> {
        keys.iter().map(|key| get(&self.db, key)).collect()
    }

    async fn scan(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Bytes)>> {
        let (start, options) = range(prefix, after);
        let family = family_of(&self.db, &Key::from_engine(prefix.as_bytes()))?;
        let mut found = Vec::with_capacity(limit.min(SCAN_ENTRIES_MAX));
        for entry in self.db.iterator_cf_opt(family, options, IteratorMode::From(start, Direction::Forward)) {
            if found.len() >= limit.min(SCAN_ENTRIES_MAX) {
                break;
            }
            let (key, value) = entry?;
            if after.is_none_or(|after| *key > *after.as_bytes()) {
                found.push((Key::from_engine(&key), Bytes::from(value)));
            }
        }
        Ok(found)
    }

    async fn scan_keys(&self, prefix: &Prefix, after: Option<&Key>, limit: usize) -> Result<Vec<Key>> {
        let (start, options) = range(prefix, after);
        let family = family_of(&self.db, &Key::from_engine(prefix.as_bytes()))?;
        let mut found = Vec::with_capacity(limit.min(SCAN_ENTRIES_MAX));
        let mut entries = self.db.raw_iterator_cf_opt(family, options);
        entries.seek(start);
        while let Some(key) = entries.key().filter(|_| found.len() < limit.min(SCAN_ENTRIES_MAX)) {
            if after.is_none_or(|after| *key > *after.as_bytes()) {
                found.push(Key::from_engine(key));
            }
            entries.next();
        }
        entries.status()?;
        Ok(found)
    }

    async fn walk(&self, prefix: &Prefix, from: Option<&Key>, limit: usize) -> Result<Walked> {
        walk(&self.db, prefix, from, limit.min(SCAN_ENTRIES_MAX))
    }

    fn is_full(&self) -> bool {
        self.space.is_full()
    }

    async fn commit(&self, batch: Batch) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(Request { batch, reply }).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// Where a scan begins, and how far it may go.
fn range<'a>(prefix: &'a Prefix, after: Option<&'a Key>) -> (&'a [u8], ReadOptions) {
    let start = after.map_or(prefix.as_bytes(), |key| key.as_bytes().max(prefix.as_bytes()));
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix.as_bytes()));
    // The lower bound moves behind what was already seen; the upper bound stays the end of the prefix.
    options.set_iterate_lower_bound(start);
    (start, options)
}

fn closed() -> Error {
    Error::Engine("the store is closed".into())
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Damaged(error.to_string()),
            // The kind does not tell it from other failures of the disk; the text is the engine's own, not the system's.
            rocksdb::ErrorKind::IOError if error.as_ref().contains(OUT_OF_SPACE) => Self::Full,
            _ => Self::Engine(error.to_string()),
        }
    }
}

pub(super) fn family_of<'db>(db: &'db DB, key: &Key) -> Result<&'db ColumnFamily> {
    let name = if key.holds_content() { CONTENT } else { rocksdb::DEFAULT_COLUMN_FAMILY_NAME };
    db.cf_handle(name).ok_or_else(|| Error::Engine(format!("column family {name} is missing")))
}

fn get(db: &DB, key: &Key) -> Result<Option<Bytes>> {
    Ok(db.get_cf(family_of(db, key)?, key.as_bytes())?.map(Bytes::from))
}

/// Checks the format, or records it in a new store, and counts the run up.
fn begin_run(db: &DB) -> Result<u32> {
    let number = |key: &Key| -> Result<Option<u32>> {
        let Some(value) = get(db, key)? else { return Ok(None) };
        let bytes = value.as_ref().try_into().map_err(|_| Error::Damaged(key.to_string()))?;
        Ok(Some(u32::from_be_bytes(bytes)))
    };
    match number(&keys::format())? {
        Some(found) if found > FORMAT => return Err(Error::NewerFormat { found, known: FORMAT }),
        _ => {}
    }
    let run = number(&keys::run())?.unwrap_or(0).checked_add(1).ok_or_else(|| Error::Engine("run number exhausted".into()))?;
    let mut batch = WriteBatch::default();
    batch.put(keys::format().as_bytes(), FORMAT.to_be_bytes());
    batch.put(keys::run().as_bytes(), run.to_be_bytes());
    db.write_opt(batch, &synced(true))?;
    Ok(run)
}

fn synced(sync: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(sync);
    options
}

/// Runs until every sender is gone.
fn commit_forever(db: &DB, space: &Space, mut requests: mpsc::Receiver<Request>) {
    // The first change that is not durable yet, if there is one.
    let mut first_not_durable = None;
    while let Some(first) = requests.blocking_recv() {
        let mut group = Group::new(db, space.tend(), first_not_durable);
        group.add(first);
        while !group.is_full() {
            match requests.try_recv() {
                Ok(request) => group.add(request),
                Err(_) => break,
            }
        }
        first_not_durable = group.write(first_not_durable);
    }
}

/// Batches that share one write. Later ones see what earlier ones will have done.
struct Group<'db> {
    db: &'db DB,
    write: WriteBatch,
    sync: bool,
    is_full: bool,
    pending: HashMap<Key, Option<Bytes>>,
    accepted: Vec<oneshot::Sender<Result<()>>>,
    refused: Vec<(oneshot::Sender<Result<()>>, Error)>,
}

impl<'db> Group<'db> {
    fn new(db: &'db DB, is_full: bool, first_not_durable: Option<u64>) -> Self {
        let mut write = WriteBatch::default();
        if let Some(first) = first_not_durable {
            let (key, value) = log::mark(first);
            write.put(key.as_bytes(), value);
        }
        Self { db, write, sync: false, is_full, pending: HashMap::new(), accepted: Vec::new(), refused: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.accepted.len() + self.refused.len() >= GROUP_BATCHES_MAX || self.write.size_in_bytes() >= GROUP_BYTES_MAX
    }

    /// Takes the batch in, or notes why not.
    ///
    /// A caller that lost a race hears of it only after the write: sooner, it would read the state that it lost
    /// against as if nothing had happened, lose again, and keep this group from ever being written.
    fn add(&mut self, Request { batch, reply }: Request) {
        match self.stage(batch) {
            Ok(()) => self.accepted.push(reply),
            Err(error) => self.refused.push((reply, error)),
        }
    }

    fn stage(&mut self, batch: Batch) -> Result<()> {
        if self.is_full && !batch.frees && !batch.put.is_empty() {
            return Err(Error::Full);
        }
        for (key, expected) in &batch.expect {
            let holds = match self.pending.get(key) {
                Some(pending) => pending == expected,
                None => get(self.db, key)? == *expected,
            };
            if !holds {
                return Err(Error::Conflict);
            }
        }
        for key in &batch.expect_there {
            let is_there = match self.pending.get(key) {
                Some(pending) => pending.is_some(),
                None => self.db.get_pinned_cf(family_of(self.db, key)?, key.as_bytes())?.is_some(),
            };
            if !is_there {
                return Err(Error::Conflict);
            }
        }
        // Resolve every family first, so that nothing can fail half way through.
        let records = family_of(self.db, &keys::format())?;
        let content = self.db.cf_handle(CONTENT).ok_or_else(closed)?;
        let family = |key: &Key| if key.holds_content() { content } else { records };
        for key in batch.delete {
            self.write.delete_cf(family(&key), key.as_bytes());
            self.pending.insert(key, None);
        }
        for (key, value) in batch.put {
            self.write.put_cf(family(&key), key.as_bytes(), &value);
            self.pending.insert(key, Some(value));
        }
        self.sync |= batch.durability == Durability::Synced;
        Ok(())
    }

    /// Returns the first change that is not durable afterwards, if there is one; `before` was that until now.
    fn write(self, before: Option<u64>) -> Option<u64> {
        let mut after = before;
        // Nobody may be left to hear an answer: callers can go away, and their batches are written all the same.
        if !self.accepted.is_empty() {
            let first = self.db.latest_sequence_number() + 1;
            let outcome = self.db.write_opt(self.write, &synced(self.sync));
            after = match outcome {
                Ok(()) if self.sync => None,
                _ => before.or(Some(first)),
            };
            for reply in self.accepted {
                let _ = reply.send(outcome.clone().map_err(Error::from));
            }
        }
        for (reply, error) in self.refused {
            let _ = reply.send(Err(error));
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};

    use super::*;

    fn open(path: &Path) -> Result<(RocksMetadata, u32)> {
        RocksMetadata::open(path, Memory::default(), Arc::new(Space::open(path).unwrap()), false)
    }

    #[test]
    fn a_newer_format_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path()).unwrap());
        let db = open_database(directory.path(), Memory::default(), |_| {}).unwrap();
        db.put(keys::format().as_bytes(), (FORMAT + 1).to_be_bytes()).unwrap();
        drop(db);
        let refused = open(directory.path()).err();
        assert!(matches!(refused, Some(Error::NewerFormat { found, known }) if found == FORMAT + 1 && known == FORMAT));
    }

    #[test]
    fn every_run_has_its_own_number() {
        let directory = tempfile::tempdir().unwrap();
        let runs: Vec<u32> = (0..3).map(|_| open(directory.path()).unwrap().1).collect();
        assert_eq!(runs, [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_walk_over_everything_leaves_the_cache_to_those_who_come_back() {
        const ROWS: u32 = 200_000;
        const HOT: u32 = 500;
        let directory = tempfile::tempdir().unwrap();
        let (memory, space) = (Memory::mib(Memory::MIB_MIN).unwrap(), Arc::new(Space::open(directory.path()).unwrap()));
        let store = RocksMetadata::open(directory.path(), memory, space, false).unwrap().0;
        let key = |number: u32| Key::from_cursor(format!("tdocker-local2\0team/app\0build-{number:08}\0").as_bytes());
        for first in (0..ROWS).step_by(1000) {
            let mut batch = WriteBatch::default();
            (first..first + 1000).for_each(|number| batch.put(key(number).as_bytes(), [b'v'; 200]));
            store.db.write(batch).unwrap();
        }
        store.db.flush().unwrap();
        store.db.compact_range::<&[u8], &[u8]>(None, None);
        let hot = async || {
            set_perf_stats(PerfStatsLevel::EnableCount);
            let mut context = PerfContext::default();
            context.reset();
            for number in 0..HOT {
                assert!(store.get(&key(number * (ROWS / HOT))).await.unwrap().is_some());
            }
            set_perf_stats(PerfStatsLevel::Disable);
            context.metric(PerfMetric::BlockReadCount)
        };
        assert!(hot().await >= u64::from(HOT), "it was in the cache already");
        assert_eq!(hot().await, 0);
        let (prefix, mut after, mut walked) = (keys::whole_family(b't'), None, 0);
        loop {
            let rows = store.scan(&prefix, after.as_ref(), 1000).await.unwrap();
            walked += rows.len();
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
        }
        assert_eq!(walked, ROWS as usize);
        let read_again = hot().await;
        assert!(read_again <= u64::from(HOT / 10), "{read_again} blocks had to be read again");
    }

    #[test]
    fn a_second_process_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).unwrap();
        assert!(open(directory.path()).is_err());
        drop(first);
    }
}
