//! Asks every server from time to time how it is, so that requests need not find out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Method};
use pingora::connectors::http::v1::Connector;
use pingora::http::RequestHeader;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::Pool;

/// What is asked for: whether the backend and its store can answer requests.
const PROBE_PATH: &[u8] = b"/healthz";

/// How often each server is asked. One that falls silent is known as such after two rounds, which take [`PROBE_MAX`] each.
const PROBE_PERIOD: Duration = Duration::from_secs(2);

/// How long the answer may take, with the connection, which is a new one each time: an old one would say nothing about
/// whether others can be had.
const PROBE_MAX: Duration = Duration::from_secs(3);

/// The service that asks the servers of whichever pool is in use.
pub struct Probes<F>(F);

impl<F: Fn() -> Pool + Send + Sync + 'static> Probes<F> {
    /// Asks the servers of the pool that `current` gives when it is their turn.
    pub fn new(current: F) -> Self {
        Self(current)
    }

    /// Asks, round after round, for ever.
    pub async fn run(&self) {
        let connector = Arc::new(Connector::new(None));
        let mut rounds = interval_at(Instant::now() + PROBE_PERIOD, PROBE_PERIOD);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            probe_all(&connector, &(self.0)()).await;
        }
    }
}

#[async_trait]
impl<F: Fn() -> Pool + Send + Sync + 'static> BackgroundService for Probes<F> {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            () = self.run() => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// One round: all servers at once, so that a silent one delays no other.
async fn probe_all(connector: &Arc<Connector>, pool: &Pool) {
    let mut probes = JoinSet::new();
    for member in pool.members() {
        let (connector, peer, health, pool) = (Arc::clone(connector), member.peer.clone(), Arc::clone(&member.health), pool.clone());
        probes.spawn(async move {
            health.probe_begins();
            match timeout(PROBE_MAX, probe(&connector, &peer)).await {
                Ok(Ok(())) => health.probe_passed(pool.now_ms()),
                Ok(Err(error)) => health.probe_failed(&format_args!("its health check failed: {error}")),
                Err(_) => health.probe_unanswered(),
            }
        });
    }
    probes.join_all().await;
}

async fn probe(connector: &Connector, peer: &HttpPeer) -> pingora::Result<()> {
    let mut head = RequestHeader::build(Method::GET, PROBE_PATH, Some(3))?;
    let host = if peer.sni.is_empty() { "localhost" } else { &peer.sni };
    head.insert_header(HOST, host)?;
    head.insert_header(USER_AGENT, HeaderValue::from_static("berth-gateway"))?;
    head.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
    let (mut session, _) = connector.get_http_session(peer).await?;
    session.write_request_header(Box::new(head)).await?;
    session.read_response().await?;
    match session.get_status() {
        Some(status) if status.is_server_error() => Error::e_explain(ErrorType::HTTPStatus(status.as_u16()), "the backend is not well"),
        // Whoever answers that there is no such path is able to answer.
        _ => Ok(()),
    }
}
