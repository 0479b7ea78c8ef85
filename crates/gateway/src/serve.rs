//! Runs the gateway: bind, serve, change with the configuration, hand over to a successor, drain and end.
//!
//! | signal | does |
//! |---|---|
//! | SIGHUP | reads the configuration again (a changed file does the same by itself) |
//! | SIGUSR2 | starts the program anew and hands the sockets over |
//! | SIGTERM, SIGINT | stops listening, waits for what is under way, ends; a second one ends at once |

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use pingora::apps::ServerApp as _;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, Server, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::Service;
use pingora::services::background::background_service;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::{error, info, warn};

use crate::acme::Acme;
use crate::admin::{self, AdminService};
use crate::bindings::Listener;
use crate::config::Config;
use crate::handover::{Predecessor, Program};
use crate::listener::{self, Accepting, Connections, Inherited, Listeners};
use crate::live::Live;
use crate::metrics::CertificateExpiry;
use crate::proxy::Gateway;
use crate::upstream::Probes;
use crate::watch::Watch;
use crate::workers::Workers;

/// How long a predecessor goes on with what is under way. Its successor serves everybody else, so there is no hurry; a
/// day is the bound after which a transfer is no longer believed to end.
pub const SUCCEEDED_DRAIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the end may wait for access lines to be written, and for traces to be sent.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// How often certificates are looked at, and how long before their end it is worth a warning.
const EXPIRY_PERIOD: Duration = Duration::from_secs(12 * 60 * 60);
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

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
    /// If the socket for metrics can't be used.
    pub fn run(self, ready: impl FnOnce() + Send + Sync + 'static) -> anyhow::Result<()> {
        let observe = Arc::clone(&self.live.observe);
        let (upstreams, certificates) = (Arc::clone(&self.live), Arc::clone(&self.live));
        observe.metrics.set_upstreams(move || upstreams.upstreams());
        observe.metrics.set_certificates(move || certificates.certificates());
        observe.metrics.reloaded(SystemTime::now());
        let health = Arc::new(admin::State::new(Arc::clone(&observe.metrics)));
        let metrics = self.metrics.as_ref().map(|(_, socket)| AdminService::new(socket.try_clone()?, Arc::clone(&health))).transpose()?;
        let (live, probed) = (Arc::clone(&self.live), self.live);
        let mut proxy = HttpProxy::new(Gateway::new(Arc::clone(&live)), Arc::new(server_conf()));
        proxy.handle_init_modules();
        let workers = Workers::start(thread::available_parallelism().map_or(1, NonZero::get)).context("cannot start threads")?;
        let accepting = Accepting { proxy: Arc::new(proxy), live, workers: workers.clone(), connections: Connections::default() };
        let (phase, _) = watch::channel(Phase::Serving);
        let drain = Drain {
            connections: accepting.connections.clone(),
            phase: phase.clone(),
            limit: Arc::new(Mutex::new(self.config.drain)),
            health,
        };
        let service = GatewayService {
            control: Control {
                path: self.path,
                program: self.program,
                phase,
                drain_limit: Arc::clone(&drain.limit),
                metrics: self.metrics.map(|(_, socket)| socket),
            },
            start: Some(Start { sockets: self.sockets, config: self.config, predecessor: self.predecessor, ready: Box::new(ready) }),
            accepting,
        };
        let mut server = Server::new_with_opt_and_conf(None, server_conf());
        server.add_service(service);
        if let Some(metrics) = metrics {
            server.add_service(metrics);
        }
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
        match Listeners::start(start.sockets, self.accepting.clone()) {
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

/// Changes the running gateway when it is asked to.
struct Control {
    path: PathBuf,
    program: Program,
    phase: watch::Sender<Phase>,
    drain_limit: Arc<Mutex<Duration>>,
    /// The socket of the metrics, which a successor takes over too.
    metrics: Option<StdListener>,
}

impl Control {
    async fn run(
        &self,
        listeners: &mut Listeners,
        mut watch: Watch,
        orders: &mut Orders,
        hangup: io::Result<Signal>,
        upgrade: io::Result<Signal>,
    ) {
        let (mut hangup, mut upgrade) = match (hangup, upgrade) {
            (Ok(hangup), Ok(upgrade)) => (hangup, upgrade),
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "cannot handle signals");
                return std::future::pending().await;
            }
        };
        let mut expiry = interval(EXPIRY_PERIOD);
        loop {
            tokio::select! {
                _ = expiry.tick() => warn_of_expiry(&listeners.live().certificates()),
                _ = hangup.recv() => self.reload(listeners, &mut watch, orders).await,
                () = watch.changed() => self.reload(listeners, &mut watch, orders).await,
                _ = upgrade.recv() => self.hand_over(listeners).await,
            }
        }
    }

    /// Applies the configuration as it is now, or leaves everything as it was and says why.
    async fn reload(&self, listeners: &mut Listeners, watch: &mut Watch, orders: &mut Orders) {
        let began = Instant::now();
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0))]);
        match self.try_reload(listeners, watch).await {
            Ok(changed) => {
                listeners.live().observe.metrics.reloaded(SystemTime::now());
                info!(
                    listeners.added = changed.added,
                    listeners.removed = changed.removed,
                    listeners.kept = changed.kept,
                    elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "configuration reloaded"
                );
                warn_of_expiry(&listeners.live().certificates());
            }
            Err(error) => {
                listeners.live().observe.metrics.reload_failed();
                error!(error = format!("{error:#}"), "configuration not reloaded, the old one stays");
            }
        }
        orders.follow(listeners.live().acme());
        notify(&[NotifyState::Ready]);
    }

    async fn try_reload(&self, listeners: &mut Listeners, watch: &mut Watch) -> anyhow::Result<listener::Changed> {
        let path = self.path.clone();
        let config = spawn_blocking(move || Config::load(&path)).await??;
        let changed = listeners.apply(config.listeners.clone()).await?;
        listeners.live().replace(&config)?;
        *self.drain_limit.lock().unwrap_or_else(PoisonError::into_inner) = config.drain;
        *watch = Watch::new(config.files);
        Ok(changed)
    }

    async fn hand_over(&self, listeners: &Listeners) {
        info!("upgrading: starting a successor");
        let (program, sockets) = (self.program.clone(), listeners.sockets());
        let metrics = self.metrics.as_ref().and_then(|socket| socket.try_clone().ok());
        let succeeded = spawn_blocking(move || {
            let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).chain(metrics.iter().map(AsFd::as_fd)).collect();
            program.succeed(&descriptors)
        });
        match succeeded.await.map_err(anyhow::Error::from).flatten() {
            Ok(process) => {
                info!(successor.pid = process, "upgraded: the successor accepts connections");
                notify(&[NotifyState::MainPid(process)]);
                self.phase.send_replace(Phase::Succeeded);
            }
            Err(error) => error!(error = format!("{error:#}"), "not upgraded, this process goes on"),
        }
    }
}

