//! Backups: the whole store as it was at one moment, made while it goes on being used.
//!
//! ```text
//! <directory>/20261123T134211.123Z/    one backup; a data directory by itself
//!     backup.json                      what it is
//!     meta/                            the metadata
//!     data/<ab>/<id>                   every file that a blob in it names
//! ```
//!
//! What must stay true:
//! - A backup has its final name only once all of it is durable: what was interrupted is never taken for one.
//! - Every file that the backup's metadata names is in it. The collector deletes files all the time, so deletions are held
//!   off from before the checkpoint until every file has a second name. That takes as long as making links does; copying
//!   to another file system comes after it.
//! - Open uploads are not in it: their files still grow. Whoever was uploading begins the blob anew.

mod contents;
mod facts;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use rocksdb::DB;
use rocksdb::checkpoint::Checkpoint;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::data::{FileBlobs, path_of, sync_directory};
use super::files::{Transfer, Unfinished, at, copy, files_of, link_or_copy, make_directories, remove_tree, sync_directories};
use super::options::{Memory, open_database};
use super::{DATA, META};
use crate::{Error, Result};
pub(super) use contents::{close, each_data};
use contents::{damage, forget_uploads, settle_meta};
use facts::write_manifest;
pub(super) use facts::{BACKUP_FORMAT, MANIFEST};
pub use facts::{BackupError, BackupProgress, Manifest, MetaFile, Taken};

/// What a backup is called until it is whole, within the data directory and within the directory of backups.
const UNFINISHED: &str = ".backup-unfinished";

/// Makes backups of one open store, one at a time.
#[derive(Clone)]
pub struct Backups {
    data_dir: Arc<Path>,
    db: Arc<DB>,
    blobs: Arc<FileBlobs>,
    progress: Arc<Mutex<BackupProgress>>,
}

/// Somebody's turn to make a backup.
struct Turn<'b>(&'b Backups);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.progress_now() = BackupProgress::default();
    }
}

impl Backups {
    pub(super) fn new(data_dir: &Path, db: Arc<DB>, blobs: Arc<FileBlobs>) -> Self {
        Self { data_dir: data_dir.into(), db, blobs, progress: Arc::default() }
    }

    /// How far the present backup is.
    pub fn progress(&self) -> BackupProgress {
        *self.progress_now()
    }

    /// Makes a backup within `directory`, which is created if need be. It takes no space for what the store, or on another
    /// file system the backup before it, has too. Blocks until it is durable; the store goes on being used.
    ///
    /// `now_ms` is the time, in milliseconds since 1970; the backup is named after it.
    ///
    /// # Errors
    /// [`BackupError::Busy`], [`BackupError::InsideStore`], or whatever went wrong: nothing is left then.
    pub fn take(&self, directory: &Path, now_ms: u64) -> std::result::Result<Taken, BackupError> {
        let _turn = self.turn()?;
        let directory = self.prepare(directory)?;
        let _lock = lock(&directory)?;
        let created = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(now_ms)).to_string();
        // A colon would make a name that scp and rsync take for a host.
        let name = created.replace(['-', ':'], "");
        // Nobody else is at work in either place: what is there is what an interrupted backup left.
        let elsewhere = directory.join(UNFINISHED);
        remove_tree(&elsewhere)?;
        self.clear_staging()?;

