//! Requests that no client of ours would send, byte for byte through the gateway and directly to the backend.
//!
//! What must stay true of every one:
//! - Both take it or both refuse it, and where both take it they answer alike. What only one of them can know (which hosts
//!   are bound) says so in the table.
//! - Nothing is answered 5xx.
//! - What is hidden in a body or behind the end of a message is never acted on.
//! - The next answer is its own, of the same client and of any other, whether the bytes come all at once, request by request, or
//!   with a pause where something is hidden.

use std::time::Duration;

use e2e::client::Closed;
use e2e::image::{self, Layer};
use e2e::registry::free_port;
use e2e::{Client, Registry};

/// How long a server may be silent before it counts as waiting for more.
const SILENCE_MAX: Duration = Duration::from_millis(1500);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Both refuse it, with this status.
    Refused(u16),
    /// Both end the connection, where they don't even know that it is a request perhaps without a word.
    Dropped,
    /// Both answer what is asked, with this status and the same body.
    Taken(u16),
    /// Both wait for the rest of the body, and answer nothing to what is hidden in it.
    Waits,
    /// The gateway refuses it with the first status, whatever stands behind it. The backend's HTTP library reads it as
    /// RFC 9112 and 9110 allow, without letting us know, and what it makes of it is answered with the second.
    Stricter(u16, u16),
}
use Fate::{Dropped, Refused, Stricter, Taken, Waits};

/// How the bytes of a request and of the next one come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// At once, in one piece.
    Together,
    /// The next one when the first has been answered.
    Apart,
    /// As [`Self::Apart`], and what is hidden in the first some time after the rest of it.
    Late,
}

/// How late.
const LATE: Duration = Duration::from_millis(60);

/// In a request: what the path begins with where it is sent to.
const ROOT: &str = "{root}";
/// The scheme and authority of where it is sent to.
const SITE: &str = "{site}";
/// The authority.
const AUTHORITY: &str = "{authority}";
/// A password's line.
const LOGIN: &str = "{login}";

