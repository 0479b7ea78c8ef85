//! Where one request ends and the next begins, judged on the bytes as they come, before anybody else reads them.
//!
//! Pingora's parser takes chunk sizes that are missing, line feeds within chunk extensions and trailers of any form. Another
//! server in front of the gateway, or behind it, may find another end in such a body, and then what one takes for a body is
//! a request to the other. Here such a body breaks off, and its connection with it.
//!
//! What must stay true:
//! - What passes can be taken apart in one way only, by RFC 9112.
//! - A head that is not understood here is not admitted, whatever Pingora makes of it, and its connection is closed, so that
//!   nothing after it matters. Pingora's own copy of a head can't tell: it mends request lines before it reads them. So the
//!   heads that were understood are counted here, and requests where they are admitted ([`Understood`]).
//! - Bytes are looked at, not copied, unless a line arrives in pieces.

use std::borrow::Cow;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderName, HeaderValue};
use memchr::memmem;

use crate::head::{self, Body, HEAD_BYTES_MAX};

/// Longest line of a chunked body, in bytes, and all its trailers. Nobody sends extensions or trailers to a registry.
const LINE_BYTES_MAX: usize = 4096;
const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Most digits of a chunk's size: 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// A body whose end is in doubt.
#[derive(Debug, thiserror::Error)]
#[error("the body's chunks are not as HTTP/1.1 requires")]
pub(crate) struct Doubtful;

impl From<Doubtful> for io::Error {
    fn from(doubtful: Doubtful) -> Self {
        Self::new(io::ErrorKind::InvalidData, doubtful)
    }
}

/// How many heads of a connection were understood, for those who see only what Pingora made of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Understood(Arc<AtomicU64>);

impl Understood {
    /// Whether the head of the connection's request of this number, the first being 1, was understood as it came.
    ///
    /// Heads are followed in the order in which they are read, and at the latest when the last byte of a head is handed on.
    pub(crate) fn has(&self, request: u64) -> bool {
        request <= self.0.load(Ordering::Acquire)
    }
}

/// How far the requests of a connection have come.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    part: Part,
    understood: Understood,
    /// The beginning of a head or line whose rest has not come.
    partial: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// The head of a request.
    #[default]
    Head,
    /// As much of a body with a length.
    Body(u64),
    /// The line that a chunk begins with.
    ChunkSize,
    /// As much of a chunk.
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    /// A line of trailers, or the empty one; so many bytes may still be of them.
    Trailer(usize),
    /// Nothing that will be served.
    Anything,
    /// Nothing that may be.
    Doubt,
}

impl Framing {
    /// What its heads are counted in.
    pub(crate) fn understood(&self) -> Understood {
        self.understood.clone()
    }

    /// Follows what a client sends, in order and in pieces of any size. Gives back how many bytes of the piece come before
    /// the line that is in doubt; there is none if that is all of them.
    pub(crate) fn follow(&mut self, piece: &[u8]) -> usize {
        let mut rest = piece;
        while !rest.is_empty() {
            let before = rest.len();
            if self.step(&mut rest).is_err() {
                self.part = Part::Doubt;
                return piece.len() - before;
            }
        }
        piece.len()
    }

    /// What is known by now.
    ///
    /// # Errors
    /// [`Doubtful`] if it is not clear where a body ends.
    pub(crate) fn check(&self) -> Result<(), Doubtful> {
        if self.part == Part::Doubt { Err(Doubtful) } else { Ok(()) }
    }

