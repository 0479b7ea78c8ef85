//! Reading on behind what can't be read, for checks and backups.

use bytes::Bytes;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};

use super::metadata::family_of;
use crate::Result;
use crate::keys::{Key, Prefix};
use crate::metadata::{Damage, Walked};

/// How much is read at once, in bytes: whoever walks reads everything.
const READ_AHEAD_BYTES: usize = 1 << 20;

/// Bytes behind what two keys have in common to which the end of the damage is found. Keys are told apart by less.
const PRECISION_BYTES: usize = 48;

/// Up to `limit` rows from `from` on (default: from the first), until one can't be read.
pub(super) fn walk(db: &DB, prefix: &Prefix, from: Option<&Key>, limit: usize) -> Result<Walked> {
    let start = from.map_or(prefix.as_bytes(), |from| from.as_bytes().max(prefix.as_bytes()));
    let mut rows: Vec<(Key, Bytes)> = Vec::new();
    for row in iterate(db, prefix, start, READ_AHEAD_BYTES)? {
        match row {
            Ok((key, value)) => rows.push((Key::from_engine(&key), value.into())),
            Err(error) => {
                let behind = rows.last().map_or(start, |(key, _)| key.as_bytes());
                let end = Search { db, prefix }.first_readable(behind)?;
                return Ok(Walked { rows, next: end.clone(), damage: Some(Damage { end, what: error.to_string() }) });
            }
        }
        if rows.len() >= limit {
            let next = rows.last().map(|(key, _)| Key::from_engine(&[key.as_bytes(), &[0]].concat()));
            return Ok(Walked { rows, damage: None, next });
        }
    }
    Ok(Walked { rows, damage: None, next: None })
}

/// A key and a value, or why they can't be read.
type Row = std::result::Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>;

fn iterate<'db>(db: &'db DB, prefix: &Prefix, start: &[u8], read_ahead: usize) -> Result<impl Iterator<Item = Row> + use<'db>> {
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix.as_bytes()));
    options.set_iterate_lower_bound(start);
    options.fill_cache(false);
    options.set_readahead_size(read_ahead);
    let family = family_of(db, &Key::from_engine(prefix.as_bytes()))?;
    Ok(db.iterator_cf_opt(family, options, IteratorMode::From(start, Direction::Forward)))
}

/// Looks for the end of damage. The engine does not say where that is: all one can do is to begin at some place and see.
struct Search<'s> {
    db: &'s DB,
    prefix: &'s Prefix,
}

impl Search<'_> {
    /// The first row from `start` on, if there is one; `Err` if it can't be read.
    fn row_at(&self, start: &[u8]) -> Result<Option<Key>> {
        let mut rows = iterate(self.db, self.prefix, start, 0)?;
        Ok(rows.next().transpose()?.map(|(key, _)| Key::from_engine(&key)))
    }

    /// The first row behind `behind` that can be read, where the very next one can't.
    fn first_readable(&self, behind: &[u8]) -> Result<Option<Key>> {
        let mut damaged = behind.to_vec();
        // From the nearest neighbours outwards, so that no second damage is taken for a part of this one.
        for length in (self.prefix.as_bytes().len() + 1..=behind.len().max(self.prefix.as_bytes().len() + 1)).rev() {
            let mut place = behind.to_vec();
            place.resize(length, 0);
            let last = place[length - 1];
            for step in (0..8).map(|power| 1u8 << power).chain([u8::MAX]) {
                let Some(byte) = last.checked_add(step).or((step == u8::MAX && last < u8::MAX).then_some(u8::MAX)) else { continue };
                place[length - 1] = byte;
                if self.row_at(&place).is_ok() {
                    return self.narrow(damaged, place);
                }
                damaged.clone_from(&place);
            }
        }
        Ok(None)
    }

    /// The first readable row, between a place that is not and one that is.
    fn narrow(&self, mut damaged: Vec<u8>, mut readable: Vec<u8>) -> Result<Option<Key>> {
        let common = damaged.iter().zip(&readable).take_while(|(a, b)| a == b).count();
        damaged.resize(common + PRECISION_BYTES, 0);
        readable.resize(common + PRECISION_BYTES, 0);
        loop {
            let middle = halfway(&damaged, &readable);
            if middle <= damaged || middle >= readable {
                return self.row_at(&readable);
            }
            match self.row_at(&middle) {
                Ok(_) => readable = middle,
                Err(_) => damaged = middle,
            }
        }
    }
}

