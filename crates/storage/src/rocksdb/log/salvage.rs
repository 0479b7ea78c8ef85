//! Writing damaged logs anew with what can be read of them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::reader::Writer;
use super::{Hole, Judge, each_batch, logs};
use crate::rocksdb::data::sync_directory;
use crate::rocksdb::private;

/// The file that the engine locks while it has a database open.
const LOCK: &str = "LOCK";

/// Why nothing was salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// Somebody has the store open, so its log is not damaged.
    #[error("another process has the store open: stop it first")]
    InUse,
    /// The store can't be opened all the same.
    #[error(transparent)]
    Store(#[from] crate::Error),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// What salvaging led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// How many changes of rows were acknowledged and are lost, at the least.
    pub changes_lost: u64,
    /// In how many places.
    pub holes: usize,
    /// Where the logs are kept as they were; `None` if none had to be written anew.
    pub kept: Option<PathBuf>,
}

/// Writes every damaged log of a database that is not open anew without what can't be read, and keeps them as they were in
/// `aside`, which must not be there yet.
pub(in crate::rocksdb) fn salvage(meta: &Path, aside: &Path) -> Result<Salvaged, SalvageError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SalvageError::Io { path, source }
    };
    let _lock = lock(&meta.join(LOCK)).map_err(failed(&meta.join(LOCK)))?.ok_or(SalvageError::InUse)?;
    let (mut judge, mut salvaged) = (Judge::default(), Salvaged::default());
    for log in logs(meta).map_err(failed(meta))? {
        let fresh = log.with_extension("log-salvaged");
        let damaged = copy_readable(&log, &fresh, &mut judge).map_err(failed(&log))?;
        if !damaged {
            fs::remove_file(&fresh).map_err(failed(&fresh))?;
            continue;
        }
        private::create_directories(aside).map_err(failed(aside))?;
        let kept = aside.join(log.file_name().unwrap_or_default());
        // The old one has its second name before the new one takes its place: a crash loses neither.
        let replace = || -> io::Result<()> {
            fs::hard_link(&log, &kept)?;
            sync_directory(aside)?;
            fs::rename(&fresh, &log)?;
            sync_directory(meta)
        };
        replace().map_err(failed(&log))?;
        salvaged.kept = Some(aside.to_owned());
    }
    salvaged.holes = judge.holes.len();
    salvaged.changes_lost = judge.holes.iter().map(|Hole { changes, .. }| changes).sum();
    Ok(salvaged)
}

/// Copies what can be read of a log, and returns whether there is something that can't.
fn copy_readable(from: &Path, to: &Path, judge: &mut Judge) -> io::Result<bool> {
    let mut writer = Writer::new(BufWriter::new(File::create(to)?));
    let damaged = each_batch(&mut File::open(from)?, |batch, record, follows_damage| {
        judge.see(batch, from, follows_damage);
        writer.add(record)
    })?;
    let mut out = writer.into_inner();
    out.flush()?;
    out.get_ref().sync_all()?;
    Ok(damaged)
}

/// Keeps the engine, in whatever process, from opening the database as long as the file is open.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