    /// Takes what belongs to one part, or as much of it as there is.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<(), Doubtful> {
        self.part = match self.part {
            Part::Head => match until(&mut self.partial, bytes, b"\r\n\r\n", HEAD_BYTES_MAX) {
                Ok(Some(head)) => self.after_head(&head),
                Ok(None) => Part::Head,
                Err(Doubtful) => Part::Anything,
            },
            Part::Body(length) => match skip(bytes, length) {
                0 => Part::Head,
                rest => Part::Body(rest),
            },
            Part::ChunkSize => match until(&mut self.partial, bytes, b"\n", LINE_BYTES_MAX)? {
                Some(line) => match chunk_size(line.strip_suffix(b"\r\n").ok_or(Doubtful)?)? {
                    0 => Part::Trailer(TRAILER_BYTES_MAX),
                    size => Part::Chunk(size),
                },
                None => Part::ChunkSize,
            },
            Part::Chunk(length) => match skip(bytes, length) {
                0 => Part::ChunkEnd,
                rest => Part::Chunk(rest),
            },
            Part::ChunkEnd => match until(&mut self.partial, bytes, b"\n", 2)? {
                Some(line) if *line == *b"\r\n" => Part::ChunkSize,
                Some(_) => return Err(Doubtful),
                None => Part::ChunkEnd,
            },
            Part::Trailer(room) => match until(&mut self.partial, bytes, b"\n", room)? {
                Some(line) => match line.strip_suffix(b"\r\n").ok_or(Doubtful)? {
                    b"" => Part::Head,
                    field if is_field(field) => Part::Trailer(room - line.len()),
                    _ => return Err(Doubtful),
                },
                None => Part::Trailer(room),
            },
            Part::Anything => {
                *bytes = &[];
                Part::Anything
            }
            Part::Doubt => return Err(Doubtful),
        };
        Ok(())
    }

    fn after_head(&self, head: &[u8]) -> Part {
        let Ok(head) = head::check(head) else { return Part::Anything };
        self.understood.0.fetch_add(1, Ordering::Release);
        match head.body {
            Body::Length(0) => Part::Head,
            Body::Length(length) => Part::Body(length),
            Body::Chunked => Part::ChunkSize,
        }
    }
}

/// Takes as many bytes as there are; gives back how many are missing.
fn skip(bytes: &mut &[u8], length: u64) -> u64 {
    let count = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[count..];
    length - count as u64
}

/// Takes bytes to the end of `end`, together with those that came before; none if it has not come yet.
fn until<'a>(partial: &mut Vec<u8>, bytes: &mut &'a [u8], end: &[u8], max: usize) -> Result<Option<Cow<'a, [u8]>>, Doubtful> {
    let found = if partial.is_empty() {
        memmem::find(bytes, end).map(|at| {
            let (taken, rest) = bytes.split_at(at + end.len());
            *bytes = rest;
            Cow::Borrowed(taken)
        })
    } else {
        let known = partial.len();
        // The end may have begun in what came before.
        let from = known.saturating_sub(end.len() - 1);
        partial.extend_from_slice(&bytes[..bytes.len().min(max + end.len())]);
        memmem::find(&partial[from..], end).map(|at| {
            let length = from + at + end.len();
            partial.truncate(length);
            *bytes = &bytes[length - known..];
            Cow::Owned(mem::take(partial))
        })
    };
    match found {
        Some(found) if found.len() > max => Err(Doubtful),
        Some(found) => Ok(Some(found)),
        None => {
            if partial.is_empty() {
                partial.extend_from_slice(&bytes[..bytes.len().min(max + end.len())]);
            }
            *bytes = &[];
            if partial.len() > max {
                *partial = Vec::new();
                return Err(Doubtful);
            }
            Ok(None)
        }
    }
}

/// The size in the line that a chunk begins with, which may have an extension that nobody reads.
fn chunk_size(line: &[u8]) -> Result<u64, Doubtful> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(digits);
    let blanks = rest.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(rest.len());
    let is_plain = |rest: &[u8]| rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    match rest[blanks..] {
        [] => {}
        [b';', ref extension @ ..] if is_plain(extension) => {}
        _ => return Err(Doubtful),
    }
    let digits = str::from_utf8(digits).ok().filter(|digits| digits.len() <= SIZE_DIGITS_MAX);
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(Doubtful)
}