/// The number in the middle of two of the same length, the most significant byte first.
fn halfway(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut sum = vec![0; a.len() + 1];
    let mut carry = 0;
    for at in (0..a.len()).rev() {
        let digits = u16::from(a[at]) + u16::from(b[at]) + carry;
        (sum[at + 1], carry) = (digits.to_le_bytes()[0], digits >> 8);
    }
    sum[0] = carry.to_le_bytes()[0];
    // Halved, from the top down; the first byte is only the carry.
    let mut halves = Vec::with_capacity(a.len());
    for pair in sum.windows(2) {
        halves.push((pair[0] << 7) | (pair[1] >> 1));
    }
    halves
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::keys;
    use crate::rocksdb::options::{Memory, open_database};

    const ROWS: usize = 20_000;

    fn key(number: usize) -> Vec<u8> {
        format!("tdev\0team/app\0t{number:06}\0").into_bytes()
    }

    /// A database with one table file, and that file.
    fn filled(path: &Path) -> std::path::PathBuf {
        let db = open_database(path, Memory::default(), |options| options.set_disable_auto_compactions(true)).unwrap();
        for number in 0..ROWS {
            db.put(key(number), [number as u8; 60]).unwrap();
        }
        db.flush().unwrap();
        drop(db);
        let tables = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        tables
            .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
            .max_by_key(|path| path.metadata().unwrap().len())
            .unwrap()
    }

    #[test]
    fn damage_in_a_table_ends_a_step_and_costs_the_rows_of_its_block_only() {
        for damaged in [vec![0.3], vec![0.2, 0.6], vec![0.0], vec![0.1, 0.101, 0.5]] {
            let directory = tempfile::tempdir().unwrap();
            let table = filled(directory.path());
            let mut bytes = fs::read(&table).unwrap();
            for part in &damaged {
                let at = (bytes.len() as f64 * 0.8 * part) as usize + 100;
                bytes[at] ^= 1;
            }
            fs::write(&table, bytes).unwrap();
            let db = open_database(directory.path(), Memory::default(), |options| options.set_disable_auto_compactions(true)).unwrap();
            let (prefix, mut from, mut found, mut damages) = (keys::all_tags(), None, Vec::new(), Vec::new());
            loop {
                let walked = walk(&db, &prefix, from.as_ref(), 100).unwrap();
                found.extend(walked.rows.into_iter().map(|(key, _)| key.as_bytes().to_vec()));
                damages.extend(walked.damage);
                match walked.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            assert!((1..=damaged.len()).contains(&damages.len()), "{damaged:?}: {damages:?}");
            assert!(found.is_sorted() && found.windows(2).all(|pair| pair[0] != pair[1]));
            let lost = ROWS - found.len();
            // A block of 4 to 16 KiB has 40 to 200 such rows.
            assert!((1..=400 * damaged.len()).contains(&lost), "{damaged:?}: {lost} rows lost");
            assert_eq!(*found.last().unwrap(), key(ROWS - 1));
            assert!(damages.iter().all(|damage| damage.what.contains("checksum") && damage.end.is_some()), "{damages:?}");
        }
    }

    #[test]
    fn halfway_is_the_middle() {
        for (a, b, middle) in [
            ([0, 0], [0, 2], [0, 1]),
            ([0, 255], [1, 1], [1, 0]),
            ([255, 254], [255, 255], [255, 254]),
            ([1, 0], [2, 0], [1, 128]),
            ([200, 0], [201, 255], [200, 255]),
        ] {
            assert_eq!(halfway(&a, &b), middle, "{a:?} {b:?}");
        }
    }
}
