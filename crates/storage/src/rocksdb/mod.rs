//! The embedded engine: RocksDB for everything with a name and every small blob, files for larger data.
//!
//! ```text
//! <data_dir>/meta/              RocksDB: column families `default` (records) and `content` (bytes that clients sent)
//! <data_dir>/data/<ab>/<id>     data; <ab> is the last byte of the id, in hexadecimal
//! ```
//!
//! One process at a time: RocksDB's lock file sees to it.

mod data;
mod metadata;

use std::path::Path;
use std::sync::Arc;

use crate::{BlobStore, MetadataStore, Result};

/// The two stores of one data directory.
pub struct Stores {
    /// Names and small blobs.
    pub metadata: Arc<dyn MetadataStore>,
    /// Larger blobs.
    pub blobs: Arc<dyn BlobStore>,
}

/// Opens the stores in `data_dir`, creating them on first use.
///
/// # Errors
/// [`Error::NewerFormat`](crate::Error::NewerFormat) if a newer Berth wrote them; [`Error::Engine`](crate::Error::Engine)
/// if another process has them open or the directory can't be used.
pub fn open(data_dir: &Path) -> Result<Stores> {
    let (metadata, run) = metadata::RocksMetadata::open(&data_dir.join("meta"))?;
    let blobs = data::FileBlobs::open(&data_dir.join("data"), run)?;
    Ok(Stores { metadata: Arc::new(metadata), blobs: Arc::new(blobs) })
}
