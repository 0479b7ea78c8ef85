//! Listening sockets, and the service that accepts connections on them.
//!
//! What must stay true:
//! - All sockets are bound before the first connection is accepted: a port that is taken stops the start, not half of it.
//! - An accept loop never waits for a client, and an error in it never ends it.
//! - Every open connection holds one permit, so the number of connections has a bound and a drain can wait for them.
//!
//! Pingora's own listening service can't add a listener while it runs, reports no bind error and has a fixed handshake
//! timeout; this one keeps its accept loops by address, so that a reload can start and stop them one by one.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::listeners::tls::Acceptor;
use pingora::proxy::HttpProxy;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::bindings::Listener;
use crate::config::ListenerConfig;
use crate::connection;
use crate::metrics::{ListenerMetrics, Metrics};
use crate::proxy::Gateway;
use crate::tls::{self, CertificateResolver};

/// Most open client connections. Each needs two descriptors (one to the backend) and about 0.4 MB while it moves data.
const CONNECTIONS_MAX: u32 = 16_384;

/// Connections that the kernel completes while the accept loop is busy.
const BACKLOG: i32 = 4096;

/// How long to wait after an accept failed for want of descriptors or memory: at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound socket that listens, with what is behind it.
pub struct Socket {
    address: SocketAddr,
    socket: StdListener,
    listener: Arc<Listener>,
    metrics: Arc<ListenerMetrics>,
    tls: Option<Arc<Acceptor>>,
}

impl Socket {
    /// Binds and listens.
    ///
    /// # Errors
    /// If the address can't be had.
    pub fn bind(config: ListenerConfig, metrics: &Metrics) -> anyhow::Result<Self> {
        let socket = listen(config.address).with_context(|| format!("cannot listen on {}", config.address))?;
        let address = socket.local_addr()?;
        let listener = Arc::new(config.listener(address.port()));
        let tls =
            config.certificates.map(|certificates| tls::server_config(Arc::new(CertificateResolver::new(certificates)))).transpose()?;
        let metrics = metrics.listener(address);
        Ok(Self { address, socket, listener, metrics, tls: tls.map(|tls| Arc::new(Acceptor::from_server_config(Arc::new(tls)))) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients speak to it: `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.listener.scheme.as_str()
    }
}

/// IPv6 sockets take IPv6 clients only, so that `0.0.0.0` and `[::]` stand beside each other, as with NGINX.
fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // Connections of a previous process in TIME_WAIT must not keep its successor from starting.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The open client connections: a bound on their number, and a way to wait for their end.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Semaphore>);

impl Default for Connections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX as usize)))
    }
}

impl Connections {
    /// Waits until every connection has ended, `limit` at most; gives back how many had not. Accept loops must have ended.
    pub async fn drain(&self, limit: Duration) -> usize {
        match timeout(limit, self.0.acquire_many(CONNECTIONS_MAX)).await {
            Ok(_) => 0,
            Err(_) => CONNECTIONS_MAX as usize - self.0.available_permits(),
        }
    }
}

/// Accepts on a set of sockets and hands connections to the proxy.
pub struct ListenerService {
    sockets: Vec<Socket>,
    proxy: Arc<HttpProxy<Gateway>>,
    connections: Connections,
    shutdown: ShutdownWatch,
}

impl ListenerService {
    /// A service for these sockets. When `shutdown` turns true it stops accepting and closes idle connections; requests
    /// that are under way go on.
    pub fn new(sockets: Vec<Socket>, proxy: HttpProxy<Gateway>, connections: Connections, shutdown: ShutdownWatch) -> Self {
        Self { sockets, proxy: Arc::new(proxy), connections, shutdown }
    }
}

#[async_trait]
impl Service for ListenerService {
    /// Pingora's own shutdown watch is not used: by the time it turns, connections are no longer waited for.
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let accepting =
            Accepting { proxy: Arc::clone(&self.proxy), connections: self.connections.clone(), shutdown: self.shutdown.clone() };
        let mut loops = AcceptLoops::default();
        for socket in self.sockets.drain(..) {
            loops.start(socket, accepting.clone());
        }
        // An error means that nobody is left who could ask for the shutdown.
        let _ = self.shutdown.wait_for(|stopping| *stopping).await;
        drop(loops);
        self.proxy.cleanup().await;
    }

    fn name(&self) -> &str {
        "gateway"
    }
}

/// The running accept loops by address. Dropping it ends them and closes their sockets; connections live on.
#[derive(Default)]
struct AcceptLoops(HashMap<SocketAddr, AbortHandle>);

impl AcceptLoops {
    fn start(&mut self, socket: Socket, accepting: Accepting) {
        let address = socket.address;
        let task = tokio::spawn(async move { accepting.run(socket).await });
        self.0.insert(address, task.abort_handle());
    }
}

impl Drop for AcceptLoops {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

/// What every accept loop shares.
#[derive(Clone)]
struct Accepting {
    proxy: Arc<HttpProxy<Gateway>>,
    connections: Connections,
    shutdown: ShutdownWatch,
}

impl Accepting {
    async fn run(self, Socket { address, socket, listener, metrics, tls }: Socket) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return warn!(listen.address = %address, %error, "cannot accept connections"),
        };
        // The permit comes first: clients beyond the bound wait in the kernel's queue instead of being turned away.
        while let Ok(permit) = Arc::clone(&self.connections.0).acquire_owned().await {
            match socket.accept().await {
                Ok((tcp, client)) => {
                    let (listener, metrics, tls, accepting) = (Arc::clone(&listener), Arc::clone(&metrics), tls.clone(), self.clone());
                    // Of the threads that share the work, each has its own connections.
                    pingora_runtime::current_handle().spawn(async move {
                        match move_here(tcp) {
                            Ok(tcp) => connection::serve(tcp, client, listener, metrics, tls, accepting.proxy, accepting.shutdown).await,
                            Err(error) => warn!(listen.address = %address, %error, "cannot serve a connection"),
                        }
                        drop(permit);
                    });
                }
                // The client has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    warn!(listen.address = %address, %error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Makes the calling thread the one that is woken when the connection has something to read.
fn move_here(tcp: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(tcp.into_std()?)
}
