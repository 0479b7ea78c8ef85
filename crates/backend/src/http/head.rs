//! What is checked of every head before anything is read from it: that a proxy in front reads the same request.
//!
//! hyper has refused what it can't read. What it takes although others may read it differently is refused here, as the gateway
//! does. It does not show everything: it cuts off a fragment behind the target, drops a `Content-Length` beside
//! `Transfer-Encoding` and one that only repeats the other, as RFC 9112 (6.3) has it.

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::errors;
use super::respond::{Answer, With};

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2048;

/// Checks method, target and framing.
///
/// # Errors
/// The answer that refuses the request. Where it ends being in doubt, the connection ends with it.
pub(super) fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Box<Answer>> {
    let refuse = |status, message| Err(Box::new(errors::rest(status, message)));
    let bad = |message| refuse(StatusCode::BAD_REQUEST, message);
    if !is_plain(headers) {
        return bad("the length of the body is in doubt").map_err(|answer| Box::new(answer.with(CONNECTION, "close")));
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "the method is not supported");
    }
    if !uri.path().starts_with('/') || uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return bad("the target is none of a registry's");
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if uri.authority().is_some_and(|named| host != Some(named.as_str())) {
        return bad("the target and the Host header name different hosts");
    }
    if uri.path().len() > PATH_BYTES_MAX {
        return refuse(StatusCode::URI_TOO_LONG, "the path is too long");
    }
    Ok(())
}

/// Whether the body is as it is or in chunks, once, and nothing else.
fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    is_chunked && codings.next().is_none()
}