/// Says which certificates end soon. A renewal that works replaces them long before.
fn warn_of_expiry(certificates: &[CertificateExpiry]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let limit = i64::try_from((now + EXPIRY_WARNING).as_secs()).unwrap_or(i64::MAX);
    for certificate in certificates.iter().filter(|certificate| certificate.not_after_s < limit) {
        let days = (certificate.not_after_s - now.as_secs() as i64).div_euclid(24 * 60 * 60);
        warn!(binding = certificate.binding, server_name = certificate.server_name, days_left = days, "a certificate expires");
    }
}

/// The task that orders certificates, if there is one.
#[derive(Default)]
struct Orders(Option<(Arc<Acme>, watch::Sender<bool>)>);

impl Orders {
    /// Orders what the configuration wants now. What was ordered for an earlier one is no longer, if that is another.
    fn follow(&mut self, acme: Option<Arc<Acme>>) {
        let is_same = match (&self.0, &acme) {
            (Some((running, _)), Some(acme)) => Arc::ptr_eq(running, acme),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        // Dropping the sender ends the earlier task.
        self.0 = acme.map(|acme| {
            let (stop, stopping) = watch::channel(false);
            tokio::spawn(Arc::clone(&acme).run(stopping));
            (acme, stop)
        });
    }
}

/// Tells systemd, if it is there.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify the service manager");
    }
}

/// Tells Pingora to stop at once, but only after the drain: its own grace period is slept through in full even when
/// there is nothing to wait for.
struct Drain {
    connections: Connections,
    phase: watch::Sender<Phase>,
    /// As the configuration says.
    limit: Arc<Mutex<Duration>>,
    health: Arc<admin::State>,
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    async fn recv(&self) -> ShutdownSignal {
        let Ok(mut signals) = StopSignals::new() else {
            // Without a handler the signals end the process by themselves.
            return std::future::pending().await;
        };
        let mut phase = self.phase.subscribe();
        let succeeded = async {
            // The guard must not live on.
            let _ = phase.wait_for(|phase| *phase == Phase::Succeeded).await;
        };
        let is_succeeded = tokio::select! {
            () = signals.recv() => false,
            () = succeeded => true,
        };
        if is_succeeded {
            tokio::select! {
                0 = self.connections.drain(SUCCEEDED_DRAIN_MAX) => {
                    info!("the last transfer has ended");
                    return ShutdownSignal::FastShutdown;
                }
                () = signals.recv() => {}
            }
        }
        let limit = *self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        info!(limit_seconds = limit.as_secs(), "stopping: waiting for requests under way");
        notify(&[NotifyState::Stopping]);
        self.health.drain();
        self.phase.send_replace(Phase::Stopping);
        tokio::select! {
            open = self.connections.drain(limit) => match open {
                0 => info!("stopped"),
                open => warn!(connections = open, "stopped; connections were cut off"),
            },
            () = signals.recv() => warn!("stopped by a second signal; connections were cut off"),
        }
        ShutdownSignal::FastShutdown
    }
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, ()> {
        match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => Ok(Self { terminate, interrupt }),
            (Err(error), _) | (_, Err(error)) => {
                warn!(%error, "cannot handle signals");
                Err(())
            }
        }
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
