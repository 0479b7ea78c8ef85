//! Taking connections: a Unix socket, a TCP port, or both; HTTP/1.1 with keep-alive; a bounded drain at the end.
//!
//! What must stay true:
//! - The operator's socket has places and an accept loop of its own: whatever clients do, it answers.
//! - With every place taken, who holds a connection without using it gives way to who wants one.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use berth_places::{Bounds, Connections, Holder, Place};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Listen;

mod using;

use using::Using;

/// Connections to the operator's socket.
const OPERATOR_CONNECTIONS_MAX: usize = 32;

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
    operator_connections: usize,
    head: Duration,
    drain: Duration,
}

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

/// Serves until `shutdown` resolves, then lets transfers under way finish, within bounds. What comes with an answer is held
/// until the answer has been sent.
pub(crate) async fn serve<S, F, B, H>(connections: usize, listeners: Listeners, service: S, shutdown: impl Future<Output = ()>)
where
    S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (hyper::Response<B>, H)> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
    H: Send + Unpin + 'static,
{
    let limits = Limits { connections, operator_connections: OPERATOR_CONNECTIONS_MAX, head: HEAD_MAX, drain: DRAIN_MAX };
    serve_within(limits, listeners, service, shutdown).await;
}

async fn serve_within<S, F, B, H>(limits: Limits, listeners: Listeners, service: S, shutdown: impl Future<Output = ()>)
where
    S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = (hyper::Response<B>, H)> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
    H: Send + Unpin + 'static,
{
    let places = |all| Connections::new(Bounds { all, per_client: all });
    let (clients, operators) = (places(limits.connections), places(limits.operator_connections));
    let (close, closing) = watch::channel(());
    let (stop, stopping) = watch::channel(());
    let taking = Taking { head_max: limits.head, service, closing, stopping };
    let Listeners { unix, tcp, operator } = listeners;
    let closed = async {
        shutdown.await;
        let _ = close.send(());
    };
    let unix = unix.map(|listener| UnixSocket { listener, peer: Peer::Unix });
    let operator = operator.map(|listener| UnixSocket { listener, peer: Peer::Operator });
    let ((), unix, tcp, operator) =
        tokio::join!(closed, taking.accept(unix, &clients), taking.accept(tcp, &clients), taking.accept(operator, &operators));
    // Not before nobody is taken in any more.
    let _ = stop.send(());
    let mut connections = [unix, tcp, operator];
    let drained = tokio::time::timeout(limits.drain, async {
        for connections in &mut connections {
            while connections.join_next().await.is_some() {}
        }
    });
    if drained.await.is_err() {
        let left: usize = connections.iter().map(JoinSet::len).sum();
        tracing::warn!(connections = left, "transfers were still under way and are cut");
    }
}

/// A socket that connections come from.
trait Socket {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

struct UnixSocket {
    listener: UnixListener,
    peer: Peer,
}

impl Socket for UnixSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, SOCKET_BUFFER_BYTES)?;
        Ok((stream, self.peer))
    }
}

impl Socket for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = Self::accept(self).await?;
        // Head and body go out in separate writes: without this, Nagle and delayed ACKs cost 40 ms each time.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        Ok((stream, Peer::Tcp(address)))
    }
}

/// What every accept loop needs.
struct Taking<S> {
    head_max: Duration,
    service: S,
    /// Ends the accept loops.
    closing: watch::Receiver<()>,
    /// Ends the connections, each with the request that is under way.
    stopping: watch::Receiver<()>,
}

impl<S> Taking<S> {
    /// Takes connections until it is told to close, and gives back those that are still open.
    async fn accept<F, B, H>(&self, socket: Option<impl Socket>, places: &Arc<Connections>) -> JoinSet<()>
    where
        S: Fn(hyper::Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = (hyper::Response<B>, H)> + Send + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
        H: Send + Unpin + 'static,
    {
        let mut connections = JoinSet::new();
        let (Some(socket), mut closing) = (socket, self.closing.clone()) else { return connections };
        loop {
            // Finished connections are cleared away as new ones come.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                _ = closing.changed() => return connections,
                accepted = socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // What is idle holds descriptors that others want.
                    places.make_room();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // With every place in use we must still hear that we are to stop.
            let place = tokio::select! {
                _ = closing.changed() => return connections,
                place = places.take(holder(peer)) => place,
            };
            if let Ok(place) = place {
                connections.spawn(connection(self.head_max, stream, peer, self.service.clone(), self.stopping.clone(), Arc::new(place)));
            }
        }
    }
}

/// Whom a connection is counted for. Over the Unix socket comes the gateway, which speaks for all of its clients.
fn holder(peer: Peer) -> Holder {
    let address = peer.ip().unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    Holder { client: address.into(), is_trusted: !matches!(peer, Peer::Tcp(_)) }
}

async fn connection<S, F, B, H>(
    head_max: Duration,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    service: S,
    mut stopping: watch::Receiver<()>,
    place: Arc<Place>,
) where
    S: Fn(hyper::Request<Incoming>) -> F,
    F: Future<Output = (hyper::Response<B>, H)> + Send,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
    H: Unpin + 'static,
{
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (using, answer) = (Using::begin(&place), service(request));
        async move {
            let (answer, held) = answer.await;
            Ok::<_, Infallible>(answer.map(|body| using.until_sent(body, held)))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_max)
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        // As everybody spells them: scripts of old look for `Docker-Content-Digest`.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A request that is there already is served before anything is said about giving way.
        biased;
        ended = connection.as_mut() => return log_end(ended),
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
        () = place.must_give_way() => return,
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
