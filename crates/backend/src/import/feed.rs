//! Files as bodies: read, and packed where need be, on a thread of their own, a few pieces ahead of whoever takes them in.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_names::Digest;
use berth_registry::{Body, Interrupted};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces that wait to be taken.
const PIECES_MAX: usize = 4;

/// Bytes read from files so far.
#[derive(Clone, Default)]
pub(super) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body, and what there is to say of it once it has been taken in.
pub(super) struct Feed {
    pub(super) body: Body,
    pub(super) outcome: JoinHandle<io::Result<Fed>>,
}

/// What went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// The digest of what was read.
    pub(super) read: Digest,
    /// The digest of the body.
    pub(super) sent: Digest,
    /// The length of the body in bytes.
    pub(super) size: u64,
}

impl Feed {
    /// The file's bytes as they are.
    pub(super) fn plain(reader: impl Read + Send + 'static, meter: &Meter) -> Self {
        Self::of(reader, meter, |reader, mut sink| {
            copy(reader, &mut sink)?;
            sink.finish()
        })
    }

    /// The file's bytes in gzip: the same bytes always give the same body.
    pub(super) fn gzip(reader: impl Read + Send + 'static, meter: &Meter) -> Self {
        Self::of(reader, meter, |reader, sink| {
            let mut packed = GzEncoder::new(sink, Compression::default());
            copy(reader, &mut packed)?;
            packed.finish()?.finish()
        })
    }

    fn of<R: Read + Send + 'static>(
        reader: R,
        meter: &Meter,
        pump: impl FnOnce(&mut Metered<R>, Sink) -> io::Result<(Digest, u64)> + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let mut reader = Metered { reader, meter: meter.clone(), hash: Sha256::new() };
        let outcome = spawn_blocking(move || {
            let sink = Sink { sender: sender.clone(), piece: Vec::new(), hash: Sha256::new(), size: 0 };
            match pump(&mut reader, sink) {
                Ok((sent, size)) => Ok(Fed { read: Digest::sha256(reader.hash.finalize().into()), sent, size }),
                Err(error) => {
                    let _ = sender.blocking_send(Err(Interrupted));
                    Err(error)
                }
            }
        });
        let body = stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|piece| (piece, receiver)) }).boxed();
        Self { body, outcome }
    }
}

fn copy(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => writer.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A file being read.
struct Metered<R> {
    reader: R,
    meter: Meter,
    hash: Sha256,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.meter.0.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The body being made.
struct Sink {
    sender: mpsc::Sender<Result<Bytes, Interrupted>>,
    piece: Vec<u8>,
    hash: Sha256,
    size: u64,
}

impl Sink {
    fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.flush()?;
        Ok((Digest::sha256(self.hash.finalize().into()), self.size))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        // Whoever took the body in may have given up.
        self.sender.blocking_send(Ok(std::mem::take(&mut self.piece).into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    async fn take(feed: Feed) -> (Vec<u8>, Fed) {
        let pieces: Vec<Bytes> = feed.body.try_collect().await.unwrap();
        (pieces.concat(), feed.outcome.await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_are_or_packed_the_same_way_each_time() {
        let content: Vec<u8> = (0..3 * PIECE_BYTES as u32 + 7).map(|at| (at / 11) as u8).collect();
        let digest = |bytes: &[u8]| Digest::sha256(Sha256::digest(bytes).into());
        let meter = Meter::default();
        let (plain, fed) = take(Feed::plain(io::Cursor::new(content.clone()), &meter)).await;
        assert!(plain == content);
        assert_eq!(fed, Fed { read: digest(&content), sent: digest(&content), size: content.len() as u64 });
        assert_eq!(meter.bytes(), content.len() as u64);
        let (packed, fed) = take(Feed::gzip(io::Cursor::new(content.clone()), &meter)).await;
        assert_eq!(fed, Fed { read: digest(&content), sent: digest(&packed), size: packed.len() as u64 });
        assert!(take(Feed::gzip(io::Cursor::new(content.clone()), &meter)).await.0 == packed);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == content);
        assert!(take(Feed::plain(io::empty(), &meter)).await.0.is_empty());
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_read_interrupts_the_body() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let feed = Feed::gzip(Broken, &Meter::default());
        assert!(feed.body.try_collect::<Vec<_>>().await.is_err());
        assert_eq!(feed.outcome.await.unwrap().unwrap_err().to_string(), "broken");
        // And whoever does not want it any more stops the reading.
        let feed = Feed::plain(io::repeat(0), &Meter::default());
        drop(feed.body);
        assert!(feed.outcome.await.unwrap().is_err());
    }
}
