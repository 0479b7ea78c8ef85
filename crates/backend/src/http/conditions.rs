//! Preconditions (RFC 9110, 13) and ranges (14): the one place that decides whether some content is sent, and how much of it.
//!
//! A handler answers with all of the content and says what it is recognised by (`ETag`, `Last-Modified`) and whether it can
//! be had in parts (`Accept-Ranges`). What the client has already, or wants of it, is decided here on the finished answer,
//! before a byte of the content is read. An answer that is recognised by nothing is left as it is.

use std::ops::Range;
use std::time::SystemTime;

use berth_registry::BlobContent;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::body::ResponseBody;
use super::ranges::{self, Boundary, Wanted};
use super::respond::{Answer, With, empty};

/// What a request for some content makes it depend on, and which part it wants.
#[derive(Debug)]
pub(super) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    if_unmodified_since: Option<SystemTime>,
    if_modified_since: Option<SystemTime>,
    if_range: Option<HeaderValue>,
    range: Option<HeaderValue>,
}

/// What becomes of content that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Sent,
    NotModified,
    Failed,
}

impl Conditions {
    /// Reads the conditions of a request; `None` if it has none, as nearly all have.
    pub(super) fn read(method: &Method, headers: &HeaderMap) -> Option<Self> {
        const NAMES: [HeaderName; 5] = [IF_NONE_MATCH, RANGE, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE];
        let is_get = *method == Method::GET;
        if !(is_get || *method == Method::HEAD) || !NAMES.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        Some(Self {
            if_match: Tags::read(headers, &IF_MATCH),
            if_none_match: Tags::read(headers, &IF_NONE_MATCH),
            if_unmodified_since: date(headers, &IF_UNMODIFIED_SINCE),
            if_modified_since: date(headers, &IF_MODIFIED_SINCE),
            if_range: headers.get(IF_RANGE).cloned(),
            // A part is had by `GET` only. Two headers, of either name, ask for nothing that could be told.
            range: only(headers, &RANGE).filter(|_| is_get && headers.get_all(IF_RANGE).iter().count() <= 1).cloned(),
        })
    }

    /// The answer to a request with these conditions, made of the answer to the same without. `failed` is the refusal.
    pub(super) fn apply(&self, answer: Answer, failed: impl FnOnce() -> Answer) -> Answer {
        let is_content = [ETAG, LAST_MODIFIED].iter().any(|name| answer.headers().contains_key(name));
        if answer.status() != StatusCode::OK || !is_content {
            return answer;
        }
        match self.verdict(answer.headers()) {
            Verdict::Failed => failed(),
            Verdict::NotModified => not_modified(answer),
            Verdict::Sent if self.wants_part(answer.headers()) => self.partial(answer),
            Verdict::Sent => answer,
        }
    }

    /// The order is that of RFC 9110, 13.2.2.
    fn verdict(&self, content: &HeaderMap) -> Verdict {
        let tag = content.get(ETAG).and_then(|tag| Tag::parse(tag.as_bytes())).map(|(tag, _)| tag);
        let modified = content.get(LAST_MODIFIED).and_then(parse_date);
        let is_allowed = match (&self.if_match, self.if_unmodified_since.zip(modified)) {
            (Some(wanted), _) => wanted.any(|one| tag.as_ref().is_some_and(|tag| tag.is_the_same(one))),
            (None, Some((since, modified))) => modified <= since,
            (None, None) => true,
        };
        let is_known = match (&self.if_none_match, self.if_modified_since.zip(modified)) {
            (Some(known), _) => known.any(|one| tag.as_ref().is_some_and(|tag| tag.is_like(one))),
            (None, Some((since, modified))) => modified <= since,
            (None, None) => false,
        };
        match (is_allowed, is_known) {
            (false, _) => Verdict::Failed,
            (true, true) => Verdict::NotModified,
            (true, false) => Verdict::Sent,
        }
    }

    /// Whether a part is asked for that may be sent: not if the client has the beginning of something else.
    ///
    /// A date never shows that it is the same: what changes twice within a second has one date for both.
    fn wants_part(&self, content: &HeaderMap) -> bool {
        let has_parts = self.range.is_some() && content.get(ACCEPT_RANGES).is_some_and(|unit| unit == "bytes");
        let tag_of = |value: &HeaderValue| match Tag::parse(value.as_bytes()) {
            Some((tag, b"")) => Some(tag),
            _ => None,
        };
        let is_the_same = match &self.if_range {
            None => true,
            Some(had) => tag_of(had).zip(content.get(ETAG).and_then(tag_of)).is_some_and(|(had, tag)| tag.is_the_same(&had)),
        };
        has_parts && is_the_same
    }

