//! The proxy: what happens to each request between client and backend.
//!
//! What must stay true:
//! - Nothing reaches the backend that [`head::check`] and [`rewrite`] have not let pass.
//! - Forwarding headers tell what the gateway saw, never what a client claimed.
//! - Bodies are streamed and unbounded. A transfer may take days, but not stand still; what is a few kilobytes comes soon.
//! - A request is logged and counted once, at its end, in the module `observe`.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use berth_names::{Origin, Work};
use berth_places::Share;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, FORWARDED, HOST};
use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::admission::Answer;
use crate::bindings::{Binding, Bound};
use crate::connection::{Connection, scheme_header};
use crate::forwarded::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO};
use crate::limits::{Admission, SLOW_START, SMALL_BODY_BYTES_PER_SECOND_MIN, SMALL_BODY_MAX};
use crate::live::Live;
use crate::observe::Observed;
use crate::probe::{Facts, Probes};
use crate::refusal::{Api, Refusal};
use crate::request_id::{self, X_REQUEST_ID, X_REQUEST_ID_SPELT};
use crate::rewrite;
use crate::traces::Spans;
use crate::upstream::{self, Attempts, Broken};

/// After an answer that did not wait for the request's body: how much of the body is still read, and for how long.
/// A client that only writes sees the answer then; closing at once would reset the connection, and it would see nothing.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(5);

/// What a registry API knows, for the answer to a method that it does not.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
pub(crate) const SAFE_METHODS: &str = "GET, HEAD, OPTIONS";

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Headers by which a backend can be told where a request came from; what a client says there is dropped, and so is
/// everything that starts with `x-forwarded-`.
const CLAIMS: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-artifactory-override-base-url"), HeaderName::from_static("x-jfrog-override-base-url")];

/// The proxy logic, one for all listeners.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) live: Arc<Live>,
    probes: Probes,
}

impl Gateway {
    /// A proxy that looks up what it needs to know here.
    pub fn new(live: Arc<Live>) -> Self {
        Self { live, probes: Probes::default() }
    }
}

/// What is known of one request.
#[derive(Debug)]
pub struct Request {
    pub(crate) started: Instant,
    /// 128 random bits in hexadecimal.
    pub(crate) id: HeaderValue,
    /// Present from the moment that its head has arrived.
    pub(crate) connection: Option<Arc<Connection>>,
    /// Who asks: the connection's peer, or whom trusted proxies name.
    pub(crate) client: Option<IpAddr>,
    /// Present once it is known what it is for.
    pub(crate) binding: Option<Arc<Binding>>,
    /// Present once it has been admitted.
    pub(crate) upstream: Option<rewrite::Upstream>,
    /// What its lines and counters will be made of.
    pub(crate) observed: Observed,
    /// The backends it was sent to.
    pub(crate) attempts: Attempts,
    /// Present if it is traced.
    pub(crate) spans: Option<Box<Spans>>,
    /// What it asks for, as work.
    pub(crate) work: Work,
    /// How much of its body has come.
    pub(crate) pace: Pace,
    /// Held while a small body is on its way.
    pub(crate) small_body: Option<Share>,
    /// Counted as under way while this is held.
    pub(crate) admission: Admission,
}

impl Request {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            id: request_id::random(),
            connection: None,
            client: None,
            binding: None,
            upstream: None,
            observed: Observed::default(),
            attempts: Attempts::default(),
            spans: None,
            work: Work::QUICK,
            pace: Pace::default(),
            small_body: None,
            admission: Admission::default(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request::new()
    }

    fn on_connection_reuse(&self, _: &mut Session, request: &mut Request, connection: Box<dyn Any + Send + Sync>) {
        if let Ok(connection) = connection.downcast::<Arc<Connection>>() {
            connection.head_arrived();
            request.connection = Some(*connection);
        }
    }

