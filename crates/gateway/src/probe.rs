//! What `berth-gateway doctor` asks a gateway: how did this request look when it arrived?
//!
//! Here is the part that decides, without I/O; [`Probes`] reads and writes. Both ends, this gateway and the doctor on the
//! client's machine, share the types.
//!
//! What must stay true:
//! - Nothing that could be a secret is repeated: values only of the header fields in [`SHOWN`], and of `Authorization`,
//!   cookies and tokens no more than that they came.
//! - Of the inside an asker learns the scheme and port of the listener, and the addresses that led the request there.
//! - A body is counted and hashed, never kept, and everything that is sent or waited for has a bound. What is sent
//!   unasked-for is less than a manifest, so that nobody gains by making others ask.
//! - The path is in the registry APIs' own space, so that a front that forwards only those forwards it, and collides with
//!   nothing: no image name has a component that begins with `_`.

mod answer;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_names::{Origin, Scheme};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST,
    PROXY_AUTHORIZATION, RANGE, TRANSFER_ENCODING, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use serde::{Deserialize, Serialize};

pub use answer::Probes;

/// Where probes are answered, for either API; anything may follow.
pub const PATHS: [&str; 2] = ["/v2/_berth/probe", "/v1/_berth/probe"];

/// Marks an answer as a probe's: no front makes that up.
pub const MARK: HeaderName = HeaderName::from_static("x-berth-probe");

/// Longest body that is read, in bytes. Limits of other people's making end at 100 MB; larger ones are found by announcing.
pub const BODY_BYTES_MAX: u64 = 256 << 20;

/// Longest download, in bytes: more than fronts keep in memory before they pass it on.
pub const DOWNLOAD_BYTES_MAX: u64 = 64 << 10;

/// How long an answer may be held back when asked to, in seconds: longer than the 60 s after which fronts give up.
pub const SILENCE_S_MAX: u64 = 90;

/// The pause within an answer in halves, in milliseconds: far more than a network's delay.
pub const HALVES_PAUSE_MS: u64 = 1_500;

/// Header fields of an answer that docker needs, with samples: what of them does not come through was taken away.
pub const SAMPLES: [(&str, &str); 7] = [
    ("docker-distribution-api-version", "registry/2.0"),
    ("x-docker-registry-version", "0.9.1"),
    ("x-docker-token", "probe"),
    ("x-docker-endpoints", "probe.invalid"),
    ("docker-upload-uuid", "00000000-0000-4000-8000-000000000000"),
    ("www-authenticate", "Basic realm=\"probe\""),
    ("link", "</v2/_berth/probe?next>; rel=\"next\""),
];

/// Header fields whose values are repeated: they say how the request is framed and where it came from.
static SHOWN: [HeaderName; 20] = [
    HOST,
    ACCEPT,
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    EXPECT,
    FORWARDED,
    RANGE,
    TRANSFER_ENCODING,
    USER_AGENT,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("docker-upload-uuid"),
    HeaderName::from_static("cf-ray"),
];

/// Header fields of which only the presence is told.
static HIDDEN: [HeaderName; 4] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HeaderName::from_static("x-docker-token")];

/// Longest value or target that is repeated, in bytes, and most values of one field.
const VALUE_BYTES_MAX: usize = 1024;
const VALUES_MAX: usize = 4;

/// What the gateway knows of a request beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What clients speak to the listener.
    pub scheme: Scheme,
    /// The port that it listens on.
    pub port: u16,
    /// What the backend would be told that the client used; none if no binding is for this host.
    pub origin: Option<&'a Origin>,
    /// Whether the binding is for management, and has no repository.
    pub is_console: bool,
    /// Who opened the connection.
    pub peer: SocketAddr,
    /// Who is taken for the client: the peer, or whom a trusted proxy named.
    pub client: IpAddr,
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The gateway's clock, in milliseconds since 1970.
    pub time_unix_ms: u64,
    /// The method.
    pub method: String,
    /// Path and query, as they were on the wire.
    pub target: String,
    /// `1.0`, `1.1` or `2.0`.
    pub http: String,
    /// What the gateway speaks there.
    pub listener_scheme: String,
    /// Where it listens.
    pub listener_port: u16,
    /// What clients are told that they used, in every URL; none if no binding is for this host.
    pub origin: Option<String>,
    /// Whether the binding is for management, and docker is not spoken there.
    #[serde(default)]
    pub is_console: bool,
    /// Who opened the connection.
    pub peer: SocketAddr,
    /// Who is taken for the client.
    pub client: IpAddr,
    /// Header fields whose values can be shown, by lower-cased name.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Header fields that came and whose values are nobody's business.
    pub present: Vec<String>,
    /// The body.
    pub body: Body,
}

