//! Data as files, through the page cache: what was just pushed is what is pulled next.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use super::private;
use super::space::{Space, is_out_of_space};
use crate::blobs::{BlobStore, BlobStream, DataId};
use crate::chunk::Chunk;
use crate::{Error, Result};

/// How much is read at once from the page cache, in bytes. So little stays in the processor's own cache until it is sent.
const CACHED_PIECE_BYTES: usize = 256 << 10;

/// Deletions that are remembered while a backup holds them off (16 bytes each); more are left to the next start's sweep.
const HELD_MAX: usize = 1 << 20;

pub(super) struct FileBlobs {
    root: Arc<Path>,
    run: u32,
    held: Arc<Held>,
    space: Arc<Space>,
}

/// What is to be deleted once a backup has linked what it needs; `None` while there is none.
#[derive(Default)]
struct Held(Mutex<Option<Vec<DataId>>>);

impl Held {
    fn lock(&self) -> MutexGuard<'_, Option<Vec<DataId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the deletion has to wait; it is remembered then.
    fn keeps(&self, data: DataId) -> bool {
        match &mut *self.lock() {
            None => false,
            Some(waiting) if waiting.len() < HELD_MAX => {
                waiting.push(data);
                true
            }
            Some(_) => {
                tracing::warn!(%data, "too many deletions wait for a backup; the next start sweeps this one");
                true
            }
        }
    }
}

/// As long as it is there, no file is deleted. Dropped, it deletes what was to be deleted meanwhile.
pub(super) struct DeletionsHeld<'b>(&'b FileBlobs);

impl Drop for DeletionsHeld<'_> {
    fn drop(&mut self) {
        for data in self.0.held.lock().take().unwrap_or_default() {
            if let Err(error) = absent_is_none(std::fs::remove_file(path_of(&self.0.root, data))) {
                tracing::warn!(%data, %error, "data could not be deleted; the next start sweeps it");
            }
        }
    }
}

impl FileBlobs {
    /// Opens the data directory, creating it and its sub-directories durably on first use.
    pub(super) fn open(root: &Path, run: u32, space: Arc<Space>) -> Result<Self> {
        let prepare = || -> io::Result<()> {
            if root.join(directory_name(u8::MAX)).is_dir() {
                return Ok(());
            }
            for name in directory_names() {
                private::create_directories(&root.join(name))?;
            }
            sync_directory(root)?;
            root.parent().map_or(Ok(()), sync_directory)
        };
        prepare().map_err(|error| Error::Engine(format!("{}: {error}", root.display())))?;
        Ok(Self { root: root.into(), run, held: Arc::default(), space })
    }

    /// Holds off deletions for one backup at a time. Call it where it may block: the end deletes files.
    pub(super) fn hold_deletions(&self) -> DeletionsHeld<'_> {
        self.held.lock().get_or_insert_default();
        DeletionsHeld(self)
    }

    /// Where the files are.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs a file operation where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        data: DataId,
        operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = path_of(&self.root, data);
        let outcome = spawn_blocking(move || operation(&path)).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        outcome.map_err(|source| if is_out_of_space(&source) { Error::Full } else { Error::Data { data, source } })
    }
}

/// The names of all directories.
pub(super) fn directory_names() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(directory_name)
}

fn directory_name(byte: u8) -> String {
    format!("{byte:02x}")
}

/// The file of some data.
pub(super) fn path_of(root: &Path, data: DataId) -> PathBuf {
    root.join(directory_name(data.as_bytes()[15])).join(data.to_string())
}

/// Makes it durable which files a directory has.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[async_trait]
impl BlobStore for FileBlobs {
    fn allocate(&self) -> DataId {
        let mut random = [0; 12];
        // Without randomness there is no safe name; the kernel's generator does not fail once it is seeded.
        if let Err(error) = getrandom::fill(&mut random) {
            panic!("no random bytes from the operating system: {error}");
        }
        DataId::new(self.run, random)
    }

    fn is_from_earlier_run(&self, data: DataId) -> bool {
        data.run() < self.run
    }

    async fn append(&self, data: DataId, offset: u64, bytes: Bytes) -> Result<()> {
        let space = Arc::clone(&self.space);
        self.blocking(data, move |path| {
            // Data never takes the last of the disk: names need some to be removed.
            if space.is_full() {
                return Err(ErrorKind::StorageFull.into());
            }
            let create = offset == 0;
            let file = OpenOptions::new().write(true).create(create).truncate(create).mode(0o600).open(path)?;
            file.write_all_at(&bytes, offset)
        })
        .await
    }

    async fn sync(&self, data: DataId) -> Result<()> {
        self.blocking(data, |path| File::open(path)?.sync_data()).await
    }

