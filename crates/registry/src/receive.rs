//! Taking in a body: while one chunk arrives, the one before it is hashed and the one before that is written.
//!
//! Memory is bounded by three times [`Chunk::BYTES`] for each body, whatever its length.

use std::sync::Arc;

use berth_storage::{BlobStore, Chunk, DataId, SMALL_BLOB_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::hash::Absorb;
use crate::{Error, Result};

/// Every so many bytes the disk starts on what it has, so that little is left for the end.
const SYNC_BYTES: u64 = 32 << 20;

/// A body on its way in.
pub type Body = BoxStream<'static, std::result::Result<Bytes, Interrupted>>;

/// The client stopped sending before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client stopped sending")]
pub struct Interrupted;

/// What has been received so far: a little of it in memory, or all of it as data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Where the bytes are, once they are more than [`SMALL_BLOB_BYTES_MAX`].
    pub(crate) data: Option<DataId>,
    /// The bytes, as long as there is no data.
    pub(crate) small: Bytes,
    /// How many.
    pub(crate) size: u64,
}

/// Goes on receiving into `received` until the body ends, and makes what came durable.
///
/// If the client stops early, what came until then is kept, durable and hashed, and the last value says so.
/// If the store fails, data that was begun here is given back.
pub(crate) async fn receive<H: Absorb>(
    blobs: &Arc<dyn BlobStore>,
    received: Received,
    hash: H,
    body: Body,
) -> Result<(Received, H, std::result::Result<(), Interrupted>)> {
    let had_data = received.data.is_some();
    let mut sink = Sink::new(Arc::clone(blobs), received, hash);
    let outcome = sink.take_in(body).await;
    if let (Err(_), false, Some(data)) = (&outcome, had_data, sink.data) {
        let _ = sink.wait_for_write().await;
        if let Err(error) = blobs.delete(data).await {
            tracing::warn!(%data, %error, "a failed upload left data behind; the next start sweeps it");
        }
    }
    let end = outcome?;
    let hash = sink.hashing.await.map_err(|_| Error::Internal("hashing died"))?;
    Ok((Received { data: sink.data, small: sink.small.freeze(), size: sink.size }, hash, end))
}

struct Sink<H> {
    blobs: Arc<dyn BlobStore>,
    data: Option<DataId>,
    /// Bytes received so far.
    size: u64,
    /// All of them, until there is data.
    small: BytesMut,
    /// How many of those were hashed in an earlier request.
    hashed: usize,
    /// Bytes not yet handed on, once there is data.
    chunk: Option<Chunk>,
    hashing: JoinHandle<H>,
    /// At most one write at a time: more of them to one file only wait for each other in the kernel, spinning.
    writing: Option<JoinHandle<berth_storage::Result<()>>>,
    /// The disk at work on what was written before. Its failure is the upload's: the kernel reports it only once.
    syncing: Option<JoinHandle<berth_storage::Result<()>>>,
    /// Whether anything was written that is not sealed yet.
    dirty: bool,
}

impl<H: Absorb> Sink<H> {
    fn new(blobs: Arc<dyn BlobStore>, received: Received, hash: H) -> Self {
        Self {
            blobs,
            data: received.data,
            size: received.size,
            hashed: received.small.len(),
            small: received.small.into(),
            chunk: None,
            hashing: spawn_blocking(move || hash),
            writing: None,
            syncing: None,
            dirty: false,
        }
    }

    async fn take_in(&mut self, mut body: Body) -> Result<std::result::Result<(), Interrupted>> {
        let end = loop {
            match body.next().await {
                Some(Ok(bytes)) => self.push(&bytes).await?,
                Some(Err(interrupted)) => break Err(interrupted),
                None => break Ok(()),
            }
        };
        self.finish().await?;
        Ok(end)
    }

    async fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        let data = match self.data {
            Some(data) => data,
            None if self.small.len() + bytes.len() <= SMALL_BLOB_BYTES_MAX => {
                self.small.extend_from_slice(bytes);
                return Ok(());
            }
            None => self.become_data(),
        };
        while !bytes.is_empty() {
            let start = self.size - bytes.len() as u64 - self.chunk.as_ref().map_or(0, Chunk::len) as u64;
            let chunk = self.chunk.get_or_insert_with(Chunk::empty);
            // Every chunk but the first of a request ends, and so the next begins, at a multiple of the chunk size.
            let room = Chunk::BYTES - (start % Chunk::BYTES as u64) as usize - chunk.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            chunk.fill(now);
            bytes = later;
            if now.len() == room {
                self.flush(data, start).await?;
            }
        }
        Ok(())
    }

    /// There are too many bytes for a record: what came so far begins the first chunk.
    fn become_data(&mut self) -> DataId {
        let data = self.blobs.allocate();
        let mut chunk = Chunk::empty();
        chunk.fill(&std::mem::take(&mut self.small));
        (self.data, self.chunk) = (Some(data), Some(chunk));
        data
    }

    /// Hands the chunk, which begins at `offset`, to the hash and to the disk.
    async fn flush(&mut self, data: DataId, offset: u64) -> Result<()> {
        let Some(chunk) = self.chunk.take().map(Chunk::freeze) else { return Ok(()) };
        let end = offset + chunk.len() as u64;
        let hashed = std::mem::take(&mut self.hashed);
        self.hash(chunk.slice(hashed..)).await?;
        self.wait_for_write().await?;
        let blobs = Arc::clone(&self.blobs);
        self.writing = Some(tokio::spawn(async move { blobs.append(data, offset, chunk).await }));
        self.dirty = true;
        if end / SYNC_BYTES > offset / SYNC_BYTES && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.wait_for_sync().await?;
            let blobs = Arc::clone(&self.blobs);
            self.syncing = Some(tokio::spawn(async move { blobs.sync(data).await }));
        }
        Ok(())
    }

    async fn wait_for_sync(&mut self) -> Result<()> {
        match self.syncing.take() {
            Some(syncing) => Ok(syncing.await.map_err(|_| Error::Internal("syncing died"))??),
            None => Ok(()),
        }
    }

    /// Starts hashing `bytes` as soon as the chunk before is hashed.
    async fn hash(&mut self, bytes: Bytes) -> Result<()> {
        let mut hash = (&mut self.hashing).await.map_err(|_| Error::Internal("hashing died"))?;
        self.hashing = spawn_blocking(move || {
            hash.absorb(&bytes);
            hash
        });
        Ok(())
    }

    async fn wait_for_write(&mut self) -> Result<()> {
        match self.writing.take() {
            Some(writing) => Ok(writing.await.map_err(|_| Error::Internal("writing died"))??),
            None => Ok(()),
        }
    }

    /// Hands the rest on and waits until everything is durable.
    async fn finish(&mut self) -> Result<()> {
        let Some(data) = self.data else {
            let fresh = Bytes::copy_from_slice(&self.small[self.hashed..]);
            return self.hash(fresh).await;
        };
        let offset = self.size - self.chunk.as_ref().map_or(0, Chunk::len) as u64;
        self.flush(data, offset).await?;
        self.wait_for_write().await?;
        self.wait_for_sync().await?;
        if self.dirty {
            self.blobs.seal(data, self.size).await?;
        }
        Ok(())
    }
}
