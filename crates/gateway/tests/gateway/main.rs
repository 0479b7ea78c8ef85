//! The real `berth-gateway` between raw clients and a backend that each test makes up.

// Helpers are no test functions to clippy, but nothing else calls them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pebble;
mod support;

mod acme;
mod backends;
mod cli;
mod doctor;
mod edge;
mod failures;
mod hung;
mod logging;
mod observe;
mod places;
mod refusals;
mod reload;
mod requests;
mod shutdown;
mod tls;
