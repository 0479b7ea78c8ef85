//! Reading an answer, with the times at which it came.

use std::time::{Duration, Instant};

use httparse::{EMPTY_HEADER, Response, Status};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::client::Failure;
use crate::probe::{MARK, Report, hex};

/// Longest head of an answer, in bytes, and most fields of it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 128;

/// How much of a body is kept to be looked at, and how much is read, in bytes.
const KEPT_BYTES_MAX: usize = 64 * 1024;
const BODY_BYTES_MAX: u64 = 8 << 20;

/// Interim answers before the final one.
const INTERIM_MAX: usize = 8;

/// An answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub(super) body: Vec<u8>,
    pub(super) body_bytes: u64,
    /// In hexadecimal.
    pub(super) body_sha256: String,
    /// From the first byte of the body to its last.
    pub(super) body_took: Duration,
    /// The report, if the gateway gave it.
    pub(super) report: Option<Report>,
}

impl Answer {
    /// The first value of a header field.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A probe was answered by a gateway.
    pub(super) fn is_gateways(&self) -> bool {
        self.header(MARK.as_str()).is_some()
    }
}

/// Reads answers from a connection.
pub(super) struct Reader<R> {
    stream: R,
    unread: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// The final answer, or with `interim` an interim one.
    pub(super) async fn answer(&mut self, to_head: bool, interim: bool) -> Result<Answer, Failure> {
        for _ in 0..INTERIM_MAX {
            let mut answer = self.head().await?;
            if (100..200).contains(&answer.status) {
                if interim {
                    return Ok(answer);
                }
                continue;
            }
            if !to_head && !matches!(answer.status, 204 | 304) {
                self.body(&mut answer).await?;
            }
            if answer.is_gateways() {
                answer.report = serde_json::from_slice(&answer.body).ok();
            }
            return Ok(answer);
        }
        Err(Failure::Malformed)
    }

