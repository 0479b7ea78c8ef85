//! `[limits]`, for all bindings or for one.

use std::time::Duration;

use toml::Spanned;

use super::problem::Problems;
use super::table::LimitsTable;
use crate::head::{HEAD_BYTES_MAX, HEADER_FIELDS_MAX};
use crate::limits::Limits;

/// Longest wait that can be configured, in seconds: an hour.
const WAIT_S_MAX: u64 = 60 * 60;

/// Fewest bytes of a head: below, no token fits.
const HEAD_BYTES_MIN: usize = 1024;

/// What the table says, and otherwise `defaults`.
pub(super) fn read(table: &LimitsTable, defaults: &Limits, problems: &mut Problems<'_>) -> Limits {
    // 0 takes away what the file says for all.
    let count = |said: Option<u32>, default: Option<u32>| said.map_or(default, |said| (said > 0).then_some(said));
    Limits {
        requests_per_second_per_client: count(table.requests_per_second_per_client, defaults.requests_per_second_per_client),
        requests_in_flight_per_client: count(table.requests_in_flight_per_client, defaults.requests_in_flight_per_client),
        connections_per_second_per_client: count(table.connections_per_second_per_client, defaults.connections_per_second_per_client),
        connections_per_client: count(table.connections_per_client, defaults.connections_per_client),
        requests_per_second: count(table.requests_per_second, defaults.requests_per_second),
        requests_in_flight: count(table.requests_in_flight, defaults.requests_in_flight),
        connections: count(table.connections, defaults.connections),
        header_bytes: size("header_bytes", table.header_bytes.as_ref(), HEAD_BYTES_MIN..=HEAD_BYTES_MAX, defaults.header_bytes, problems),
        header_fields: size("header_fields", table.header_fields.as_ref(), 10..=HEADER_FIELDS_MAX, defaults.header_fields, problems),
        handshake_timeout: wait("handshake_timeout_s", table.handshake_timeout_s.as_ref(), defaults.handshake_timeout, problems),
        header_timeout: wait("header_timeout_s", table.header_timeout_s.as_ref(), defaults.header_timeout, problems),
        keepalive_timeout: wait("keepalive_timeout_s", table.keepalive_timeout_s.as_ref(), defaults.keepalive_timeout, problems),
        body_idle_timeout: wait("body_idle_timeout_s", table.body_idle_timeout_s.as_ref(), defaults.body_idle_timeout, problems),
        min_body_bytes_per_second: count(table.min_body_bytes_per_second, defaults.min_body_bytes_per_second),
    }
}

fn size(
    field: &str,
    said: Option<&Spanned<u64>>,
    range: std::ops::RangeInclusive<usize>,
    default: usize,
    problems: &mut Problems<'_>,
) -> usize {
    let Some(said) = said else { return default };
    match usize::try_from(*said.get_ref()) {
        Ok(size) if range.contains(&size) => size,
        _ => {
            problems.add(said.span(), format!("`{field}` is from {} to {}", range.start(), range.end()));
            default
        }
    }
}

pub(super) fn wait(field: &str, said: Option<&Spanned<u64>>, default: Duration, problems: &mut Problems<'_>) -> Duration {
    let Some(said) = said else { return default };
    match *said.get_ref() {
        seconds @ 1..=WAIT_S_MAX => Duration::from_secs(seconds),
        _ => {
            problems.add(said.span(), format!("`{field}` is from 1 to {WAIT_S_MAX} seconds"));
            default
        }
    }
}
