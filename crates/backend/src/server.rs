//! Taking connections: a Unix socket, a TCP port, or both; HTTP/1.1 with keep-alive; a bounded drain at the end.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Listen;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8192;

/// How long a connection may take to send a request's head. hyper counts from the moment it starts to wait for one, so
/// this also ends idle keep-alive connections and must be longer than the gateway keeps its own idle ones. A shorter
/// limit on the head alone would win nothing: who wants to hold a connection can as well send nothing at all.
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
    /// Whoever may open the socket in the data directory: who may do that could as well change the store itself.
    Operator,
}

impl Peer {
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Unix | Self::Operator => None,
            Self::Tcp(address) => Some(address.ip()),
        }
    }
}

/// What bounds a server. A type of its own so that tests need not wait for the real bounds.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    head: Duration,
    drain: Duration,
}

const LIMITS: Limits = Limits { connections: CONNECTIONS_MAX, head: HEAD_MAX, drain: DRAIN_MAX };

/// Bound sockets.
pub(crate) struct Listeners {
    unix: Option<UnixListener>,
    tcp: Option<TcpListener>,
    operator: Option<UnixListener>,
}

/// Binds everything the configuration names, and the operator's own socket.
pub(crate) async fn bind(listen: &Listen, operator: Option<&Path>) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners { unix: None, tcp: None, operator: None };
    if let Some(path) = operator {
        listeners.operator = bind_operator(path)
            .await
            .inspect_err(
                |error| tracing::warn!(%error, socket = %path.display(), "commands like `user` work only while the backend is stopped"),
            )
            .ok();
    }
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

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        make_reachable(directory)?;
    }
    remove_stale(path).await?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Makes the directory of a socket that others may use: what else this process creates is for nobody else.
fn make_reachable(directory: &Path) -> io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    directory.parent().map_or(Ok(()), make_reachable)?;
    std::fs::create_dir(directory)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
}

/// The operator's socket, in a directory that nobody else can enter, so that there is no moment at which it is open.
async fn bind_operator(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    bind_unix(path).await
}

/// Removes a socket that a crash left: one that refuses us.
///
/// Nothing else is ours to remove: neither a file that is no socket, named by mistake, nor the socket of a process that
/// is too busy to take us in, which is no refusal.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers on it")),
    }
}

/// Serves until `shutdown` resolves, then lets transfers under way finish, within bounds.
pub(crate) async fn serve<S, F, B>(listeners: Listeners, service: S, shutdown: impl Future<Output = ()>)
where
    S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = hyper::Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    serve_within(LIMITS, listeners, service, shutdown).await;
}

async fn serve_within<S, F, B>(limits: Limits, listeners: Listeners, service: S, shutdown: impl Future<Output = ()>)
where
    S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = hyper::Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Finished connections are cleared away as new ones come.
        while connections.try_join_next().is_some() {}
        // With every place taken we must still hear that we are to stop.
        let place = tokio::select! {
            () = &mut shutdown => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        tokio::select! {
            () = &mut shutdown => break,
            accepted = accept_unix(listeners.unix.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn(connection(limits.head, stream, Peer::Unix, service.clone(), stopping.clone(), place)); }
                Err(error) => pause(&error).await,
            },
            accepted = accept_unix(listeners.operator.as_ref()) => match accepted {
                Ok(stream) => { connections.spawn(connection(limits.head, stream, Peer::Operator, service.clone(), stopping.clone(), place)); }
                Err(error) => pause(&error).await,
            },
            accepted = accept_tcp(listeners.tcp.as_ref()) => match accepted {
                Ok((stream, address)) => {
                    // Head and body go out in separate writes: without this, Nagle and delayed ACKs cost 40 ms each time.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY");
                    }
                    connections.spawn(connection(limits.head, stream, Peer::Tcp(address), service.clone(), stopping.clone(), place));
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listeners);
    let _ = stop.send(());
    let drained = tokio::time::timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
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

async fn connection<S, F, B>(
    head_max: Duration,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    service: S,
    mut stopping: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) where
    S: Fn(hyper::Request<Incoming>) -> F,
    F: Future<Output = hyper::Response<B>> + Send,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_max)
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

#[cfg(test)]
mod tests;
