//! What is in the metadata of a backup, opened by itself.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, WriteBatch};

use super::super::files::{at, files_of};
use super::super::metadata::CONTENT;
use super::super::walk::walk;
use super::{BackupError, MetaFile};
use crate::blobs::DataId;
use crate::keys::{self, Key, Prefix};
use crate::metadata::Damage;
use crate::records::{Blob, Place, Record, Upload, WithBody};
use crate::{Error, Result};

/// Rows that are in memory at once.
const ROWS_PER_STEP: usize = 100;

/// Rows that are forgotten in one write.
const ROWS_PER_WRITE: usize = 1000;

/// Calls `visit` with every row that can be read; returns where rows can't be.
fn each_row<E: From<Error>>(
    db: &DB,
    prefix: &Prefix,
    mut visit: impl FnMut(Key, Bytes) -> std::result::Result<(), E>,
) -> std::result::Result<Vec<Damage>, E> {
    let (mut from, mut damaged) = (None, Vec::new());
    loop {
        let walked = walk(db, prefix, from.as_ref(), ROWS_PER_STEP)?;
        for (key, value) in walked.rows {
            visit(key, value)?;
        }
        damaged.extend(walked.damage);
        match walked.next {
            Some(next) => from = Some(next),
            None => return Ok(damaged),
        }
    }
}

/// Reads every row, and with it every block, whose checksums are compared; returns where rows can't be read.
pub(super) fn damage(db: &DB) -> Result<Vec<Damage>> {
    let mut found = Vec::new();
    for family in keys::FAMILIES {
        found.extend(each_row(db, &keys::whole_family(*family), |_, _| Ok::<_, Error>(()))?);
    }
    Ok(found)
}

/// Calls `visit` with everything that is in files, and how long it is, as far as that can be read.
pub(in crate::rocksdb) fn each_data(
    db: &DB,
    mut visit: impl FnMut(DataId, u64) -> std::result::Result<(), BackupError>,
) -> std::result::Result<(), BackupError> {
    each_row(db, &keys::blobs(), |key, value| {
        let blob = Blob::decode(&value).ok_or_else(|| Error::Damaged(key.to_string()))?;
        match blob.place {
            Place::Data(data) => visit(data, blob.size),
            Place::Small => Ok(()),
        }
    })
    .map(drop)
}

/// Removes the rows of open uploads.
pub(super) fn forget_uploads(db: &DB) -> Result<()> {
    let mut write = WriteBatch::default();
    let mut forget = |key: &Key| -> Result<()> {
        write.delete(key.as_bytes());
        if write.len() >= ROWS_PER_WRITE { Ok(db.write(std::mem::take(&mut write))?) } else { Ok(()) }
    };
    each_row(db, &keys::uploads(), |key, value| {
        if let Some(data) = WithBody::<Upload>::decode(&value).and_then(|upload| upload.record.data) {
            forget(&keys::data_owner(data))?;
        }
        forget(&key)
    })?;
    each_row(db, &keys::uploads_by_owner(), |key, _| forget(&key))?;
    Ok(db.write(write)?)
}

/// Brings everything into table files, so that the log is empty, and closes the database.
pub(in crate::rocksdb) fn close(db: DB) -> Result<()> {
    db.flush()?;
    if let Some(content) = db.cf_handle(CONTENT) {
        db.flush_cf(content)?;
    }
    db.flush_wal(true)?;
    db.cancel_all_background_work(true);
    Ok(())
}

/// Removes what RocksDB leaves for people to read, and makes the rest durable.
pub(super) fn settle_meta(meta: &Path) -> std::result::Result<Vec<MetaFile>, BackupError> {
    let mut kept = Vec::new();
    for (name, size) in at(meta, files_of(meta))? {
        let path = meta.join(&name);
        if name.starts_with("LOG") || name == "LOCK" {
            at(&path, std::fs::remove_file(&path))?;
        } else {
            at(&path, File::open(&path).and_then(|file| file.sync_all()))?;
            kept.push(MetaFile { name, size });
        }
    }
    Ok(kept)
}
