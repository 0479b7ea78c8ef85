//! The end: what is under way is waited for, within bounds, and nothing else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_places::Connections;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Phase, notify};
use crate::admin;

/// How long a predecessor goes on with what is under way. Its successor serves everybody else, so there is no hurry; a
/// day is the bound after which a transfer is no longer believed to end.
const SUCCEEDED_DRAIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Tells Pingora to stop at once, but only after the drain: its own grace period is slept through in full even when
/// there is nothing to wait for.
pub(super) struct Drain {
    pub(super) connections: Arc<Connections>,
    pub(super) phase: watch::Sender<Phase>,
    /// As the configuration says.
    pub(super) limit: Arc<Mutex<Duration>>,
    pub(super) health: Arc<admin::State>,
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
                0 = left(&self.connections, SUCCEEDED_DRAIN_MAX) => {
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
            open = left(&self.connections, limit) => match open {
                0 => info!("stopped"),
                open => warn!(connections = open, "stopped; connections were cut off"),
            },
            () = signals.recv() => warn!("stopped by a second signal; connections were cut off"),
        }
        ShutdownSignal::FastShutdown
    }
}

/// Waits until every connection has ended, `limit` at most, and says how many have not. Accept loops must have ended.
async fn left(connections: &Connections, limit: Duration) -> usize {
    match timeout(limit, connections.all_ended()).await {
        Ok(()) => 0,
        Err(_) => connections.open(),
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
