//! Whole files and trees of them: linked where that can be, copied where not, durable either way.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::backup::BackupError;
use super::data::{directory_names, sync_directory};
use super::private;
use super::{DATA, META};

/// How a file came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// It is the same file under another name, and takes no space.
    Linked,
    /// It is a copy, and durable.
    Copied,
}

/// Names the path in an error, which alone says only what is wrong.
pub(super) fn at<T>(path: &Path, outcome: io::Result<T>) -> Result<T, BackupError> {
    outcome.map_err(|source| BackupError::Io { path: path.to_owned(), source })
}

/// Makes `to` the same file as `from`, or a copy where that can't be: on another file system, with too many links, or if
/// the file is somebody else's.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> io::Result<Transfer> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(Transfer::Linked),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => copy(from, to),
            _ => Err(error),
        },
    }
}

/// Copies a file with its times, and makes the copy durable.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<Transfer> {
    std::fs::copy(from, to)?;
    let copy = File::options().write(true).open(to)?;
    copy.set_modified(from.metadata()?.modified()?)?;
    copy.sync_all()?;
    Ok(Transfer::Copied)
}

/// The files of a directory and their sizes, in the order of their names.
pub(super) fn files_of(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.file_name().into_string().map_err(|name| io::Error::other(format!("unexpected file {}", name.display())))?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{name} is no file")));
        }
        found.push((name, metadata.len()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes the directories of a store or a backup within `root`.
pub(super) fn make_directories(root: &Path) -> Result<(), BackupError> {
    let paths = directory_names().map(|name| root.join(DATA).join(name)).chain([root.join(META)]);
    paths.into_iter().try_for_each(|path| at(&path, private::create_directories(&path)))
}

/// Makes it durable which files are in the directories of a store or a backup.
pub(super) fn sync_directories(root: &Path) -> Result<(), BackupError> {
    let below = directory_names().map(|name| root.join(DATA).join(name));
    let paths = below.chain([root.join(DATA), root.join(META), root.to_owned()]);
    paths.into_iter().try_for_each(|path| at(&path, sync_directory(&path)))
}

/// Removes a tree, if it is there.
pub(super) fn remove_tree(path: &Path) -> Result<(), BackupError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => at(path, outcome),
    }
}

/// A tree that is removed again unless it is kept.
pub(super) struct Unfinished(Option<PathBuf>);

impl Unfinished {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(Some(path))
    }

    /// It is whole now, or somewhere else.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = remove_tree(path)
        {
            tracing::warn!(%error, "what an interrupted backup left could not be removed; the next one tries again");
        }
    }
}