/// Targets, each asked for by GET, PUT and DELETE.
const TARGETS: &[(&str, Fate)] = &[
    ("/v2/..%2f", Refused(400)),
    ("/v2/..%2F..%2Fv1/", Refused(400)),
    ("/v2/%2e%2e/", Refused(400)),
    ("/v2/%2E%2E/other/v2/", Refused(400)),
    ("/%76%32%2f", Refused(400)),
    ("/v2/%61%2e/tags/list", Refused(400)),
    ("/v2/%41/tags/list", Refused(400)),
    ("/v2/%61%3Ab/tags/list", Refused(400)),
    ("//v2/", Refused(400)),
    ("/v2//", Refused(400)),
    ("/v2//x/", Refused(400)),
    ("/v2//x/tags/list", Refused(400)),
    ("/v2/x//tags/list", Refused(400)),
    ("/v2/x/tags/list//", Refused(400)),
    ("/v2/%2f", Refused(400)),
    ("/v2/a/../b/tags/list", Refused(400)),
    ("/v2/../v1/_ping", Refused(400)),
    ("/../v2/", Refused(400)),
    ("/v2/./a/tags/list", Refused(400)),
    ("/./v2/", Refused(400)),
    ("/v2/a/..", Refused(400)),
    ("/v2/a/.", Refused(400)),
    ("/v2/a\\b/tags/list", Refused(400)),
    ("/v2\\a/tags/list", Refused(400)),
    ("/v2/a/..\\b/tags/list", Refused(400)),
    ("/v2/a%5cb/tags/list", Refused(400)),
    ("/v2/a%5Cb/tags/list", Refused(400)),
    ("/v2/a%00/tags/list", Refused(400)),
    ("/v2/a%0d%0aX-Injected:1/tags/list", Refused(400)),
    ("/v2/a%252fb/tags/list", Refused(400)),
    ("/v2/a%25%32%66b/tags/list", Refused(400)),
    ("/v2/%c0%af/tags/list", Refused(400)),
    ("/v2/%c0%ae%c0%ae/tags/list", Refused(400)),
    ("/v2/%e0%80%af/tags/list", Refused(400)),
    ("/v2/a%/tags/list", Refused(400)),
    ("/v2/a%zz/tags/list", Refused(400)),
    ("/v2/a;x/tags/list", Refused(400)),
    ("/v2/a;x=/../tags/list", Refused(400)),
    ("/v2/a,b/tags/list", Refused(400)),
    ("/v2/a|b/tags/list", Refused(400)),
    ("/v2/a\u{e4}/tags/list", Refused(400)),
    ("/v2/a#/tags/list", Stricter(400, 404)),
    ("/v2/a?#/tags/list", Stricter(400, 404)),
    ("/v2/A/tags/list", Refused(400)),
    ("/v2/a./tags/list", Refused(400)),
    ("/v2/.a/tags/list", Refused(400)),
    ("/v2/a..b/tags/list", Refused(400)),
    ("/v2/-a/tags/list", Refused(400)),
    ("/v2/a-/tags/list", Refused(400)),
    ("/v2/a___b/tags/list", Refused(400)),
    ("/v2/_uploads/tags/list", Refused(400)),
    ("/v2/_catalog/tags/list", Refused(400)),
    ("/v2/a:b/tags/list", Refused(400)),
    ("/v2/a@b/tags/list", Refused(400)),
    ("/v2/http://a/tags/list", Refused(400)),
    ("/v2/a/manifests/..", Refused(400)),
    ("/v2/a/manifests/.", Refused(400)),
    ("/v2/a/manifests/-x", Refused(400)),
    ("/v2/a/manifests/a+b", Refused(400)),
    ("/v2/a/manifests/sha256:00", Refused(400)),
    ("/v2/a/manifests/sha256:", Refused(400)),
    ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", Refused(400)),
    ("/v2/a/blobs/sha256+b64:AAAA", Refused(400)),
    ("/v2/a/blobs/sha256:ABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD", Refused(400)),
    ("/v2/a/blobs/sha256:../../x", Refused(400)),
    ("/v2/a/blobs/../../../../etc/passwd", Refused(400)),
    ("/v2/a/blobs/uploads/../../x", Refused(400)),
    ("/v2/a/blobs/uploads/%2e%2e", Refused(400)),
    ("/v1/images/../json", Refused(400)),
    ("/v1/images/..%2f/json", Refused(400)),
    ("/v1/images/%2e%2e%2f%2e%2e/json", Refused(400)),
    ("/v1/repositories/../images", Refused(400)),
    ("/v2;/", Stricter(400, 404)),
    ("/V2/", Refused(404)),
    ("/v2_/", Refused(404)),
    ("/v3/", Refused(404)),
    ("/v2/a/nothing", Refused(404)),
    ("/v2/a/tags/list/", Refused(404)),
];

