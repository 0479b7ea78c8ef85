//! Taking connections: a Unix socket, a TCP port, or both; HTTP/1.1 with keep-alive; a bounded drain at the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Listen;
use crate::http::Answer;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// How long a connection may take to send a request's head. It also ends idle keep-alive connections, so it is longer
/// than the gateway keeps its own idle ones.
const HEAD_MAX: Duration = Duration::from_secs(90);

/// Bytes buffered for one connection. Large, because uploads are handed on in pieces of this size.
const BUFFER_BYTES_MAX: usize = 512 << 10;

/// Bytes that a Unix socket takes before its reader has to wake up and make room. The kernel's default holds less than half
/// of one piece of a blob, and every wake-up costs more than copying what it brings.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

/// Header lines in a request.
const HEADERS_MAX: usize = 100;

/// How long transfers under way may go on after we were told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long to wait after the system refused us a connection (out of file descriptors, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Whoever may open the Unix socket: the gateway.
    Unix,
    /// An address.
    Tcp(SocketAddr),
}

impl Peer {
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Unix => None,
            Self::Tcp(address) => Some(address.ip()),
        }
    }
}

/// Bound sockets.
pub(crate) struct Listeners {
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
}

/// Binds everything the configuration names.
pub(crate) async fn bind(listen: &Listen) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners { unix: None, tcp: None };
    if let Some(path) = &listen.unix {
        listeners.unix = Some(bind_unix(path).await.with_context(|| format!("can't listen on {}", path.display()))?);
        tracing::info!(socket = %path.display(), "listening");
    }
    if let Some(address) = listen.tcp {
        let listener = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        listeners.tcp = Some(listener);
    }
    Ok(listeners)
}

/// A socket file that nobody answers on was left by a crash; one that somebody answers on is in use.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until `shutdown` resolves, then lets transfers under way finish, within bounds.
pub(crate) async fn serve<S, F>(listeners: Listeners, service: S, shutdown: impl Future<Output = ()>)
where
    S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Finished connections are cleared away as new ones come.
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accept_unix(listeners.unix.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn(connection(stream, Peer::Unix, service.clone(), stopping.clone(), place)); }
                Err(error) => pause(&error).await,
            },
            accepted = accept_tcp(listeners.tcp.as_ref()) => match accepted {
                Ok((stream, address)) => {
                    // Head and body go out in separate writes: without this, Nagle and delayed ACKs cost 40 ms each time.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY");
                    }
                    connections.spawn(connection(stream, Peer::Tcp(address), service.clone(), stopping.clone(), place));
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listeners);
    let _ = stop.send(());
    let drained = tokio::time::timeout(DRAIN_MAX, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(connections = connections.len(), "transfers were still under way and are cut");
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => {
            let (stream, _) = listener.accept().await?;
            rustix::net::sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER_BYTES)?;
            Ok(stream)
        }
        None => std::future::pending().await,
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn connection<S, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    service: S,
    mut stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) where
    S: Fn(hyper::Request<Incoming>) -> F,
    F: Future<Output = Answer> + Send,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    log_end(connection.await);
}

/// Clients go away all the time; that is worth a line only to somebody who looks for it.
fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
