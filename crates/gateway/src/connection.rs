//! One client connection: from the accepted socket through TLS to its last request.
//!
//! Nothing here waits without a bound: first byte and handshake, a request's head, and the pause between two requests
//! each have a limit. Bodies are bounded by progress, not by total time ([`crate::proxy`]).

use std::future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use berth_names::Scheme;
use berth_places::Place;
use http::HeaderValue;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::framing::Understood;
use crate::handshake;
use crate::limits::{Admission, Limits};
use crate::live::Live;
use crate::metrics::HandshakeFailure;
use crate::proxy::Gateway;
use crate::slot::Slot;
use crate::stream::wait_for_client;

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
    pub(crate) limits: Limits,
    pub(crate) has_head: AtomicBool,
    /// Which of its requests have a head that was understood as it came.
    pub(crate) understood: Understood,
    /// How many requests have asked to be admitted.
    pub(crate) requests: AtomicU64,
    /// Idle while its client is waited for, and then it may have to give way to another.
    pub(crate) place: Arc<Place>,
    /// Counted as open while this is held.
    pub(crate) _admission: Admission,
}

impl Connection {
    /// Counts a request. Whether its head was understood as it came.
    pub(crate) fn understands_next(&self) -> bool {
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        self.understood.has(request)
    }

    /// The head of a request has arrived: it is no longer the client who is waited for.
    pub(crate) fn head_arrived(&self) {
        self.has_head.store(true, Ordering::Relaxed);
        self.place.busy();
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
pub(crate) async fn serve(tcp: TcpStream, peer: SocketAddr, slot: Arc<Slot>, place: Place, live: &Live, proxy: &Arc<HttpProxy<Gateway>>) {
    let place = Arc::new(place);
    let _open = slot.metrics().opened();
    // An IPv4 client is the same client on an IPv6 socket.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let mut closing = slot.closing();
    let listener = slot.listener();
    let limit = listener.bindings.for_handshake(None).map_or_else(Limits::default, |binding| binding.limits.clone()).handshake_timeout;
    let established = tokio::select! {
        // Apart, for it is large and soon over, while the connection lasts.
        established = timeout(limit, Box::pin(handshake::establish(tcp, peer, &slot, &place, &listener, live))) => established,
        () = place.must_give_way() => return,
        _ = closing.wait_for(|closing| *closing) => return,
    };
    match established {
        Ok(Ok(Some((stream, connection)))) => serve_requests(stream, &Arc::new(connection), proxy, &closing).await,
        Ok(Ok(None)) => {
            debug!(client.address = %peer.ip(), scheme = listener.scheme.as_str(), "no request: the wrong protocol, or a validation");
        }
        // Port scans, health checks and clients that don't trust us: nothing an operator could act on.
        Ok(Err(error)) => {
            slot.metrics().handshake_failed(HandshakeFailure::of(&format!("{error:#}")));
            debug!(client.address = %peer.ip(), %error, "no connection");
        }
        Err(_) => {
            slot.metrics().handshake_failed(HandshakeFailure::Timeout);
            debug!(client.address = %peer.ip(), "handshake took too long");
        }
    }
}

async fn serve_requests(mut stream: Stream, connection: &Arc<Connection>, proxy: &Arc<HttpProxy<Gateway>>, closing: &ShutdownWatch) {
    let mut limit = connection.limits.header_timeout;
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        connection.has_head.store(false, Ordering::Relaxed);
        connection.place.idle();
        let mut overdue = pin!(connection.head_is_overdue(limit));
        let mut end = pin!(connection.is_idle_at_the_end(closing.clone()));
        // Most connections wait for most of the time, and Pingora's session need not wait with them: it is large.
        let ready = tokio::select! {
            biased;
            ready = wait_for_client(stream) => ready,
            () = &mut overdue => None,
            () = connection.place.must_give_way() => None,
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
            // A head that comes too slowly is as good as none.
            () = connection.place.must_give_way() => None,
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