/// Whole requests for one side.
fn heads(side: &Side) -> Vec<(&'static str, String, Fate)> {
    let get = |more: &str| format!("GET {ROOT}/v2/canary/tags/list HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}{more}\r\n");
    let line = |line: &str| format!("{line}\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n");
    let hidden = side.fill(&hidden());
    let length = hidden.len();
    let start =
        |more: &str, body: &str| format!("POST {ROOT}/v2/canary/blobs/uploads/ HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}{more}\r\n{body}");
    let chunked = |body: &str| {
        format!("PUT {ROOT}/v2/canary/manifests/x HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Transfer-Encoding: chunked\r\n\r\n{body}")
    };
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let odd_chunks = |query: &str, body: &str| {
        let target = format!("{ROOT}/v2/canary/manifests/x?{query}");
        format!("PUT {target} HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Transfer-Encoding: chunked\r\n\r\n{body}")
    };
    vec![
        // Must be taken, or everything below would show nothing.
        ("plain", get(""), Taken(200)),
        ("lower case names", get("accept: */*\r\nuser-agent: x\r\n"), Taken(200)),
        ("blanks around a value", get("Accept:  \t*/* \t\r\n"), Taken(200)),
        ("an empty value", get("Accept:\r\n"), Taken(200)),
        ("absolute form", line(&format!("GET {SITE}{ROOT}/v2/canary/tags/list HTTP/1.1")), Taken(200)),
        ("a query of odd letters", line(&format!("GET {ROOT}/v2/canary/tags/list?n=10&x=%2e%2e%2f?../ HTTP/1.1")), Taken(200)),
        ("a query with brackets", line(&format!("GET {ROOT}/v2/canary/tags/list?a[]=1 HTTP/1.1")), Stricter(400, 200)),
        ("an empty line in front", format!("\r\n{}", get("")), Taken(200)),
        ("two empty lines in front", format!("\r\n\r\n{}", get("")), Stricter(400, 200)),
        ("escapes of what needs none", line(&format!("GET {ROOT}/%76%32/c%61n%61ry/tags/list HTTP/1.1")), Taken(200)),
        ("a digest's colon escaped", line(&format!("GET {ROOT}/v2/canary/blobs/sha256%3A{} HTTP/1.1", "0".repeat(64))), Taken(404)),
        ("a dot behind the host", get("").replacen(AUTHORITY, "localhost.", 1), Taken(200)),
        ("a colon behind the host", get("").replacen(AUTHORITY, "localhost:", 1), Taken(200)),
        ("a line feed in front", format!("\n{}", get("")), Stricter(400, 200)),
        ("lines that end in a line feed", get("").replace("\r\n", "\n"), Stricter(400, 200)),
        ("a Connection that names the host", get("Connection: host\r\n"), Stricter(400, 200)),
        ("95 fields", get(&"X: y\r\n".repeat(92)), Stricter(431, 200)),
        ("110 fields", get(&"X: y\r\n".repeat(107)), Refused(431)),
        ("absolute form without a path", line(&format!("GET {SITE} HTTP/1.1")), Stricter(400, 404)),
        ("an empty body", start("Content-Length: 0\r\n", ""), Taken(202)),
        ("chunks", start("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Taken(202)),
        ("chunks in any case", start("Transfer-Encoding: Chunked\r\n", "0\r\n\r\n"), Taken(202)),
        // Hosts.
        ("no host", "GET {root}/v2/ HTTP/1.1\r\n{login}\r\n".into(), Refused(400)),
        ("two hosts", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}\r\nHost: evil.example\r\n{LOGIN}\r\n"), Refused(400)),
        ("one host twice", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n"), Refused(400)),
        ("two hosts in a line", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}, evil.example\r\n{LOGIN}\r\n"), Refused(400)),
        ("a blank in the host", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: a b\r\n{LOGIN}\r\n"), Refused(400)),
        ("an empty host", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost:\r\n{LOGIN}\r\n"), Refused(400)),
        ("a port that is none", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: a:99999\r\n{LOGIN}\r\n"), Refused(400)),
        ("a port of letters", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: a:http\r\n{LOGIN}\r\n"), Refused(400)),
        ("a user in the host", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: x@{AUTHORITY}\r\n{LOGIN}\r\n"), Refused(400)),
        ("a path in the host", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}/x\r\n{LOGIN}\r\n"), Refused(400)),
        ("a line's end in the host", format!("GET {ROOT}/v2/ HTTP/1.1\r\nHost: a\rb\r\n{LOGIN}\r\n"), Refused(400)),
        (
            "absolute form of another host",
            format!("GET http://evil.example{ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n"),
            Refused(400),
        ),
        (
            "absolute form with a user",
            format!("GET http://x@{AUTHORITY}{ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n"),
            Refused(400),
        ),
        (
            "absolute form of another scheme",
            format!("GET ftp://{AUTHORITY}{ROOT}/v2/ HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n"),
            Refused(400),
        ),
        // Targets and methods of other kinds.
        ("authority form", format!("CONNECT {AUTHORITY} HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n"), Refused(405)),
        ("asterisk form", line("OPTIONS * HTTP/1.1"), Refused(400)),
        ("an asterisk for GET", line("GET * HTTP/1.1"), Refused(400)),
        ("no slash in front", line("GET v2/ HTTP/1.1"), Refused(400)),
        ("no target", line("GET  HTTP/1.1"), Refused(400)),
        ("TRACE", line(&format!("TRACE {ROOT}/v2/ HTTP/1.1")), Refused(405)),
        ("a method that is none", line(&format!("FLY {ROOT}/v2/ HTTP/1.1")), Refused(405)),
        ("a method with a bracket", line(&format!("G(T {ROOT}/v2/ HTTP/1.1")), Refused(400)),
        ("a version that is none", line(&format!("GET {ROOT}/v2/ HTTP/9.9")), Refused(400)),
        ("a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), Dropped),
        // Blanks and control characters in a target: who escapes them and goes on must not lose sight of the framing.
        ("a blank in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a b HTTP/1.1")), Refused(400)),
        ("a blank in the path", line(&format!("GET {ROOT}/v2/can ary/tags/list HTTP/1.1")), Refused(400)),
        ("a version in the query", line(&format!("GET {ROOT}/v2/canary/tags/list? HTTP/1.1 HTTP/1.1")), Refused(400)),
        ("a tab in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\tb HTTP/1.1")), Refused(400)),
        ("a NUL in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\0b HTTP/1.1")), Refused(400)),
        ("an escape character in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\x1bb HTTP/1.1")), Refused(400)),
        ("a DEL in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\x7fb HTTP/1.1")), Refused(400)),
        ("a carriage return in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\rb HTTP/1.1")), Refused(400)),
        ("a line feed in the query", line(&format!("GET {ROOT}/v2/canary/tags/list?a\nb HTTP/1.1")), Refused(400)),
        ("a blank in front of doubtful chunks", odd_chunks("a b", &format!("0;a=\n\r\n\r\n{hidden}")), Refused(400)),
        ("a tab in front of doubtful chunks", odd_chunks("a\tb", &format!("0;a=\n\r\n\r\n{hidden}")), Refused(400)),
        ("a control character in front of doubtful chunks", odd_chunks("a\x01b", &format!("\r\n\r\n{hidden}")), Refused(400)),
        ("a blank in front of chunks", odd_chunks("a b", &chunk), Refused(400)),
        // Where a message ends.
        ("lengths that differ", start(&format!("Content-Length: 0\r\nContent-Length: {length}\r\n"), &hidden), Refused(400)),
        ("lengths that agree", start("Content-Length: 0\r\nContent-Length: 0\r\n", ""), Stricter(400, 202)),
        ("a list of lengths", start(&format!("Content-Length: 0, {length}\r\n"), &hidden), Refused(400)),
        ("a negative length", start("Content-Length: -1\r\n", &hidden), Refused(400)),
        ("a length with a sign", start("Content-Length: +0\r\n", &hidden), Refused(400)),
        ("a length of letters", start("Content-Length: 0x0\r\n", &hidden), Refused(400)),
        ("a length beyond 64 bits", start("Content-Length: 18446744073709551616\r\n", &hidden), Refused(400)),
        ("an empty length", start("Content-Length: \r\n", &hidden), Refused(400)),
        (
            "length and chunks",
            start(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &format!("0\r\n\r\n{hidden}")),
            Stricter(400, 202),
        ),
        (
            "chunks and length",
            start(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), &format!("0\r\n\r\n{hidden}")),
            Stricter(400, 202),
        ),
        ("chunks twice", start("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunk), Refused(400)),
        ("chunks in a list twice", start("Transfer-Encoding: chunked, chunked\r\n", &chunk), Refused(400)),
        ("chunks, then as it is", start("Transfer-Encoding: chunked, identity\r\n", &chunk), Refused(400)),
        ("as it is, then chunks", start("Transfer-Encoding: identity, chunked\r\n", &chunk), Refused(400)),
        ("packed, then chunks", start("Transfer-Encoding: gzip, chunked\r\n", &chunk), Refused(400)),
        ("as it is", start("Transfer-Encoding: identity\r\n", &hidden), Refused(400)),
        ("a coding that is none", start("Transfer-Encoding: xchunked\r\n", &hidden), Refused(400)),
        ("a coding with a tab", start("Transfer-Encoding:\x0bchunked\r\n", &chunk), Refused(400)),
        ("an empty coding", start("Transfer-Encoding:\r\n", &hidden), Refused(400)),
        ("a quoted coding", start("Transfer-Encoding: \"chunked\"\r\n", &chunk), Refused(400)),
        (
            "chunks over HTTP/1.0",
            format!(
                "POST {ROOT}/v2/canary/blobs/uploads/ HTTP/1.0\r\nHost: {AUTHORITY}\r\n{LOGIN}Transfer-Encoding: chunked\r\n\r\n{chunk}"
            ),
            Refused(400),
        ),
        ("a blank before the colon", start("Transfer-Encoding : chunked\r\n", &format!("0\r\n\r\n{hidden}")), Refused(400)),
        ("a blank before a length's colon", start(&format!("Content-Length : {length}\r\n"), &hidden), Refused(400)),
        ("a folded line", get("X-Folded: a\r\n Transfer-Encoding: chunked\r\n"), Refused(400)),
        ("a line without a colon", get("nothing\r\n"), Refused(400)),
        ("a name with a blank", get("X Y: 1\r\n"), Refused(400)),
        ("no name", get(": 1\r\n"), Refused(400)),
        ("a NUL in a value", get("X-Y: a\0b\r\n"), Refused(400)),
        ("a carriage return in a value", get("X-Y: a\rTransfer-Encoding: chunked\r\n"), Refused(400)),
        ("a chunk's length beyond 64 bits", chunked(&format!("10000000000000000{hidden}")), Dropped),
        ("a chunk's length with a sign", chunked(&format!("-1\r\n{hidden}")), Dropped),
        ("a chunk's length of letters", chunked(&format!("0x0\r\n\r\n{hidden}")), Dropped),
        ("a chunk that is longer than it says", chunked(&format!("1\r\nab\r\n0\r\n\r\n{hidden}")), Dropped),
        ("a bare line feed after a chunk's length", chunked(&format!("0\n\n{hidden}")), Dropped),
        ("an extension that holds a line's end", chunked(&format!("0;a=\n\r\n\r\n{hidden}")), Dropped),
        ("a chunk's length of 17 digits", start("Transfer-Encoding: chunked\r\n", "00000000000000000\r\n\r\n"), Stricter(400, 202)),
        ("no chunk's length", chunked("\r\n\r\n"), Dropped),
        ("a blank chunk's length", chunked(" \r\n\r\n"), Dropped),
        ("an extension without a length", chunked(";x\r\n\r\n"), Dropped),
        ("a trailer without a colon", chunked("0\r\nnothing\r\n\r\n"), Dropped),
        ("a request for a trailer", chunked(&format!("0\r\n{hidden}")), Dropped),
        // What is in a body is a body.
        ("a request in a body", start(&format!("Content-Length: {length}\r\n"), &hidden), Taken(202)),
        ("a request in a chunk", start("Transfer-Encoding: chunked\r\n", &chunk), Taken(202)),
        (
            "a request in the body of a GET",
            format!("GET {ROOT}/v2/canary/tags/list HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Content-Length: {length}\r\n\r\n{hidden}"),
            Taken(200),
        ),
        (
            "a request in a body that is refused",
            format!("PUT {ROOT}/v2/canary/manifests/-x HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Content-Length: {length}\r\n\r\n{hidden}"),
            Refused(400),
        ),
        (
            "a request in a body without login",
            format!("PUT {ROOT}/v2/canary/manifests/x HTTP/1.1\r\nHost: {AUTHORITY}\r\nContent-Length: {length}\r\n\r\n{hidden}"),
            Refused(401),
        ),
        (
            "a request in a body that is too large",
            format!("PUT {ROOT}/v2/canary/manifests/x HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Content-Length: 99999999\r\n\r\n{hidden}"),
            Waits,
        ),
        (
            "a request in a trailer",
            start("Transfer-Encoding: chunked\r\nTrailer: X\r\n", &format!("0\r\nX: {}\r\n\r\n", "y".repeat(20))),
            Taken(202),
        ),
        ("an upgrade", get("Connection: upgrade\r\nUpgrade: foo\r\n"), Taken(200)),
        (
            "an upgrade to HTTP/2",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            Taken(200),
        ),
        ("a length that is not filled", start(&format!("Content-Length: {}\r\n", length + 10_000), &hidden), Waits),
        ("a chunk that is not filled", start("Transfer-Encoding: chunked\r\n", &format!("ffff\r\n{hidden}")), Waits),
    ]
}

