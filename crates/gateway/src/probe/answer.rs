//! Reading a probe and answering it.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, LOCATION, RETRY_AFTER, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{ErrorType, OrErr as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{sleep, timeout};

use crate::request_id::X_REQUEST_ID;

use super::{Ask, BODY_BYTES_MAX, Body, End, Facts, Framing, HALVES_PAUSE_MS, MARK, Noise, PATHS, SAMPLES};

/// Most probes at a time, and of one client: a doctor has four of them open at once, two of which may hold on for a minute.
const PROBES_MAX: usize = 32;
const PROBES_PER_CLIENT_MAX: usize = 4;

/// How long a probe may take to send its body, and how long of that it may send nothing.
const BODY_MAX: Duration = Duration::from_secs(15 * 60);
const BODY_IDLE_MAX: Duration = Duration::from_secs(100);

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// How much of an answer in halves comes before the pause, in bytes: less than any front's buffer.
const FIRST_HALF_BYTES: usize = 1024;

/// Answers probes, a bounded number at a time.
#[derive(Debug, Default)]
pub struct Probes(Mutex<Vec<IpAddr>>);

/// A place among the probes; it is free again when this is dropped.
struct Place<'a> {
    probes: &'a Probes,
    client: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut clients = self.probes.clients();
        if let Some(at) = clients.iter().position(|client| *client == self.client) {
            clients.swap_remove(at);
        }
    }
}

impl Probes {
    /// The client of each probe that is being answered.
    fn clients(&self) -> MutexGuard<'_, Vec<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, client: IpAddr) -> Option<Place<'_>> {
        let mut clients = self.clients();
        let own = clients.iter().filter(|other| **other == client).count();
        if clients.len() >= PROBES_MAX || own >= PROBES_PER_CLIENT_MAX {
            return None;
        }
        clients.push(client);
        Some(Place { probes: self, client })
    }

    /// Reads the rest of the session's request, whose target [`super::is_probe`], and answers it. To be called after
    /// everything that keeps clients out, and before the request is read as one for a registry.
    ///
    /// # Errors
    /// If the client goes away.
    pub async fn answer(&self, session: &mut Session, id: &HeaderValue, target: &[u8], facts: &Facts<'_>) -> pingora::Result<()> {
        let Some(_place) = self.place(facts.client) else { return refuse(session, id).await };
        let ask = Ask::of(target);
        let body = receive(session, ask == Ask::Announce).await?;
        if let Ask::Silence(seconds) = ask {
            hold_back(session, Duration::from_secs(seconds)).await?;
        }
        if let Ask::Bytes { count, json, halves } = ask {
            return send_bytes(session, id, (count, json, halves)).await;
        }
        let is_whole = body.end == End::Whole;
        let head = session.req_header();
        let report = super::report((&head.method, head.version, &head.headers), target, facts, body, SystemTime::now());
        let text = serde_json::to_vec(&report).or_err(ErrorType::InternalError, "writing a report")?;
        let is_post = head.method == Method::POST;
        let mut answer = self::head(if is_post { StatusCode::ACCEPTED } else { StatusCode::OK }, "application/json", &text, id)?;
        if let Some(origin) = facts.origin.filter(|_| is_post) {
            // As of an upload that has begun: fronts like to change it.
            answer.insert_header(LOCATION, format!("{origin}{}", PATHS[0]))?;
        }
        if !is_whole {
            session.set_keepalive(None);
        }
        session.write_response_header(Box::new(answer), false).await?;
        session.write_response_body(Some(text.into()), true).await
    }
}

/// Waits, unless the client goes away.
async fn hold_back(session: &mut Session, pause: Duration) -> pingora::Result<()> {
    tokio::select! {
        () = sleep(pause) => Ok(()),
        gone = session.as_downstream_mut().read_body_or_idle(true) => gone.map(drop),
    }
}

