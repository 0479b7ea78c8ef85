//! What V1 layers become: the same blob if it is gzip, one that is packed anew if not.

use std::io::{self, Write};
use std::sync::LazyLock;

use berth_names::{Algorithm, Digest, ImageName, RepositoryKey};
use berth_storage::records::v1::{Conversion, Layer};
use berth_storage::{Batch, get_record, keys};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, GzBuilder};
use futures::stream::StreamExt as _;
use futures::{TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::unpack::{BlobReader, MAGIC_BYTES, Packing, Unusable, unpack};
use crate::blobs::{BlobContent, damaged};
use crate::hash::{ContentHash, digest_of};
use crate::receive::{Body, Interrupted, Received, receive};
use crate::{Error, Registry, Result};

/// Bytes of a layer that is packed anew, handed on at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Such pieces that wait for the disk.
const PIECES_WAITING_MAX: usize = 4;

/// The digests of tars with nothing in them, of every length that anything writes: none of the two blocks that end an
/// archive, as docker before 1.3 did, up to the 20 blocks that tar itself fills up to.
static EMPTY_TARS: LazyLock<Vec<Digest>> =
    LazyLock::new(|| (0..=20).map(|blocks| digest_of(Algorithm::Sha256, &vec![0; blocks * 512])).collect());

/// Whether the uncompressed tar with this digest has nothing in it.
pub(super) fn is_empty_tar(diff_id: &Digest) -> bool {
    EMPTY_TARS.contains(diff_id)
}

/// How a layer is carried over.
pub(super) enum Way {
    /// The blob is what V2 clients can take.
    AsItIs(Conversion),
    /// It was packed anew before.
    PackedBefore(Conversion),
    /// It must be read through.
    ReadThrough,
}

/// The image that layers are carried into, and for whom they are kept there until a tag leads to them.
#[derive(Clone, Copy)]
pub(super) struct Into<'a> {
    pub(super) repository: &'a RepositoryKey,
    pub(super) image: &'a ImageName,
    pub(super) holder: &'a str,
}

impl Registry {
    /// How a layer is carried over, from what is known without reading it.
    pub(super) async fn way_of(&self, layer: &Layer) -> Result<Way> {
        // What could be unpacked while it was pushed was gzip or a plain tar; a plain one is its own diff id.
        if let Some(diff_id) = layer.diff_id
            && (diff_id != layer.digest || is_empty_tar(&diff_id))
        {
            return Ok(Way::AsItIs(Conversion { diff_id, digest: layer.digest, size: layer.size }));
        }
        let row = get_record::<Conversion>(self.store.as_ref(), &keys::conversion(&layer.digest)).await?;
        let Some((conversion, _)) = row else { return Ok(Way::ReadThrough) };
        let is_there = self.store.get(&keys::blob(&conversion.digest)).await?.is_some();
        Ok(if is_there { Way::PackedBefore(conversion) } else { Way::ReadThrough })
    }

    /// Reads a layer through, and packs it anew unless it is gzip. What comes out is durable and kept for `into.holder`.
    pub(super) async fn convert(
        &self,
        into: Into<'_>,
        layer: &Layer,
        on_read: impl FnMut(u64) + Send + 'static,
    ) -> Result<std::result::Result<Conversion, Unusable>> {
        let key = keys::blob(&layer.digest);
        let (blob, _) = get_record(self.store.as_ref(), &key).await?.ok_or_else(|| damaged(&key))?;
        let content = self.content_of(&layer.digest, &blob).await?;
        let start: Vec<Bytes> = content.read(0..content.size.min(MAGIC_BYTES)).try_collect().await?;
        let packing = Packing::of(&start.concat());
        if packing == Packing::Gzip {
            let diff_id = match look_through(&layer.digest, &content, on_read).await? {
                Ok(diff_id) => diff_id,
                Err(unusable) => return Ok(Err(unusable)),
            };
            let conversion = Conversion { diff_id, digest: layer.digest, size: layer.size };
            self.keep_conversion(into, layer, &conversion, None).await?;
            return Ok(Ok(conversion));
        }
        let (received, outcome) = self.repack((&layer.digest, &content), packing, on_read).await?;
        let (diff_id, digest) = match outcome {
            Ok(digests) => digests,
            Err(unusable) => {
                self.give_back(received.data).await;
                return Ok(Err(unusable));
            }
        };
        let conversion = Conversion { diff_id, digest, size: received.size };
        match self.keep_conversion(into, layer, &conversion, Some(&received)).await {
            Ok(duplicate) => {
                self.give_back(duplicate).await;
                Ok(Ok(conversion))
            }
            Err(error) => {
                self.give_back(received.data).await;
                Err(error)
            }
        }
    }