/// What an attacker hides: it would delete the tag.
fn hidden() -> String {
    format!("DELETE {ROOT}/v2/canary/manifests/victim HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}\r\n")
}

/// One answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Takes the answers of one connection apart; what can't be read is a fault of the server.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (answer, rest) = first(bytes).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(bytes)));
        bytes = rest;
        if answer.status >= 200 {
            found.push(answer);
        }
    }
    found
}

/// How many final answers have come whole.
fn whole(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((answer, rest)) = first(bytes) {
        bytes = rest;
        count += usize::from(answer.status >= 200);
    }
    count
}

/// The first answer, if it is whole, and what comes after it.
fn first(bytes: &[u8]) -> Option<(Answer, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let rest = &bytes[end + 4..];
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line[2..5].parse().ok()).unwrap_or_else(|| panic!("{head}"));
    let lower = head.to_ascii_lowercase();
    let value = |name: &str| lower.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let length = match value("content-length") {
        _ if status < 200 || status == 204 => 0,
        Some(length) => length.parse().unwrap(),
        None => {
            assert!(value("transfer-encoding").is_none(), "no answer here is long: {head}");
            rest.len()
        }
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((Answer { status, head, body: body.to_vec() }, rest))
}

/// One of the two that are asked.
struct Side {
    client: Client,
    root: &'static str,
    site: String,
}

