//! What is left of the disk, and who may still write.
//!
//! A disk that is quite full is a trap: RocksDB needs space to delete a row, so nothing can be deleted to get space. Therefore
//! two files are made that hold nothing but space, and what grows is refused while there is still a little:
//!
//! - Less free than the headroom: only what frees something is written. Pushes are told so.
//! - Less than half of it (somebody else fills the disk): the reserve is given up, for deletions to write with.
//! - At a start with less than the headroom, the start's reserve is given up: the engine brings its log into tables first.
//!
//! Both are made again once there is enough. A file system that can't set space aside (ZFS, NFS) has the headroom only.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The headroom and each reserve, in bytes, on a disk of any common size: what the log may grow to.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// The same on the smallest disk: the engine sets aside some 20 MiB for its log and its manifest when it opens.
const RESERVE_BYTES_MIN: u64 = 24 << 20;

/// In between, one part in so many of the whole disk.
const PARTS: u64 = 50;

/// Space for deletions.
const RESERVE: &str = "reserve";

/// Space for the next start.
const RESERVE_FOR_START: &str = "reserve-for-start";

/// The space of the file system that a store is on.
pub(super) struct Space {
    root: PathBuf,
    /// The size of the headroom, and of each reserve, in bytes.
    unit: u64,
    /// Whether reserves are kept at all; a command that works for a moment needs none.
    keeps: AtomicBool,
    /// Whether there should be a reserve and is none.
    given_up: AtomicBool,
}

impl Space {
    /// Looks at the disk before the store is opened, and makes room for that.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let disk = statvfs(root)?;
        let unit = (disk.f_blocks * disk.f_frsize / PARTS).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
        let given_up = !root.join(RESERVE).exists();
        let space = Self { root: root.to_owned(), unit, keeps: false.into(), given_up: given_up.into() };
        if space.available() < unit {
            space.remove(RESERVE_FOR_START);
        }
        Ok(space)
    }

    /// From now on reserves are kept.
    pub(super) fn keep(&self) {
        self.keeps.store(true, Ordering::Relaxed);
        self.make(RESERVE_FOR_START, 0);
        self.tend();
    }

    /// Whether only what frees something may be written. One call of the system that looks at no disk.
    pub(super) fn is_full(&self) -> bool {
        self.is_full_with(self.available())
    }

    fn is_full_with(&self, available: u64) -> bool {
        // What was given up belongs to deletions: that it is free now is no reason to fill it.
        let owed = if self.keeps.load(Ordering::Relaxed) && self.given_up.load(Ordering::Relaxed) { self.unit } else { 0 };
        available < self.unit + owed
    }

    /// Gives the reserve up if it is needed, and makes it again if it can be; then says what [`Space::is_full`] does.
    pub(super) fn tend(&self) -> bool {
        let available = self.available();
        if self.keeps.load(Ordering::Relaxed) {
            match self.given_up.load(Ordering::Relaxed) {
                false if available < self.unit / 2 => {
                    tracing::error!(available, "the disk is full: the reserve is given up, and only what frees space is written");
                    self.remove(RESERVE);
                    self.given_up.store(true, Ordering::Relaxed);
                }
                true if available >= 2 * self.unit && self.make(RESERVE, self.unit) => {
                    self.make(RESERVE_FOR_START, self.unit);
                    tracing::info!(available, "the disk has room again; the reserve is there");
                    self.given_up.store(false, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        self.is_full_with(available)
    }

    /// What may still be written, in bytes; everything, if the system does not tell.
    fn available(&self) -> u64 {
        statvfs(&self.root).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize)
    }

    /// Sets space aside if `left` bytes are left then; returns whether it need not be tried again.
    fn make(&self, name: &str, left: u64) -> bool {
        let path = self.root.join(name);
        if path.metadata().is_ok_and(|file| file.len() == self.unit) {
            return true;
        }
        if self.available() < self.unit + left {
            return false;
        }
        let make = || -> io::Result<()> {
            let file: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, self.unit)?)
        };
        match make() {
            Ok(()) => true,
            Err(error) => {
                self.remove(name);
                let can_never_be = error.kind() == io::ErrorKind::Unsupported;
                if can_never_be {
                    tracing::info!("this file system can't set space aside: deletions need what is left when it is full");
                }
                can_never_be
            }
        }
    }

    fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.root.join(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, name, "space that was set aside could not be given up");
        }
    }
}

/// Whether the system says that there is no space left, for this user at least.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
