//! Runs the gateway: bind, serve, change with the configuration, hand over to a successor, drain and end.
//!
//! | signal | does |
//! |---|---|
//! | SIGHUP | reads the configuration again (a changed file does the same by itself) |
//! | SIGUSR2 | starts the program anew and hands the sockets over |
//! | SIGTERM, SIGINT | stops listening, waits for what is under way, ends; a second one ends at once |

mod control;
mod drain;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use pingora::apps::ServerApp as _;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownWatch};
use pingora::services::Service;
use pingora::services::background::background_service;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, warn};

use self::control::{Control, Orders};
use self::drain::Drain;
use crate::admin::{self, Admin};
use crate::bindings::Listener;
use crate::config::Config;
use crate::handover::{Predecessor, Program};
use crate::listener::{self, Accepting, Inherited, Listeners};
use crate::live::Live;
use crate::proxy::Gateway;
use crate::upstream::Probes;
use crate::watch::Watch;
use crate::workers::Workers;

/// How long the end may wait for access lines to be written, and for traces to be sent.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Whether and why the gateway ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Stopping,
    /// A successor listens.
    Succeeded,
}

/// A gateway whose sockets listen, though nobody accepts on them yet.
pub struct Bound {
    path: PathBuf,
    config: Config,
    sockets: Vec<(StdListener, Listener)>,
    predecessor: Option<Predecessor>,
    program: Program,
    live: Arc<Live>,
    metrics: Option<(SocketAddr, StdListener)>,
}

impl Bound {
    /// Binds every socket of the configuration, or none. A predecessor's are used as they are.
    ///
    /// # Errors
    /// If an address can't be had.
    pub fn new(path: &Path, config: Config, predecessor: Option<(Predecessor, Inherited)>) -> anyhow::Result<Self> {
        let (predecessor, mut inherited) = predecessor.map_or_else(Default::default, |(process, sockets)| (Some(process), sockets));
        let bind = |listener: Listener| {
            let socket = listener::socket(listener.address, &mut inherited);
            Ok((socket.with_context(|| format!("cannot listen on {}", listener.address))?, listener))
        };
        let sockets = config.listeners.iter().cloned().map(bind).collect::<anyhow::Result<_>>()?;
        let metrics = config.metrics.map(|address| {
            let socket = listener::socket(address, &mut inherited);
            socket.map(|socket| (address, socket)).with_context(|| format!("cannot listen on {address}"))
        });
        let (live, metrics) = (Arc::new(Live::new(&config)?), metrics.transpose()?);
        Ok(Self { path: path.to_owned(), config, sockets, predecessor, program: Program::current()?, live, metrics })
    }

    /// Serves until the process is told to stop and requests under way have ended. `ready` is called when connections are
    /// accepted and signals are heard.
    ///
    /// # Errors
    /// If threads can't be started.
    pub fn run(self, ready: impl FnOnce() + Send + Sync + 'static) -> anyhow::Result<()> {
        let observe = Arc::clone(&self.live.observe);
        let (upstreams, certificates) = (Arc::clone(&self.live), Arc::clone(&self.live));
        observe.metrics.set_upstreams(move || upstreams.upstreams());
        observe.metrics.set_certificates(move || certificates.certificates());
        observe.metrics.reloaded(SystemTime::now());
        let health = Arc::new(admin::State::new(Arc::clone(&observe.metrics)));
        let (live, probed) = (Arc::clone(&self.live), self.live);
        let mut proxy = HttpProxy::new(Gateway::new(Arc::clone(&live)), Arc::new(server_conf()));
        proxy.handle_init_modules();
        let workers = Workers::start(thread::available_parallelism().map_or(1, NonZero::get)).context("cannot start threads")?;
        let accepting = Accepting { proxy: Arc::new(proxy), live, workers: workers.clone() };
        let (phase, _) = watch::channel(Phase::Serving);
        let drain = Drain {
            connections: Arc::clone(&accepting.live.connections),
            phase: phase.clone(),
            limit: Arc::new(Mutex::new(self.config.drain)),
            health: Arc::clone(&health),
        };
        let service = GatewayService {
            control: Control {
                path: self.path,
                program: self.program,
                phase,
                drain_limit: Arc::clone(&drain.limit),
                admin: Admin::new(health),
            },
            start: Some(Start {
                sockets: self.sockets,
                metrics: self.metrics,
                config: self.config,
                predecessor: self.predecessor,
                ready: Box::new(ready),
            }),
            accepting,
        };
        let mut server = Server::new_with_opt_and_conf(None, server_conf());
        server.add_service(service);
        server.add_service(background_service("probes", Probes::new(move || probed.pool())));
        server.run(RunArgs { shutdown_signal: Box::new(drain) });
        // Whatever they still did has been waited for, as long as it may be.
        drop(workers);
        observe.flush(FLUSH_MAX);
        Ok(())
    }
}

/// One thread per core, each with its own connections: moving a stream of bytes from thread to thread costs more than an
/// uneven load does. Nothing of Pingora's daemon, PID file or upgrade socket is used.
/// Pingora's own threads accept connections and look after what goes on beside them; [`Workers`] serve.
fn server_conf() -> ServerConf {
    ServerConf { threads: 1, work_stealing: false, ..ServerConf::default() }
}

/// The one service: all listeners, and what changes them.
struct GatewayService {
    control: Control,
    start: Option<Start>,
    accepting: Accepting,
}

/// What the service begins with.
struct Start {
    sockets: Vec<(StdListener, Listener)>,
    metrics: Option<(SocketAddr, StdListener)>,
    config: Config,
    predecessor: Option<Predecessor>,
    ready: Box<dyn FnOnce() + Send + Sync>,
}

#[async_trait]
impl Service for GatewayService {
    /// Pingora's own shutdown watch is not used: by the time it turns, connections are no longer waited for.
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let Some(start) = self.start.take() else { return };
        let mut phase = self.control.phase.subscribe();
        // First of all: without a handler the signals end the process.
        let (hangup, upgrade) = (signal(SignalKind::hangup()), signal(SignalKind::user_defined2()));
        let watched = start.metrics.map_or(Ok(()), |(address, socket)| self.control.admin.open(address, socket));
        match watched.map_err(Into::into).and_then(|()| Listeners::start(start.sockets, self.accepting.clone())) {
            Ok(mut listeners) => {
                if let Some(predecessor) = start.predecessor {
                    predecessor.relieve();
                }
                notify(&[NotifyState::Ready]);
                (start.ready)();
                let watch = Watch::new(start.config.files);
                let mut orders = Orders::default();
                orders.follow(listeners.live().acme());
                tokio::select! {
                    () = self.control.run(&mut listeners, watch, &mut orders, hangup, upgrade) => {}
                    _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
                }
                if *phase.borrow() == Phase::Succeeded {
                    // Two processes would answer in turn, each with counts of its own.
                    self.control.admin.close().await;
                    listeners.retire().await;
                    // Told to stop all the same.
                    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
                }
                listeners.close().await;
            }
            Err(error) => error!(error = format!("{error:#}"), "cannot serve"),
        }
        self.accepting.proxy.cleanup().await;
    }

    fn name(&self) -> &str {
        "gateway"
    }
}

/// Tells systemd, if it is there.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
    }
}
