//! Berth's gateway: what clients connect to. It ends TLS, decides by listener and host name which repository a request
//! is for, and passes the request to the backend under that repository's path.
//!
//! The gateway has no state but its configuration, and knows nothing of what a registry stores. A request crosses
//! [`rewrite`], which decides, and [`proxy`], which does.

pub mod config;

pub mod bindings;
pub mod forwarded;
mod framing;
pub mod head;
pub mod limits;
pub mod refusal;
pub mod rewrite;

pub mod access;
pub mod admin;
mod admission;
mod buffer;
pub mod connection;
mod handshake;
pub mod listener;
pub mod live;
pub mod metrics;
pub mod observe;
mod own;
pub mod probe;
pub mod proxy;
mod proxy_protocol;
mod request_id;
pub mod slot;
mod stream;
pub mod tls;
mod traces;
pub mod upstream;
pub mod workers;

pub mod handover;
pub mod serve;
pub mod watch;

pub mod acme;
pub mod cert;
pub mod convert;
pub mod doctor;
pub mod overview;
pub mod trust;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
