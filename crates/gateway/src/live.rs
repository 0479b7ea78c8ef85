//! What a reload replaces and every request looks up.

use std::net::IpAddr;

use arc_swap::ArcSwap;
use berth_names::Network;

use crate::config::Config;
use crate::limits::Meter;
use crate::overview;
use crate::upstream::{Pool, PoolError};

/// The parts of the running configuration that belong to no listener.
#[derive(Debug)]
pub struct Live {
    trusted_proxies: ArcSwap<Vec<Network>>,
    pool: ArcSwap<Pool>,
    /// What docker calls the registries that are bound.
    registries: ArcSwap<Vec<String>>,
    /// Counts go on over reloads.
    pub meter: Meter,
}

impl Live {
    /// Starts with what a configuration says.
    ///
    /// # Errors
    /// If its backends make no pool.
    pub fn new(config: &Config) -> Result<Self, PoolError> {
        Ok(Self {
            trusted_proxies: ArcSwap::from_pointee(config.trusted_proxies.clone()),
            pool: ArcSwap::from_pointee(Pool::new(&config.servers)?),
            registries: ArcSwap::from_pointee(overview::registries(&config.listeners)),
            meter: Meter::default(),
        })
    }

    /// Goes on with what another one says. Requests under way keep what they began with.
    ///
    /// # Errors
    /// If its backends make no pool; then nothing has changed.
    pub fn replace(&self, config: &Config) -> Result<(), PoolError> {
        self.pool.store(self.pool.load().replaced_by(&config.servers)?.into());
        self.trusted_proxies.store(config.trusted_proxies.clone().into());
        self.registries.store(overview::registries(&config.listeners).into());
        Ok(())
    }

    /// The backends that requests go to now.
    pub fn pool(&self) -> Pool {
        Pool::clone(&self.pool.load())
    }

    /// What docker calls the registries that are bound: `host`, or `host:port`.
    pub fn registries(&self) -> arc_swap::Guard<std::sync::Arc<Vec<String>>> {
        self.registries.load()
    }

    /// Whether the word of this peer counts.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.load().iter().any(|network| network.contains(peer))
    }

    /// The proxies whose word counts.
    pub fn trusted_proxies(&self) -> arc_swap::Guard<std::sync::Arc<Vec<Network>>> {
        self.trusted_proxies.load()
    }
}
