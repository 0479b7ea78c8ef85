//! Buffers for bulk data, used again and again: fetching half a megabyte of fresh pages from the kernel for each one costs
//! more than filling it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Buffers kept for use again. More may be in use at once; those are given back to the allocator.
const POOLED_MAX: usize = 24;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn pool() -> std::sync::MutexGuard<'static, Vec<Vec<u8>>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer of [`Chunk::BYTES`], filled from the front.
pub struct Chunk {
    buffer: Vec<u8>,
    length: usize,
}

impl Chunk {
    /// How much one chunk holds, in bytes.
    pub const BYTES: usize = 512 << 10;

    /// An empty chunk.
    #[must_use]
    pub fn empty() -> Self {
        let buffer = pool().pop().unwrap_or_else(|| vec![0; Self::BYTES]);
        Self { buffer, length: 0 }
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes as many bytes as fit, and returns the rest.
    pub fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(Self::BYTES - self.length));
        self.grow(now.len()).copy_from_slice(now);
        later
    }

    /// Makes the chunk `more` bytes longer, up to its end, and returns them for writing. What they hold is unspecified.
    pub(crate) fn grow(&mut self, more: usize) -> &mut [u8] {
        let more = more.min(Self::BYTES - self.length);
        let from = self.length;
        self.length += more;
        &mut self.buffer[from..from + more]
    }

    /// The content, shared; the buffer is used again when the last of it is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mut pool = pool();
        if pool.len() < POOLED_MAX {
            pool.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_what_they_should_and_return_the_rest() {
        for _ in 0..3 {
            let mut chunk = Chunk::empty();
            assert!(chunk.is_empty());
            assert_eq!(chunk.fill(b"abc"), b"");
            let more = vec![7; Chunk::BYTES];
            assert_eq!(chunk.fill(&more).len(), 3);
            let bytes = chunk.freeze();
            assert_eq!((bytes.len(), &bytes[..4]), (Chunk::BYTES, &b"abc\x07"[..]));
        }
    }

    #[test]
    fn a_reused_buffer_starts_empty() {
        let mut chunk = Chunk::empty();
        chunk.fill(b"secret");
        drop(chunk.freeze());
        assert_eq!(Chunk::empty().freeze().len(), 0);
    }
}
