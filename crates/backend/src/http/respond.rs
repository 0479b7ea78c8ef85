//! Putting answers together.

use berth_names::Digest;
use berth_registry::BlobContent;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::body::ResponseBody;

pub(crate) type Answer = Response<ResponseBody>;

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(ResponseBody::empty());
    *answer.status_mut() = status;
    answer
}

/// An answer with something that is stored.
pub(crate) fn content(content: BlobContent) -> Answer {
    Response::new(ResponseBody::Content(content))
}

/// An answer with a body of the given type.
pub(crate) fn whole(status: StatusCode, content_type: &str, bytes: Bytes) -> Answer {
    let mut answer = Response::new(ResponseBody::Whole(Some(bytes)));
    *answer.status_mut() = status;
    answer.with(CONTENT_TYPE, content_type)
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // Our answers hold text, numbers, lists and maps with text keys: serialising them cannot fail.
    whole(status, "application/json", serde_json::to_vec(value).unwrap_or_default().into())
}

/// What content is recognised by that is all of these bytes.
pub(crate) fn tag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", Digest::sha256(Sha256::digest(bytes).into()))
}

/// Adding headers one after the other.
pub(crate) trait With {
    /// Sets a header. A value that can't stand in a header is left out; ours are made of parsed names and numbers.
    fn with(self, name: HeaderName, value: impl AsRef<str>) -> Self;
}

impl With for Answer {
    fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers_mut().insert(name, value);
        }
        self
    }
}
