//! What is in the metadata of a backup, opened by itself.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{DB, IteratorMode, ReadOptions, WriteBatch};

use super::super::files::{at, files_of};
use super::super::metadata::CONTENT;
use super::{BackupError, MetaFile};
use crate::blobs::DataId;
use crate::keys::{self, Key, Prefix};
use crate::records::{Blob, Place, Record, Upload, WithBody};
use crate::{Error, Result};

/// Rows that are forgotten in one write.
const ROWS_PER_WRITE: usize = 1000;

fn rows<'db>(db: &'db DB, prefix: &Prefix) -> impl Iterator<Item = Result<(Key, Bytes)>> + use<'db> {
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix.as_bytes()));
    options.fill_cache(false);
    db.iterator_opt(IteratorMode::Start, options).map(|row| {
        let (key, value) = row?;
        Ok((Key::from_engine(&key), Bytes::from(value)))
    })
}

/// Calls `visit` with everything that is in files, and how long it is.
pub(in crate::rocksdb) fn each_data(
    db: &DB,
    mut visit: impl FnMut(DataId, u64) -> std::result::Result<(), BackupError>,
) -> std::result::Result<(), BackupError> {
    for row in rows(db, &keys::blobs()) {
        let (key, value) = row?;
        let blob = Blob::decode(&value).ok_or_else(|| Error::Damaged(key.to_string()))?;
        if let Place::Data(data) = blob.place {
            visit(data, blob.size)?;
        }
    }
    Ok(())
}

/// Removes the rows of open uploads.
pub(super) fn forget_uploads(db: &DB) -> Result<()> {
    let mut write = WriteBatch::default();
    let mut forget = |key: &Key| -> Result<()> {
        write.delete(key.as_bytes());
        if write.len() >= ROWS_PER_WRITE { Ok(db.write(std::mem::take(&mut write))?) } else { Ok(()) }
    };
    for row in rows(db, &keys::uploads()) {
        let (key, value) = row?;
        if let Some(data) = WithBody::<Upload>::decode(&value).and_then(|upload| upload.record.data) {
            forget(&keys::data_owner(data))?;
        }
        forget(&key)?;
    }
    for row in rows(db, &keys::uploads_by_owner()) {
        forget(&row?.0)?;
    }
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
