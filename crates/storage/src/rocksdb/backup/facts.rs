//! What is said about backups: why there is none, what one is, how far one is.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::data::sync_directory;
use super::super::files::at;
use crate::Error;
use crate::blobs::DataId;
use crate::metadata::Damage;

/// The format of backups that this build makes and restores.
pub(in crate::rocksdb) const BACKUP_FORMAT: u32 = 1;

/// The file that says what a backup is.
pub(in crate::rocksdb) const MANIFEST: &str = "backup.json";

/// Missing files that a backup lists; more are only counted.
const MISSING_LISTED_MAX: usize = 100;

/// Why there is no backup, or no restored store.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another one is under way, by this process or by another one in the same directory.
    #[error("another backup is being made")]
    Busy,
    /// The directory belongs to the store.
    #[error("{}: backups can't be kept among the store's own files", .0.display())]
    InsideStore(PathBuf),
    /// There is no backup, or not all of it.
    #[error("{} is no whole backup: {why}", path.display())]
    NotWhole {
        /// What was to be restored.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is a store already, or the beginning of one.
    #[error("{} is not empty: a backup is restored only where no store is", .0.display())]
    NotEmpty(PathBuf),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Error),
}

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The format of the backup.
    pub format: u32,
    /// The version of Berth that made it.
    pub version: String,
    /// The moment at which the store was as it is here, in RFC 3339.
    pub created: String,
    /// Files of data.
    pub data_files: u64,
    /// Their bytes.
    pub data_bytes: u64,
    /// Files of metadata.
    pub meta_files: Vec<MetaFile>,
    /// How many files the store had lost by then, so that they are missing here too.
    pub missing: u64,
    /// The first of them.
    pub missing_data: Vec<DataId>,
    /// In how many places the metadata can't be read, so that it can't be here either.
    #[serde(default)]
    pub unreadable: u64,
    /// The first of them.
    #[serde(default)]
    pub unreadable_rows: Vec<String>,
}

/// A file of metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// What making a backup led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Taken {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// Files of data and metadata that had to be copied; all others are links to files that were there.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
}

/// How far a backup or a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupProgress {
    /// Whether one is under way.
    pub running: bool,
    /// Files that are where they belong.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many files there are to be; 0 as long as nobody knows.
    pub files_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
}

impl Manifest {
    /// Notes that some of the metadata can't be read.
    pub(super) fn note_damage(&mut self, damage: &[Damage]) {
        self.unreadable += damage.len() as u64;
        let describe = |damage: &Damage| match &damage.end {
            Some(end) => format!("rows before {end}: {}", damage.what),
            None => format!("rows at the end of a family: {}", damage.what),
        };
        self.unreadable_rows.extend(damage.iter().take(MISSING_LISTED_MAX).map(describe));
    }

    /// Notes that the store has lost some data.
    pub(super) fn miss(&mut self, data: DataId) {
        self.missing += 1;
        if self.missing_data.len() < MISSING_LISTED_MAX {
            self.missing_data.push(data);
        }
    }
}

/// Writes the manifest, durably.
pub(super) fn write_manifest(root: &Path, manifest: &Manifest) -> std::result::Result<(), BackupError> {
    let path = root.join(MANIFEST);
    let write = || -> io::Result<()> {
        let mut file = File::create(&path)?;
        serde_json::to_writer_pretty(&mut file, manifest)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        sync_directory(root)
    };
    at(&path, write())
}