impl Side {
    fn fill(&self, request: &str) -> String {
        let authority = self.site.split_once("://").unwrap().1;
        // admin, with the password of every test.
        let login = "Authorization: Basic YWRtaW46Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5\r\n";
        request.replace(ROOT, self.root).replace(SITE, &self.site).replace(AUTHORITY, authority).replace(LOGIN, login)
    }

    /// Sends a request, and the next one if there is to be one.
    fn ask(&self, request: &str, next: &str, delivery: Delivery) -> (Vec<Answer>, Option<Closed>) {
        let (request, next) = (self.fill(request), self.fill(next));
        let mut conversation = self.client.open();
        if delivery == Delivery::Together {
            conversation.say((request + &next).as_bytes());
        } else {
            let mut first = request.as_str();
            if let (Delivery::Late, Some(at)) = (delivery, request.find(&self.fill(&hidden()))) {
                conversation.say(&request.as_bytes()[..at]);
                conversation.listen(LATE, |_| false);
                first = &request[at..];
            }
            conversation.say(first.as_bytes());
            conversation.listen(SILENCE_MAX, |received| whole(received) > 0);
            conversation.say(next.as_bytes());
        }
        conversation.listen(SILENCE_MAX, |_| false);
        (answers(&conversation.received), conversation.closed)
    }
}