    async fn head(&mut self) -> Result<Answer, Failure> {
        loop {
            let mut fields = [EMPTY_HEADER; FIELDS_MAX];
            let mut head = Response::new(&mut fields);
            match head.parse(&self.unread) {
                Ok(Status::Complete(length)) => {
                    let status = head.code.unwrap_or_default();
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    let headers = head.headers.iter().map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
                    self.unread.drain(..length);
                    return Ok(Answer { status, headers, ..Answer::default() });
                }
                Ok(Status::Partial) if self.unread.len() < HEAD_BYTES_MAX => {}
                _ => return Err(Failure::Malformed),
            }
            if self.read().await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    async fn body(&mut self, answer: &mut Answer) -> Result<(), Failure> {
        let chunked = answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = answer.header("content-length").and_then(|length| length.parse::<u64>().ok());
        let mut sink = Sink { answer, hash: Sha256::new(), first: None };
        if chunked {
            while let Some(length) = self.chunk_size().await? {
                self.pass(length, &mut sink).await?;
                // The line end of the chunk.
                self.pass_nothing(2).await?;
            }
        } else if let Some(length) = length {
            self.pass(length, &mut sink).await?;
        } else {
            self.pass_rest(&mut sink).await?;
        }
        sink.finish();
        Ok(())
    }

    /// The size of the next chunk; none after the last one, whose trailers nobody needs.
    async fn chunk_size(&mut self) -> Result<Option<u64>, Failure> {
        loop {
            match httparse::parse_chunk_size(&self.unread) {
                Ok(Status::Complete((_, 0))) => return Ok(None),
                Ok(Status::Complete((length, size))) => {
                    self.unread.drain(..length);
                    return Ok(Some(size));
                }
                Ok(Status::Partial) if self.unread.len() < HEAD_BYTES_MAX => {}
                _ => return Err(Failure::Malformed),
            }
            if self.read().await? == 0 {
                return Err(Failure::Closed);
            }
        }
    }

    async fn pass(&mut self, mut length: u64, sink: &mut Sink<'_>) -> Result<(), Failure> {
        while length > 0 {
            if self.unread.is_empty() && self.read().await? == 0 {
                return Err(Failure::Closed);
            }
            let piece = usize::try_from(length).unwrap_or(usize::MAX).min(self.unread.len());
            sink.take(&self.unread[..piece])?;
            self.unread.drain(..piece);
            length -= piece as u64;
        }
        Ok(())
    }

    async fn pass_rest(&mut self, sink: &mut Sink<'_>) -> Result<(), Failure> {
        loop {
            sink.take(&self.unread)?;
            self.unread.clear();
            if self.read().await? == 0 {
                return Ok(());
            }
        }
    }

    async fn pass_nothing(&mut self, length: usize) -> Result<(), Failure> {
        while self.unread.len() < length {
            if self.read().await? == 0 {
                return Err(Failure::Closed);
            }
        }
        self.unread.drain(..length);
        Ok(())
    }

    /// Reads on. An error is an end: servers that close with unread bytes reset the connection.
    async fn read(&mut self) -> Result<usize, Failure> {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.read(&mut buffer).await.map_err(|_| Failure::Closed)?;
        self.unread.extend_from_slice(&buffer[..read]);
        Ok(read)
    }
}

/// Takes the bytes of a body.
struct Sink<'a> {
    answer: &'a mut Answer,
    hash: Sha256,
    first: Option<Instant>,
}

impl Sink<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        let first = *self.first.get_or_insert_with(Instant::now);
        self.answer.body_took = first.elapsed();
        self.answer.body_bytes += bytes.len() as u64;
        self.hash.update(bytes);
        let room = KEPT_BYTES_MAX - self.answer.body.len();
        self.answer.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if self.answer.body_bytes > BODY_BYTES_MAX { Err(Failure::Malformed) } else { Ok(()) }
    }

    fn finish(self) {
        self.answer.body_sha256 = hex(&self.hash.finalize());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], to_head: bool) -> Result<Answer, Failure> {
        Reader::new(bytes).answer(to_head, false).await
    }

    #[tokio::test]
    async fn a_body_ends_where_its_framing_says() {
        for (head, body, expected) in [
            ("Content-Length: 3", "abcdef", "abc"),
            ("Transfer-Encoding: chunked", "1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n", "abc"),
            ("X: y", "abc", "abc"),
        ] {
            let answer = read(format!("HTTP/1.1 413 Too Large\r\n{head}\r\n\r\n{body}").as_bytes(), false).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice(), answer.body_bytes), (413, expected.as_bytes(), 3));
            assert_eq!(answer.body_sha256, hex(&Sha256::digest(expected)));
        }
        let answer = read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Berth-Probe: 1\r\n\r\n", true).await.unwrap();
        assert!(answer.body.is_empty() && answer.is_gateways());
    }

    #[tokio::test]
    async fn interim_answers_are_passed_over_within_bounds() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let bytes = format!("{interim}{interim}HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(read(bytes.as_bytes(), false).await.unwrap().status, 204);
        assert_eq!(Reader::new(bytes.as_bytes()).answer(false, true).await.unwrap().status, 100);
        assert_eq!(read(interim.repeat(20).as_bytes(), false).await.unwrap_err(), Failure::Malformed);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_said_so() {
        for (bytes, failure) in [
            (&b""[..], Failure::Closed),
            (b"HTTP/1.1 200 OK\r\n", Failure::Closed),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Failure::Closed),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab", Failure::Closed),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", Failure::Malformed),
            (b"\x15\x03\x01\x00\x02\x02\x28", Failure::Malformed),
            (b"SSH-2.0-OpenSSH", Failure::Malformed),
        ] {
            assert_eq!(read(bytes, false).await.unwrap_err(), failure, "{bytes:?}");
        }
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\n", [b'a'; 100_000].as_slice()].concat(), false).await.unwrap_err(), Failure::Malformed);
    }
}
