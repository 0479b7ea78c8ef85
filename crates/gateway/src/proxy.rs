//! The proxy: what happens to each request between client and backend.
//!
//! What must stay true:
//! - Nothing reaches the backend that [`head::check`] and [`rewrite`] have not let pass.
//! - Forwarding headers tell what the gateway saw, never what a client claimed.
//! - Bodies are streamed and unbounded. A transfer may take days, but not stand still.
//! - A request is logged and counted once, at its end, in the module `observe`.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, FORWARDED, HOST, UPGRADE};
use http::{HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::config::Upstream;
use crate::connection::{Connection, KEEPALIVE, scheme_header};
use crate::observe::{Observe, Observed};
use crate::refusal::{Api, Refusal};
use crate::{head, request_id, rewrite, upstream};

/// How long a client may send nothing of a body, or take nothing of an answer. A paused laptop or a slow registry mirror
/// comes back within minutes; a vanished client should not hold a backend's upload open for longer.
const BODY_IDLE_MAX: Duration = Duration::from_secs(5 * 60);

/// After an answer that did not wait for the request's body: how much of the body is still read, and for how long.
/// A client that only writes sees the answer then; closing at once would reset the connection, and it would see nothing.
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
const LINGER_MAX: Duration = Duration::from_secs(5);

/// What a registry API knows, for the answer to a method that it does not.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers by which a backend can be told where a request came from; what a client says there is dropped, and so is
/// everything that starts with `x-forwarded-`.
const CLAIMS: [HeaderName; 3] =
    [FORWARDED, HeaderName::from_static("x-artifactory-override-base-url"), HeaderName::from_static("x-jfrog-override-base-url")];

/// The proxy logic, one for all listeners.
#[derive(Debug)]
pub struct Gateway {
    backend: HttpPeer,
    /// Where it is, for the log.
    address: Arc<str>,
    observe: Arc<Observe>,
}

impl Gateway {
    /// A proxy to this backend.
    pub fn new(upstream: Upstream, observe: Arc<Observe>) -> Self {
        Self { backend: upstream::peer(&upstream), address: upstream.to_string().into(), observe }
    }
}

/// What is known of one request.
#[derive(Debug)]
pub struct Request {
    pub(crate) started: Instant,
    /// Our own, or that of a trusted proxy.
    id: HeaderValue,
    /// Present from the moment that its head has arrived.
    pub(crate) connection: Option<Arc<Connection>>,
    /// Present once it has been admitted.
    pub(crate) upstream: Option<rewrite::Upstream>,
    /// What its lines and counters will be made of.
    pub(crate) observed: Observed,
}

impl Request {
    pub(crate) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Request;

    fn new_ctx(&self) -> Request {
        Request { started: Instant::now(), id: request_id::random(), connection: None, upstream: None, observed: Observed::default() }
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
        set_limits(session);
        if let Some(connection) = &request.connection {
            request.observed.admitted(&connection.metrics.any_host);
            if let Some(id) = request_id::given(session.req_header().headers.get(X_REQUEST_ID), connection.is_trusted) {
                request.id = id;
            }
        }
        match admit(session, request) {
            Ok(upstream) => {
                request.upstream = Some(upstream);
                Ok(false)
            }
            Err(refusal) => {
                respond(session, request, refusal).await.map_err(|error| error.into_down())?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _: &mut Session, request: &mut Request) -> pingora::Result<Box<HttpPeer>> {
        request.observed.sent(Arc::clone(&self.address));
        Ok(Box::new(self.backend.clone()))
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
        head.insert_header(X_FORWARDED_PORT, connection.port_header.clone())?;
        head.insert_header(X_FORWARDED_FOR, connection.client_header.clone())?;
        head.insert_header(X_REAL_IP, connection.client_header.clone())?;
        head.insert_header(X_REQUEST_ID, request.id.clone())
    }

    async fn response_filter(&self, _: &mut Session, head: &mut ResponseHeader, request: &mut Request) -> pingora::Result<()> {
        if head.status.is_informational() {
            return Ok(());
        }
        request.observed.backend_answered();
        head.insert_header(X_REQUEST_ID, request.id.clone())
    }

    /// Pingora's default, less its context: the error is logged with the backend's real address.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _: &mut Request,
        client_reused: bool,
    ) -> Box<Error> {
        if session.req_header().method.is_idempotent() && !session.retry_buffer_truncated() {
            // A kept connection may have been closed by the backend just then.
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Request) -> FailToProxy {
        let refusal = refusal(error);
        match refusal {
            None => debug!(request.id = request.id(), %error, "client went away"),
            Some(Refusal::Internal) => error!(request.id = request.id(), %error, "request failed"),
            Some(refusal) if refusal.status().is_server_error() => {
                warn!(request.id = request.id(), backend.address = %self.address, %error, "backend failed");
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
        self.observe.finish(session, request);
        if error.is_none_or(|error| *error.esource() != ErrorSource::Downstream) {
            linger(session).await;
        }
    }
}

/// Pingora's default of aborting when a client closes its side stays: registry clients never half-close, and what a
/// vanished client asked for should not go on.
fn set_limits(session: &mut Session) {
    session.set_read_timeout(Some(BODY_IDLE_MAX));
    session.set_write_timeout(Some(BODY_IDLE_MAX));
    // Pingora keeps connections without a limit. None: this one will be closed, and must stay so.
    if session.get_keepalive().is_some() && !session.is_process_shutting_down() {
        session.set_keepalive(Some(KEEPALIVE.as_secs()));
    }
}

/// What the backend is to be asked, if anything.
fn admit(session: &mut Session, request: &Request) -> Result<rewrite::Upstream, Refusal> {
    let connection = request.connection.as_ref().ok_or(Refusal::Internal)?;
    let raw_head = session.to_h1_raw();
    let target = head::check(&raw_head)?;
    let head = session.req_header_mut();
    // Registry clients upgrade to nothing.
    head.remove_header(&UPGRADE);
    rewrite::rewrite(&connection.listener, &head.method, target, head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes))
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
        (
            ErrorSource::Downstream,
            ErrorType::ReadError | ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::ConnectionClosed,
        ) => None,
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Refusal::BodyTimeout),
        (ErrorSource::Downstream, _) => Some(Refusal::Malformed),
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

async fn respond(session: &mut Session, request: &mut Request, refusal: Refusal) -> pingora::Result<()> {
    request.observed.refused(refusal);
    let body = refusal.body(Api::of(session.req_header().raw_path()));
    let mut head = ResponseHeader::build(refusal.status(), Some(8))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    head.insert_header(X_REQUEST_ID, request.id.clone())?;
    if refusal == Refusal::Method {
        head.insert_header(ALLOW, HeaderValue::from_static(METHODS))?;
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