/// The request behind each, which closes the connection.
fn next() -> String {
    format!("GET {ROOT}/v2/canary/manifests/one HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Connection: close\r\n\r\n")
}

struct World {
    registry: Registry,
    gateway: Side,
    backend: Side,
    /// What the tags of the canary are, in order.
    manifests: [String; 2],
}

/// The tags of `canary`: one that is asked for behind each request, and one that nothing may delete.
const TAGS: [&str; 2] = ["one", "victim"];

impl World {
    fn new() -> Self {
        let registry = Registry::start();
        let client = registry.client(registry.first);
        let manifests = [Layer::of_file(b"one"), Layer::of_file(b"victim")].map(|layer| {
            let (config, manifest) = image::schema2(std::slice::from_ref(&layer));
            for blob in [config.as_bytes(), &layer.packed] {
                client.push_blob("canary", blob).unwrap();
            }
            manifest
        });
        for (tag, manifest) in TAGS.iter().zip(&manifests) {
            client.push_manifest("canary", tag, image::SCHEMA2, manifest).unwrap();
        }
        let side = |client, root, site| Side { client, root, site };
        let gateway = side(Client::tls(registry.first, &registry.ca()), "", format!("https://localhost:{}", registry.first));
        let backend =
            side(Client::plain(registry.direct), "/artifactory/api/docker/first", format!("http://localhost:{}", registry.direct));
        Self { registry, gateway, backend, manifests }
    }

