//! The way to the backends: which server takes a request, and which other one if that fails.
//!
//! What must stay true:
//! - Any server can take any request. Nothing pins a client or an upload to one: what they share is the store behind them.
//! - A request that a server may have acted on is sent again only if its method is safe ([`attempts`] says why).
//! - That a server is down is a guess. With no better one left, one that is thought to be down is tried: it refuses at once
//!   or takes the request. One that is silent, which takes connections and answers nothing, is not: who asks it waits.
//! - Choosing takes no lock and, with one server, looks only at whether that is silent.
//!
//! Addresses are IP addresses or paths: names would need a resolver that follows their changes, and are left to whoever
//! writes the configuration.

mod peer;

mod breaker;
mod health;
mod pool;

mod attempts;
mod probe;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use attempts::{Attempts, Broken, SILENT};
pub use breaker::BreakerState;
pub use health::{Probed, ServerState};
pub(crate) use peer::SILENCE_MAX;
pub use peer::{Tls, TlsError};
pub use pool::{Pool, PoolError};
pub use probe::Probes;

/// How long a connection to a server may take, with its TLS handshake. Backends are near: what takes longer is down.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// One backend.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Present if it speaks TLS.
    pub tls: Option<Tls>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// An IP address and a port.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}
