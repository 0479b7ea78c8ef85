//! Runs the gateway: bind, serve, and on a signal drain and end.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::{self, AdminService};
use crate::config::Config;
use crate::listener::{Connections, ListenerService, Socket};
use crate::observe::Observe;
use crate::proxy::Gateway;

/// How long requests that are under way may go on after a signal to stop.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long the end may wait for access lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// A gateway whose sockets listen, though nobody accepts on them yet.
pub struct Bound {
    service: ListenerService,
    connections: Connections,
    stop: watch::Sender<bool>,
    observe: Arc<Observe>,
    health: Arc<admin::State>,
    admin: Option<AdminService>,
}

impl Bound {
    /// Binds every socket of the configuration, or none.
    ///
    /// # Errors
    /// If an address can't be had.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let observe = Arc::new(Observe::open(config.access_log).context("cannot open the access log")?);
        let health = Arc::new(admin::State::new(Arc::clone(&observe.metrics)));
        let admin = config
            .metrics
            .map(|address| AdminService::bind(address, Arc::clone(&health)).with_context(|| format!("cannot listen on {address}")))
            .transpose()?;
        let bind = |listener| Socket::bind(listener, &observe.metrics);
        let sockets = config.listeners.into_iter().map(bind).collect::<anyhow::Result<Vec<_>>>()?;
        for socket in &sockets {
            info!(listen.address = %socket.address(), scheme = socket.scheme(), "listening");
        }
        let mut proxy = HttpProxy::new(Gateway::new(config.upstream, Arc::clone(&observe)), Arc::new(server_conf()));
        proxy.handle_init_modules();
        let connections = Connections::default();
        let (stop, stopping) = watch::channel(false);
        observe.metrics.reloaded(SystemTime::now());
        let service = ListenerService::new(sockets, proxy, connections.clone(), stopping);
        Ok(Self { service, connections, stop, observe, health, admin })
    }

    /// Serves until the process is told to stop and requests under way have ended.
    pub fn run(self) {
        let mut server = Server::new_with_opt_and_conf(None, server_conf());
        server.add_service(self.service);
        if let Some(admin) = self.admin {
            server.add_service(admin);
        }
        let drain = DrainOnSignal { connections: self.connections, stop: self.stop, health: self.health };
        server.run(RunArgs { shutdown_signal: Box::new(drain) });
        self.observe.access_log().flush(FLUSH_MAX);
    }
}

/// One thread per core, each with its own connections: moving a stream of bytes from thread to thread costs more than an
/// uneven load does. Nothing of Pingora's daemon, PID file or upgrade socket is used.
fn server_conf() -> ServerConf {
    ServerConf { threads: thread::available_parallelism().map_or(1, NonZero::get), work_stealing: false, ..ServerConf::default() }
}

/// Tells Pingora to stop at once, but only after the drain: its own grace period is slept through in full even when
/// there is nothing to wait for.
struct DrainOnSignal {
    connections: Connections,
    stop: watch::Sender<bool>,
    health: Arc<admin::State>,
}

#[async_trait]
impl ShutdownSignalWatch for DrainOnSignal {
    async fn recv(&self) -> ShutdownSignal {
        stop_signal().await;
        info!(limit_seconds = DRAIN_MAX.as_secs(), "stopping: waiting for requests under way");
        self.health.drain();
        // Nobody listens if the service has failed already.
        let _ = self.stop.send(true);
        tokio::select! {
            open = self.connections.drain(DRAIN_MAX) => match open {
                0 => info!("stopped"),
                open => warn!(connections = open, "stopped; connections were cut off"),
            },
            () = stop_signal() => warn!("stopped by a second signal; connections were cut off"),
        }
        ShutdownSignal::FastShutdown
    }
}

/// Waits for SIGTERM or SIGINT.
async fn stop_signal() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        },
        // Without a handler the signals end the process by themselves.
        (Err(error), _) | (_, Err(error)) => {
            warn!(%error, "cannot handle signals");
            std::future::pending().await
        }
    }
}