impl Report {
    /// The values of a header field as one, as HTTP joins them.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(|values| values.join(", "))
    }

    /// Whether a header field came, with whatever value.
    pub fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name) || self.present.iter().any(|present| present == name)
    }
}

/// A request's body as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// How its length is told.
    pub framing: Framing,
    /// Its length, if that was announced.
    pub announced_bytes: Option<u64>,
    /// What came of it, in bytes.
    pub bytes: u64,
    /// SHA-256 of what came, in hexadecimal.
    pub sha256: String,
    /// When its first byte came, after the head.
    pub first_ms: Option<u64>,
    /// When its last byte came, after the head.
    pub last_ms: Option<u64>,
    /// How it ended.
    pub end: End,
}

/// How a body's length is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// There is no body.
    None,
    /// By `Content-Length`.
    Length,
    /// In chunks.
    Chunked,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// All of it came.
    Whole,
    /// Nobody wanted to read it.
    Unread,
    /// It went on after [`BODY_BYTES_MAX`].
    TooLarge,
    /// It stopped before its end.
    Cut,
}

/// What a probe wants for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The report, once the body has come.
    Report,
    /// The report at once: `?announce`.
    Announce,
    /// The report after that many seconds: `?silence=65`.
    Silence(u64),
    /// That many bytes: `?bytes=65536`, as JSON with `&json`, in two halves with `&halves`.
    Bytes { count: u64, json: bool, halves: bool },
}

impl Ask {
    pub(crate) fn of(target: &[u8]) -> Self {
        let query = target.iter().position(|byte| *byte == b'?').map_or(&[][..], |at| &target[at + 1..]);
        let mut words = query.split(|byte| *byte == b'&').filter_map(|word| str::from_utf8(word).ok());
        let has = |word: &str| query.split(|byte| *byte == b'&').any(|other| other == word.as_bytes());
        let number = |word: &str, name: &str, max: u64| word.strip_prefix(name)?.parse().ok().map(|number: u64| number.min(max));
        words
            .find_map(|word| match word {
                "announce" => Some(Self::Announce),
                word => number(word, "silence=", SILENCE_S_MAX).map(Self::Silence).or_else(|| {
                    let count = number(word, "bytes=", DOWNLOAD_BYTES_MAX)?;
                    Some(Self::Bytes { count, json: has("json"), halves: has("halves") })
                }),
            })
            .unwrap_or(Self::Report)
    }
}

/// Whether a request target, as it came, is a probe's.
pub fn is_probe(target: &[u8]) -> bool {
    PATHS.iter().filter_map(|path| target.strip_prefix(path.as_bytes())).any(|rest| matches!(rest.first(), None | Some(b'/' | b'?')))
}

/// Describes a request: its method, version, target as it came, header, and what became of its body.
pub fn report(head: (&Method, Version, &HeaderMap), target: &[u8], facts: &Facts<'_>, body: Body, now: SystemTime) -> Report {
    let (method, version, headers) = head;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(VALUE_BYTES_MAX)]).into_owned();
    let values = |name| headers.get_all(name).iter().take(VALUES_MAX).map(|value: &HeaderValue| text(value.as_bytes())).collect();
    Report {
        time_unix_ms: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX)),
        method: text(method.as_str().as_bytes()),
        target: text(target),
        http: format!("{version:?}").trim_start_matches("HTTP/").to_owned(),
        listener_scheme: facts.scheme.as_str().to_owned(),
        listener_port: facts.port,
        origin: facts.origin.map(ToString::to_string),
        is_console: facts.is_console,
        peer: facts.peer,
        client: facts.client,
        headers: SHOWN.iter().filter(|name| headers.contains_key(*name)).map(|name| (name.to_string(), values(name))).collect(),
        present: HIDDEN.iter().filter(|name| headers.contains_key(*name)).map(ToString::to_string).collect(),
        body,
    }
}

/// How the length of a body is told, and what is announced.
pub(crate) fn framing(headers: &HeaderMap) -> (Framing, Option<u64>) {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        _ if headers.contains_key(TRANSFER_ENCODING) => (Framing::Chunked, None),
        Some(length) => (Framing::Length, Some(length)),
        None => (Framing::None, None),
    }
}

/// Bytes that no front can compress and any byte of which can be told from the next: both ends make the same.
pub(crate) struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Noise {
    /// Fills a buffer with what comes next.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            // Xorshift, by Marsaglia.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            piece.copy_from_slice(&self.0.to_le_bytes()[..piece.len()]);
        }
    }
}

/// Text that fronts like to compress.
pub(crate) fn compressible(count: usize) -> Vec<u8> {
    let mut text = vec![b' '; count];
    if let [first, .., last] = text.as_mut_slice() {
        (*first, *last) = (b'[', b']');
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