    async fn seal(&self, data: DataId, size: u64) -> Result<()> {
        self.blocking(data, move |path| {
            let file = OpenOptions::new().write(true).open(path)?;
            let length = file.metadata()?.len();
            if length < size {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("{length} bytes of {size}")));
            }
            if length > size {
                file.set_len(size)?;
            }
            file.sync_data()?;
            path.parent().map_or(Ok(()), sync_directory)
        })
        .await
    }

    fn read(&self, data: DataId, range: Range<u64>) -> BlobStream {
        let path = path_of(&self.root, data);
        let reader = Reader::Opening(spawn_blocking(move || File::open(path).map(Arc::new)));
        stream::try_unfold((reader, range), move |(reader, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let (bytes, reader) = reader.next(range.clone()).await.map_err(|source| Error::Data { data, source })?;
            let rest = range.start + bytes.len() as u64..range.end;
            Ok(Some((bytes, (reader, rest))))
        })
        .boxed()
    }

    async fn size(&self, data: DataId) -> Result<Option<u64>> {
        self.blocking(data, |path| absent_is_none(path.metadata()).map(|found| found.map(|metadata| metadata.len()))).await
    }

    fn is_whole(&self, data: DataId, size: u64) -> bool {
        // The directory's entry is cached wherever the data is read: asking here costs less than handing it on would.
        path_of(&self.root, data).metadata().is_ok_and(|metadata| metadata.len() == size)
    }

    async fn delete(&self, data: DataId) -> Result<()> {
        // Whoever deletes has committed before that nothing names the data, so a backup that begins now does not need it.
        if self.held.keeps(data) {
            return Ok(());
        }
        self.blocking(data, |path| absent_is_none(std::fs::remove_file(path)).map(drop)).await
    }

    async fn list(&self, after: Option<DataId>, limit: usize) -> Result<Vec<DataId>> {
        let root = Arc::clone(&self.root);
        // Directory by directory, so that a step costs what is in one or two of them, however many files there are.
        let order = |id: &DataId| (id.as_bytes()[15], *id);
        let list = move || -> io::Result<Vec<DataId>> {
            let mut found = Vec::new();
            for directory in after.map_or(0, |after| after.as_bytes()[15])..=u8::MAX {
                let mut here: Vec<DataId> = Vec::new();
                let Some(entries) = absent_is_none(std::fs::read_dir(root.join(directory_name(directory))))? else { continue };
                for entry in entries {
                    here.extend(entry?.file_name().to_str().and_then(|name| name.parse::<DataId>().ok()));
                }
                here.retain(|id| id.as_bytes()[15] == directory && Some(order(id)) > after.as_ref().map(order));
                here.sort_unstable();
                found.append(&mut here);
                if found.len() >= limit {
                    break;
                }
            }
            found.truncate(limit);
            Ok(found)
        };
        let listed = spawn_blocking(list).await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        listed.map_err(|error| Error::Engine(format!("data directory: {error}")))
    }
}

fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file being read from front to back.
enum Reader {
    Opening(JoinHandle<io::Result<Arc<File>>>),
    /// Everything so far was in the page cache.
    Cached(Arc<File>),
    /// It was not: the next piece is being read while the last one is sent.
    Ahead(Arc<File>, JoinHandle<io::Result<Bytes>>),
}

impl Reader {
    /// The first piece of `range`, and the reader for the rest of it.
    async fn next(self, range: Range<u64>) -> io::Result<(Bytes, Self)> {
        let (file, bytes) = match self {
            Self::Opening(open) => {
                let file = finish(open).await?;
                (Arc::clone(&file), read_cached(&file, &range)?)
            }
            Self::Cached(file) => (Arc::clone(&file), read_cached(&file, &range)?),
            Self::Ahead(file, piece) => return Self::ahead(file, finish(piece).await?, range),
        };
        match bytes {
            Some(bytes) => Ok((bytes, Self::Cached(file))),
            None => Self::ahead(Arc::clone(&file), finish(read_piece(file, range.clone())).await?, range),
        }
    }

    fn ahead(file: Arc<File>, bytes: Bytes, range: Range<u64>) -> io::Result<(Bytes, Self)> {
        let next = read_piece(Arc::clone(&file), range.start + bytes.len() as u64..range.end);
        Ok((bytes, Self::Ahead(file, next)))
    }
}

async fn finish<T>(task: JoinHandle<io::Result<T>>) -> io::Result<T> {
    task.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

/// What the page cache holds of the front of `range`, without ever waiting for the disk; `None` if that is nothing, or
/// can't be told.
///
/// Handing a read to another thread and back costs more than the copy that it does.
fn read_cached(file: &File, range: &Range<u64>) -> io::Result<Option<Bytes>> {
    let mut chunk = Chunk::empty();
    let buffer = chunk.grow(length_of(range).min(CACHED_PIECE_BYTES));
    match preadv2(file, &mut [io::IoSliceMut::new(buffer)], range.start, ReadWriteFlags::NOWAIT) {
        Ok(0) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Ok(read) => Ok(Some(chunk.freeze().slice(..read))),
        Err(error) => Err(error.into()),
    }
}

/// Reads the first chunk of `range` in the background. An empty range costs nothing.
fn read_piece(file: Arc<File>, range: Range<u64>) -> JoinHandle<io::Result<Bytes>> {
    spawn_blocking(move || {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut chunk = Chunk::empty();
        file.read_exact_at(chunk.grow(length_of(&range)), range.start)?;
        Ok(chunk.freeze())
    })
}

fn length_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[tokio::test]
    async fn data_reads_the_same_from_the_page_cache_from_the_disk_and_from_both() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(directory.path(), 1, Arc::new(Space::open(directory.path()).unwrap())).unwrap();
        let data = blobs.allocate();
        let content: Vec<u8> = (0..3 * Chunk::BYTES as u64 + 5).map(|at| ((at * at) >> 8) as u8).collect();
        blobs.append(data, 0, Bytes::from(content.clone())).await.unwrap();
        blobs.seal(data, content.len() as u64).await.unwrap();
        let file = File::open(path_of(&blobs.root, data)).unwrap();
        let start = 4097;
        // Forgotten by the cache: nothing, everything, all but the front.
        for forgotten in [None, Some(0), Some(Chunk::BYTES as u64)] {
            if let Some(offset) = forgotten {
                fadvise(&file, offset, None, Advice::DontNeed).unwrap();
            }
            let read: Vec<Bytes> = blobs.read(data, start..content.len() as u64).try_collect().await.unwrap();
            assert!(read.concat() == content[start as usize..], "{forgotten:?}");
        }
        let cut = blobs.read(data, 0..content.len() as u64 + 1).try_collect::<Vec<_>>().await;
        assert!(cut.is_err(), "more than there is must be an error, not an end");
    }
}
