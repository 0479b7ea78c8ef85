//! RocksDB's log format: blocks of 32 KiB, in them records, each whole or in fragments.
//!
//! A fragment is its checksum (4 bytes), its length (2), its type (1) and its bytes; none crosses the end of a block, where up
//! to six bytes are left empty. Unlike RocksDB's own reader this one goes on behind what it can't read.

use std::fs::File;
use std::io::{self, Read, Write};

/// Bytes of a block.
const BLOCK_BYTES: usize = 32 << 10;

/// Bytes in front of every fragment.
const HEADER_BYTES: usize = 7;

/// Added to a rotated checksum, so that the checksum of bytes with checksums in them is not easily a wrong one.
const MASK: u32 = 0xa282_ead8;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

fn checksum(type_and_bytes: &[u8]) -> u32 {
    crc32c::crc32c(type_and_bytes).rotate_right(15).wrapping_add(MASK)
}

/// A fragment within a block: what it is, its bytes, and where the next one begins.
struct Fragment<'b> {
    kind: u8,
    bytes: &'b [u8],
    end: usize,
}

/// The fragment at `start`, if it is whole and what was written.
fn fragment(block: &[u8], start: usize) -> Option<Fragment<'_>> {
    let header = block.get(start..start + HEADER_BYTES)?;
    let stored = u32::from_le_bytes(header[..4].try_into().ok()?);
    let length = usize::from(u16::from_le_bytes(header[4..6].try_into().ok()?));
    let (kind, end) = (header[6], start + HEADER_BYTES + length);
    // Nothing is written with type 0: it is what a file has that was made longer than it was filled.
    if kind == 0 {
        return None;
    }
    let checked = block.get(start + HEADER_BYTES - 1..end)?;
    (checksum(checked) == stored).then_some(Fragment { kind, bytes: &checked[1..], end })
}

/// Calls `visit` with every record of the file that can be read, in order, and whether something before it can't; returns
/// whether anything can't.
pub(super) fn each_record(file: &mut File, mut visit: impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<bool> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    // The beginning of a record whose end is still to come.
    let mut begun: Option<Vec<u8>> = None;
    let mut damaged = false;
    loop {
        block.clear();
        Read::by_ref(file).take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut at = 0;
        while at + HEADER_BYTES <= block.len() {
            let Some(Fragment { kind, bytes, end }) = fragment(&block, at) else {
                let next = readable_behind(&block, at);
                if next.is_some() || block[at..].iter().any(|byte| *byte != 0) {
                    damaged = true;
                    begun = None;
                }
                match next {
                    Some(next) => at = next,
                    None => break,
                }
                continue;
            };
            at = end;
            match (kind, begun.as_mut()) {
                (FULL, None) => visit(bytes, damaged)?,
                (FIRST, None) => begun = Some(bytes.to_vec()),
                (MIDDLE, Some(begun)) => begun.extend_from_slice(bytes),
                (LAST, Some(whole)) => {
                    whole.extend_from_slice(bytes);
                    visit(whole, damaged)?;
                    begun = None;
                }
                // The end of something whose beginning is gone, or the beginning of something whose end is.
                (MIDDLE | LAST, None) => damaged = true,
                (FULL, Some(_)) => {
                    (damaged, begun) = (true, None);
                    visit(bytes, damaged)?;
                }
                (FIRST, Some(_)) => (damaged, begun) = (true, Some(bytes.to_vec())),
                // Notes of the engine to itself, which no store of ours has.
                _ => {}
            }
        }
        if block.len() < BLOCK_BYTES {
            return Ok(damaged || begun.is_some());
        }
    }
}

/// Where the next fragment of this block begins, if the damaged one says so truly.
///
/// It is not looked for anywhere else before the next block: within a record are bytes of clients, who could have put there
/// what looks like fragments. Where a block begins they can't.
fn readable_behind(block: &[u8], damage: usize) -> Option<usize> {
    let length = block.get(damage + 4..damage + 6)?;
    let next = damage + HEADER_BYTES + usize::from(u16::from_le_bytes(length.try_into().ok()?));
    fragment(block, next).map(|_| next)
}

/// Writes records in this format.
pub(super) struct Writer<W> {
    out: W,
    /// How far the present block is filled.
    at: usize,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, at: 0 }
    }

    pub(super) fn add(&mut self, record: &[u8]) -> io::Result<()> {
        let (mut rest, mut is_first) = (record, true);
        loop {
            if BLOCK_BYTES - self.at < HEADER_BYTES {
                self.out.write_all(&[0; HEADER_BYTES][..BLOCK_BYTES - self.at])?;
                self.at = 0;
            }
            let (now, later) = rest.split_at(rest.len().min(BLOCK_BYTES - self.at - HEADER_BYTES));
            let kind = match (is_first, later.is_empty()) {
                (true, true) => FULL,
                (true, false) => FIRST,
                (false, false) => MIDDLE,
                (false, true) => LAST,
            };
            let mut checked = Vec::with_capacity(1 + now.len());
            checked.push(kind);
            checked.extend_from_slice(now);
            self.out.write_all(&checksum(&checked).to_le_bytes())?;
            // A fragment is shorter than a block, so its length fits.
            self.out.write_all(&(now.len() as u16).to_le_bytes())?;
            self.out.write_all(&checked)?;
            self.at += HEADER_BYTES + now.len();
            (rest, is_first) = (later, false);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }
}
