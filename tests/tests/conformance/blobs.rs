//! Blobs: every way of sending one, ranges, mounts, and what must be refused.

use crate::asking::{Answer, Sent, escaped, with_query};
use crate::content::digest;
use crate::{FIRST, Outcome, SECOND, Suite, Trouble, failed};

/// Chunks are no smaller, unless they are the last.
const CHUNK_BYTES_MIN: usize = 1024;

/// What takes three of them.
const LARGE: usize = CHUNK_BYTES_MIN * 3 - 5;

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");

/// A blob and how it is sent.
#[derive(Clone, Copy)]
struct Push<'b> {
    image: &'b str,
    digest: &'b str,
    bytes: &'b [u8],
    /// The bytes are not those that the digest is of.
    is_wrong: bool,
    /// The last chunk goes with the closing PUT.
    closes_with_chunk: bool,
    /// In front of each chunk one is sent that is not its turn.
    jumps: bool,
}

impl<'b> Push<'b> {
    fn new(image: &'b str, digest: &'b str, bytes: &'b [u8]) -> Self {
        Self { image, digest, bytes, is_wrong: false, closes_with_chunk: false, jumps: false }
    }

    /// The status with which all of it has arrived.
    fn done(&self) -> u16 {
        if self.is_wrong { 400 } else { 201 }
    }

    fn uploads(&self) -> String {
        format!("/v2/{}/blobs/uploads/", self.image)
    }
}

