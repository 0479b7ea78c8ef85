//! Parts of some content (RFC 9110, 14): what a `Range` header asks for, and bodies of several parts.
//!
//! What must stay true: whatever is asked for, no byte of the content is sent twice, and what is sent around the parts is
//! bounded. So parts that overlap become one, and who asks for too many gets the whole.

use std::fmt::Write as _;
use std::ops::Range;

use berth_registry::BlobContent;
use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::body::ResponseBody;
use super::params::is_number;

/// Most parts of one answer. Clients that pull lazily ask for a few dozen at once.
pub(crate) const PARTS_MAX: usize = 64;

/// The part or parts of some content that a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    /// One or more, none of which is empty, in the order in which they were asked for. No two have a byte in common.
    Parts(Vec<Range<u64>>),
    Unsatisfiable,
}

/// Reads a `Range` header for content of `size` bytes.
///
/// A last byte behind the end is cut: docker's resume always asks for one too many (protocol reference §4.7).
/// What is no range of bytes is answered with the whole, as HTTP allows; one that ends before it begins is none that could
/// be satisfied.
pub(crate) fn wanted(header: &str, size: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else { return Wanted::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let (mut parts, mut is_any) = (Vec::new(), false);
    // Lists may have empty elements.
    for (at, text) in set.split(',').map(str::trim).filter(|text| !text.is_empty()).enumerate() {
        let Some(part) = (if at < PARTS_MAX { part(text, size) } else { None }) else { return Wanted::Whole };
        is_any = true;
        if !part.is_empty() {
            add(&mut parts, part);
        }
    }
    match (is_any, parts.is_empty()) {
        (false, _) => Wanted::Whole,
        (true, true) => Wanted::Unsatisfiable,
        (true, false) => Wanted::Parts(parts),
    }
}

/// One element of the list, cut to the content; empty if nothing of the content is in it.
fn part(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.split_once('-')?;
    // A number too large for us is as far behind the end as any other.
    let number = |text: &str| is_number(text).then(|| text.parse().unwrap_or(u64::MAX));
    match (number(first), number(last)) {
        (Some(first), Some(last)) => Some(first..last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => Some(first..size),
        (None, Some(suffix)) if first.is_empty() => Some(size.saturating_sub(suffix)..size),
        _ => None,
    }
}

/// Adds a part; those with which it has bytes in common become one with it, where the first of them stands.
fn add(parts: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    let mut at = parts.len();
    // Grown, it may reach others that it did not reach before.
    while let Some(found) = parts.iter().position(|other| other.start < part.end && part.start < other.end) {
        let other = parts.remove(found);
        part = part.start.min(other.start)..part.end.max(other.end);
        at = at.min(found);
    }
    parts.insert(at.min(parts.len()), part);
}

/// What separates the parts of one answer. Whoever has pushed the content can't have guessed it.
pub(crate) struct Boundary(String);

impl Boundary {
    /// A new one; `None` if the system has no random bytes.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    /// The media type of a body that has it.
    pub(crate) fn media_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.0)
    }

    /// A body of these parts of the content, each with its type and place.
    pub(crate) fn body(&self, content: BlobContent, media_type: &str, parts: Vec<Range<u64>>) -> ResponseBody {
        let size = content.size;
        let end = format!("\r\n--{}--\r\n", self.0);
        let mut left = end.len() as u64;
        let mut pieces = Vec::with_capacity(parts.len());
        for (at, part) in parts.into_iter().enumerate() {
            let mut head = String::new();
            let line = if at == 0 { "" } else { "\r\n" };
            let place = place(&part, size);
            let _ = write!(head, "{line}--{}\r\nContent-Type: {media_type}\r\nContent-Range: {place}\r\n\r\n", self.0);
            left += head.len() as u64 + (part.end - part.start);
            pieces.push((Bytes::from(head), part));
        }
        let pieces = stream::iter(pieces).flat_map(move |(head, part)| stream::iter([Ok(head)]).chain(content.read(part)));
        ResponseBody::Stream { left, pieces: pieces.chain(stream::iter([Ok(Bytes::from(end))])).boxed() }
    }
}

/// Where a part is, as `Content-Range` has it.
pub(crate) fn place(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_cut_to_the_content() {
        let part = |range| Wanted::Parts(vec![range]);
        for (header, expected) in [
            ("bytes=0-0", part(0..1)),
            ("bytes=5-10", part(5..10)),
            ("bytes=5-", part(5..10)),
            ("bytes=-3", part(7..10)),
            ("bytes=-99", part(0..10)),
            ("bytes=10-10", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=7-3", Wanted::Unsatisfiable),
            ("items=0-1", Wanted::Whole),
            ("bytes=x-", Wanted::Whole),
            ("bytes=0-18446744073709551615", part(0..10)),
            ("bytes=5-99999999999999999999999999", part(5..10)),
            ("bytes=99999999999999999999999999-", Wanted::Unsatisfiable),
            ("Bytes=5-6", part(5..7)),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ] {
            assert_eq!(wanted(header, 10), expected, "{header:?}");
        }
        assert_eq!(wanted("bytes=0-0", 0), Wanted::Unsatisfiable);
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "parts that have become one are a list of one range")]
    fn several_ranges_are_so_many_parts_and_those_that_overlap_are_one() {
        for (header, expected) in [
            ("bytes=0-1,3-4", &[0..2, 3..5][..]),
            ("bytes=0-1, ,3-4 ,", &[0..2, 3..5]),
            ("bytes=8-,0-1", &[8..10, 0..2]),
            ("bytes=0-1,2-3", &[0..2, 2..4]),
            ("bytes=0-3,2-5", &[0..6]),
            ("bytes=0-1,4-5,1-4", &[0..6]),
            ("bytes=6-7,0-9", &[0..10]),
            ("bytes=0-0,0-0,0-0,-1", &[0..1, 9..10]),
            ("bytes=0-1,20-30,7-3", &[0..2]),
        ] {
            assert_eq!(wanted(header, 10), Wanted::Parts(expected.to_vec()), "{header:?}");
        }
        assert_eq!(wanted("bytes=20-30,-0,7-3", 10), Wanted::Unsatisfiable);
        assert_eq!(wanted("bytes=0-1,x", 10), Wanted::Whole);
        let many = |count: usize| format!("bytes={}", (0..count).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(","));
        assert_eq!(wanted(&many(PARTS_MAX), 1000), Wanted::Parts((0..PARTS_MAX as u64).map(|at| 2 * at..2 * at + 1).collect()));
        assert_eq!(wanted(&many(PARTS_MAX + 1), 1000), Wanted::Whole);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_no_byte_is_sent_twice(text in "[0-9, x-]{0,60}", size in 0..1000_u64) {
            if let Wanted::Parts(parts) = wanted(&format!("bytes={text}"), size) {
                prop_assert!(!parts.is_empty() && parts.len() <= PARTS_MAX);
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= size));
                prop_assert!(parts.iter().map(|part| part.end - part.start).sum::<u64>() <= size);
                let apart = |a: &Range<u64>, b: &Range<u64>| a.end <= b.start || b.end <= a.start;
                prop_assert!(parts.iter().enumerate().all(|(at, part)| parts[..at].iter().all(|other| apart(part, other))));
            }
        }

        #[test]
        fn no_text_makes_reading_panic(text in "\\PC{0,60}", size in any::<u64>()) {
            let _ = wanted(&text, size);
            let _ = wanted(&format!("bytes={text}"), size);
        }
    }
}
