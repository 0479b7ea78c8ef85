//! The real `berth-gateway` between raw clients and a backend that each test makes up.

mod support;

mod cli;
mod failures;
mod refusals;
mod requests;
mod shutdown;
mod tls;
