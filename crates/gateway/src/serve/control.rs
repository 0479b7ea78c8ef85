//! What changes the gateway while it runs: a configuration read again, certificates ordered anew, a successor.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::{error, info, warn};

use super::{Phase, notify};
use crate::acme::Acme;
use crate::admin::Admin;
use crate::config::Config;
use crate::handover::Program;
use crate::listener::{self, Listeners};
use crate::metrics::CertificateExpiry;
use crate::overview::EXPIRY_WARNING;
use crate::watch::Watch;

/// How often certificates are looked at.
const EXPIRY_PERIOD: Duration = Duration::from_secs(12 * 60 * 60);

/// Changes the running gateway when it is asked to.
pub(super) struct Control {
    pub(super) path: PathBuf,
    pub(super) program: Program,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) drain_limit: Arc<Mutex<Duration>>,
    pub(super) admin: Admin,
}

impl Control {
    /// Waits for orders and follows them, for as long as the gateway serves.
    pub(super) async fn run(
        &mut self,
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
    async fn reload(&mut self, listeners: &mut Listeners, watch: &mut Watch, orders: &mut Orders) {
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

    async fn try_reload(&mut self, listeners: &mut Listeners, watch: &mut Watch) -> anyhow::Result<listener::Changed> {
        let path = self.path.clone();
        let config = spawn_blocking(move || Config::load(&path)).await??;
        let live = Arc::clone(listeners.live());
        let next = live.prepare(&config)?;
        let watched = self.admin.address();
        self.admin.listen(config.metrics).await?;
        let changed = match listeners.apply(config.listeners.clone()).await {
            Ok(changed) => changed,
            Err(error) => {
                if let Err(error) = self.admin.listen(watched).await {
                    warn!(error = format!("{error:#}"), "cannot be watched any more");
                }
                return Err(error);
            }
        };
        live.adopt(next);
        *self.drain_limit.lock().unwrap_or_else(PoisonError::into_inner) = config.drain;
        *watch = Watch::new(config.files);
        Ok(changed)
    }

    async fn hand_over(&self, listeners: &Listeners) {
        info!("upgrading: starting a successor");
        let (program, sockets) = (self.program.clone(), listeners.sockets());
        let metrics = self.admin.socket();
        let succeeded = spawn_blocking(move || {
            let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket).chain(&metrics).map(|socket| socket.as_fd()).collect();
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
pub(super) struct Orders(Option<(Arc<Acme>, watch::Sender<bool>)>);

impl Orders {
    /// Orders what the configuration wants now. What was ordered for an earlier one is no longer, if that is another.
    pub(super) fn follow(&mut self, acme: Option<Arc<Acme>>) {
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
