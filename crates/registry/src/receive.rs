//! Taking in a body: while one chunk arrives, the one before it is hashed and the one before that is written.
//!
//! Memory is bounded by [`CHUNK_BYTES`] × ([`WRITES_IN_FLIGHT_MAX`] + 2) for each body, whatever its length.

use std::collections::VecDeque;
use std::sync::Arc;

use berth_storage::{BlobStore, DataId, SMALL_BLOB_BYTES_MAX, aligned_chunk};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::hash::Absorb;
use crate::{Error, Result};

/// Bytes that are hashed and written at a time.
const CHUNK_BYTES: usize = 512 << 10;

/// Chunks of one body that may be on their way to the disk at once.
const WRITES_IN_FLIGHT_MAX: usize = 2;

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
        for write in sink.writes.drain(..) {
            let _ = write.await;
        }
        if let Err(error) = blobs.delete(data).await {
            tracing::warn!(%data, %error, "a failed upload left data behind; the next start sweeps it");
        }
    }
    let end = outcome?;
    let hash = sink.hashing.await.map_err(|_| Error::Internal("hashing died"))?;
    Ok((Received { data: sink.data, small: sink.small, size: sink.size }, hash, end))
}

struct Sink<H> {
    blobs: Arc<dyn BlobStore>,
    data: Option<DataId>,
    /// Bytes received, including those in `chunk`.
    size: u64,
    /// Bytes not yet handed on. Until there is data, these are all the bytes.
    chunk: BytesMut,
    /// How many bytes at the start of `chunk` were hashed in an earlier request.
    hashed: usize,
    hashing: JoinHandle<H>,
    writes: VecDeque<JoinHandle<berth_storage::Result<()>>>,
    /// Whether anything was written that is not sealed yet.
    dirty: bool,
    /// All the bytes at the end, if there is no data.
    small: Bytes,
}

impl<H: Absorb> Sink<H> {
    fn new(blobs: Arc<dyn BlobStore>, received: Received, hash: H) -> Self {
        let hashed = received.small.len();
        let mut chunk = BytesMut::new();
        chunk.extend_from_slice(&received.small);
        let hashing = spawn_blocking(move || hash);
        Self {
            blobs,
            data: received.data,
            size: received.size,
            chunk,
            hashed,
            hashing,
            writes: VecDeque::new(),
            dirty: false,
            small: Bytes::new(),
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
        while !bytes.is_empty() {
            if self.data.is_none() && self.chunk.len() + bytes.len() > SMALL_BLOB_BYTES_MAX {
                self.become_data();
            }
            // Small bodies grow as they come; data is cut so that every chunk but the first of a request is aligned.
            let room = if self.data.is_some() { self.chunk_end() - self.chunk.len() } else { SMALL_BLOB_BYTES_MAX };
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.chunk.extend_from_slice(now);
            self.size += now.len() as u64;
            bytes = later;
            if self.data.is_some() && self.chunk.len() == self.chunk_end() {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// The length at which the present chunk ends on a multiple of the chunk size within the data.
    fn chunk_end(&self) -> usize {
        let start = self.size - self.chunk.len() as u64;
        CHUNK_BYTES - (start % CHUNK_BYTES as u64) as usize
    }

    fn become_data(&mut self) {
        self.data = Some(self.blobs.allocate());
        let mut chunk = aligned_chunk(CHUNK_BYTES);
        chunk.extend_from_slice(&self.chunk);
        self.chunk = chunk;
    }

    /// Hands the chunk to the hash and to the disk.
    async fn flush(&mut self) -> Result<()> {
        let Some(data) = self.data else { return Ok(()) };
        let offset = self.size - self.chunk.len() as u64;
        let next = if self.chunk.len() == self.chunk_end() { aligned_chunk(CHUNK_BYTES) } else { BytesMut::new() };
        let chunk = std::mem::replace(&mut self.chunk, next).freeze();
        self.hash(chunk.slice(self.hashed..)).await?;
        self.hashed = 0;

        // The first write creates the data; later ones may overtake each other, but not it.
        let in_flight_max = if offset == 0 { 0 } else { WRITES_IN_FLIGHT_MAX };
        let blobs = Arc::clone(&self.blobs);
        self.writes.push_back(tokio::spawn(async move { blobs.append(data, offset, chunk).await }));
        self.dirty = true;
        self.wait_for_writes(in_flight_max).await
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

    async fn wait_for_writes(&mut self, left: usize) -> Result<()> {
        while self.writes.len() > left {
            if let Some(write) = self.writes.pop_front() {
                write.await.map_err(|_| Error::Internal("writing died"))??;
            }
        }
        Ok(())
    }

    /// Hands the rest on and waits until everything is durable.
    async fn finish(&mut self) -> Result<()> {
        let Some(data) = self.data else {
            self.small = std::mem::take(&mut self.chunk).freeze();
            return self.hash(self.small.slice(self.hashed..)).await;
        };
        if !self.chunk.is_empty() {
            self.flush().await?;
        }
        self.wait_for_writes(0).await?;
        if self.dirty {
            self.blobs.seal(data, self.size).await?;
        }
        Ok(())
    }
}
