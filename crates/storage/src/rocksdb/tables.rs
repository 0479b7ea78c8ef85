//! Table files that an earlier version laid out otherwise are rewritten: once, in the background, one after the other.
//!
//! What must stay true:
//! - Which files are old is noted at the first start that finds them. What is written from then on is never rewritten, and
//!   whoever stops in the middle goes on with what is left.
//! - Rewriting takes a part of one core's time at most: after each file it rests for longer than it has worked.
//! - A file that can't be read is left alone. RocksDB refuses every write once a compaction has met damage.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, Direction, IteratorMode, ReadOptions, WriteOptions};

use super::options::LAYOUT;
use crate::{Error, Result, keys};

/// How many times as long as it has worked the rewriting rests.
const RESTS: u32 = 3;

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// How much of a file is read at once before it is rewritten, in bytes.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Rows after which somebody who reads a file looks whether to stop.
const ROWS_PER_LOOK: usize = 1024;

/// The table files of one open store.
#[derive(Clone)]
pub struct Tables {
    db: Arc<DB>,
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Stop {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    is_told: bool,
    is_working: bool,
}

impl Stop {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_told(&self) -> bool {
        self.lock().is_told
    }

    /// Rests; returns whether it was told to stop meanwhile.
    fn within(&self, rest: Duration) -> bool {
        let waited = self.told.wait_timeout_while(self.lock(), rest, |state| !state.is_told);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_told
    }
}

/// The store's note about its table files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Note {
    /// The layout of every file with a greater number than `old`.
    layout: u32,
    /// Files up to this number may have an older layout; 0 if none has.
    old: u64,
}

impl Note {
    fn read(db: &DB) -> Result<Option<Self>> {
        let key = keys::tables();
        let Some(value) = db.get(key.as_bytes())? else { return Ok(None) };
        let damaged = || Error::Damaged(key.to_string());
        let (layout, old) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
        let old = old.try_into().map_err(|_| damaged())?;
        Ok(Some(Self { layout: u32::from_be_bytes(*layout), old: u64::from_be_bytes(old) }))
    }

    fn write(self, db: &DB) -> Result<()> {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let value = [self.layout.to_be_bytes().as_slice(), &self.old.to_be_bytes()].concat();
        Ok(db.put_opt(keys::tables().as_bytes(), value, &synced)?)
    }
}

/// One table file.
#[derive(Clone, Debug)]
struct Table {
    number: u64,
    family: String,
    level: i32,
    bytes: usize,
    first: Vec<u8>,
    last: Vec<u8>,
}

fn tables(db: &DB) -> Result<Vec<Table>> {
    let table = |file: rocksdb::LiveFile| {
        let number = file.name.trim_start_matches('/').strip_suffix(".sst")?.parse().ok()?;
        let (first, last) = file.start_key.zip(file.end_key)?;
        Some(Table { number, family: file.column_family_name, level: file.level, bytes: file.size, first, last })
    };
    Ok(db.live_files()?.into_iter().filter_map(table).collect())
}

/// Notes which files are there from an earlier version. Called once by whoever opens a store, before anything else.
pub(super) fn note_old(db: &DB) -> Result<()> {
    match Note::read(db)? {
        // A newer version's files can be read; what it has noted is for it to carry through.
        Some(note) if note.layout >= LAYOUT => Ok(()),
        _ => Note { layout: LAYOUT, old: tables(db)?.iter().map(|table| table.number).max().unwrap_or(0) }.write(db),
    }
}

impl Tables {
    pub(super) fn new(db: Arc<DB>) -> Self {
        Self { db, stop: Arc::default() }
    }

    /// Rewrites what an earlier version laid out otherwise; returns how many bytes that were. Blocks until it is done or
    /// [stopped](Self::stop), and does nothing once it was done. The store goes on being used.
    ///
    /// # Errors
    /// Only if the store fails.
    pub fn rewrite_old(&self) -> Result<u64> {
        {
            let mut state = self.stop.lock();
            if state.is_told || state.is_working {
                return Ok(0);
            }
            state.is_working = true;
        }
        let outcome = self.rewrite(|worked| (worked * RESTS).min(REST_MAX));
        self.stop.lock().is_working = false;
        outcome
    }

    /// Ends the rewriting soon, within a file too. To be called when the store is no longer used: compactions stop with it.
    pub fn stop(&self) {
        let is_working = {
            let mut state = self.stop.lock();
            state.is_told = true;
            state.is_working
        };
        self.stop.told.notify_all();
        if is_working {
            self.db.cancel_all_background_work(false);
        }
    }

    fn rewrite(&self, rest: impl Fn(Duration) -> Duration) -> Result<u64> {
        let Some(note @ Note { layout: LAYOUT, old: 1.. }) = Note::read(&self.db)? else { return Ok(0) };
        tracing::info!("table files of an earlier version are rewritten in the background");
        let (mut tried, mut rewritten) = (HashSet::new(), 0);
        loop {
            let mut old = tables(&self.db)?;
            old.retain(|table| table.number <= note.old);
            if old.is_empty() {
                Note { old: 0, ..note }.write(&self.db)?;
                tracing::info!(bytes = rewritten, "table files of an earlier version were rewritten");
                return Ok(rewritten);
            }
            old.retain(|table| !tried.contains(&table.number));
            // The last level first: files there are narrow, so a step is short; what lies above them comes down with them.
            let Some(next) = old.into_iter().max_by_key(|table| table.level) else {
                tracing::warn!("some table files could not be rewritten; the next start tries again");
                return Ok(rewritten);
            };
            tried.insert(next.number);
            let begun = Instant::now();
            if self.can_be_read(&next)? {
                self.compact(&next)?;
                rewritten += next.bytes as u64;
            }
            if self.stop.is_told() || self.stop.within(rest(begun.elapsed())) {
                return Ok(rewritten);
            }
        }
    }

    /// Reads everything in the file's range once, which a compaction of it reads too.
    fn can_be_read(&self, table: &Table) -> Result<bool> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READ_AHEAD_BYTES);
        let start = IteratorMode::From(&table.first, Direction::Forward);
        for (count, row) in self.db.iterator_cf_opt(self.family(table)?, options, start).enumerate() {
            match row {
                Ok((key, _)) if *key > *table.last => break,
                Ok(_) if count % ROWS_PER_LOOK == 0 && self.stop.is_told() => return Ok(false),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "a table file can't be read, and so is not rewritten: run `berth-backend check`");
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn compact(&self, table: &Table) -> Result<()> {
        let mut options = CompactOptions::default();
        // Others go on meanwhile.
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db.compact_range_cf_opt(self.family(table)?, Some(&table.first), Some(&table.last), &options);
        Ok(())
    }

    fn family(&self, table: &Table) -> Result<&rocksdb::ColumnFamily> {
        self.db.cf_handle(&table.family).ok_or_else(|| Error::Engine(format!("column family {} is missing", table.family)))
    }
}

#[cfg(test)]
mod tests;
