//! Limits and framing of a request's head, checked on its bytes as they came.
//!
//! Pingora parses the head too, and refuses most of what is malformed. What remains here is what it tolerates
//! although another parser could read it differently (a bare line feed, a length given twice), and limits below its own.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use crate::refusal::Refusal;

/// Most header fields of a request. The backend's parser takes 100, and the proxy adds eight at most.
pub const HEADER_FIELDS_MAX: usize = 90;

/// Longest head of a request, in bytes: request line and header fields. Tokens and cookies stay far below.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What is read from a head here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The request target. Pingora's own copy of it has lost the fragment, which is not legal and hence not to be ignored.
    pub target: &'a [u8],
    /// Where the body ends.
    pub body: Body,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// After that many bytes; without a length there is none.
    Length(u64),
    /// With a chunk that says so.
    Chunked,
}

/// Checks the head of a request: request line, header fields and empty line, each with its line end. An empty line in front,
/// which some clients send after a body, is passed over (RFC 9112, 2.2).
///
/// # Errors
/// The [`Refusal`] to answer with.
pub fn check(head: &[u8]) -> Result<Head<'_>, Refusal> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let mut fields = 0;
    let (mut length, mut is_chunked) = (None, false);
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r\n").ok_or(Refusal::Malformed));
    let target = lines.next().transpose()?.and_then(request_target).ok_or(Refusal::Malformed)?;
    // Pingora escapes what is no part of a target and goes on, another server may end the target there.
    if target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Refusal::Malformed);
    }
    for line in lines {
        let line = line?;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        fields += 1;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_str().as_bytes()) {
            // Digits only: `5, 5` and `+5` are legal to some and not to others.
            if length.is_some() || !value.iter().all(u8::is_ascii_digit) {
                return Err(Refusal::Framing);
            }
            let digits = str::from_utf8(value).ok().and_then(|digits| digits.parse::<u64>().ok());
            length = Some(digits.ok_or(Refusal::Framing)?);
        } else if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_str().as_bytes()) {
            if is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Framing);
            }
            is_chunked = true;
        }
    }
    if fields > HEADER_FIELDS_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    match (length, is_chunked) {
        (Some(_), true) => Err(Refusal::Framing),
        (None, true) => Ok(Head { target, body: Body::Chunked }),
        (length, false) => Ok(Head { target, body: Body::Length(length.unwrap_or(0)) }),
    }
}

/// What stands between method and version.
fn request_target(line: &[u8]) -> Option<&[u8]> {
    let mut words = line.split(|byte| *byte == b' ');
    let (_method, target, _version) = (words.next()?, words.next()?, words.next()?);
    words.next().is_none().then_some(target)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_fields(fields: &str) -> Result<(), Refusal> {
        check(format!("PUT /v2/a HTTP/1.1\r\nHost: a:5000\r\n{fields}\r\n").as_bytes()).map(|_| ())
    }

    #[test]
    fn the_target_is_what_was_sent() {
        let head = check(b"GET /v2/a?b=c#d HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(head, Head { target: b"/v2/a?b=c#d", body: Body::Length(0) });
        assert_eq!(check(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Head { target: b"/", body: Body::Length(0) }));
        for bad in
            ["", "\r\n", "\nGET / HTTP/1.1\r\n", "\r\n\r\nGET / HTTP/1.1\r\n", "GET /\r\n", "GET / a HTTP/1.1\r\n", "GET  / HTTP/1.1\r\n"]
        {
            assert_eq!(check(bad.as_bytes()), Err(Refusal::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_target_has_neither_blanks_nor_control_characters() {
        for byte in (0..=b' ').chain([0x7f]) {
            let head = [b"GET /v2/?a", &[byte][..], b"b HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(check(&head), Err(Refusal::Malformed), "{byte:#04x}");
        }
    }

    #[test]
    fn a_body_has_one_length() {
        for good in [
            "",
            "Content-Length: 5\r\n",
            "transfer-encoding: Chunked\r\n",
            "CONTENT-LENGTH:0\r\n",
            "X-Content-Length: 1\r\nContent-Length: 5\r\n",
        ] {
            assert_eq!(check_fields(good), Ok(()), "{good:?}");
        }
        for bad in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\ncontent-length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            assert_eq!(check_fields(bad), Err(Refusal::Framing), "{bad:?}");
        }
    }

    #[test]
    fn a_line_ends_in_carriage_return_and_line_feed() {
        assert_eq!(check(b"GET /v2/ HTTP/1.1\nHost: a\r\n\r\n"), Err(Refusal::Malformed));
        assert_eq!(check_fields("A: b\n"), Err(Refusal::Malformed));
    }

    #[test]
    fn the_head_is_bounded() {
        let many = |n: usize| "A: b\r\n".repeat(n);
        // One field is `Host`.
        assert_eq!(check_fields(&many(HEADER_FIELDS_MAX - 1)), Ok(()));
        assert_eq!(check_fields(&many(HEADER_FIELDS_MAX)), Err(Refusal::HeadTooLarge));
        assert_eq!(check_fields(&format!("A: {}\r\n", "b".repeat(HEAD_BYTES_MAX))), Err(Refusal::HeadTooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(head in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = check(&head);
        }
    }
}