    /// No modules: bodies pass as they are.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, request: &mut Request) -> pingora::Result<bool> {
        match self.admit(session, request) {
            Ok(Answer::Pass(upstream)) => {
                request.upstream = Some(upstream);
                Ok(false)
            }
            Ok(Answer::Own(own)) => {
                own.send(session, &request.id).await.map_err(|error| error.into_down())?;
                Ok(true)
            }
            Ok(Answer::Probe { target, origin }) => {
                self.answer_probe(session, request, &target, origin.as_ref()).await.map_err(|error| error.into_down())?;
                Ok(true)
            }
            Err(refusal) => {
                respond(session, request, refusal).await.map_err(|error| error.into_down())?;
                Ok(true)
            }
        }
    }

    /// Called before each piece of a body is sent, and at its end, also that of an empty one.
    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_end: bool,
        request: &mut Request,
    ) -> pingora::Result<()> {
        request.attempts.begun();
        request.pace.count(body.as_ref().map_or(0, Bytes::len));
        if is_end {
            request.small_body = None;
        }
        let limits = request.binding.as_ref().map(|binding| &binding.limits);
        let is_too_slow = limits.and_then(|limits| limits.min_body_bytes_per_second).is_some_and(|least| request.pace.is_below(least));
        let left = if request.small_body.is_some() { Some(request.pace.left_for_small()) } else { None };
        if is_too_slow || left == Some(Duration::ZERO) {
            request.observed.refused(Refusal::BodyTooSlow);
            return Error::e_explain(ErrorType::ReadTimedout, "the body comes too slowly").map_err(|error: Box<Error>| error.into_down());
        }
        if let (Some(left), Some(limits)) = (left, limits) {
            session.set_read_timeout(Some(left.min(limits.body_idle_timeout)));
        }
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, request: &mut Request) -> pingora::Result<Box<HttpPeer>> {
        let peer = request.attempts.next(&self.live.pool(), self.live.silence(request.work.answer));
        if let Some(address) = request.attempts.address() {
            request.observed.sent(address.to_string().into());
            if let Some(spans) = request.spans.as_mut().filter(|_| peer.is_ok()) {
                spans.attempt(address);
            }
        }
        peer
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, request: &mut Request, mut error: Box<Error>) -> Box<Error> {
        request.attempts.connect_failed(&mut error, !session.retry_buffer_truncated());
        if let Some(spans) = &mut request.spans {
            spans.attempt_failed(&error);
        }
        error
    }

    async fn upstream_request_filter(&self, _: &mut Session, head: &mut RequestHeader, request: &mut Request) -> pingora::Result<()> {
        let (Some(upstream), Some(connection)) = (&request.upstream, &request.connection) else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not admitted");
        };
        head.set_raw_path(upstream.target.as_bytes())?;
        drop_claims(head);
        let host = HeaderValue::try_from(upstream.origin.authority().to_string()).map_err(|_| Error::new_in(ErrorType::InternalError))?;
        head.insert_header(HOST, host.clone())?;
        head.insert_header(X_FORWARDED_HOST, host)?;
        head.insert_header(X_FORWARDED_PROTO, scheme_header(upstream.origin.scheme()))?;
        head.insert_header(X_FORWARDED_PORT, HeaderValue::from(upstream.origin.port()))?;
        let client = request.client.filter(|client| *client != connection.peer).and_then(|client| client.to_string().try_into().ok());
        let client = client.unwrap_or_else(|| connection.peer_header.clone());
        head.insert_header(X_FORWARDED_FOR, client.clone())?;
        head.insert_header(X_REAL_IP, client)?;
        if let Some(spans) = &request.spans {
            spans.inject(head)?;
        }
        head.insert_header(X_REQUEST_ID, request.id.clone())
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, request: &mut Request) -> pingora::Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        // It was refused before it came: what is left of it is only read so that the client sees the answer.
        if request.small_body.take().is_some() {
            session.set_read_timeout(Some(LINGER_MAX));
        }
        request.attempts.answered();
        request.observed.backend_answered();
        if let Some(spans) = &mut request.spans {
            spans.attempt_answered(head.status.as_u16());
        }
        head.insert_header(X_REQUEST_ID_SPELT, request.id.clone())
    }

    /// In place of Pingora's default, which repeats a PUT.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        request: &mut Request,
        was_reused: bool,
    ) -> Box<Error> {
        let is_safe = session.req_header().method.is_safe();
        request.attempts.broke(&mut error, Broken { was_reused, is_safe, is_kept: !session.retry_buffer_truncated() });
        if let Some(spans) = &mut request.spans {
            spans.attempt_failed(&error);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Request) -> FailToProxy {
        let refusal = request.observed.refusal.or_else(|| refusal(error));
        match refusal {
            None => debug!(request.id = request.id(), %error, "client went away"),
            Some(Refusal::Internal) => error!(request.id = request.id(), %error, "request failed"),
            Some(refusal) if refusal.status().is_server_error() => {
                let address = request.attempts.address().map(tracing::field::display);
                warn!(request.id = request.id(), backend.address = address, %error, "backend failed");
            }
            Some(_) => debug!(request.id = request.id(), %error, "bad request"),
        }
        // An answer that has begun can only be cut off, which is what the client must see.
        let has_begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        if let Some(refusal) = refusal.filter(|_| !has_begun)
            && let Err(error) = respond(session, request, refusal).await
        {
            debug!(request.id = request.id(), %error, "client went away");
        }
        FailToProxy { error_code: refusal.map_or(0, |refusal| refusal.status().as_u16()), can_reuse_downstream: false }
    }

    /// [`Self::fail_to_proxy`] has logged it.
    fn suppress_error_log(&self, _: &Session, _: &Request, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Request, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Request) {
        self.live.observe.finish(session, request);
        // Nothing is done for it any more.
        (request.admission, request.small_body) = (Admission::default(), None);
        if error.is_none_or(|error| *error.esource() != ErrorSource::Downstream) {
            linger(session).await;
        }
    }
}

