//! How RocksDB is told to work.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options};

use super::metadata::CONTENT;
use crate::Result;

/// The write-ahead log is cut when it gets longer than this, in bytes: bounds the time that opening after a crash takes.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// Table files kept open at once.
const OPEN_FILES_MAX: i32 = 512;

/// Memory for metadata: cached blocks, and writes that are in no table file yet, half of it each, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(usize);

impl Default for Memory {
    fn default() -> Self {
        Self(32 << 20)
    }
}

/// Opens the database, with options of the caller's own for both column families.
pub(super) fn open_database(path: &Path, memory: Memory, tune: impl Fn(&mut Options)) -> Result<DB> {
    let (cache_bytes, write_bytes) = (memory.0 / 2, memory.0 / 2);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_db_write_buffer_size(write_bytes);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // A torn end is cut off. That nothing else is, is seen to before: `log.rs` says why the stricter modes won't do.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);

    let cache = Cache::new_lru_cache(cache_bytes);
    let family = |name: &str| {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_bloom_filter(10.0, false);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(write_bytes / 4);
        tune(&mut options);
        ColumnFamilyDescriptor::new(name, options)
    };
    let families = [family(rocksdb::DEFAULT_COLUMN_FAMILY_NAME), family(CONTENT)];
    Ok(DB::open_cf_descriptors(&options, path, families)?)
}
