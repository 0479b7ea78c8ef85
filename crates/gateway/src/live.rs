//! What a reload replaces and every request looks up.

use std::net::IpAddr;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use berth_names::Network;

use crate::acme::Acme;
use crate::config::Config;
use crate::limits::Meter;
use crate::overview;
use crate::upstream::Pool;

/// The parts of the running configuration that belong to no listener.
#[derive(Debug)]
pub struct Live {
    trusted_proxies: ArcSwap<Vec<Network>>,
    pool: ArcSwap<Pool>,
    acme: ArcSwapOption<Acme>,
    /// What docker calls the registries that are bound.
    registries: ArcSwap<Vec<String>>,
    /// Counts go on over reloads.
    pub meter: Meter,
}

impl Live {
    /// Starts with what a configuration says.
    ///
    /// # Errors
    /// If its backends make no pool, or the ACME state can't be used.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            trusted_proxies: ArcSwap::from_pointee(config.trusted_proxies.clone()),
            pool: ArcSwap::from_pointee(Pool::new(&config.servers)?),
            acme: ArcSwapOption::new(acme(config, None)?),
            registries: ArcSwap::from_pointee(overview::registries(&config.listeners)),
            meter: Meter::default(),
        })
    }

    /// Goes on with what another one says. Requests under way keep what they began with.
    ///
    /// # Errors
    /// If its backends make no pool, or the ACME state can't be used; then nothing has changed.
    pub fn replace(&self, config: &Config) -> anyhow::Result<()> {
        let pool = self.pool.load().replaced_by(&config.servers)?;
        self.acme.store(acme(config, self.acme.load_full())?);
        self.pool.store(pool.into());
        self.trusted_proxies.store(config.trusted_proxies.clone().into());
        self.registries.store(overview::registries(&config.listeners).into());
        Ok(())
    }

    /// The backends that requests go to now.
    pub fn pool(&self) -> Pool {
        Pool::clone(&self.pool.load())
    }

    /// What docker calls the registries that are bound: `host`, or `host:port`.
    pub fn registries(&self) -> arc_swap::Guard<Arc<Vec<String>>> {
        self.registries.load()
    }

    /// Where certificates come from, if by ACME.
    pub fn acme(&self) -> Option<Arc<Acme>> {
        self.acme.load_full()
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

/// What gets this configuration's certificates by ACME: what has done so far, if it is asked for the same.
fn acme(config: &Config, known: Option<Arc<Acme>>) -> anyhow::Result<Option<Arc<Acme>>> {
    let Some(wanted) = &config.acme else { return Ok(None) };
    let acme = match known.filter(|known| *known.settings() == wanted.settings) {
        Some(known) => known,
        None => Acme::new(wanted.settings.clone())?,
    };
    acme.set_names(wanted.names.clone());
    wanted.source.store(Some(Arc::clone(&acme)));
    Ok(Some(acme))
}
