//! Reading a layer through, however it is packed, in bounded memory.
//!
//! Docker unpacks whatever it finds, so V1 registries hold gzip, plain tar, bzip2 and xz (protocol reference §5.3).

use std::io::{self, Read};

use berth_names::Digest;
use berth_storage::BlobStream;
use bytes::{Buf, Bytes};
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use futures::TryStreamExt;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::super::tar::{BLOCK_BYTES, begins_archive};

/// A layer may unpack to this many times its size: deflate itself can't do more.
const UNPACKED_RATIO_MAX: u64 = 1_100;

/// Below this size, in bytes, the ratio does not matter.
const UNPACKED_BYTES_FREE: u64 = 1 << 30;

/// The most memory that unpacking xz may take, in KiB: what `xz -9` asks for fits.
const XZ_MEMORY_KIB_MAX: u32 = 96 * 1024;

/// Bytes that are unpacked at a time.
const PIECE_BYTES: usize = 128 << 10;

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Bzip2,
    Xz,
    Plain,
}

/// Bytes at the beginning of a layer that tell how it is packed.
pub(super) const MAGIC_BYTES: u64 = 6;

impl Packing {
    /// How a layer that begins so is packed.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Plain,
        }
    }
}

/// A stored blob, read by a thread that may block.
pub(super) struct BlobReader<F> {
    runtime: Handle,
    pieces: BlobStream,
    current: Bytes,
    digest: Sha256,
    /// Told of every piece's length.
    on_read: F,
}

impl<F: FnMut(u64)> BlobReader<F> {
    pub(super) fn new(pieces: BlobStream, on_read: F) -> Self {
        Self { runtime: Handle::current(), pieces, current: Bytes::new(), digest: Sha256::new(), on_read }
    }

    /// Reads what is left, and says whether all of it was the blob with this digest. What becomes of a layer is written down
    /// under its digest, and so must have been made of those bytes and not of what a bad disk gives.
    pub(super) fn was(mut self, blob: &Digest) -> Result<(), Unusable> {
        io::copy(&mut self, &mut io::sink()).map_err(|_| Unusable::Damaged)?;
        if Digest::sha256(self.digest.finalize().into()) == *blob { Ok(()) } else { Err(Unusable::Damaged) }
    }
}

impl<F: FnMut(u64)> Read for BlobReader<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.runtime.block_on(self.pieces.try_next()).map_err(io::Error::other)? {
                Some(piece) => {
                    (self.on_read)(piece.len() as u64);
                    self.digest.update(&piece);
                    self.current = piece;
                }
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(into.len());
        self.current.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

/// What a layer unpacks to is no tar, too much, or nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("can't be unpacked: it is damaged")]
    Damaged,
    #[error("is no tar")]
    NoTar,
    #[error("unpacks to more than {UNPACKED_RATIO_MAX} times its size, or needs too much memory for it")]
    TooMuch,
    /// Whoever takes in what is unpacked has gone.
    #[error("could not be written")]
    Abandoned,
}

/// Unpacks a layer of `size` bytes, hands what comes out to `take`, and returns its digest. Blocks.
pub(super) fn unpack<'p>(
    packed: impl Read + 'p,
    packing: Packing,
    size: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Digest, Unusable> {
    let mut unpacked: Box<dyn Read + 'p> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
        Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX)),
        Packing::Plain => Box::new(packed),
    };
    let output_max = UNPACKED_BYTES_FREE.max(size.saturating_mul(UNPACKED_RATIO_MAX));
    let (mut digest, mut start, mut output) = (Sha256::new(), Vec::with_capacity(BLOCK_BYTES), 0_u64);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match unpacked.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Err(Unusable::TooMuch),
            Err(_) => return Err(Unusable::Damaged),
        };
        output += length as u64;
        if output > output_max {
            return Err(Unusable::TooMuch);
        }
        digest.update(&piece[..length]);
        // More than the first block need not be looked at: docker looked when it made the layer, and does when it takes it.
        if start.len() < BLOCK_BYTES {
            start.extend_from_slice(&piece[..length.min(BLOCK_BYTES - start.len())]);
            if start.len() == BLOCK_BYTES && !begins_archive(&start) {
                return Err(Unusable::NoTar);
            }
        }
        take(&piece[..length]).map_err(|_| Unusable::Abandoned)?;
    }
    if !matches!(start.len(), 0 | BLOCK_BYTES) {
        return Err(Unusable::NoTar);
    }
    Ok(Digest::sha256(digest.finalize().into()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A tar of one member with so many bytes.
    fn tar(bytes: usize) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes as u64);
        header.set_cksum();
        archive.append_data(&mut header, "file", std::io::repeat(7).take(bytes as u64)).unwrap();
        archive.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn run(packed: &[u8]) -> (Result<Digest, Unusable>, Vec<u8>) {
        let mut out = Vec::new();
        let outcome = unpack(packed, Packing::of(packed), packed.len() as u64, |piece| {
            out.extend_from_slice(piece);
            Ok(())
        });
        (outcome, out)
    }

    #[test]
    fn every_packing_unpacks_to_the_same_tar() {
        let tar = tar(300_000);
        let digest = Digest::sha256(Sha256::digest(&tar).into());
        // Several members of gzip or bzip2 one after the other are one layer.
        let halves = |pack: fn(&[u8]) -> Vec<u8>| [pack(&tar[..1000]), pack(&tar[1000..])].concat();
        for packed in [tar.clone(), gzip(&tar), halves(gzip), bzip2(&tar), halves(bzip2), xz(&tar), halves(xz)] {
            assert_eq!(run(&packed), (Ok(digest), tar.clone()));
        }
    }

    #[test]
    fn what_is_damaged_or_no_tar_is_said_to_be() {
        let good = gzip(&tar(100_000));
        let mut flipped = good.clone();
        let last = flipped.len() - 5;
        flipped[last] ^= 1;
        for (packed, expected) in [
            (good[..good.len() / 2].to_vec(), Unusable::Damaged),
            (flipped, Unusable::Damaged),
            (gzip(&[7; 2000]), Unusable::NoTar),
            (b"just some text".to_vec(), Unusable::NoTar),
            (b"BZh9 no".to_vec(), Unusable::Damaged),
            (vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 0], Unusable::Damaged),
        ] {
            assert_eq!(run(&packed).0, Err(expected));
        }
    }

    #[test]
    fn nothing_at_all_is_an_empty_tar() {
        let digest = Digest::sha256(Sha256::digest(b"").into());
        assert_eq!(run(b"").0, Ok(digest));
        assert_eq!(run(&gzip(b"")).0, Ok(digest));
    }

    #[test]
    fn a_bomb_ends_early() {
        // Zeros begin an archive, and end it.
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..1100 {
            packed.write_all(&zeros).unwrap();
        }
        let packed = packed.finish().unwrap();
        assert!(packed.len() < 100_000);
        let mut output = 0;
        let outcome = unpack(packed.as_slice(), Packing::Bzip2, packed.len() as u64, |piece| {
            output += piece.len() as u64;
            Ok(())
        });
        assert_eq!(outcome, Err(Unusable::TooMuch));
        assert!(output <= UNPACKED_BYTES_FREE);
    }
}