impl Gateway {
    async fn answer_probe(&self, session: &mut Session, request: &Request, target: &[u8], origin: Option<&Origin>) -> pingora::Result<()> {
        let Some(connection) = &request.connection else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not admitted");
        };
        let facts = Facts {
            scheme: connection.slot.listener().scheme,
            port: connection.port,
            origin,
            is_console: request.binding.as_ref().is_some_and(|binding| matches!(binding.bound, Bound::Console(_))),
            peer: SocketAddr::new(connection.peer, connection.peer_port),
            client: request.client.unwrap_or(connection.peer),
        };
        self.probes.answer(session, &request.id, target, &facts).await
    }
}

/// How fast a body comes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    began: Option<Instant>,
    bytes: u64,
}

impl Pace {
    /// A body is waited for from now on.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Counts bytes that have come.
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Whether the average so far is too low.
    fn is_below(&mut self, least_per_second: u32) -> bool {
        let elapsed = self.elapsed();
        elapsed > SLOW_START && (self.bytes as f64) < f64::from(least_per_second) * elapsed.as_secs_f64()
    }

    /// How much longer a small body may take, if nothing more comes.
    pub(crate) fn left_for_small(&mut self) -> Duration {
        let allowed = SMALL_BODY_MAX + Duration::from_secs_f64(self.bytes as f64 / f64::from(SMALL_BODY_BYTES_PER_SECOND_MIN));
        allowed.saturating_sub(self.elapsed())
    }

    fn elapsed(&mut self) -> Duration {
        self.began.get_or_insert_with(Instant::now).elapsed()
    }
}

fn drop_claims(head: &mut RequestHeader) {
    for name in &CLAIMS {
        head.remove_header(name);
    }
    let is_claim = |name: &&HeaderName| name.as_str().starts_with("x-forwarded-");
    while let Some(name) = head.headers.keys().find(is_claim).cloned() {
        head.remove_header(&name);
    }
}

/// What a failure means to the client. None: there is no client any more.
fn refusal(error: &Error) -> Option<Refusal> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::ReadError) if is_doubtful(error) => Some(Refusal::Framing),
        (
            ErrorSource::Downstream,
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::ConnectionClosed,
        ) => None,
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Refusal::BodyTimeout),
        (ErrorSource::Downstream, _) => Some(Refusal::Malformed),
        (ErrorSource::Upstream, ErrorType::Custom(upstream::SILENT)) => Some(Refusal::BackendSilent),
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Some(Refusal::BackendTimeout),
        (
            ErrorSource::Upstream,
            ErrorType::ConnectTimedout
            | ErrorType::ConnectRefused
            | ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::SocketError,
        ) => Some(Refusal::BackendUnreachable),
        (ErrorSource::Upstream, _) => Some(Refusal::BackendFailed),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::Internal),
    }
}

/// Whether the client's body broke off because its end was in doubt.
fn is_doubtful(error: &Error) -> bool {
    error.root_cause().downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

async fn respond(session: &mut Session, request: &mut Request, refusal: Refusal) -> pingora::Result<()> {
    request.observed.refused(refusal);
    let body = refusal.body(Api::of(session.req_header().raw_path()));
    let mut head = ResponseHeader::build(refusal.status(), Some(8))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    head.insert_header(X_REQUEST_ID_SPELT, request.id.clone())?;
    match refusal {
        Refusal::Method => head.insert_header("Allow", HeaderValue::from_static(METHODS))?,
        Refusal::ReadOnly => head.insert_header("Allow", HeaderValue::from_static(SAFE_METHODS))?,
        _ => {}
    }
    if let Some(seconds) = refusal.retry_after_s() {
        head.insert_header("Retry-After", HeaderValue::from(seconds))?;
    }
    if !refusal.keeps_connection() {
        session.set_keepalive(None);
    }
    // Pingora leaves the body out for HEAD, and announces the end of the connection if a body is still on its way.
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(body), true).await
}

/// Reads, within bounds, the rest of a body that nobody waits for any more.
async fn linger(session: &mut Session) {
    let session: &mut ServerSession = session.as_downstream_mut();
    if session.is_body_done() || session.response_written().is_none() {
        return;
    }
    let discard = async {
        let mut discarded = 0;
        while let Ok(Some(bytes)) = session.read_request_body().await
            && discarded < LINGER_BYTES_MAX
        {
            discarded += bytes.len();
        }
    };
    let _ = timeout(LINGER_MAX, discard).await;
}