        let staging = self.data_dir.join(UNFINISHED);
        let unfinished = Unfinished::new(staging.clone());
        let (manifest, mut copied) = self.stage(&staging, created)?;
        let path = directory.join(name);
        match std::fs::rename(&staging, &path) {
            Ok(()) => unfinished.keep(),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
                let unfinished = Unfinished::new(elsewhere.clone());
                copied = self.copy_out(&staging, &elsewhere, newest(&directory)?.as_deref())?;
                at(&path, std::fs::rename(&elsewhere, &path))?;
                unfinished.keep();
            }
            Err(error) => return Err(BackupError::Io { path, source: error }),
        }
        at(&directory, sync_directory(&directory))?;
        Ok(Taken { path, manifest, copied_files: copied.files, copied_bytes: copied.bytes })
    }

    /// Removes what an interrupted backup left in the data directory.
    pub(super) fn clear_staging(&self) -> Result<()> {
        remove_tree(&self.data_dir.join(UNFINISHED)).map_err(|error| Error::Engine(error.to_string()))
    }

    fn progress_now(&self) -> MutexGuard<'_, BackupProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> std::result::Result<Turn<'_>, BackupError> {
        let mut progress = self.progress_now();
        if progress.running {
            return Err(BackupError::Busy);
        }
        *progress = BackupProgress { running: true, ..BackupProgress::default() };
        Ok(Turn(self))
    }

    /// The directory, created and with its one true name.
    fn prepare(&self, directory: &Path) -> std::result::Result<PathBuf, BackupError> {
        let data_dir = at(&self.data_dir, self.data_dir.canonicalize())?;
        // What is there already has its true name too, so nothing is created where nothing may be.
        let there = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
        let place = at(there, there.canonicalize())?.join(directory.strip_prefix(there).unwrap_or(directory));
        // Elsewhere in the data directory it may be: there, files can be linked whatever mounts a service is given.
        if place == data_dir || [META, DATA, UNFINISHED].iter().any(|own| place.starts_with(data_dir.join(own))) {
            return Err(BackupError::InsideStore(place));
        }
        at(&place, private_directories().create(&place))?;
        Ok(place)
    }

    /// Brings all of the store together within the data directory's own file system, mostly as links.
    fn stage(&self, staging: &Path, created: String) -> std::result::Result<(Manifest, Copied), BackupError> {
        at(staging, private_directories().create(staging))?;
        let held = self.blobs.hold_deletions();
        let checkpoint = Checkpoint::new(&*self.db).map_err(Error::from)?;
        checkpoint.create_checkpoint(staging.join(META)).map_err(Error::from)?;
        make_directories(staging)?;
        let mut manifest = Manifest {
            format: BACKUP_FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            data_files: 0,
            data_bytes: 0,
            meta_files: Vec::new(),
            missing: 0,
            missing_data: Vec::new(),
            unreadable: 0,
            unreadable_rows: Vec::new(),
        };
        let mut copied = Copied::default();
        let db = open_database(&staging.join(META), Memory::default(), |options| options.set_disable_auto_compactions(true))?;
        forget_uploads(&db)?;
        each_data(&db, |data, size| {
            let (from, to) = (path_of(self.blobs.root(), data), path_of(&staging.join(DATA), data));
            match link_or_copy(&from, &to) {
                Ok(transfer) if at(&to, to.metadata())?.len() == size => {
                    copied.count(transfer, size);
                    manifest.data_files += 1;
                    manifest.data_bytes += size;
                    self.moved(size);
                }
                Ok(_) => {
                    at(&to, std::fs::remove_file(&to))?;
                    manifest.miss(data);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => manifest.miss(data),
                Err(error) => return Err(BackupError::Io { path: to, source: error }),
            }
            Ok(())
        })?;
        drop(held);
        // A block that is damaged is so in every backup that has it: better to hear of it while there are older ones.
        manifest.note_damage(&damage(&db)?);
        close(db)?;
        manifest.meta_files = settle_meta(&staging.join(META))?;
        sync_directories(staging)?;
        write_manifest(staging, &manifest)?;
        Ok((manifest, copied))
    }

    fn moved(&self, bytes: u64) {
        let mut progress = self.progress_now();
        progress.files += 1;
        progress.bytes += bytes;
    }

    /// Copies a whole backup to another file system, but for what the one before it has there.
    fn copy_out(&self, from: &Path, to: &Path, previous: Option<&Path>) -> std::result::Result<Copied, BackupError> {
        at(to, private_directories().create(to))?;
        make_directories(to)?;
        let directories: Vec<PathBuf> =
            super::data::directory_names().map(|name| Path::new(DATA).join(name)).chain([META.into()]).collect();
        let mut todo = Vec::new();
        for directory in &directories {
            let files = at(&from.join(directory), files_of(&from.join(directory)))?;
            todo.extend(files.into_iter().map(|(name, size)| (directory.join(name), size)));
        }
        let bytes_total = todo.iter().map(|(_, size)| size).sum();
        {
            let mut progress = self.progress_now();
            *progress = BackupProgress { files: 0, bytes: 0, files_total: todo.len() as u64, bytes_total, ..*progress };
        }
        let mut copied = Copied::default();
        for (file, size) in todo {
            let (source, target) = (from.join(&file), to.join(&file));
            let there = previous.map(|previous| previous.join(&file)).filter(|there| is_same(there, &source));
            let transfer = match there {
                Some(there) => link_or_copy(&there, &target),
                None => copy(&source, &target),
            };
            copied.count(at(&target, transfer)?, size);
            self.moved(size);
        }
        at(&to.join(MANIFEST), copy(&from.join(MANIFEST), &to.join(MANIFEST)))?;
        sync_directories(to)?;
        Ok(copied)
    }
}

/// What had to be copied.
#[derive(Clone, Copy, Debug, Default)]
struct Copied {
    files: u64,
    bytes: u64,
}

impl Copied {
    fn count(&mut self, transfer: Transfer, bytes: u64) {
        if transfer == Transfer::Copied {
            self.files += 1;
            self.bytes += bytes;
        }
    }
}

/// Makes directories that nobody else can enter: there are password hashes and keys in a backup.
fn private_directories() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
}

/// Holds the directory for as long as the file is open.
fn lock(directory: &Path) -> std::result::Result<File, BackupError> {
    let file = at(directory, File::open(directory))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(BackupError::Busy),
        Err(error) => Err(BackupError::Io { path: directory.to_owned(), source: error.into() }),
    }
}

/// The newest whole backup in a directory.
fn newest(directory: &Path) -> std::result::Result<Option<PathBuf>, BackupError> {
    let mut newest = None;
    for entry in at(directory, std::fs::read_dir(directory))? {
        let path = at(directory, entry)?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.join(MANIFEST).is_file() {
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

/// Whether a file in an earlier backup is the one that is to be backed up. Names are never used again for other content,
/// and a copy has the times of its original: what rsync goes by.
fn is_same(there: &Path, source: &Path) -> bool {
    let facts = |path: &Path| path.metadata().and_then(|metadata| Ok((metadata.len(), metadata.modified()?))).ok();
    facts(there).is_some_and(|there| facts(source) == Some(there))
}

#[cfg(test)]
mod tests;