    /// Sends a request to both, each in its form and in every way that it can come, and judges what comes back.
    fn judge(&self, label: &str, [through, past]: [String; 2], fate: Fate) {
        for delivery in [Delivery::Together, Delivery::Apart, Delivery::Late] {
            let is_other = match delivery {
                Delivery::Together => true,
                // Without an answer there is nothing after it.
                Delivery::Apart => fate != Waits,
                Delivery::Late => through.contains(&self.gateway.fill(&hidden())),
            };
            if !is_other {
                continue;
            }
            let through = self.gateway.ask(&through, &next(), delivery);
            let past = self.backend.ask(&past, &next(), delivery);
            self.judge_answers(&format!("{label} ({delivery:?})"), [through, past], fate, delivery);
        }
        // Whoever comes next, on whatever connection to the backend, is answered what was asked.
        for (tag, manifest) in TAGS.iter().zip(&self.manifests) {
            let reply = self.registry.client(self.registry.first).get(&format!("/v2/canary/manifests/{tag}"));
            assert_eq!((reply.status, &reply.text()), (200, manifest), "{label}, then {tag}");
        }
    }

    fn judge_answers(&self, label: &str, [through, past]: [(Vec<Answer>, Option<Closed>); 2], fate: Fate, delivery: Delivery) {
        let seen = |side: &(Vec<Answer>, Option<Closed>)| -> Vec<u16> { side.0.iter().map(|answer| answer.status).collect() };
        let all = format!("{label}: {:?} through the gateway, {:?} past it, and not {fate:?}", seen(&through), seen(&past));
        for (answers, closed) in [&through, &past] {
            assert!(answers.iter().all(|answer| answer.status < 500), "{all}");
            assert!(closed.is_some() || fate == Waits, "{all}: left open");
            // Behind what was asked there is the next answer, which is whole, or nothing.
            if let Some(next) = answers.get(1) {
                assert!(answers.len() == 2 && next.status == 200 && next.body == self.manifests[0].as_bytes(), "{all}");
            }
            // And where both know the end of the first, and were not sent more than that, not nothing.
            assert!(!matches!(fate, Taken(_)) || delivery == Delivery::Together || answers.len() == 2, "{all}: no second answer");
        }
        let first = |side: &(Vec<Answer>, Option<Closed>)| side.0.first().map(|answer| answer.status);
        let pair = (first(&through), first(&past));
        let right = match fate {
            Refused(status) => pair == (Some(status), Some(status)),
            Stricter(status, left) => pair == (Some(status), Some(left)),
            Taken(status) => {
                pair == (Some(status), Some(status)) && (status != 200 || through.0[0].body == past.0[0].body && !past.0[0].body.is_empty())
            }
            Dropped => [&through, &past].iter().all(|side| matches!(seen(side)[..], [] | [400])),
            Waits => pair == (None, None) && [&through, &past].iter().all(|side| side.1.is_none()),
        };
        assert!(right, "{all}");
    }
}

#[test]
fn both_read_every_target_in_the_same_way_or_not_at_all() {
    let world = World::new();
    let long = format!("/v2/{}/tags/list", "a".repeat(256));
    let longer = format!("/v2/{}/tags/list", "a/".repeat(1200) + "a");
    let targets = TARGETS.iter().copied().chain([(long.as_str(), Refused(400)), (longer.as_str(), Refused(414))]);
    for (target, fate) in targets {
        for method in ["GET", "PUT", "DELETE"] {
            let request = format!("{method} {ROOT}{target} HTTP/1.1\r\nHost: {AUTHORITY}\r\n{LOGIN}Content-Length: 0\r\n\r\n");
            world.judge(&format!("{method} {target}"), [request.clone(), request], fate);
        }
    }
}

