//! Heads and bodies of requests: what passes the gateway is read in the same way by whoever else reads it.
//!
//! Pingora is what reads it next, hyper is what another server would read. Either may refuse what passes; it may not find
//! another request in it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use berth_gateway::fuzzing::{End, Message, messages, pieces};
use berth_gateway::head::{self, Body};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use pingora::protocols::http::v1::server::HttpSession;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;

/// Most bytes of one input: what is behind that is more of the same.
const INPUT_BYTES_MAX: usize = 8 * 1024;

/// Most header fields that a reader here takes. Pingora takes 256, hyper 100.
const FIELDS_MAX: usize = 256;

/// What a reader has found: method, target, body.
type Found = (String, String, Vec<u8>);

/// A head that passes says what httparse says of it.
pub fn head(input: &[u8]) {
    let Ok(head) = head::check(input) else { return };
    assert!(input.len() <= head::HEAD_BYTES_MAX);
    // It is asked about whole heads only: up to the first empty line.
    if input.windows(4).position(|four| four == b"\r\n\r\n") != input.len().checked_sub(4) {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(parsed) = request.parse(input) else { return };
    assert_eq!(parsed, httparse::Status::Complete(input.len()), "the head ends elsewhere");
    assert_eq!(request.path.map(str::as_bytes), Some(head.target));
    let values = |name: &str| -> Vec<&[u8]> {
        request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match head.body {
        Body::Chunked => {
            assert!(lengths.is_empty());
            assert!(matches!(codings[..], [coding] if coding.trim_ascii().eq_ignore_ascii_case(b"chunked")));
        }
        Body::Length(length) => {
            assert!(codings.is_empty());
            match lengths[..] {
                [] => assert_eq!(length, 0),
                [text] => assert_eq!(str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse().ok()), Some(length)),
                _ => panic!("more than one length"),
            }
        }
    }
    assert!(request.headers.len() <= head::HEADER_FIELDS_MAX);
}

/// What passes of a connection's bytes is one sequence of requests, whoever reads it and however it arrives.
pub fn framing(input: &[u8]) {
    let Some((size, input)) = input.split_first() else { return };
    let input = &input[..input.len().min(INPUT_BYTES_MAX)];
    let (found, end) = messages(input);
    // One piece, or many.
    let whole = pieces(input, input.len());
    assert_eq!(pieces(input, usize::from(*size)).1, whole.1, "pieces are judged otherwise than the whole");
    let passed = match end {
        End::Open => input,
        End::Refused(at) => &input[..at],
        End::Doubt(at) => &input[..at],
    };
    assert!(matches!(end, End::Doubt(_)) || whole.0 == input.len());
    if found.is_empty() {
        return;
    }
    RUNTIME.with(|runtime| {
        for message in &found {
            let Some(read) = runtime.block_on(by_pingora(&passed[message.head.start..])) else { continue };
            assert!(message.end.is_some(), "Pingora reads a request whose end has not come: {read:?}");
            same(&read, message, passed);
        }
        let read = runtime.block_on(by_hyper(passed));
        let whole: Vec<&Message> = found.iter().filter(|message| message.end.is_some()).collect();
        // A head that others end at a line feed is refused as soon as somebody takes it for whole.
        let begun = passed.get(whole.last().and_then(|last| last.end).unwrap_or(0)..).unwrap_or_default();
        let more = usize::from(head::check(begun).is_err());
        assert!(read.len() <= whole.len() + more, "another reader finds more requests: {read:?}");
        for (read, message) in read.iter().zip(whole) {
            same(read, message, passed);
        }
    });
}

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
}

fn same((method, target, body): &Found, message: &Message, passed: &[u8]) {
    let head = &passed[message.head.clone()];
    // An empty line in front is passed over.
    let line = head.strip_prefix(b"\r\n").unwrap_or(head).split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    assert_eq!(words.next(), Some(method.as_bytes()));
    let written = words.next().unwrap_or_default();
    // Pingora writes what no target may have with percent signs.
    if written.iter().all(u8::is_ascii_graphic)
        && !written.iter().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'))
    {
        assert_eq!(path(target.as_bytes()), path(written));
    }
    assert_eq!(body, &message.body, "another body");
}

/// Path and query of a target. hyper drops a fragment, and the rest is written in several ways.
fn path(target: &[u8]) -> Option<&[u8]> {
    let target = target.split(|byte| *byte == b'#').next().unwrap_or_default();
    if target.starts_with(b"/") {
        return Some(target);
    }
    let authority = target.windows(3).position(|three| three == b"://")? + 3;
    match target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?')).map(|at| &target[authority + at..]) {
        None => Some(b"/"),
        Some(path) => Some(path).filter(|path| path.starts_with(b"/")),
    }
}

async fn by_pingora(bytes: &[u8]) -> Option<Found> {
    let (mut client, server) = tokio::io::duplex(bytes.len() + 64 * 1024);
    client.write_all(bytes).await.ok()?;
    client.shutdown().await.ok()?;
    let mut session = HttpSession::new(Box::new(server));
    session.read_request().await.ok()??;
    let head = session.req_header();
    let (method, target) = (head.method.to_string(), String::from_utf8_lossy(head.raw_path()).into_owned());
    let mut body = Vec::new();
    while let Some(piece) = session.read_body_bytes().await.ok()? {
        body.extend_from_slice(&piece);
    }
    Some((method, target, body))
}

/// The requests that hyper reads whole.
async fn by_hyper(bytes: &[u8]) -> Vec<Found> {
    let (mut client, server) = tokio::io::duplex(bytes.len() + 1024 * 1024);
    if client.write_all(bytes).await.is_err() || client.shutdown().await.is_err() {
        return Vec::new();
    }
    let found = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let found = Arc::clone(&found);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let one = (head.method.to_string(), head.uri.to_string(), body.to_bytes().to_vec());
                found.lock().unwrap().push(one);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
    Arc::try_unwrap(found).map_or_else(|found| found.lock().unwrap().clone(), |found| found.into_inner().unwrap())
}
