//! What a read costs, counted in blocks and steps: the times of a busy machine say little.

use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{Direction, IteratorMode, ReadOptions, WaitForCompactOptions, WriteBatch};

use super::*;

/// Rows whose index and filter, whole, would be several times what a shard of the cache holds.
const ROWS: u32 = 600_000;

fn memory() -> Memory {
    Memory::mib(Memory::MIB_MIN).unwrap()
}

/// A key as long as that of a tag, in an order that is not that of the numbers.
fn key(number: u32) -> Vec<u8> {
    format!("tdocker-local2\0team/application-{:08x}\0build-{number:08}\0", number.wrapping_mul(2_654_435_761)).into_bytes()
}

fn fill(db: &DB, rows: std::ops::Range<u32>, value: &[u8]) {
    for first in rows.clone().step_by(1000) {
        let mut batch = WriteBatch::default();
        for number in first..(first + 1000).min(rows.end) {
            batch.put(key(number), value);
        }
        db.write(batch).unwrap();
    }
}

fn settle(db: &DB) {
    db.flush().unwrap();
    db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
}

/// What the counter says after the work, from zero.
fn counted<T>(metric: PerfMetric, work: impl FnOnce() -> T) -> (u64, T) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    let outcome = work();
    let count = context.metric(metric);
    set_perf_stats(PerfStatsLevel::Disable);
    (count, outcome)
}

#[test]
fn a_point_read_fetches_kilobytes_however_large_the_tables_are() {
    let directory = tempfile::tempdir().unwrap();
    let db = open_database(directory.path(), memory(), |options| options.set_target_file_size_base(1 << 30)).unwrap();
    fill(&db, 0..ROWS, &[b'v'; 100]);
    settle(&db);
    db.compact_range::<&[u8], &[u8]>(None, None);
    assert_eq!(db.live_files().unwrap().len(), 1);
    const READS: u32 = 500;
    // Spread over all of it, so that hardly anything is in the cache already.
    let there = |n: u32| n * (ROWS / READS);
    let (present, found) = counted(PerfMetric::BlockReadByte, || (0..READS).filter(|n| db.get(key(there(*n))).unwrap().is_some()).count());
    assert_eq!(found, READS as usize);
    assert!(present / u64::from(READS) <= 24 << 10, "{present} bytes were fetched by {READS} reads");
    let (absent, found) =
        counted(PerfMetric::BlockReadByte, || (0..READS).filter(|n| db.get(key(ROWS + there(*n))).unwrap().is_some()).count());
    assert_eq!(found, 0);
    assert!(absent / u64::from(READS) <= 16 << 10, "{absent} bytes were fetched by {READS} reads in vain");
}

#[test]
fn what_a_scan_has_to_step_over_is_compacted_away() {
    const DELETED: u32 = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let db = open_database(directory.path(), Memory::default(), |_| {}).unwrap();
    fill(&db, 0..DELETED, b"v");
    settle(&db);
    for number in 0..DELETED {
        db.delete(key(number)).unwrap();
    }
    let scan = || {
        let mut options = ReadOptions::default();
        options.set_iterate_range(rocksdb::PrefixRange(b"t".as_slice()));
        db.iterator_opt(IteratorMode::From(b"t", Direction::Forward), options).count()
    };
    let (stepped, left) = counted(PerfMetric::InternalDeleteSkippedCount, scan);
    assert!(
        stepped > u64::from(DELETIONS_IN_MEMORY_MAX) && left == 0,
        "the scan found {left} and stepped over {stepped}: there is nothing to test"
    );
    // Others write something, as somebody always does.
    for number in 0..3 {
        db.put([b'x', number], b"v").unwrap();
    }
    db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
    let (stepped, left) = counted(PerfMetric::InternalDeleteSkippedCount, scan);
    assert!(stepped <= 2 * u64::from(DELETIONS_IN_MEMORY_MAX) && left == 0, "the scan stepped over {stepped}");
}

#[test]
fn memory_is_what_was_asked_for_and_no_shard_is_too_small_for_a_large_row() {
    for (mib, shards) in [(16, 2), (96, 8), (512, 64), (8192, 64)] {
        let memory = Memory::mib(mib).unwrap();
        assert_eq!(1 << shard_bits(memory), shards, "{mib} MiB");
        assert!(memory.0 / shards >= crate::SMALL_BLOB_BYTES_MAX * 64);
    }
    assert_eq!([Memory::mib(15), Memory::mib(Memory::MIB_MAX + 1)], [None, None]);
}
