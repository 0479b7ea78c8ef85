//! Restoring a backup: the other way round, into a directory where no store is.
//!
//! What must stay true:
//! - The backup is as it was afterwards. Files that are never changed in place may be shared with it; all others are copied.
//! - A restore that was interrupted is never taken for a store: a mark stands in the directory until it is whole.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::backup::{BACKUP_FORMAT, BackupError, BackupProgress, MANIFEST, Manifest, close, each_data};
use super::data::{directory_names, path_of, sync_directory};
use super::files::{at, copy, files_of, link_or_copy, make_directories, sync_directories};
use super::options::{Memory, open_database};
use super::private;
use super::{DATA, META};

/// The mark of a restore that has not ended.
pub(super) const UNFINISHED: &str = "restore-unfinished";

/// The largest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

type Result<T> = std::result::Result<T, BackupError>;

/// Makes `data_dir` the store that `backup` is a copy of. `report` hears how far it is.
///
/// # Errors
/// [`BackupError::NotWhole`], [`BackupError::NotEmpty`], or whatever went wrong: the store can't be opened then.
pub fn restore(backup: &Path, data_dir: &Path, mut report: impl FnMut(BackupProgress)) -> Result<Manifest> {
    let manifest = read_manifest(backup)?;
    let files = files_in(backup, &manifest)?;
    begin(data_dir)?;
    make_directories(data_dir)?;
    let bytes_total = files.iter().map(|(_, size)| size).sum();
    let mut progress = BackupProgress { running: true, files_total: files.len() as u64, bytes_total, ..BackupProgress::default() };
    for (file, size) in &files {
        let (from, to) = (backup.join(file), data_dir.join(file));
        // The engine goes on writing to its own files, but for tables.
        let is_fixed = !file.starts_with(META) || file.ends_with(".sst");
        at(&to, if is_fixed { link_or_copy(&from, &to) } else { copy(&from, &to) })?;
        progress.files += 1;
        progress.bytes += size;
        report(progress);
    }
    sync_directories(data_dir)?;
    verify(backup, data_dir, &manifest)?;
    let mark = data_dir.join(UNFINISHED);
    at(&mark, std::fs::remove_file(&mark))?;
    at(data_dir, sync_directory(data_dir))?;
    Ok(manifest)
}

fn not_whole(backup: &Path, why: impl Into<String>) -> BackupError {
    BackupError::NotWhole { path: backup.to_owned(), why: why.into() }
}

fn read_manifest(backup: &Path) -> Result<Manifest> {
    let path = backup.join(MANIFEST);
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(&path)?.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| not_whole(backup, format!("{MANIFEST}: {error}")))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| not_whole(backup, format!("{MANIFEST}: {error}")))?;
    let is_hidden = backup.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    if manifest.format > BACKUP_FORMAT {
        return Err(not_whole(backup, format!("it has format {}; this version knows formats up to {BACKUP_FORMAT}", manifest.format)));
    }
    if is_hidden { Err(not_whole(backup, "it was interrupted")) } else { Ok(manifest) }
}

/// Every file of the backup, with its size, if that is what the manifest says.
fn files_in(backup: &Path, manifest: &Manifest) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for name in directory_names() {
        let directory = backup.join(DATA).join(&name);
        let found = files_of(&directory).map_err(|error| not_whole(backup, format!("{}: {error}", directory.display())))?;
        files.extend(found.into_iter().map(|(file, size)| (format!("{DATA}/{name}/{file}"), size)));
    }
    let bytes: u64 = files.iter().map(|(_, size)| size).sum();
    if (files.len() as u64, bytes) != (manifest.data_files, manifest.data_bytes) {
        let (count, said, size) = (files.len(), manifest.data_files, manifest.data_bytes);
        return Err(not_whole(backup, format!("it has {count} data files with {bytes} bytes, not {said} with {size}")));
    }
    for file in &manifest.meta_files {
        let path = backup.join(META).join(&file.name);
        // A link could bring in what is none of the backup's.
        let size = path.symlink_metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
        if Path::new(&file.name).components().count() != 1 || size != Some(file.size) {
            return Err(not_whole(backup, format!("{META}/{} is missing or not {} bytes long", file.name, file.size)));
        }
        files.push((format!("{META}/{}", file.name), file.size));
    }
    Ok(files)
}

/// Marks the directory as being restored into, if there is no store.
fn begin(data_dir: &Path) -> Result<()> {
    at(data_dir, private::create_directories(data_dir))?;
    if [META, DATA, UNFINISHED].iter().any(|own| data_dir.join(own).symlink_metadata().is_ok()) {
        return Err(BackupError::NotEmpty(data_dir.to_owned()));
    }
    let mark = data_dir.join(UNFINISHED);
    at(&mark, File::create_new(&mark).and_then(|file| file.sync_all()))?;
    at(data_dir, sync_directory(data_dir))
}

/// Makes sure that the store opens and that every file it names is there.
fn verify(backup: &Path, data_dir: &Path, manifest: &Manifest) -> Result<()> {
    let missing: HashSet<_> = manifest.missing_data.iter().collect();
    let lists_all_missing = missing.len() as u64 == manifest.missing;
    let db = open_database(&data_dir.join(META), Memory::default(), |_| {})?;
    each_data(&db, |data, size| {
        let is_there = path_of(&data_dir.join(DATA), data).metadata().is_ok_and(|metadata| metadata.len() == size);
        let was_there = lists_all_missing && !missing.contains(&data);
        if !is_there && was_there { Err(not_whole(backup, format!("data {data} is missing"))) } else { Ok(()) }
    })?;
    Ok(close(db)?)
}
