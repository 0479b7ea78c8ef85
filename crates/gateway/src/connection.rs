//! One client connection: from the accepted socket through TLS to its last request.
//!
//! Nothing here waits without a bound: first byte and handshake, a request's head, and the pause between two requests
//! each have a limit. Bodies are bounded by progress, not by total time ([`crate::proxy`]).

use std::future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_names::Scheme;
use http::HeaderValue;
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::bindings::Listener;
use crate::metrics::{HandshakeFailure, ListenerMetrics};
use crate::proxy::Gateway;
use crate::stream::ClientStream;

/// How long a client may take for its first byte and the TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long a client may take, after the handshake, for the head of its first request.
const FIRST_HEAD_MAX: Duration = Duration::from_secs(10);

/// How long a client may take, after an answer, for the whole head of its next request. Above the 60 s after which most
/// proxies in between drop idle connections, so that they do it first and no request is lost to our closing.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(75);

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

/// What requests need to know of the connection they came on.
#[derive(Debug)]
pub struct Connection {
    pub(crate) listener: Arc<Listener>,
    pub(crate) client: IpAddr,
    /// The peer is a proxy whose word is taken.
    pub(crate) is_trusted: bool,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// The value of `X-Forwarded-For` and `X-Real-IP`.
    pub(crate) client_header: HeaderValue,
    /// The value of `X-Forwarded-Port`.
    pub(crate) port_header: HeaderValue,
    has_head: AtomicBool,
}

impl Connection {
    fn new(listener: Arc<Listener>, client: IpAddr, metrics: Arc<ListenerMetrics>) -> Self {
        let client_header = HeaderValue::try_from(client.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let port_header = HeaderValue::from(listener.port);
        Self { listener, client, is_trusted: false, metrics, client_header, port_header, has_head: AtomicBool::new(false) }
    }

    /// The head of a request has arrived: it is no longer the client who is waited for.
    pub(crate) fn head_arrived(&self) {
        self.has_head.store(true, Ordering::Relaxed);
    }

    /// Resolves when no head has arrived within `limit`.
    async fn head_is_overdue(&self, limit: Duration) {
        sleep(limit).await;
        if self.has_head.load(Ordering::Relaxed) {
            future::pending().await
        }
    }
}

/// Serves a connection until its end. On shutdown it ends with the request that is under way, or at once if there is none.
pub(crate) async fn serve(
    tcp: TcpStream,
    client: SocketAddr,
    listener: Arc<Listener>,
    metrics: Arc<ListenerMetrics>,
    tls: Option<Arc<Acceptor>>,
    proxy: Arc<HttpProxy<Gateway>>,
    mut shutdown: ShutdownWatch,
) {
    let _open = metrics.opened();
    // An IPv4 client is the same client on an IPv6 socket.
    let connection = Arc::new(Connection::new(listener, client.ip().to_canonical(), metrics));
    let stream = tokio::select! {
        stream = timeout(HANDSHAKE_MAX, establish(tcp, tls)) => stream,
        _ = shutdown.wait_for(|stopping| *stopping) => return,
    };
    match stream {
        Ok(Ok(Some(stream))) => serve_requests(stream, &connection, &proxy, &shutdown).await,
        Ok(Ok(None)) => {
            let is_https = connection.listener.scheme == Scheme::Https;
            connection.metrics.handshake_failed(if is_https { HandshakeFailure::PlainHttp } else { HandshakeFailure::UnexpectedTls });
            debug!(client.address = %connection.client, scheme = connection.listener.scheme.as_str(), "client spoke the wrong protocol")
        }
        // Port scans, health checks and clients that don't trust us: nothing an operator could act on.
        Ok(Err(error)) => {
            connection.metrics.handshake_failed(HandshakeFailure::of(&error.to_string()));
            debug!(client.address = %connection.client, %error, "handshake failed");
        }
        Err(_) => {
            connection.metrics.handshake_failed(HandshakeFailure::Timeout);
            debug!(client.address = %connection.client, "handshake took too long");
        }
    }
}

/// Makes an HTTP stream of a TCP connection, or answers a client that speaks the wrong protocol.
async fn establish(tcp: TcpStream, tls: Option<Arc<Acceptor>>) -> anyhow::Result<Option<Stream>> {
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        anyhow::bail!("closed by the client");
    }
    match (tls, first[0] == TLS_HANDSHAKE) {
        (Some(tls), true) => Ok(Some(Box::new(tls.tls_handshake(ClientStream::below_tls(tcp)).await?))),
        (None, false) => Ok(Some(Box::new(ClientStream::plain(tcp)))),
        (Some(_), false) => say_goodbye(tcp, HTTPS_REQUIRED).await,
        (None, true) => say_goodbye(tcp, TLS_ALERT).await,
    }
}

/// Sends a last message. What the client has sent is read, because closing a socket with unread bytes resets the
/// connection, and the reset may overtake the message.
async fn say_goodbye(mut tcp: TcpStream, message: &[u8]) -> anyhow::Result<Option<Stream>> {
    tcp.write_all(message).await?;
    tcp.shutdown().await?;
    let discard = async {
        let mut buffer = [0; 4096];
        while tcp.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(GOODBYE_MAX, discard).await;
    Ok(None)
}

async fn serve_requests(stream: Stream, connection: &Arc<Connection>, proxy: &Arc<HttpProxy<Gateway>>, shutdown: &ShutdownWatch) {
    let mut limit = FIRST_HEAD_MAX;
    let mut session = ServerSession::new_http1(stream);
    session.set_keepalive(Some(limit.as_secs()));
    loop {
        connection.has_head.store(false, Ordering::Relaxed);
        // Pingora hands this to `ProxyHttp::on_connection_reuse` when the head has arrived.
        session.set_connection_user_context(Some(Box::new(Arc::clone(connection))));
        let reused = tokio::select! {
            biased;
            reused = proxy.process_new_http(session, shutdown) => reused,
            () = connection.head_is_overdue(limit) => None,
        };
        let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) else { return };
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        limit = KEEPALIVE;
    }
}

/// The header value for a scheme.
pub(crate) const fn scheme_header(scheme: Scheme) -> HeaderValue {
    HeaderValue::from_static(scheme.as_str())
}