#[test]
fn both_find_the_end_of_a_request_in_the_same_place_or_refuse_it() {
    let world = World::new();
    for (through, past) in heads(&world.gateway).into_iter().zip(heads(&world.backend)) {
        assert_eq!((through.0, through.2), (past.0, past.2));
        world.judge(through.0, [through.1, past.1], through.2);
    }
}

/// Headers by which proxies are told of another host, path or method. None of them is believed by whoever is asked directly.
const CLAIMS: &[(&str, &str)] = &[
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Host", "evil.example, other.example"),
    ("X-Forwarded-Server", "evil.example"),
    ("X-Forwarded-Port", "6666"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Forwarded-Scheme", "gopher"),
    ("X-Forwarded-Prefix", "/evil.example"),
    ("X-Forwarded-For", "192.0.2.66"),
    ("X-Real-IP", "192.0.2.66"),
    ("Forwarded", "for=192.0.2.66;host=evil.example;proto=gopher"),
    ("X-Host", "evil.example"),
    ("X-Original-Host", "evil.example"),
    ("X-Original-URL", "/evil.example"),
    ("X-Rewrite-URL", "/evil.example"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("X-Method-Override", "DELETE"),
    ("X-Artifactory-Override-Base-Url", "http://evil.example"),
    ("Via", "1.1 evil.example"),
    ("X-Request-Id", "evil.example"),
];

#[test]
fn nothing_that_a_client_claims_comes_back_in_a_url() {
    let world = World::new();
    let asks = [
        ("POST", "/v2/canary/blobs/uploads/", true, 202),
        ("GET", "/v2/canary/tags/list?n=1", true, 200),
        ("GET", "/v2/canary/manifests/victim", true, 200),
        ("GET", "/v2/", false, 401),
        ("GET", "/v2/canary/manifests/victim", false, 401),
    ];
    for (name, value) in CLAIMS {
        for (method, path, logs_in, status) in asks {
            let login = if logs_in { LOGIN } else { "" };
            let request = format!(
                "{method} {ROOT}{path} HTTP/1.1\r\nHost: {AUTHORITY}\r\nUser-Agent: docker/1.6.2\r\n{login}{name}: {value}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            for side in [&world.gateway, &world.backend] {
                let (answers, _) = side.ask(&request, "", Delivery::Together);
                let [answer] = &answers[..] else { panic!("{request}: {answers:?}") };
                let all = answer.head.clone() + &String::from_utf8_lossy(&answer.body);
                assert_eq!(answer.status, status, "{request}{all}");
                // With its colon, which no random id has.
                for claim in ["evil", ":6666", "gopher", "192.0.2.66"] {
                    assert!(!all.contains(claim), "{request}{all}");
                }
            }
        }
    }
}

#[test]
fn a_host_that_nothing_is_bound_to_is_misdirected() {
    let world = World::new();
    let port = free_port();
    world.registry.add_to_gateway(&format!(
        "[[binding]]\nlisten = \"127.0.0.1:{port}\"\nserver_name = \"localhost\"\nrepository = \"first\"\n\
         certificate = \"certs/server.pem\"\nkey = \"certs/server.key\"\n"
    ));
    let client = Client::tls(port, &world.registry.ca());
    for (host, status) in [
        ("localhost", 401),
        ("LOCALHOST", 401),
        ("localhost:1", 401),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.localhost", 421),
        ("127.0.0.1", 421),
        ("[::1]", 421),
        ("localhost:99999", 400),
        ("localhost@evil.example", 400),
        ("localhost\\evil.example", 400),
        ("localhost%2eevil.example", 400),
        ("[::1", 400),
        ("lo calhost", 400),
    ] {
        let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut conversation = client.open();
        conversation.say(request.as_bytes());
        conversation.listen(SILENCE_MAX, |_| false);
        let answers = answers(&conversation.received);
        assert_eq!((answers.len(), answers[0].status, conversation.closed), (1, status, Some(Closed)), "{host}: {}", answers[0].head);
        assert!(!answers[0].head.contains("evil") && !String::from_utf8_lossy(&answers[0].body).contains("evil"), "{host}");
    }
}
