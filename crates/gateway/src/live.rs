//! What a reload replaces and every request looks up.

use std::net::IpAddr;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use berth_names::{Answer, Network};
use berth_places::{Connections, Holder};
use tracing::info;

use crate::acme::Acme;
use crate::config::Config;
use crate::limits::{Meter, Places};
use crate::metrics::{CertificateExpiry, UpstreamState};
use crate::observe::{self, Observe};
use crate::overview;
use crate::upstream::{self, Pool, ServerState};

/// The parts of the running configuration that belong to no listener.
#[derive(Debug)]
pub struct Live {
    trusted_proxies: ArcSwap<Vec<Network>>,
    pool: ArcSwap<Pool>,
    acme: ArcSwapOption<Acme>,
    answers_probes: AtomicBool,
    certificates: ArcSwap<Vec<CertificateExpiry>>,
    /// Where everything that happens is counted and written down.
    pub observe: Arc<Observe>,
    /// What docker calls the registries that are bound.
    registries: ArcSwap<Vec<String>>,
    /// Counts go on over reloads.
    pub meter: Meter,
    /// The open client connections.
    pub connections: Arc<Connections>,
    /// How long a backend may take for the first byte of an answer that needs no long work, in seconds.
    first_byte_s: AtomicU64,
    /// Open files that the process may have.
    open_files: Option<u64>,
}

impl Live {
    /// Starts with what a configuration says.
    ///
    /// # Errors
    /// If its backends make no pool, the access log can't be opened or the ACME state can't be used.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let acme = acme(config, None)?;
        if let (Some(acme), Some(wanted)) = (&acme, &config.acme) {
            acme.set_names(wanted.names.clone());
        }
        let open_files = berth_places::raise_open_files();
        let places = places(config, open_files);
        Ok(Self {
            trusted_proxies: ArcSwap::from_pointee(config.trusted_proxies.clone()),
            pool: ArcSwap::from_pointee(Pool::new(&config.servers)?),
            certificates: ArcSwap::from_pointee(overview::certificates(&config.listeners)),
            observe: Arc::new(Observe::open(config)?),
            acme: ArcSwapOption::new(acme),
            answers_probes: AtomicBool::new(config.answers_probes),
            registries: ArcSwap::from_pointee(overview::registries(&config.listeners)),
            meter: Meter::new(&places),
            connections: Connections::new(places.bounds()),
            first_byte_s: AtomicU64::new(config.first_byte.as_secs()),
            open_files,
        })
    }

    /// Does all of a change that can fail.
    ///
    /// # Errors
    /// If the backends make no pool, the access log can't be opened or the ACME state can't be used.
    pub fn prepare<'c>(&self, config: &'c Config) -> anyhow::Result<Next<'c>> {
        Ok(Next {
            config,
            pool: self.pool.load().replaced_by(&config.servers)?,
            acme: acme(config, self.acme.load_full())?,
            observe: self.observe.prepare(config)?,
        })
    }

    /// Goes on with what was prepared. Requests under way keep what they began with.
    pub fn adopt(&self, next: Next<'_>) {
        let Next { config, pool, acme, observe } = next;
        self.observe.adopt(observe);
        let places = places(config, self.open_files);
        self.meter.set_places(&places);
        self.connections.set_bounds(places.bounds());
        self.first_byte_s.store(config.first_byte.as_secs(), Ordering::Relaxed);
        self.certificates.store(overview::certificates(&config.listeners).into());
        if let (Some(acme), Some(wanted)) = (&acme, &config.acme) {
            acme.set_names(wanted.names.clone());
        }
        self.acme.store(acme);
        self.answers_probes.store(config.answers_probes, Ordering::Relaxed);
        self.pool.store(pool.into());
        self.trusted_proxies.store(config.trusted_proxies.clone().into());
        self.registries.store(overview::registries(&config.listeners).into());
    }

    /// How long a backend may be silent while it is waited for an answer.
    pub(crate) fn silence(&self, answer: Answer) -> Duration {
        match answer {
            Answer::Soon => Duration::from_secs(self.first_byte_s.load(Ordering::Relaxed)),
            Answer::Late => upstream::SILENCE_MAX,
        }
    }

    /// Whom a connection from this address is counted for.
    pub fn holder(&self, address: IpAddr) -> Holder {
        Holder { client: address.into(), is_trusted: self.trusts(address) }
    }

    /// The backends that requests go to now.
    pub fn pool(&self) -> Pool {
        Pool::clone(&self.pool.load())
    }

    /// What docker calls the registries that are bound: `host`, or `host:port`.
    pub fn registries(&self) -> arc_swap::Guard<Arc<Vec<String>>> {
        self.registries.load()
    }

    /// When each certificate that is in use expires. One that ACME has not brought yet has no end.
    pub fn certificates(&self) -> Vec<CertificateExpiry> {
        let mut all = Vec::clone(&self.certificates.load());
        let by_acme = self.acme().map(|acme| acme.status()).unwrap_or_default().into_iter();
        all.extend(by_acme.filter_map(|status| {
            let since_epoch = status.expires?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let not_after_s = i64::try_from(since_epoch.as_secs()).ok()?;
            Some(CertificateExpiry { binding: "acme".to_owned(), server_name: status.name.to_string(), not_after_s })
        }));
        all
    }

    /// The backends, for metrics.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        let state = |server: ServerState| UpstreamState {
            is_up: server.is_up(),
            server: server.address.to_string(),
            in_flight: server.in_flight as u64,
            failures: server.failures,
        };
        self.pool.load().snapshot().into_iter().map(state).collect()
    }

    /// Where certificates come from, if by ACME.
    pub fn acme(&self) -> Option<Arc<Acme>> {
        self.acme.load_full()
    }

    /// Whether probes of `berth-gateway doctor` are answered.
    pub fn answers_probes(&self) -> bool {
        self.answers_probes.load(Ordering::Relaxed)
    }

    /// Whether the word of this peer counts.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.load().iter().any(|network| network.contains(peer))
    }

    /// The proxies whose word counts.
    pub fn trusted_proxies(&self) -> arc_swap::Guard<Arc<Vec<Network>>> {
        self.trusted_proxies.load()
    }
}

/// What a changed configuration brings, ready to be adopted: nothing of it can fail any more.
#[derive(Debug)]
#[must_use]
pub struct Next<'c> {
    config: &'c Config,
    pool: Pool,
    acme: Option<Arc<Acme>>,
    observe: observe::Next,
}

/// The places that the configuration names, as far as the process may have so many open files.
fn places(config: &Config, open_files: Option<u64>) -> Places {
    let places = config.places.within(open_files);
    if places.connections < config.places.connections {
        let (wanted, connections) = (config.places.connections, places.connections);
        info!(wanted, connections, open_files, "fewer connections than there could be: the limit of open files (ulimit -n) is lower");
    }
    places
}

/// What gets this configuration's certificates by ACME: what has done so far, if it is asked for the same.
fn acme(config: &Config, known: Option<Arc<Acme>>) -> anyhow::Result<Option<Arc<Acme>>> {
    let Some(wanted) = &config.acme else { return Ok(None) };
    let acme = match known.filter(|known| *known.settings() == wanted.settings) {
        Some(known) => known,
        None => Acme::new(wanted.settings.clone())?,
    };
    wanted.source.store(Some(Arc::clone(&acme)));
    Ok(Some(acme))
}