/// What the suite calls its ways of pushing.
type Way = fn(&mut Suite, Push<'_>) -> Outcome;

impl Suite {
    /// All that concerns blobs of one algorithm.
    pub fn blobs(&mut self, algorithm: &str) {
        self.place = format!("{algorithm} blobs");
        let absent = digest(algorithm, &self.random.bytes(512));
        let missing = self.asker.get(&format!("/v2/{FIRST}/blobs/{absent}")).expect(&[404]);
        self.note("a blob that is not there", &missing);

        let ways: [(&str, Way, usize, bool, bool); 8] = [
            ("post only", Suite::post_only, 512, false, false),
            ("post and put", Suite::post_put, 512, false, false),
            ("one chunk", Suite::chunked, 512, false, false),
            ("a stream", Suite::streamed, 512, false, false),
            ("chunks", Suite::chunked, LARGE, false, false),
            ("chunks, the last with the put", Suite::chunked, LARGE, true, false),
            ("chunks out of order", Suite::chunked, LARGE, false, true),
            ("chunks out of order, the last with the put", Suite::chunked, LARGE, true, true),
        ];
        for (name, way, length, closes_with_chunk, jumps) in ways {
            let bytes = self.random.bytes(length);
            let digest = digest(algorithm, &bytes);
            let push = Push { closes_with_chunk, jumps, ..Push::new(FIRST, &digest, &bytes) };
            let outcome = way(self, push);
            self.note(name, &outcome);
            if outcome.is_ok() {
                self.head_blob(FIRST, &digest, &bytes);
                self.pull_blob(FIRST, &digest, &bytes);
            }
            self.delete_blob(FIRST, &digest);
        }
        self.mounts(algorithm);
        let cancelled = self.cancelled();
        self.note("an upload that is cancelled", &cancelled);
        self.ranges(algorithm);
        for bytes in [&b""[..], b"{}"] {
            let digest = digest(algorithm, bytes);
            self.push_blob(FIRST, &digest, bytes);
            self.head_blob(FIRST, &digest, bytes);
            self.pull_blob(FIRST, &digest, bytes);
            self.delete_blob(FIRST, &digest);
        }
        let wrong: [(&str, Way, bool); 5] = [
            ("a wrong digest, post only", Suite::post_only, false),
            ("a wrong digest, post and put", Suite::post_put, false),
            ("a wrong digest, chunks", Suite::chunked, false),
            ("a wrong digest, chunks, the last with the put", Suite::chunked, true),
            ("a wrong digest, a stream", Suite::streamed, false),
        ];
        for (name, way, closes_with_chunk) in wrong {
            let mut bytes = self.random.bytes(LARGE);
            let digest = digest(algorithm, &bytes);
            bytes.extend(b"oh no");
            let outcome = way(self, Push { is_wrong: true, closes_with_chunk, ..Push::new(FIRST, &digest, &bytes) });
            self.note(name, &outcome);
        }
    }

    fn mounts(&mut self, algorithm: &str) {
        for (name, source, is_there) in
            [("a mount", Some(SECOND), true), ("a mount without a source", None, true), ("a mount of nothing", Some(SECOND), false)]
        {
            let bytes = self.random.bytes(512);
            let digest = digest(algorithm, &bytes);
            if is_there {
                self.push_blob(SECOND, &digest, &bytes);
            }
            let outcome = match (self.mount(source, &digest, &bytes), is_there) {
                (Ok(()), false) => Err(failed("what is not there was mounted")),
                (Err(Trouble::LeftOut(_)), false) => Ok(()),
                (outcome, _) => outcome,
            };
            self.note(name, &outcome);
            self.head_blob(FIRST, &digest, &bytes);
            self.pull_blob(FIRST, &digest, &bytes);
            self.delete_blob(FIRST, &digest);
            if is_there {
                self.delete_blob(SECOND, &digest);
            }
        }
    }

    fn ranges(&mut self, algorithm: &str) {
        let bytes = self.random.bytes(2048);
        let digest = digest(algorithm, &bytes);
        self.push_blob(FIRST, &digest, &bytes);
        for (range, part) in [
            ("500-1499", Some(500..1500)),
            ("500-", Some(500..2048)),
            ("-500", Some(1548..2048)),
            ("2000-5000", Some(2000..2048)),
            ("500-0", None),
            ("5000-10000", None),
        ] {
            let wanted = format!("bytes={range}");
            let answer = self.asker.ask("GET", &format!("/v2/{FIRST}/blobs/{digest}"), &[("Range", &wanted)], Sent::Nothing);
            let outcome = match part {
                // The whole blob is a way of saying that ranges are not served.
                _ if answer.status == 200 && answer.body == bytes => Err(Trouble::LeftOut("the whole blob came".to_owned())),
                None => answer.expect(&[416]),
                Some(part) => answer
                    .expect(&[206])
                    .and_then(|()| answer.expect_header("Content-Length", &part.len().to_string()))
                    .and_then(|()| answer.expect_header("Content-Range", &format!("bytes {}-{}/2048", part.start, part.end - 1)))
                    .and_then(|()| answer.expect_body(&bytes[part])),
            };
            self.note(&wanted, &outcome);
        }
        self.delete_blob(FIRST, &digest);
    }

    /// The suite's first choice of the ways that it has seen work.
    pub fn push_blob(&mut self, image: &str, digest: &str, bytes: &[u8]) {
        let outcome = self.post_put(Push::new(image, digest, bytes));
        self.note("a blob is pushed", &outcome);
    }

    /// That it is there, and what it is.
    pub fn head_blob(&mut self, image: &str, digest: &str, bytes: &[u8]) {
        let answer = self.asker.ask("HEAD", &format!("/v2/{image}/blobs/{digest}"), &[], Sent::Nothing);
        let outcome = answer
            .expect(&[200])
            .and_then(|()| answer.expect_body(b""))
            .and_then(|()| answer.expect_header("Content-Length", &bytes.len().to_string()))
            .and_then(|()| answer.expect_header("Docker-Content-Digest", digest));
        self.note("HEAD of a blob", &outcome);
    }

    /// All of it.
    pub fn pull_blob(&mut self, image: &str, digest: &str, bytes: &[u8]) {
        let answer = self.asker.get(&format!("/v2/{image}/blobs/{digest}"));
        let outcome = answer
            .expect(&[200])
            .and_then(|()| answer.expect_body(bytes))
            .and_then(|()| answer.expect_header("Content-Length", &bytes.len().to_string()))
            .and_then(|()| answer.expect_header("Docker-Content-Digest", digest));
        self.note("GET of a blob", &outcome);
    }

    /// Takes it away, and sees that it is gone.
    pub fn delete_blob(&mut self, image: &str, digest: &str) {
        let path = format!("/v2/{image}/blobs/{digest}");
        let deleted = self.asker.ask("DELETE", &path, &[], Sent::Nothing).expect(&[202, 404]);
        self.note("DELETE of a blob", &deleted);
        let gone = self.asker.ask("HEAD", &path, &[], Sent::Nothing).expect(&[404]);
        self.note("a deleted blob is gone", &gone);
    }

    fn begin(&mut self, push: &Push<'_>) -> Result<String, Trouble> {
        let begun = self.asker.ask("POST", &push.uploads(), &[], Sent::Nothing);
        begun.expect(&[202])?;
        begun.location()
    }

    /// Looks whether a finished push is where it says.
    fn verify(&mut self, push: &Push<'_>, done: &Answer) -> Outcome {
        if push.is_wrong {
            return Ok(());
        }
        done.expect_header("Docker-Content-Digest", push.digest)?;
        let found = self.asker.get(&done.location()?);
        found.expect(&[200])?;
        found.expect_body(push.bytes)
    }

    fn post_only(&mut self, push: Push<'_>) -> Outcome {
        let target = with_query(&push.uploads(), "digest", push.digest);
        let done = self.asker.ask("POST", &target, &[OCTETS], Sent::Sized(push.bytes));
        if done.status == 202 {
            return Err(Trouble::LeftOut("content with the POST is not taken".to_owned()));
        }
        done.expect(&[push.done()])?;
        self.verify(&push, &done)
    }

    fn post_put(&mut self, push: Push<'_>) -> Outcome {
        let target = with_query(&self.begin(&push)?, "digest", push.digest);
        let done = self.asker.ask("PUT", &target, &[OCTETS], Sent::Sized(push.bytes));
        done.expect(&[push.done()])?;
        self.verify(&push, &done)
    }

    fn streamed(&mut self, push: Push<'_>) -> Outcome {
        let target = self.begin(&push)?;
        let sent = self.asker.ask("PATCH", &target, &[OCTETS], Sent::Streamed(push.bytes));
        sent.expect(&[202])?;
        self.close(&push, &sent.location()?)
    }

    fn close(&mut self, push: &Push<'_>, target: &str) -> Outcome {
        let done = self.asker.ask("PUT", &with_query(target, "digest", push.digest), &[OCTETS], Sent::Nothing);
        done.expect(&[push.done()])?;
        self.verify(push, &done)
    }

    fn chunked(&mut self, push: Push<'_>) -> Outcome {
        let mut target = self.begin(&push)?;
        let size = (push.bytes.len() / 3 + 1).max(CHUNK_BYTES_MIN).min(push.bytes.len());
        let mut next = 0;
        while next < push.bytes.len() {
            if push.jumps {
                target = self.jump(&push, &target, next, size)?;
            }
            let end = (next + size).min(push.bytes.len());
            let is_last = push.closes_with_chunk && end == push.bytes.len();
            let answer = self.chunk(&push, &target, next..end, is_last);
            if is_last {
                answer.expect(&[push.done()])?;
                return self.verify(&push, &answer);
            }
            answer.expect(&[202])?;
            answer.expect_header("Range", &format!("0-{}", end - 1))?;
            target = answer.location()?;
            next = end;
        }
        self.close(&push, &target)
    }

    fn chunk(&mut self, push: &Push<'_>, target: &str, part: std::ops::Range<usize>, closes: bool) -> Answer {
        let range = format!("{}-{}", part.start, part.end - 1);
        let headers = [OCTETS, ("Content-Range", range.as_str())];
        match closes {
            true => self.asker.ask("PUT", &with_query(target, "digest", push.digest), &headers, Sent::Sized(&push.bytes[part])),
            false => self.asker.ask("PATCH", target, &headers, Sent::Sized(&push.bytes[part])),
        }
    }

    /// Sends a chunk whose turn it is not; it must be refused and the upload live.
    fn jump(&mut self, push: &Push<'_>, target: &str, next: usize, size: usize) -> Result<String, Trouble> {
        let start = if next + size < push.bytes.len() { next + size } else { 0 };
        let end = (start + size).min(push.bytes.len());
        let refused = self.chunk(push, target, start..end, push.closes_with_chunk && end == push.bytes.len());
        refused.expect(&[416]).map_err(|_| failed(format!("a chunk out of order: {}", refused.status)))?;
        let status = self.asker.get(&refused.location().unwrap_or_else(|_| target.to_owned()));
        status.expect(&[204])?;
        status.expect_header("Range", &format!("0-{}", next.saturating_sub(1)))?;
        status.location()
    }

    fn mount(&mut self, source: Option<&str>, digest: &str, bytes: &[u8]) -> Outcome {
        // Go sorts what is in a query.
        let from = source.map(|source| format!("from={}&", escaped(source))).unwrap_or_default();
        let push = Push::new(FIRST, digest, bytes);
        let begun = self.asker.ask("POST", &format!("{}?{from}mount={}", push.uploads(), escaped(digest)), &[], Sent::Nothing);
        begun.expect(&[201, 202])?;
        if begun.status == 201 {
            return self.verify(&push, &begun);
        }
        let target = with_query(&begun.location()?, "digest", digest);
        let done = self.asker.ask("PUT", &target, &[OCTETS], Sent::Sized(bytes));
        done.expect(&[201])?;
        self.verify(&push, &done)?;
        Err(Trouble::LeftOut("it became an upload".to_owned()))
    }

    fn cancelled(&mut self) -> Outcome {
        let target = self.begin(&Push::new(FIRST, "", b""))?;
        self.asker.ask("DELETE", &target, &[], Sent::Nothing).expect(&[204])?;
        self.asker.get(&target).expect(&[404])
    }
}
