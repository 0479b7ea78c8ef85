//! What is packed, told by its first bytes and never by its name, and unpacked in bounded memory.

use std::io::{self, Read};

use berth_names::Digest;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use sha2::{Digest as _, Sha256};

/// Something may unpack to this many times its size: deflate itself can't do more, and no image needs it.
const UNPACKED_RATIO_MAX: u64 = 1_100;

/// Below this size, in bytes, the ratio does not matter.
const UNPACKED_BYTES_FREE: u64 = 1 << 30;

/// The most memory that unpacking xz may take, in KiB: what `xz -9` asks for fits.
const XZ_MEMORY_KIB_MAX: u32 = 96 * 1024;

/// The largest window of zstd, as a power of two: 128 MiB, which is what `zstd` itself unpacks unless it is told more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Bytes that are unpacked at a time.
const PIECE_BYTES: usize = 128 << 10;

/// Bytes at the beginning of something that tell how it is packed.
pub(super) const MAGIC_BYTES: usize = 6;

/// How an archive or a layer is packed: the ways that docker unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Packing {
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one to be passed over in front of it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// What `packed`, of `size` bytes, unpacks to. It ends with an error where it is damaged or unpacks to too much.
pub(super) fn unpacked<'p>(packed: impl Read + Send + 'p, packing: Packing, size: u64) -> io::Result<Box<dyn Read + Send + 'p>> {
    let inner: Box<dyn Read + Send + 'p> = match packing {
        Packing::Plain => return Ok(Box::new(packed)),
        Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
        Packing::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
        Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    let left = UNPACKED_BYTES_FREE.max(size.saturating_mul(UNPACKED_RATIO_MAX));
    Ok(Box::new(Bounded { inner, left }))
}

/// The digest of what something unpacks to. Blocks.
pub(super) fn digest_of(mut unpacked: impl Read) -> io::Result<Digest> {
    let (mut digest, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match unpacked.read(&mut piece) {
            Ok(0) => return Ok(Digest::sha256(digest.finalize().into())),
            Ok(length) => digest.update(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A bomb ends in an error, and what a decoder has to say in words.
struct Bounded<R> {
    inner: R,
    /// Bytes that may still come.
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(into).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            io::ErrorKind::OutOfMemory => io::Error::other("it needs too much memory to be unpacked"),
            _ => io::Error::other(format!("it can't be unpacked: {error}")),
        })?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::other(format!("it unpacks to more than {UNPACKED_RATIO_MAX} times its size")))?;
        Ok(length)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use super::super::fixture::gzip;
    use super::*;

    pub(crate) fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 1).unwrap()
    }

    fn run(packed: &[u8]) -> io::Result<Digest> {
        digest_of(unpacked(packed, Packing::of(packed), packed.len() as u64)?)
    }

    #[test]
    fn every_packing_is_told_by_its_first_bytes_and_unpacked() {
        let content: Vec<u8> = (0..300_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        let digest = Digest::sha256(Sha256::digest(&content).into());
        let halves = |pack: fn(&[u8]) -> Vec<u8>| [pack(&content[..1000]), pack(&content[1000..])].concat();
        let skipped = [b"\x52\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(&content)].concat();
        for (packed, packing) in [
            (content.clone(), Packing::Plain),
            (gzip(&content), Packing::Gzip),
            (halves(gzip), Packing::Gzip),
            (bzip2(&content), Packing::Bzip2),
            (halves(bzip2), Packing::Bzip2),
            (xz(&content), Packing::Xz),
            (halves(xz), Packing::Xz),
            (zstd(&content), Packing::Zstd),
            (halves(zstd), Packing::Zstd),
            (skipped, Packing::Zstd),
            (Vec::new(), Packing::Plain),
        ] {
            assert_eq!(Packing::of(&packed), packing);
            if !packed.is_empty() {
                assert_eq!(run(&packed).unwrap(), digest, "{packing:?}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_damaged_ends_in_an_error() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for packed in [gzip(&content), bzip2(&content), xz(&content), zstd(&content)] {
            assert!(run(&packed[..packed.len() / 2]).is_err());
            let mut flipped = packed.clone();
            flipped[packed.len() / 2] ^= 0x55;
            assert!(run(&flipped).is_err() || Packing::of(&packed) == Packing::Zstd);
        }
    }

    #[test]
    fn a_bomb_and_a_window_without_bound_are_refused() {
        let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..1100 {
            packed.write_all(&zeros).unwrap();
        }
        let bomb = packed.finish().unwrap();
        assert!(run(&bomb).unwrap_err().to_string().contains("1100 times"));
        // A frame that asks for a window of 2 GiB.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(run(&window).is_err());
    }
}
