//! One client connection: from the accepted socket through TLS to its last request.
//!
//! Nothing here waits without a bound: first byte and handshake, a request's head, and the pause between two requests
//! each have a limit. Bodies are bounded by progress, not by total time ([`crate::proxy`]).

use std::future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use arc_swap::ArcSwap;
use berth_names::Scheme;
use http::HeaderValue;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tracing::debug;

use crate::acme;
use crate::bindings::{Binding, Listener};
use crate::limits::{Admission, Limits};
use crate::live::Live;
use crate::metrics::{HandshakeFailure, ListenerMetrics};
use crate::proxy::Gateway;
use crate::proxy_protocol;
use crate::stream::{ClientStream, EncryptedStream, wait_for_client};
use crate::tls;

/// How long to read what a client goes on sending after it was told that it speaks the wrong protocol.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// The first byte of a TLS connection: the record type of a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// A fatal `handshake_failure` alert. docker with `--insecure-registry` tries TLS first; without an answer it waits for
/// its timeout of 20 s before it tries plain HTTP.
const TLS_ALERT: &[u8] = &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x28];

/// For HTTP clients of an HTTPS port.
const HTTPS_REQUIRED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 51\r\nConnection: close\r\n\r\nThis port speaks HTTPS: use https:// in the address";

/// A listening address, as its connections see it.
#[derive(Debug)]
pub struct Slot {
    listener: ArcSwap<Listener>,
    /// The port that the kernel knows it by.
    port: u16,
    metrics: Arc<ListenerMetrics>,
    /// Connections end with their next answer: a successor has the address.
    is_retired: AtomicBool,
    /// True: idle connections end, the others with the request that is under way.
    closing: watch::Sender<bool>,
}

impl Slot {
    /// An address that listens on `port`.
    pub fn new(listener: Listener, port: u16, metrics: Arc<ListenerMetrics>) -> Self {
        Self {
            listener: ArcSwap::from_pointee(listener),
            port,
            metrics,
            is_retired: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        }
    }

    /// What is behind the address now.
    pub fn listener(&self) -> Arc<Listener> {
        self.listener.load_full()
    }

    /// What is counted of it.
    pub fn metrics(&self) -> &Arc<ListenerMetrics> {
        &self.metrics
    }

    /// The port that the kernel knows it by.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Puts something else behind it. Requests under way keep what they began with.
    pub fn replace(&self, listener: Listener) {
        self.listener.store(Arc::new(listener));
    }

    /// Lets each connection end with its next answer. Ending idle ones at once could cross a request on its way.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Whether connections end with their next answer.
    pub fn is_ending(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed) || *self.closing.borrow()
    }

    /// Ends its connections, each with the request that is under way.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }
}

/// What requests need to know of the connection they came on.
#[derive(Debug)]
pub struct Connection {
    pub(crate) slot: Arc<Slot>,
    /// Who is at the other end, or was according to the PROXY protocol.
    pub(crate) peer: IpAddr,
    /// The port there.
    pub(crate) peer_port: u16,
    /// The port that it connected to, as far as can be seen.
    pub(crate) port: u16,
    /// The value of `X-Forwarded-For` and `X-Real-IP`, unless a trusted proxy says otherwise.
    pub(crate) peer_header: HeaderValue,
    /// The authority whose certificate it showed.
    pub(crate) client_authority: Option<[u8; 32]>,
    /// Version and cipher suite of TLS.
    pub(crate) tls: Option<(&'static str, &'static str)>,
    limits: Limits,
    has_head: AtomicBool,
    _admission: Admission,
}

