//! Berth's gateway: what clients connect to. It ends TLS, decides by listener and host name which repository a request
//! is for, and passes the request to the backend under that repository's path.
//!
//! The gateway has no state but its configuration, and knows nothing of what a registry stores. A request crosses
//! [`rewrite`], which decides, and [`proxy`], which does.

pub mod config;

pub mod bindings;
pub mod head;
pub mod refusal;
pub mod rewrite;

mod access;
pub mod connection;
pub mod listener;
pub mod proxy;
pub mod serve;
mod stream;
pub mod tls;
mod upstream;

pub mod cert;
pub mod convert;