    fn partial(&self, mut answer: Answer) -> Answer {
        let Some(range) = self.range.as_ref().and_then(|range| range.to_str().ok()) else { return answer };
        let content = match std::mem::replace(answer.body_mut(), ResponseBody::empty()) {
            ResponseBody::Content(content) => content,
            // Something that can't be had in parts.
            other => return answer.map(|_| other),
        };
        let size = content.size;
        match ranges::wanted(range, size) {
            Wanted::Whole => answer.map(|_| ResponseBody::Content(content)),
            Wanted::Unsatisfiable => {
                *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                // Docker takes a 416 without a body for "you have everything" (protocol reference §4.7).
                answer.with(CONTENT_RANGE, format!("bytes */{size}")).with(CONTENT_LENGTH, "0")
            }
            Wanted::Parts(parts) => parts_of(answer, content, parts),
        }
    }
}

/// The answer with these parts of the content: one as it is, several in a body that says which is which.
fn parts_of(mut answer: Answer, content: BlobContent, parts: Vec<Range<u64>>) -> Answer {
    if let [part] = parts.as_slice() {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        *answer.body_mut() = ResponseBody::Stream { left: part.end - part.start, pieces: content.read(part.clone()) };
        return answer.with(CONTENT_RANGE, ranges::place(part, content.size));
    }
    // Without randomness the system is not up.
    let Some(boundary) = Boundary::random() else { return answer.map(|_| ResponseBody::Content(content)) };
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("application/octet-stream");
    let body = boundary.body(content, kind, parts);
    *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    answer.map(|_| body).with(CONTENT_TYPE, boundary.media_type())
}

/// What the client has is what there is. What it has need not be described to it.
fn not_modified(answer: Answer) -> Answer {
    let mut known = empty(StatusCode::NOT_MODIFIED);
    *known.headers_mut() = answer.into_parts().0.headers;
    for name in [CONTENT_TYPE, CONTENT_LENGTH, ACCEPT_RANGES] {
        known.headers_mut().remove(name);
    }
    known
}

/// A header that stands there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// A date; what is none is as good as not there.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    only(headers, name).and_then(parse_date)
}

fn parse_date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// An entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    is_weak: bool,
    /// What stands between the quotes.
    text: Vec<u8>,
}

impl Tag {
    /// The tag at the beginning of some text, and what follows it.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let (is_weak, quoted) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
        let quoted = quoted.strip_prefix(b"\"")?;
        let end = quoted.iter().position(|byte| *byte == b'"')?;
        let text = quoted[..end].to_vec();
        // No blanks and no control characters; anything else, commas included.
        let is_plain = text.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
        is_plain.then(|| (Self { is_weak, text }, &quoted[end + 1..]))
    }

    /// Whether both stand for the same bytes.
    fn is_the_same(&self, other: &Self) -> bool {
        !self.is_weak && self.is_like(other) && !other.is_weak
    }

    /// Whether what one stands for will do for the other.
    fn is_like(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What `If-Match` and `If-None-Match` list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever there is.
    Any,
    These(Vec<Tag>),
}

impl Tags {
    fn read(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut tags = None;
        for value in headers.get_all(name) {
            let tags: &mut Vec<Tag> = tags.get_or_insert_default();
            let mut rest = value.as_bytes().trim_ascii();
            if rest == b"*" {
                return Some(Self::Any);
            }
            while !rest.is_empty() {
                rest = match Tag::parse(rest) {
                    Some((tag, rest)) => {
                        tags.push(tag);
                        rest
                    }
                    // What can't be read is like nothing.
                    None => &rest[rest.iter().position(|byte| *byte == b',').unwrap_or(rest.len())..],
                };
                while let [b',' | b' ' | b'\t', after @ ..] = rest {
                    rest = after;
                }
            }
        }
        tags.map(Self::These)
    }

    fn any(&self, fits: impl Fn(&Tag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(fits),
        }
    }
}

#[cfg(test)]
mod tests;
