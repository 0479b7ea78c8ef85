//! Real logs, damaged at many places.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_names::{ImageName, RepositoryKey, Tag};
use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::rocksdb::metadata::RocksMetadata;
use crate::rocksdb::options::Memory;
use crate::rocksdb::space::Space;
use crate::{Batch, Error, Key, MetadataStore, Result};

/// Batches in a log.
const BATCHES: u64 = 60;

/// Places that are damaged, one after the other.
const PLACES: u64 = 240;

fn number(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn key(number: u64) -> Key {
    let (repository, image): (RepositoryKey, ImageName) = ("dev".parse().unwrap(), "app".parse().unwrap());
    keys::tag(&repository, &image, &format!("t{number:04}").parse::<Tag>().unwrap())
}

fn open(meta: &Path, is_salvaged: bool) -> Result<RocksMetadata> {
    let space = Arc::new(Space::open(meta.parent().unwrap()).unwrap());
    RocksMetadata::open(meta, Memory::default(), space, is_salvaged).map(|(store, _)| store)
}

/// Commits a batch of one row; small ones, and such as go over several blocks.
async fn commit(store: &RocksMetadata, number: u64, batch: Batch) {
    let mut batch = batch;
    let length = if number.is_multiple_of(7) { 70_000 } else { 50 + number as usize * 40 };
    batch.put(key(number), Bytes::from(vec![number as u8 + 1; length]));
    store.commit(batch).await.unwrap();
}

/// Every third batch is not synced by itself.
async fn fill(store: &RocksMetadata) {
    for number in 0..BATCHES {
        let is_deferred = number % 3 == 1 && number < BATCHES - 3;
        commit(store, number, if is_deferred { Batch::deferred() } else { Batch::new() }).await;
    }
}

/// Which batches can be read.
async fn present(store: &RocksMetadata) -> Vec<u64> {
    let mut found = Vec::new();
    for number in 0..BATCHES {
        if store.get(&key(number)).await.unwrap().is_some() {
            found.push(number);
        }
    }
    found
}

/// The files of a database, as they are at this moment.
fn snapshot(meta: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(meta).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

fn restore(files: &BTreeMap<PathBuf, Vec<u8>>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let meta = directory.path().join("meta");
    fs::create_dir(&meta).unwrap();
    for (name, bytes) in files {
        fs::write(meta.join(name), bytes).unwrap();
    }
    (directory, meta)
}

/// The log that has the batches, and how long it is.
fn log_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> (PathBuf, usize) {
    let logs = files.iter().filter(|(name, _)| name.extension().is_some_and(|extension| extension == "log"));
    logs.map(|(name, bytes)| (name.clone(), bytes.len())).max_by_key(|(_, length)| *length).unwrap()
}

/// A filled database's files after it was killed or stopped.
async fn filled(is_stopped: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let meta = directory.path().join("meta");
    let store = open(&meta, false).unwrap();
    fill(&store).await;
    if is_stopped {
        drop(store);
        return snapshot(&meta);
    }
    snapshot(&meta)
}

/// Flips bits one after the other; `may_lose` says which batches may be missing without a word.
async fn flip(files: &BTreeMap<PathBuf, Vec<u8>>, may_lose: &[u64]) {
    let (log, length) = log_of(files);
    let mut random = 0x2545_f491_4f6c_dd1d;
    let (mut refused, mut salvaged_all_but_one) = (0, 0);
    for place in 0..PLACES {
        // All over the log, its very beginning and end too.
        let at = if place < 20 { place as usize } else { number(&mut random) as usize % length };
        let bit = number(&mut random) % 8;
        let mut damaged = files.clone();
        damaged.get_mut(&log).unwrap()[at] ^= 1 << bit;
        let (directory, meta) = restore(&damaged);
        match open(&meta, false) {
            Ok(store) => {
                let missing: Vec<u64> = (0..BATCHES).filter(|number| !may_lose.contains(number)).collect();
                let found = present(&store).await;
                assert!(missing.iter().all(|number| found.contains(number)), "bit {bit} of byte {at}: lost without a word: {found:?}");
            }
            Err(Error::LogDamaged { log: named, changes }) => {
                refused += 1;
                assert_eq!(named.file_name(), Some(log.as_os_str()));
                // Nothing was changed, so whoever looks again sees the same.
                assert!(matches!(open(&meta, false), Err(Error::LogDamaged { .. })));
                let salvaged = salvage(&meta, &directory.path().join("aside")).unwrap();
                assert_eq!(salvaged.changes_lost, changes);
                assert_eq!(fs::read(salvaged.kept.unwrap().join(&log)).unwrap(), damaged[&log]);
                let store = open(&meta, true).unwrap();
                let lost = BATCHES - present(&store).await.len() as u64;
                // The first record is the store's own: its format, and the number of the run.
                let least = u64::from(at >= 100);
                assert!((least..=changes).contains(&lost), "bit {bit} of byte {at}: {lost} batches lost, {changes} changes counted");
                salvaged_all_but_one += u64::from(lost == 1);
                // It is a store like any other from now on.
                commit(&store, 999, Batch::new()).await;
                drop(store);
                drop(open(&meta, false).unwrap());
            }
            Err(error) => panic!("bit {bit} of byte {at}: {error}"),
        }
    }
    assert!(refused > PLACES / 2, "{refused} of {PLACES}");
    assert!(salvaged_all_but_one > refused / 4, "{salvaged_all_but_one} of {refused} lost one batch only");
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_of_a_killed_process_is_found_but_in_its_last_record() {
    flip(&filled(false).await, &[BATCHES - 1]).await;
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_of_a_stopped_process_is_always_found() {
    flip(&filled(true).await, &[]).await;
}

#[tokio::test]
async fn a_torn_end_is_cut_off_and_no_damage() {
    let files = filled(false).await;
    let (log, length) = log_of(&files);
    let mut random = 0x9e37_79b9_7f4a_7c15;
    for place in 0..100 {
        let end = if place == 0 { 0 } else { number(&mut random) as usize % length };
        let mut torn = files.clone();
        torn.get_mut(&log).unwrap().truncate(end);
        let (_directory, meta) = restore(&torn);
        let store = open(&meta, false).unwrap_or_else(|error| panic!("torn at {end} of {length}: {error}"));
        let found = present(&store).await;
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "torn at {end}");
    }
}

#[tokio::test]
async fn what_was_not_synced_may_be_lost_in_any_part() {
    let directory = tempfile::tempdir().unwrap();
    let meta = directory.path().join("meta");
    let store = open(&meta, false).unwrap();
    for number in 0..10 {
        commit(&store, number, Batch::new()).await;
    }
    let synced = log_of(&snapshot(&meta)).1;
    for number in 10..20 {
        commit(&store, number, Batch::deferred()).await;
    }
    let files = snapshot(&meta);
    let (log, length) = log_of(&files);
    let mut random = 0x2545_f491_4f6c_dd1d;
    // Pages that never reached the disk are empty there, wherever they are among those that did.
    for _ in 0..60 {
        let start = synced + number(&mut random) as usize % (length - synced);
        let end = (start + 1 + number(&mut random) as usize % 4096).min(length);
        let mut cut = files.clone();
        cut.get_mut(&log).unwrap()[start..end].fill(0);
        let (_directory, meta) = restore(&cut);
        let store = open(&meta, false).unwrap_or_else(|error| panic!("{start}..{end}: {error}"));
        let found = present(&store).await;
        assert!((0..10).all(|number| found.contains(&number)), "{found:?}");
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
    }
    // But the next sync made it durable, and then it is missed.
    commit(&store, 20, Batch::new()).await;
    commit(&store, 21, Batch::new()).await;
    let mut lost = snapshot(&meta);
    lost.get_mut(&log).unwrap()[synced + 100..synced + 200].fill(0);
    let (_directory, meta) = restore(&lost);
    assert!(matches!(open(&meta, false), Err(Error::LogDamaged { .. })));
}

#[test]
fn records_come_back_out_of_the_format() {
    let records: Vec<Vec<u8>> = [0, 1, 100, 32_754, 32_761, 32_768, 100_000, 7].iter().map(|length| vec![*length as u8; *length]).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut writer = reader::Writer::new(File::create(&path).unwrap());
    for record in &records {
        writer.add(record).unwrap();
    }
    let mut read = Vec::new();
    let damaged = reader::each_record(&mut File::open(&path).unwrap(), |record, _| {
        read.push(record.to_vec());
        Ok(())
    });
    assert!(!damaged.unwrap());
    assert_eq!(read, records);
}

#[tokio::test]
async fn a_whole_log_is_left_as_it_is() {
    let (directory, meta) = restore(&filled(true).await);
    let before = snapshot(&meta);
    assert_eq!(salvage(&meta, &directory.path().join("aside")).unwrap(), Salvaged::default());
    assert!(!directory.path().join("aside").exists());
    assert_eq!(snapshot(&meta), before);
}
