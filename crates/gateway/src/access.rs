//! The access log: one line per request, without anything that could be a secret (`Authorization`, the query).

use berth_names::RepositoryKey;
use http::HeaderValue;
use http::header::HOST;
use pingora::proxy::Session;
use tracing::info;

use crate::proxy::Request;

/// Writes the line of a request that has ended.
pub(crate) fn log(session: &Session, request: &Request) {
    let head = session.req_header();
    let target = head.raw_path();
    // The query may hold a token.
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    info!(
        target: "access",
        method = head.method.as_str(),
        path = &*String::from_utf8_lossy(path),
        status = session.response_written().map_or(0, |head| head.status.as_u16()),
        body.bytes_in = session.body_bytes_read(),
        body.bytes_out = session.body_bytes_sent(),
        elapsed_ms = u64::try_from(request.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        repository = request.upstream.as_ref().and_then(|upstream| upstream.repository.as_ref()).map(RepositoryKey::as_str),
        host = &*String::from_utf8_lossy(host),
        client.address = request.client.map(tracing::field::display),
        request.id = request.id(),
        "request"
    );
}
