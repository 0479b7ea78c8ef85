//! The forms of a line.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::Version;
use serde::Serialize;

use super::target;

/// Bytes of each field that a client chose which are written down.
const FIELD_BYTES_MAX: usize = 2048;

/// Bytes that most lines fit into.
const LINE_BYTES_USUAL: usize = 512;

/// What is known of a request that has ended.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// Whom it came from.
    pub client: Option<IpAddr>,
    /// Its method.
    pub method: &'a str,
    /// Its target as it came; never written as it is.
    pub target: &'a [u8],
    /// Its protocol.
    pub version: Version,
    /// The status of the answer, [`crate::metrics::CLIENT_GONE`] without one.
    pub status: u16,
    /// Bytes of its body that were read.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// From its head to the end of the answer.
    pub duration: Duration,
    /// From its head to that of the backend's answer.
    pub backend_head: Option<Duration>,
    /// The binding's label.
    pub binding: &'a str,
    /// The repository.
    pub repository: Option<&'a str>,
    /// Its `Host`.
    pub host: &'a [u8],
    /// Its `User-Agent`.
    pub user_agent: &'a [u8],
    /// Its `Referer`.
    pub referer: &'a [u8],
    /// Its id.
    pub request_id: &'a str,
    /// The backend that was asked.
    pub backend: Option<&'a str>,
    /// Version and cipher suite of TLS.
    pub tls: Option<(&'a str, &'a str)>,
    /// Why the gateway answered by itself.
    pub refusal: Option<&'static str>,
}

impl Entry<'_> {
    fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        }
    }

    /// The path of its target, as far as it may be written down.
    pub(crate) fn path(&self) -> Cow<'_, str> {
        path_of(self.target)
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

fn cut(field: &[u8]) -> &[u8] {
    &field[..field.len().min(FIELD_BYTES_MAX)]
}

/// The path of a target, as far as it may be written down.
pub(crate) fn path_of(target: &[u8]) -> Cow<'_, str> {
    text_of(target::path(target))
}

fn text_of(field: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(cut(field))
}

#[derive(Serialize)]
struct Json<'a> {
    time: String,
    client: Option<IpAddr>,
    method: &'a str,
    path: Cow<'a, str>,
    protocol: &'a str,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_ms: Option<f64>,
    binding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    host: Cow<'a, str>,
    user_agent: Cow<'a, str>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
}

/// A JSON object and a line feed. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn json(entry: &Entry<'_>) -> Vec<u8> {
    let object = Json {
        time: humantime::format_rfc3339_millis(entry.time).to_string(),
        client: entry.client,
        method: entry.method,
        path: entry.path(),
        protocol: entry.protocol(),
        status: entry.status,
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        duration_ms: milliseconds(entry.duration),
        backend_ms: entry.backend_head.map(milliseconds),
        binding: entry.binding,
        repository: entry.repository,
        host: text_of(target::host(entry.host)),
        user_agent: text_of(entry.user_agent),
        request_id: entry.request_id,
        backend: entry.backend,
        tls_version: entry.tls.map(|(version, _)| version),
        tls_cipher: entry.tls.map(|(_, cipher)| cipher),
        refusal: entry.refusal,
    };
    let mut line = Vec::with_capacity(LINE_BYTES_USUAL);
    // Writing to memory does not fail, and the struct has nothing that JSON can't say.
    let _ = serde_json::to_writer(&mut line, &object);
    line.push(b'\n');
    line
}

/// NGINX's `combined`: `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer"
/// "$http_user_agent"`. The user is always `-`, the time is UTC, and request and referer are without secrets.
pub(super) fn combined(entry: &Entry<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE_BYTES_USUAL);
    match entry.client {
        Some(client) => write_to(&mut line, format_args!("{client}")),
        None => line.push(b'-'),
    }
    write_to(&mut line, format_args!(" - - [{}] \"", time_local(entry.time)));
    escape(&mut line, entry.method.as_bytes());
    line.push(b' ');
    escape(&mut line, cut(&target::path_and_query(entry.target)));
    write_to(&mut line, format_args!(" {}\" {} {} \"", entry.protocol(), entry.status, entry.bytes_out));
    escape_or_dash(&mut line, cut(&target::url(entry.referer)));
    line.extend_from_slice(b"\" \"");
    escape_or_dash(&mut line, cut(entry.user_agent));
    line.extend_from_slice(b"\"\n");
    line
}

/// The fields of the process's log, in a file.
pub(super) fn text(entry: &Entry<'_>) -> Vec<u8> {
    let mut line = Vec::with_capacity(LINE_BYTES_USUAL);
    write_to(&mut line, format_args!("{} method={} path=\"", humantime::format_rfc3339_millis(entry.time), entry.method));
    escape(&mut line, cut(target::path(entry.target)));
    write_to(
        &mut line,
        format_args!(
            "\" status={} body.bytes_in={} body.bytes_out={} elapsed_ms={} binding=\"{}\"",
            entry.status,
            entry.bytes_in,
            entry.bytes_out,
            entry.duration.as_millis(),
            entry.binding
        ),
    );
    if let Some(repository) = entry.repository {
        write_to(&mut line, format_args!(" repository=\"{repository}\""));
    }
    line.extend_from_slice(b" host=\"");
    escape(&mut line, cut(target::host(entry.host)));
    line.push(b'"');
    if let Some(client) = entry.client {
        write_to(&mut line, format_args!(" client.address={client}"));
    }
    write_to(&mut line, format_args!(" request.id=\"{}\"", entry.request_id));
    if let Some(refusal) = entry.refusal {
        write_to(&mut line, format_args!(" refusal={refusal}"));
    }
    line.push(b'\n');
    line
}

/// Writing to memory does not fail.
fn write_to(line: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    let _ = line.write_fmt(arguments);
}

/// `10/Oct/2000:13:55:36 +0000`, taken from `Tue, 10 Oct 2000 13:55:36 GMT`.
fn time_local(time: SystemTime) -> String {
    let date = httpdate::fmt_http_date(time);
    let part = |range| date.get(range).unwrap_or_default();
    format!("{}/{}/{}:{} +0000", part(5..7), part(8..11), part(12..16), part(17..25))
}

fn escape_or_dash(line: &mut Vec<u8>, field: &[u8]) {
    if field.is_empty() { line.push(b'-') } else { escape(line, field) }
}

/// As NGINX does: `"`, `\` and everything that is not printable ASCII becomes `\xHH`.
fn escape(line: &mut Vec<u8>, field: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in field {
        match byte {
            b'"' | b'\\' | ..=0x1f | 0x7f.. => {
                line.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            printable => line.push(*printable),
        }
    }
}