/// Whether a line is a header field.
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    HeaderName::from_bytes(&line[..colon]).is_ok() && HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).is_ok()
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    fn follow(bytes: &[u8]) -> Result<Part, ()> {
        let mut framing = Framing::default();
        framing.follow(bytes);
        framing.check().map(|()| framing.part).map_err(|Doubtful| ())
    }

    fn chunked(body: &str) -> Vec<u8> {
        format!("PUT /v2/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
    }

    const PLAIN: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";
    const EMPTY_LINE: &str = "\r\nGET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";
    const SIZED: &str = "PUT /v2/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\na\r\n\r\n";
    const CHUNKED: &str = "PATCH /v2/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                           5\r\na\r\n\r\n\r\n0A ;x=\"y\"\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\nX-Y: z\r\nA:\r\n\r\n";

    #[test]
    fn a_body_that_ends_in_one_way_passes() {
        for body in
            ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "05;name=value\r\nhello\r\n000\r\nX: y\r\n\r\n", "a\t;\r\n0123456789\r\n0 \r\n\r\n"]
        {
            assert_eq!(follow(&chunked(body)), Ok(Part::Head), "{body:?}");
        }
        for (unfinished, part) in [
            ("", Part::ChunkSize),
            ("5", Part::ChunkSize),
            ("5\r\nhel", Part::Chunk(2)),
            ("5\r\nhello", Part::ChunkEnd),
            ("5\r\nhello\r", Part::ChunkEnd),
            ("ffffffffffffffff\r\n", Part::Chunk(u64::MAX)),
            ("0\r\n", Part::Trailer(TRAILER_BYTES_MAX)),
        ] {
            assert_eq!(follow(&chunked(unfinished)), Ok(part), "{unfinished:?}");
        }
    }

    #[test]
    fn a_body_whose_end_is_in_doubt_breaks_off() {
        for body in [
            "\r\n\r\n",
            " \r\n",
            ";x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "0x0\r\n",
            "1\na\r\n",
            "0\n",
            "5\r\nhelloworld\r\n",
            "5\r\nhello\n",
            "5\r\nhello0\r\n",
            "0;a=\n\r\n\r\n",
            "0;a\rb\r\n\r\n",
            "0;a\0\r\n\r\n",
            "0 0\r\n",
            "0 x\r\n",
            "10000000000000000\r\n",
            "00000000000000000\r\n",
            "0\r\nnothing\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: a\rb\r\n\r\n",
            "0\r\n\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(follow(&chunked(body)), Err(()), "{body:?}");
        }
        let long = |unit: &str| unit.repeat(20_000);
        for body in [format!("0;{}", long("a")), format!("0\r\nX: {}", long("a")), format!("0\r\n{}", long("X: y\r\n"))] {
            assert_eq!(follow(&chunked(&body)), Err(()), "{:?}", &body[..20]);
        }
        // It stays so.
        let mut framing = Framing::default();
        let bad = chunked("1\r\na\r\nx\r\n");
        assert_eq!(framing.follow(&bad), bad.len() - 3, "what comes before can be read");
        assert_eq!((framing.follow(PLAIN.as_bytes()), framing.check().is_err()), (0, true));
    }

    #[test]
    fn what_will_be_refused_is_not_judged_twice() {
        for head in [
            "GET /v2/ HTTP/1.1\nHost: a\r\n\r\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ] {
            assert_eq!(follow(head.as_bytes()), Ok(Part::Anything), "{head:?}");
        }
        assert_eq!(follow(&[b'a'; HEAD_BYTES_MAX + 1]), Ok(Part::Anything));
    }

    #[test]
    fn only_heads_that_were_understood_as_they_came_count() {
        for (bytes, count) in [
            (String::new(), 0),
            (PLAIN[..PLAIN.len() - 1].to_owned(), 0),
            (PLAIN.to_owned(), 1),
            (format!("{PLAIN}{SIZED}{CHUNKED}{PLAIN}"), 4),
            (format!("\r\n{PLAIN}{SIZED}\r\n{CHUNKED}\r\n{PLAIN}"), 4),
            (format!("{PLAIN}\r\n\r\n{PLAIN}"), 1),
            (format!("{PLAIN}GET /v2/?a b HTTP/1.1\r\nHost: a\r\n\r\n{PLAIN}"), 1),
            (format!("GET /v2/?a\tb HTTP/1.1\r\nHost: a\r\n\r\n{PLAIN}"), 0),
        ] {
            let mut framing = Framing::default();
            let understood = framing.understood();
            framing.follow(bytes.as_bytes());
            assert!((1..=count).all(|request| understood.has(request)) && !understood.has(count + 1), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_as_good_as_the_whole(messages in prop::collection::vec(select(vec![PLAIN, SIZED, CHUNKED, EMPTY_LINE]), 1..5), cuts in prop::collection::vec(any::<Index>(), 0..20)) {
            let bytes = messages.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut framing = Framing::default();
            for pair in cuts.windows(2) {
                prop_assert_eq!(framing.follow(&bytes[pair[0]..pair[1]]), pair[1] - pair[0]);
            }
            prop_assert_eq!((framing.part, framing.partial.len()), (Part::Head, 0));
        }

        #[test]
        fn any_bytes_are_judged_alike_in_any_pieces(body in prop::collection::vec(select(b"01a;:\r\n \tX\0".to_vec()), 0..40), size in 1..8_usize) {
            let bytes = chunked(str::from_utf8(&body).unwrap());
            let whole = follow(&bytes);
            let mut framing = Framing::default();
            for piece in bytes.chunks(size) {
                framing.follow(piece);
            }
            let pieces = framing.check().map(|()| framing.part).map_err(|Doubtful| ());
            prop_assert_eq!(pieces, whole);
        }
    }
}
