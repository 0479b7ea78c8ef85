//! The embedded engine: RocksDB for everything with a name and every small blob, files for larger data.
//!
//! ```text
//! <data_dir>/meta/              RocksDB: column families `default` (records) and `content` (bytes that clients sent)
//! <data_dir>/data/<ab>/<id>     data; <ab> is the last byte of the id, in hexadecimal
//! ```
//!
//! One process at a time: RocksDB's lock file sees to it.

mod backup;
mod data;
mod files;
mod log;
mod metadata;
mod options;
mod private;
mod restore;
mod space;
mod tables;
mod walk;

use std::path::Path;
use std::sync::Arc;

use crate::{BlobStore, Error, MetadataStore, Result};
pub use backup::{BackupError, BackupProgress, Backups, Manifest, MetaFile, Taken};
pub use log::{SalvageError, Salvaged};
pub use options::Memory;
pub use restore::restore;
use space::Space;
pub use tables::Tables;

/// Where the metadata is, within a data directory or a backup.
const META: &str = "meta";

/// Where the data is, within a data directory or a backup.
const DATA: &str = "data";

/// The two stores of one data directory.
pub struct Stores {
    /// Names and small blobs.
    pub metadata: Arc<dyn MetadataStore>,
    /// Larger blobs.
    pub blobs: Arc<dyn BlobStore>,
    /// Copies of both as they were at one moment.
    pub backups: Backups,
    /// The files of the metadata.
    pub tables: Tables,
    space: Arc<Space>,
}

impl Stores {
    /// Sets space aside for deletions on a full disk, and for the next start there.
    pub fn keep_reserve(&self) {
        self.space.keep();
    }
}

/// Opens the stores in `data_dir` with the memory that is good for ten million rows.
///
/// # Errors
/// Like [`open_with`].
pub fn open(data_dir: &Path) -> Result<Stores> {
    open_with(data_dir, Memory::default())
}

/// Opens the stores in `data_dir`, creating them on first use.
///
/// # Errors
/// [`Error::NewerFormat`](crate::Error::NewerFormat) if a newer Berth wrote them; [`Error::LogDamaged`] if changes are lost that
/// were acknowledged; [`Error::Engine`](crate::Error::Engine) if another process has them open, a restore did not end, or the
/// directory can't be used.
pub fn open_with(data_dir: &Path, memory: Memory) -> Result<Stores> {
    open_as(data_dir, memory, false)
}

/// Opens the stores in `data_dir` with what can be read of a damaged write-ahead log. What can't is lost for good; the damaged
/// logs are kept in `aside` all the same.
///
/// # Errors
/// [`SalvageError`].
pub fn salvage(data_dir: &Path, memory: Memory, aside: &Path) -> std::result::Result<(Stores, Salvaged), SalvageError> {
    let salvaged = log::salvage(&data_dir.join(META), aside)?;
    Ok((open_as(data_dir, memory, true)?, salvaged))
}

fn open_as(data_dir: &Path, memory: Memory, is_salvaged: bool) -> Result<Stores> {
    if data_dir.join(restore::UNFINISHED).exists() {
        return Err(Error::Engine(format!("a restore into {} did not end: remove what is there and restore again", data_dir.display())));
    }
    let failed = |error| Error::Engine(format!("{}: {error}", data_dir.display()));
    private::create_directories(data_dir).map_err(failed)?;
    if let Err(error) = private::tighten(data_dir) {
        tracing::warn!(%error, data_dir = %data_dir.display(), "others may be able to read the store");
    }
    let space = Arc::new(Space::open(data_dir).map_err(failed)?);
    let (metadata, run) = metadata::RocksMetadata::open(&data_dir.join(META), memory, Arc::clone(&space), is_salvaged)?;
    let blobs = Arc::new(data::FileBlobs::open(&data_dir.join(DATA), run, Arc::clone(&space))?);
    let backups = Backups::new(data_dir, metadata.database(), Arc::clone(&blobs));
    // Only now is it certain that nobody else is at work here.
    backups.clear_staging()?;
    let tables = Tables::new(metadata.database());
    Ok(Stores { metadata: Arc::new(metadata), blobs, backups, tables, space })
}