    /// Commits what a layer became, for as long as the layer is there, and makes it readable in the image.
    async fn keep_conversion(
        &self,
        into: Into<'_>,
        layer: &Layer,
        conversion: &Conversion,
        received: Option<&Received>,
    ) -> Result<Option<berth_storage::DataId>> {
        let source = keys::blob(&layer.digest);
        self.commit_with(|| async {
            let mut batch = Batch::new();
            let seen = self.store.get(&source).await?;
            if seen.is_some() {
                batch.put_record(keys::conversion(&layer.digest), conversion);
            }
            batch.expect(source.clone(), seen);
            self.expect_repository(&mut batch, into.repository).await?;
            let Some(received) = received else { return Ok((batch, None)) };
            let duplicate = self.name_bytes(&mut batch, &conversion.digest, received).await?;
            self.link(&mut batch, into.repository, into.image, &conversion.digest, into.holder).await?;
            Ok((batch, duplicate))
        })
        .await
    }

    /// Unpacks a layer and packs it with gzip. The same layer gives the same bytes each time.
    async fn repack(
        &self,
        (digest, content): (&Digest, &BlobContent),
        packing: Packing,
        on_read: impl FnMut(u64) + Send + 'static,
    ) -> Result<(Received, std::result::Result<(Digest, Digest), Unusable>)> {
        let (blob, size, mut reader) = (*digest, content.size, BlobReader::new(content.read(0..content.size), on_read));
        let (pieces, body) = mpsc::channel(PIECES_WAITING_MAX);
        let working = spawn_blocking(move || {
            let mut gzip = GzBuilder::new().write(Pieces { pieces: pieces.clone(), piece: BytesMut::new() }, Compression::default());
            let outcome = unpack(&mut reader, packing, size, |bytes| gzip.write_all(bytes));
            let outcome = outcome.and_then(|diff_id| reader.was(&blob).map(|()| diff_id));
            let outcome = outcome
                .and_then(|diff_id| gzip.finish().and_then(|mut rest| rest.flush()).map(|()| diff_id).map_err(|_| Unusable::Abandoned));
            if outcome.is_err() {
                // Else what came so far would be taken for all of it.
                let _ = pieces.blocking_send(Err(Interrupted));
            }
            outcome
        });
        let body: Body = stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) }).boxed();
        let (received, hash, _) = receive(&self.blobs, Received::default(), ContentHash::default(), body).await?;
        let outcome = working.await.map_err(|_| Error::Internal("packing a layer died"))?;
        Ok((received, outcome.map(|diff_id| (diff_id, hash.finish()))))
    }
}

/// Reads a gzip layer through for its diff id.
pub(super) async fn look_through(
    digest: &Digest,
    content: &BlobContent,
    on_read: impl FnMut(u64) + Send + 'static,
) -> Result<std::result::Result<Digest, Unusable>> {
    let (blob, size, mut reader) = (*digest, content.size, BlobReader::new(content.read(0..content.size), on_read));
    let unpacking = move || unpack(&mut reader, Packing::Gzip, size, |_| Ok(())).and_then(|diff_id| reader.was(&blob).map(|()| diff_id));
    let outcome = spawn_blocking(unpacking).await;
    outcome.map_err(|_| Error::Internal("reading a layer died"))
}

/// Hands what is written on in pieces.
struct Pieces {
    pieces: mpsc::Sender<std::result::Result<Bytes, Interrupted>>,
    piece: BytesMut,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.pieces.blocking_send(Ok(self.piece.split().freeze())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
