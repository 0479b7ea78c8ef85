//! How RocksDB is told to work, chosen for ten million rows and some ten megabytes of memory.
//!
//! What must stay true:
//! - A point read fetches a few blocks of some kilobytes, however large the table files are. Index and filter of a file are
//!   cut into partitions for that; whole, they are megabytes each, and one that does not fit into its shard of the cache is
//!   read and checked again for every row.
//! - All of it stays within [`Memory`]: blocks, and writes that are in no table file yet.
//! - Deletions cost those who come after them little: what a scan would have to step over is compacted away.

use std::path::Path;
use std::thread::available_parallelism;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BlockBasedTablePinningTier, Cache, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, LogLevel, LruCacheOptions, Options, WriteBufferManager,
};

use super::metadata::CONTENT;
use crate::Result;

/// How table files are laid out. Whoever changes what is *in* them counts this up: older files are then rewritten once.
///
/// 1: whole indexes and filters. 2: partitioned ones.
pub(super) const LAYOUT: u32 = 2;

/// Data in one block, in bytes: what is fetched, checked and cached for one row.
const BLOCK_BYTES: usize = 4 << 10;

/// A partition of an index or a filter, in bytes.
const PARTITION_BYTES: usize = 4 << 10;

/// Bits of the filter for each key: of a hundred absent keys, one is looked for in vain.
const FILTER_BITS: f64 = 10.0;

/// A shard of the cache holds at least this, in bytes: the largest blob that is a row, and partitions by the thousand.
const SHARD_BYTES_MIN: usize = 8 << 20;

/// More shards than two to this power would not make the cache any faster.
const SHARD_BITS_MAX: i32 = 6;

/// Table files, in bytes. Small enough that one is rewritten within a second or two, large enough for
/// [`OPEN_FILES_MAX`] to reach a hundred million rows.
const TABLE_BYTES: u64 = 32 << 20;

/// The level below the newest files, in bytes: about as much as is merged into it at once.
const FIRST_LEVEL_BYTES: u64 = 64 << 20;

/// Table files kept open at once.
const OPEN_FILES_MAX: i32 = 512;

/// The write-ahead log is cut when it gets longer than this, in bytes: bounds the time that opening takes.
const WAL_BYTES_MAX: u64 = 32 << 20;

/// While a table file is written, the disk is told to start on every piece of so many bytes, so that the sync at its end
/// holds up no commit.
const TABLE_SYNC_BYTES: u64 = 1 << 20;

/// A file is compacted soon if among so many neighbouring rows…
const DELETIONS_WINDOW: usize = 4096;

/// …so many are deletions. A scan steps over them in a fraction of a millisecond.
const DELETIONS_MAX: usize = 2048;

/// …or if so large a part of the whole file is.
const DELETIONS_RATIO: f64 = 0.5;

/// Deletions that one step of a scan may have to pass over in memory, about a millisecond, before they are written to a file,
/// and so compacted. With fewer, deleting much would make many small files.
const DELETIONS_IN_MEMORY_MAX: u32 = 10_000;

/// Flushes and compactions at once, at most.
const JOBS_MAX: usize = 4;

/// Memory for metadata: cached blocks, and writes that are in no table file yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(usize);

impl Memory {
    /// The least that is of any use, in MiB.
    pub const MIB_MIN: usize = 16;

    /// The most that can be asked for, in MiB.
    pub const MIB_MAX: usize = 1 << 20;

    /// Enough for ten million rows, which is about a million tags: indexes and filters of all of them stay in memory. It
    /// is not taken before there is something to keep in it.
    pub const MIB_DEFAULT: usize = 96;

    /// So many MiB, from [`Self::MIB_MIN`] to [`Self::MIB_MAX`].
    pub fn mib(mib: usize) -> Option<Self> {
        (Self::MIB_MIN..=Self::MIB_MAX).contains(&mib).then_some(Self(mib << 20))
    }

    /// The part that writes may take before they are written to table files, over both column families, in bytes. What they
    /// don't take, blocks may.
    fn write_buffers(self) -> usize {
        (self.0 / 3).min(64 << 20)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self(Self::MIB_DEFAULT << 20)
    }
}

/// Opens the database, with options of the caller's own for both column families.
pub(super) fn open_database(path: &Path, memory: Memory, tune: impl Fn(&mut Options)) -> Result<DB> {
    let cache = block_cache(memory);
    let family = |name: &str, buffer: usize| {
        let mut options = family_options(&cache);
        options.set_write_buffer_size(buffer);
        tune(&mut options);
        ColumnFamilyDescriptor::new(name, options)
    };
    let buffers = memory.write_buffers();
    let families = [family(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, buffers / 2), family(CONTENT, buffers / 4)];
    let db = DB::open_cf_descriptors(&database_options(memory, &cache), path, families)?;
    for name in [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, CONTENT] {
        if let Some(family) = db.cf_handle(name) {
            // The only way there is to say it.
            db.set_options_cf(family, &[("memtable_op_scan_flush_trigger", &DELETIONS_IN_MEMORY_MAX.to_string())])?;
        }
    }
    Ok(db)
}

fn database_options(memory: Memory, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let jobs = available_parallelism().map_or(2, |cores| cores.get().clamp(2, JOBS_MAX));
    options.set_max_background_jobs(i32::try_from(jobs).unwrap_or(2));
    options.set_max_open_files(OPEN_FILES_MAX);
    // What writes take is taken from the cache: one number bounds both.
    let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(memory.write_buffers(), false, cache.clone());
    options.set_write_buffer_manager(&buffers);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_bytes_per_sync(TABLE_SYNC_BYTES);
    // A torn end is cut off. That nothing else is, is seen to before: `log.rs` says why the stricter modes won't do.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options
}

/// Half of it is kept for indexes and filters, which scans of rows can't push out.
fn block_cache(memory: Memory) -> Cache {
    let mut options = LruCacheOptions::default();
    options.set_capacity(memory.0);
    options.set_num_shard_bits(shard_bits(memory));
    Cache::new_lru_cache_opts(&options)
}

/// As many shards as there may be, as a power of two by its exponent.
fn shard_bits(memory: Memory) -> i32 {
    let shards = (memory.0 / SHARD_BYTES_MIN).max(1);
    i32::try_from(shards.ilog2()).map_or(SHARD_BITS_MAX, |bits| bits.min(SHARD_BITS_MAX))
}

/// Both families are read row by row, most of them small: the same blocks serve both. A larger block would make the index
/// smaller, and a manifest that is pulled would bring its neighbours along.
fn family_options(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache));
    options.set_compression_type(DBCompressionType::None);
    options.set_target_file_size_base(TABLE_BYTES);
    options.set_max_bytes_for_level_base(FIRST_LEVEL_BYTES);
    options.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, DELETIONS_MAX, DELETIONS_RATIO);
    options
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(PARTITION_BYTES);
    table.set_bloom_filter(FILTER_BITS, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    // The first step into every file is always in memory: some ten kilobytes each. The rest of what was just written is too.
    table.set_top_level_index_pinning_tier(BlockBasedTablePinningTier::All);
    table.set_partition_pinning_tier(BlockBasedTablePinningTier::FlushAndSimilar);
    table.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::FlushAndSimilar);
    table
}

#[cfg(test)]
mod tests;
