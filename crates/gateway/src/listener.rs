//! Listening sockets and their accept loops, which can be changed one by one while the others go on.
//!
//! What must stay true:
//! - A change is made as a whole or not at all: every new socket is bound before the first connection is accepted on any
//!   of them, and before anything old is closed (unless the old one is in the new one's way).
//! - An accept loop never waits for a client, and an error in it never ends it.
//! - Every open connection holds one place, so the number of connections has a bound and a drain can wait for them. With
//!   every place taken, who holds one without using it gives way.
//!
//! Pingora's own listening service can't add a listener while it runs, reports no bind error and has a fixed handshake
//! timeout.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pingora::proxy::HttpProxy;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::bindings::Listener;
use crate::connection;
use crate::live::Live;
use crate::proxy::Gateway;
use crate::slot::Slot;
use crate::workers::Workers;

/// Connections that the kernel completes while the accept loop is busy.
const BACKLOG: i32 = 4096;

/// How long to wait after an accept failed for want of descriptors or memory: at once it would fail again. If idle
/// connections were told to end, there are some in a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const ROOM_PAUSE: Duration = Duration::from_millis(10);

/// Sockets that listen already, by their address: those of a predecessor.
pub type Inherited = HashMap<SocketAddr, StdListener>;

/// Takes the inherited socket of an address, or binds and listens.
///
/// # Errors
/// If the address can't be had.
pub fn socket(address: SocketAddr, inherited: &mut Inherited) -> io::Result<StdListener> {
    inherited.remove(&address).map_or_else(|| listen(address), Ok)
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

/// What every accept loop shares.
#[derive(Clone)]
pub struct Accepting {
    /// What serves the requests.
    pub proxy: Arc<HttpProxy<Gateway>>,
    /// What they look up, and where connections are counted.
    pub live: Arc<Live>,
    /// Who serves them.
    pub workers: Workers,
}

/// The addresses that are listened on. Dropping it leaves the accept loops running; [`Listeners::close`] ends them.
pub struct Listeners {
    open: HashMap<SocketAddr, Open>,
    accepting: Accepting,
}

struct Open {
    slot: Arc<Slot>,
    socket: Arc<TcpListener>,
    accept_loop: JoinHandle<()>,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Addresses that are listened on now and were not before.
    pub added: usize,
    /// Addresses that are no longer listened on.
    pub removed: usize,
    /// Addresses that stay.
    pub kept: usize,
}

impl Listeners {
    /// Starts accepting on sockets that are bound.
    ///
    /// # Errors
    /// If a socket can't be used.
    pub fn start(sockets: Vec<(StdListener, Listener)>, accepting: Accepting) -> anyhow::Result<Self> {
        let mut listeners = Self { open: HashMap::with_capacity(sockets.len()), accepting };
        for (socket, listener) in sockets {
            listeners.add(socket, listener)?;
        }
        Ok(listeners)
    }

    fn add(&mut self, socket: StdListener, listener: Listener) -> anyhow::Result<()> {
        // Of the configuration, not of the socket: port 0 must stay the same listener over reloads.
        let address = listener.address;
        let port = socket.local_addr()?.port();
        let socket = Arc::new(TcpListener::from_std(socket)?);
        info!(listen.address = %address, scheme = listener.scheme.as_str(), "listening");
        let metrics = self.accepting.live.observe.metrics.listener(address);
        let slot = Arc::new(Slot::new(listener, port, metrics));
        let accept_loop = tokio::spawn(accept(Arc::clone(&socket), Arc::clone(&slot), self.accepting.clone()));
        self.open.insert(address, Open { slot, socket, accept_loop });
        Ok(())
    }

    /// Listens on these addresses from now on and on no other. What is under way on any of them goes on.
    ///
    /// # Errors
    /// If an address can't be had; then nothing has changed.
    pub async fn apply(&mut self, listeners: Vec<Listener>) -> anyhow::Result<Changed> {
        let wanted: HashMap<SocketAddr, ()> = listeners.iter().map(|listener| (listener.address, ())).collect();
        let gone: Vec<SocketAddr> = self.open.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        let (kept, added): (Vec<_>, Vec<_>) = listeners.into_iter().partition(|listener| self.open.contains_key(&listener.address));
        let changed = Changed { added: added.len(), removed: gone.len(), kept: kept.len() };

        // `0.0.0.0:443` can't be had before `127.0.0.1:443` is given up.
        let in_the_way = |address: SocketAddr| gone.iter().any(|gone| gone.port() == address.port() && gone.is_ipv4() == address.is_ipv4());
        let (late, early): (Vec<_>, Vec<_>) = added.into_iter().partition(|listener| in_the_way(listener.address));
        let mut bound = Vec::with_capacity(changed.added);
        for listener in early {
            bound.push((bind(listener.address)?, listener));
        }
        let mut closed = Vec::new();
        if !late.is_empty() {
            for address in &gone {
                closed.extend(self.close_one(*address).await);
            }
        }
        for listener in late {
            match bind(listener.address) {
                Ok(socket) => bound.push((socket, listener)),
                Err(error) => {
                    self.reopen(closed);
                    return Err(error);
                }
            }
        }
        for (socket, listener) in bound {
            self.add(socket, listener)?;
        }
        for listener in kept {
            if let Some(open) = self.open.get(&listener.address) {
                open.slot.replace(listener);
            }
        }
        for address in gone {
            self.close_one(address).await;
        }
        Ok(changed)
    }

    /// Takes back what had to be closed for a change that then failed.
    fn reopen(&mut self, closed: Vec<Arc<Listener>>) {
        for listener in closed {
            let address = listener.address;
            let reopened = bind(address).and_then(|socket| self.add(socket, (*listener).clone()));
            if let Err(error) = reopened {
                warn!(listen.address = %address, error = format!("{error:#}"), "cannot listen again");
            }
        }
    }

    /// Ends the accept loop of an address and waits until its socket is closed.
    async fn close_one(&mut self, address: SocketAddr) -> Option<Arc<Listener>> {
        let Open { slot, socket, accept_loop } = self.open.remove(&address)?;
        accept_loop.abort();
        // The error is that it was aborted.
        let _ = accept_loop.await;
        drop(socket);
        slot.close();
        info!(listen.address = %address, "no longer listening");
        Some(slot.listener())
    }

    /// Stops accepting, because a successor does. Each connection ends with its next answer.
    pub async fn retire(&mut self) {
        for open in self.open.values_mut() {
            open.accept_loop.abort();
            let _ = (&mut open.accept_loop).await;
            open.slot.retire();
        }
    }

    /// Stops listening. Idle connections end, requests that are under way go on.
    pub async fn close(&mut self) {
        for (_, open) in self.open.drain() {
            open.accept_loop.abort();
            if !open.accept_loop.is_finished() {
                let _ = open.accept_loop.await;
            }
            open.slot.close();
        }
    }

    /// What requests look up.
    pub fn live(&self) -> &Arc<Live> {
        &self.accepting.live
    }

    /// The sockets, for a successor.
    pub fn sockets(&self) -> Vec<(SocketAddr, Arc<TcpListener>)> {
        self.open.iter().map(|(address, open)| (*address, Arc::clone(&open.socket))).collect()
    }
}

/// Binds and listens.
///
/// # Errors
/// If the address can't be had.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<StdListener> {
    listen(address).with_context(|| format!("cannot listen on {address}"))
}

async fn accept(socket: Arc<TcpListener>, slot: Arc<Slot>, accepting: Accepting) {
    let live = &accepting.live;
    loop {
        match socket.accept().await {
            Ok((tcp, client)) => {
                // While every place is in use this waits, and those who come after in the kernel's queue.
                let Ok(place) = live.connections.take(live.holder(client.ip())).await else {
                    live.observe.metrics.limit("connections").increment();
                    continue;
                };
                let (slot, accepting) = (Arc::clone(&slot), accepting.clone());
                let worker = accepting.workers.next().clone();
                worker.spawn(async move {
                    match move_here(tcp) {
                        Ok(tcp) => connection::serve(tcp, client, slot, place, &accepting.live, &accepting.proxy).await,
                        Err(error) => warn!(client.address = %client, %error, "cannot serve a connection"),
                    }
                });
            }
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!(listen.port = slot.port(), %error, "cannot accept a connection");
                sleep(if live.connections.make_room() > 0 { ROOM_PAUSE } else { ACCEPT_PAUSE }).await;
            }
        }
    }
}

/// Makes the calling thread the one that is woken when the connection has something to read.
fn move_here(tcp: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(tcp.into_std()?)
}