impl Connection {
    /// The head of a request has arrived: it is no longer the client who is waited for.
    pub(crate) fn head_arrived(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    /// Resolves when the address closes and no request is under way. Pingora itself ends idle connections only with the
    /// process.
    async fn is_idle_at_the_end(&self, mut closing: ShutdownWatch) {
        let is_closing = closing.wait_for(|closing| *closing).await.is_ok();
        if !is_closing || self.has_head.load(Ordering::Relaxed) {
            future::pending().await
        }
    }

    /// Resolves when no head has arrived within `limit`.
    async fn head_is_overdue(&self, limit: Duration) {
        sleep(limit).await;
        if self.has_head.load(Ordering::Relaxed) {
            future::pending().await
        }
    }
}

/// Serves a connection until its end. When its address closes it ends with the request that is under way, or at once if
/// there is none.
pub(crate) async fn serve(tcp: TcpStream, peer: SocketAddr, slot: Arc<Slot>, live: &Live, proxy: &Arc<HttpProxy<Gateway>>) {
    let _open = slot.metrics.opened();
    // An IPv4 client is the same client on an IPv6 socket.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut closing = slot.closing.subscribe();
    let listener = slot.listener();
    let limit = listener.bindings.for_handshake(None).map_or_else(Limits::default, |binding| binding.limits.clone()).handshake_timeout;
    let established = tokio::select! {
        // Apart, for it is large and soon over, while the connection lasts.
        established = timeout(limit, Box::pin(establish(tcp, peer, &slot, &listener, live))) => established,
        _ = closing.wait_for(|closing| *closing) => return,
    };
    match established {
        Ok(Ok(Some((stream, connection)))) => serve_requests(stream, &Arc::new(connection), proxy, &closing).await,
        Ok(Ok(None)) => {
            debug!(client.address = %peer.ip(), scheme = listener.scheme.as_str(), "no request: the wrong protocol, or a validation")
        }
        // Port scans, health checks and clients that don't trust us: nothing an operator could act on.
        Ok(Err(error)) => {
            slot.metrics.handshake_failed(HandshakeFailure::of(&format!("{error:#}")));
            debug!(client.address = %peer.ip(), %error, "no connection");
        }
        Err(_) => {
            slot.metrics.handshake_failed(HandshakeFailure::Timeout);
            debug!(client.address = %peer.ip(), "handshake took too long");
        }
    }
}

/// Finds out who connects, makes TLS of the connection if the listener speaks it, and applies the limits of the binding.
///
/// A client that speaks the wrong protocol is told so in its own, and the connection is over (`None`).
async fn establish(
    tcp: TcpStream,
    peer: SocketAddr,
    slot: &Arc<Slot>,
    listener: &Listener,
    live: &Live,
) -> anyhow::Result<Option<(Stream, Connection)>> {
    tcp.set_nodelay(true)?;
    let mut stream = match listener.scheme {
        Scheme::Https => ClientStream::below_tls(tcp),
        Scheme::Http => ClientStream::plain(tcp),
    };
    let (mut peer, mut peer_port, mut port) = (peer.ip(), peer.port(), slot.port);
    if listener.proxy_protocol {
        if !live.trusts(peer) {
            slot.metrics.handshake_failed(HandshakeFailure::ProxyProtocol);
            bail!("{peer} is not among the trusted proxies");
        }
        if let Some(addresses) = proxy_protocol::read(&mut stream).await? {
            (peer, peer_port, port) = (addresses.source.ip().to_canonical(), addresses.source.port(), addresses.destination.port());
        }
    }
    let Some(first) = stream.first_byte().await? else { bail!("closed before its first byte") };
    let connection = |binding: &Arc<Binding>| {
        let admission = live.meter.connection(binding, peer).map_err(|_| {
            live.observe.metrics.limit("connections").increment();
            anyhow::anyhow!("too many connections")
        })?;
        anyhow::Ok(Connection {
            slot: Arc::clone(slot),
            peer,
            peer_port,
            port,
            peer_header: HeaderValue::try_from(peer.to_string())?,
            client_authority: binding.tls.as_ref().and_then(|tls| tls.client_authority()).copied(),
            tls: None,
            limits: binding.limits.clone(),
            has_head: AtomicBool::new(false),
            _admission: admission,
        })
    };
    match (listener.scheme, first == TLS_HANDSHAKE) {
        (Scheme::Http, false) => {
            let Some(binding) = listener.bindings.for_handshake(None) else { bail!("nothing is bound") };
            Ok(Some((Box::new(stream), connection(binding)?)))
        }
        (Scheme::Https, true) => {
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let hello = start.client_hello();
            if acme::is_validation(&hello) {
                let answer = hello.server_name().and_then(|name| live.acme()?.challenge_certificate(name));
                let Some(answer) = answer else { bail!("nobody was asked to validate this name") };
                start.into_stream(tls::for_challenge(answer)?).await?.shutdown().await?;
                return Ok(None);
            }
            let Some(binding) = listener.bindings.for_handshake(hello.server_name()) else { bail!("nothing is bound") };
            if !binding.access.admits(peer) {
                bail!("not admitted");
            }
            let Some(tls) = &binding.tls else { bail!("nothing is bound") };
            let mut connection = connection(binding)?;
            let stream = EncryptedStream(start.into_stream(Arc::clone(tls.config())).await?);
            connection.tls = stream.parameters();
            Ok(Some((Box::new(stream), connection)))
        }
        (Scheme::Https, false) => {
            slot.metrics.handshake_failed(HandshakeFailure::PlainHttp);
            say_goodbye(stream, HTTPS_REQUIRED).await
        }
        (Scheme::Http, true) => {
            slot.metrics.handshake_failed(HandshakeFailure::UnexpectedTls);
            say_goodbye(stream, TLS_ALERT).await
        }
    }
}

/// Sends a last message. What the client has sent is read, because closing a socket with unread bytes resets the
/// connection, and the reset may overtake the message.
async fn say_goodbye<T>(mut stream: ClientStream, message: &[u8]) -> anyhow::Result<Option<T>> {
    stream.write_all(message).await?;
    stream.shutdown().await?;
    let discard = async {
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(GOODBYE_MAX, discard).await;
    Ok(None)
}

async fn serve_requests(mut stream: Stream, connection: &Arc<Connection>, proxy: &Arc<HttpProxy<Gateway>>, closing: &ShutdownWatch) {
    let mut limit = connection.limits.header_timeout;
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        connection.has_head.store(false, Ordering::Relaxed);
        let mut overdue = pin!(connection.head_is_overdue(limit));
        let mut end = pin!(connection.is_idle_at_the_end(closing.clone()));
        // Most connections wait for most of the time, and Pingora's session need not wait with them: it is large.
        let ready = tokio::select! {
            biased;
            ready = wait_for_client(stream) => ready,
            () = &mut overdue => None,
            () = &mut end => None,
        };
        let Some(ready) = ready else { return };
        let mut session = ServerSession::new_http1(ready);
        match settings.take() {
            Some(kept) => kept.apply_to_session(&mut session),
            None => session.set_keepalive(Some(limit.as_secs())),
        }
        // Pingora hands this to `ProxyHttp::on_connection_reuse` when the head has arrived.
        session.set_connection_user_context(Some(Box::new(Arc::clone(connection))));
        let reused = tokio::select! {
            biased;
            reused = proxy.process_new_http(session, closing) => reused,
            () = overdue => None,
            () = end => None,
        };
        let Some(reused) = reused.map(ReusedHttpStream::consume) else { return };
        (stream, settings) = reused;
        limit = connection.limits.keepalive_timeout;
    }
}

/// The header value for a scheme.
pub(crate) const fn scheme_header(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(scheme.as_str())
}
