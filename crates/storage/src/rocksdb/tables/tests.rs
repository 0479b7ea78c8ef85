use std::path::Path;

use rocksdb::{BlockBasedOptions, Options, WaitForCompactOptions, WriteBatch};

use super::super::metadata::CONTENT;
use super::super::options::{Memory, open_database};
use super::*;

const ROWS: u32 = 20_000;

/// Small files, so that there are several, laid out as before.
fn as_before(options: &mut Options) {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    small_files(options);
}

fn small_files(options: &mut Options) {
    options.set_target_file_size_base(1 << 20);
    options.set_max_bytes_for_level_base(1 << 20);
}

fn key(number: u32) -> Vec<u8> {
    format!("tdocker-local2\0team/app\0build-{number:08}\0").into_bytes()
}

fn fill(db: &DB, rows: std::ops::Range<u32>) {
    let content = db.cf_handle(CONTENT).unwrap();
    for number in rows {
        let mut batch = WriteBatch::default();
        batch.put(key(number), [b'r'; 200]);
        batch.put_cf(content, key(number), [b'c'; 100]);
        db.write(batch).unwrap();
    }
    db.flush().unwrap();
    db.flush_cf(content).unwrap();
    db.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
}

/// A store that an earlier version has left.
fn leave_old(path: &Path) {
    let db = open_database(path, Memory::default(), as_before).unwrap();
    fill(&db, 0..ROWS);
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for family in [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, CONTENT] {
        db.compact_range_cf_opt::<&[u8], &[u8]>(db.cf_handle(family).unwrap(), None, None, &options);
    }
    assert!(numbers(&db).len() >= 4);
}

fn reopen(path: &Path) -> Tables {
    let db = open_database(path, Memory::default(), small_files).unwrap();
    note_old(&db).unwrap();
    Tables::new(Arc::new(db))
}

fn numbers(db: &DB) -> Vec<u64> {
    let mut numbers: Vec<u64> = tables(db).unwrap().iter().map(|table| table.number).collect();
    numbers.sort_unstable();
    numbers
}

fn rows(db: &DB) -> (usize, usize) {
    let content = db.cf_handle(CONTENT).unwrap();
    let start = || IteratorMode::From(b"t", Direction::Forward);
    (db.iterator(start()).count(), db.iterator_cf(content, start()).count())
}

#[test]
fn what_an_earlier_version_wrote_is_rewritten_once() {
    let directory = tempfile::tempdir().unwrap();
    leave_old(directory.path());
    let tables = reopen(directory.path());
    let before = numbers(&tables.db);
    assert!(tables.rewrite(|_| Duration::ZERO).unwrap() > 0);
    let after = numbers(&tables.db);
    assert!(after.iter().all(|number| !before.contains(number)), "{before:?} became {after:?}");
    assert_eq!(rows(&tables.db), (ROWS as usize, ROWS as usize));
    drop(tables);
    let tables = reopen(directory.path());
    assert_eq!(tables.rewrite_old().unwrap(), 0);
    assert!(after.iter().all(|number| numbers(&tables.db).contains(number)));
}

#[test]
fn rewriting_goes_on_where_it_was_stopped_and_leaves_what_is_new() {
    let directory = tempfile::tempdir().unwrap();
    leave_old(directory.path());
    let tables = reopen(directory.path());
    let before = numbers(&tables.db);
    let stopped = tables.clone();
    tables
        .rewrite(|_| {
            stopped.stop.lock().is_told = true;
            Duration::from_secs(3600)
        })
        .unwrap();
    let halfway = numbers(&tables.db);
    let (old, new): (Vec<u64>, Vec<u64>) = halfway.iter().partition(|number| before.contains(number));
    assert!(!old.is_empty() && !new.is_empty(), "{before:?} became {halfway:?}");
    drop((tables, stopped));

    let tables = reopen(directory.path());
    assert!(tables.rewrite(|_| Duration::ZERO).unwrap() > 0);
    let after = numbers(&tables.db);
    assert!(after.iter().all(|number| !before.contains(number)), "{halfway:?} became {after:?}");
    assert!(new.iter().all(|number| after.contains(number)), "{halfway:?} became {after:?}");
    assert_eq!(Note::read(&tables.db).unwrap(), Some(Note { layout: LAYOUT, old: 0 }));
}

#[test]
fn a_new_store_has_nothing_to_rewrite() {
    let directory = tempfile::tempdir().unwrap();
    let tables = reopen(directory.path());
    fill(&tables.db, 0..1000);
    let before = numbers(&tables.db);
    assert_eq!((tables.rewrite_old().unwrap(), numbers(&tables.db)), (0, before));
}

#[test]
fn stopping_ends_the_rest_between_two_files() {
    let directory = tempfile::tempdir().unwrap();
    leave_old(directory.path());
    let tables = reopen(directory.path());
    let (resting, resumed) = std::sync::mpsc::channel();
    let working = tables.clone();
    let thread = std::thread::spawn(move || {
        working.rewrite(|_| {
            resting.send(()).unwrap();
            Duration::from_secs(3600)
        })
    });
    resumed.recv().unwrap();
    tables.stop();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_damaged_file_is_left_alone_and_the_store_goes_on_taking_writes() {
    let directory = tempfile::tempdir().unwrap();
    leave_old(directory.path());
    let largest = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();

    let tables = reopen(directory.path());
    tables.rewrite(|_| Duration::ZERO).unwrap();
    let number: u64 = largest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(numbers(&tables.db).contains(&number));
    assert!(Note::read(&tables.db).unwrap().unwrap().old >= number);
    tables.db.put(b"x", b"y").unwrap();
    tables.db.flush().unwrap();
}