/// Counts and hashes the body, unless only its announcement is of interest.
async fn receive(session: &mut Session, only_announced: bool) -> pingora::Result<Body> {
    let (framing, announced_bytes) = super::framing(&session.req_header().headers);
    let mut body = Body { framing, announced_bytes, bytes: 0, sha256: String::new(), first_ms: None, last_ms: None, end: End::Whole };
    if framing != Framing::None && (only_announced || announced_bytes.is_some_and(|bytes| bytes > BODY_BYTES_MAX)) {
        return Ok(Body { end: End::Unread, ..body });
    }
    if session.req_header().headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        session.write_continue_response().await?;
    }
    session.set_read_timeout(Some(BODY_IDLE_MAX));
    let (start, mut hash) = (Instant::now(), Sha256::new());
    loop {
        let rest = BODY_MAX.saturating_sub(start.elapsed());
        match bounded(rest, session.read_request_body()).await {
            Some(Ok(Some(bytes))) if !bytes.is_empty() => {
                let now_ms = start.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
                body.first_ms.get_or_insert(now_ms);
                body.last_ms = Some(now_ms);
                body.bytes += bytes.len() as u64;
                hash.update(&bytes);
                if body.bytes > BODY_BYTES_MAX {
                    body.end = End::TooLarge;
                    break;
                }
            }
            Some(Ok(Some(_))) => {}
            Some(Ok(None)) => break,
            Some(Err(_)) | None => {
                body.end = End::Cut;
                break;
            }
        }
    }
    body.sha256 = super::hex(&hash.finalize());
    Ok(body)
}

async fn bounded<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    timeout(limit, future).await.ok()
}

async fn send_bytes(session: &mut Session, id: &HeaderValue, (count, json, halves): (u64, bool, bool)) -> pingora::Result<()> {
    let count = usize::try_from(count).unwrap_or_default();
    let bytes = if json {
        super::compressible(count)
    } else {
        let mut noise = vec![0; count];
        Noise::default().fill(&mut noise);
        noise
    };
    let kind = if json { "application/json" } else { "application/octet-stream" };
    let mut head = head(StatusCode::OK, kind, &bytes, id)?;
    if halves {
        // Pingora sends each chunk at once, but collects what has a length.
        head.remove_header(&CONTENT_LENGTH);
        if session.req_header().version < Version::HTTP_11 {
            // It knows no chunks: the end of the connection is the end of the answer.
            session.set_keepalive(None);
        } else {
            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
    }
    session.write_response_header(Box::new(head), false).await?;
    let mut rest = Bytes::from(bytes);
    if halves {
        let first = rest.split_to(FIRST_HALF_BYTES.min(count));
        session.write_response_body(Some(first), false).await?;
        sleep(Duration::from_millis(HALVES_PAUSE_MS)).await;
    }
    session.write_response_body(Some(rest), true).await
}

async fn refuse(session: &mut Session, id: &HeaderValue) -> pingora::Result<()> {
    let text = json!({ "errors": [{ "code": "UNAVAILABLE", "message": "too many probes at a time", "detail": null }] }).to_string();
    let mut answer = head(StatusCode::SERVICE_UNAVAILABLE, "application/json", text.as_bytes(), id)?;
    answer.insert_header(RETRY_AFTER, HeaderValue::from_static("1"))?;
    session.set_keepalive(None);
    session.write_response_header(Box::new(answer), false).await?;
    session.write_response_body(Some(text.into()), true).await
}

/// The head of an answer with this body. Nothing of it may be kept by anybody.
fn head(status: StatusCode, kind: &'static str, body: &[u8], id: &HeaderValue) -> pingora::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(SAMPLES.len() + 7))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static(kind))?;
    head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    // A request's own words are in the report.
    head.insert_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))?;
    head.insert_header(X_REQUEST_ID, id.clone())?;
    head.insert_header(MARK, HeaderValue::from_static("1"))?;
    head.insert_header(DOCKER_CONTENT_DIGEST, format!("sha256:{}", super::hex(&Sha256::digest(body))))?;
    for (name, value) in SAMPLES {
        head.insert_header(name, HeaderValue::from_static(value))?;
    }
    Ok(head)
}
