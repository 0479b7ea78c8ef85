//! Nobody else reads the store: there are password hashes and keys in it.
//!
//! What is created from now on is private by the process's umask, which both services set, RocksDB's files included.
//! What an earlier version created with another one is made so at the next start.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use super::{DATA, META};

/// For directories.
const DIRECTORY: u32 = 0o700;

/// For files.
const FILE: u32 = 0o600;

/// What of the permissions is meant for others than the owner.
const OTHERS: u32 = 0o077;

/// Creates a directory, with those above it, that nobody else can enter.
pub(super) fn create_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Takes from everybody else what they may do with a store of an earlier version.
///
/// The files of data may be very many: they are looked at only if somebody could reach them, and the directory that shows it
/// is changed last, so that whoever is interrupted begins again.
pub(super) fn tighten(data_dir: &Path) -> io::Result<()> {
    let meta = data_dir.join(META);
    if meta.is_dir() {
        for entry in fs::read_dir(&meta)? {
            close(&entry?.path(), FILE)?;
        }
        close(&meta, DIRECTORY)?;
    }
    let data = data_dir.join(DATA);
    if data.is_dir() && is_open(&data)? {
        for directory in fs::read_dir(&data)? {
            let directory = directory?.path();
            for file in fs::read_dir(&directory)? {
                close(&file?.path(), FILE)?;
            }
            close(&directory, DIRECTORY)?;
        }
        close(&data, DIRECTORY)?;
    }
    close(data_dir, DIRECTORY)
}

fn is_open(path: &Path) -> io::Result<bool> {
    Ok(path.symlink_metadata()?.permissions().mode() & OTHERS != 0)
}

fn close(path: &Path, mode: u32) -> io::Result<()> {
    // Somebody else's process may be about to remove it; a link would lead elsewhere.
    match path.symlink_metadata() {
        Ok(found) if !found.is_symlink() && found.permissions().mode() & OTHERS != 0 => {
            fs::set_permissions(path, Permissions::from_mode(mode))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
