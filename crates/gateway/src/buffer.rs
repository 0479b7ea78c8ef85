//! Memory for bytes on their way, lent to connections while they have any.
//!
//! What must stay true: a connection that waits holds none, so that idle connections cost little however large the buffers
//! are that busy ones need. Each thread keeps a bounded number of buffers for the next connection, warm in its cache.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Buffers of each size that a thread keeps for later.
const SPARE_MAX: usize = 4;

/// How large a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Four TLS records, or a piece of a body as Pingora reads it.
    Small,
    /// What saves most system calls below TLS, which reads no more than a record at a time. Measured: 7 % faster uploads
    /// than with the small one.
    Large,
}

impl Size {
    /// In bytes.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::Small => 64 << 10,
            Self::Large => 256 << 10,
        }
    }
}

thread_local! {
    static SPARE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn take(size: Size) -> Box<[u8]> {
    SPARE.with_borrow_mut(|spare| spare[size as usize].pop()).unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice())
}

fn give_back(size: Size, memory: Box<[u8]>) {
    // While a thread ends there is nobody to keep anything for.
    let _ = SPARE.try_with(|spare| {
        let spare = &mut spare.borrow_mut()[size as usize];
        if spare.len() < SPARE_MAX {
            spare.push(memory);
        }
    });
}

/// Bytes in the order in which they came. It has memory only while there are any.
pub(crate) struct Buffer {
    size: Size,
    memory: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) const fn new(size: Size) -> Self {
        Self { size, memory: None, start: 0, end: 0 }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.size.bytes()
    }

    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_deref().map_or(&[], |memory| &memory[self.start..self.end])
    }

    /// Forgets the first of the bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            if let Some(memory) = self.memory.take() {
                give_back(self.size, memory);
            }
        }
    }

    /// Adds bytes, for which there must be room.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let memory = self.memory.get_or_insert_with(|| take(self.size));
        if self.end + bytes.len() > memory.len() {
            memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        memory[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Reads once if it is empty. It is empty afterwards only at the end of what can be read.
    pub(crate) fn poll_fill(&mut self, reader: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let memory = self.memory.get_or_insert_with(|| take(self.size));
        let mut room = ReadBuf::new(memory);
        let polled = reader.poll_read(cx, &mut room);
        self.end = room.filled().len();
        // If nothing has come, the memory is for somebody else meanwhile.
        self.consume(0);
        polled
    }

    /// Writes until it is empty.
    pub(crate) fn poll_drain(&mut self, mut writer: Pin<&mut impl AsyncWrite>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(writer.as_mut().poll_write(cx, self.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.consume(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.consume(self.len());
    }
}

/// Without the bytes, which are somebody's.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("size", &self.size).field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    fn spare() -> usize {
        SPARE.with_borrow(|spare| spare.iter().map(Vec::len).sum())
    }

    #[test]
    fn memory_is_held_only_while_there_are_bytes() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = Buffer::new(Size::Small);
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = pin!(near);
        assert!(buffer.poll_fill(near.as_mut(), &mut cx).is_pending() && buffer.memory.is_none());
        assert_eq!(spare(), 1, "what was taken to read into is there for the next");
        assert!(pin!(&mut far).poll_write(&mut cx, b"abc").is_ready());
        assert!(buffer.poll_fill(near.as_mut(), &mut cx).is_ready());
        assert_eq!((buffer.bytes(), spare()), (&b"abc"[..], 0));
        buffer.consume(1);
        assert!(buffer.memory.is_some() && buffer.bytes() == b"bc");
        drop(buffer);
        assert_eq!(spare(), 1);
        drop(far);
        let mut buffer = Buffer::new(Size::Small);
        assert!(buffer.poll_fill(near, &mut cx).is_ready() && buffer.is_empty() && buffer.memory.is_none());
    }

    #[test]
    fn a_thread_keeps_a_few() {
        let mut buffers: Vec<_> = (0..10).map(|_| Buffer::new(Size::Large)).collect();
        buffers.iter_mut().for_each(|buffer| buffer.push(b"x"));
        drop(buffers);
        assert_eq!(spare(), SPARE_MAX);
    }

    #[test]
    fn what_is_not_written_at_once_stays() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut near, far) = tokio::io::duplex(10);
        let mut buffer = Buffer::new(Size::Small);
        buffer.push(b"0123456789abc");
        assert!(buffer.poll_drain(Pin::new(&mut near), &mut cx).is_pending());
        assert_eq!(buffer.bytes(), b"abc");
        drop(far);
        assert!(matches!(buffer.poll_drain(Pin::new(&mut near), &mut cx), Poll::Ready(Err(_))));
    }

    proptest! {
        /// Whatever is pushed and consumed, in whatever pieces, the bytes and their order stay.
        #[test]
        fn bytes_stay_in_order(steps in prop::collection::vec((any::<bool>(), 0_usize..70_000), 0..60)) {
            let (mut buffer, mut model, mut next) = (Buffer::new(Size::Small), VecDeque::new(), 0_u8);
            for (pushes, count) in steps {
                if pushes {
                    let count = count.min(buffer.capacity() - buffer.len());
                    let bytes: Vec<u8> = std::iter::repeat_with(|| { next = next.wrapping_add(1); next }).take(count).collect();
                    buffer.push(&bytes);
                    model.extend(bytes);
                } else {
                    let count = count.min(buffer.len());
                    buffer.consume(count);
                    model.drain(..count);
                }
                prop_assert!(buffer.bytes() == model.make_contiguous());
                prop_assert_eq!(buffer.memory.is_none(), model.is_empty());
            }
        }
    }
}
