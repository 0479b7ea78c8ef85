//! `[places]`: what clients may hold of the whole gateway.

use toml::Spanned;

use super::problem::Problems;
use super::table::PlacesTable;
use crate::limits::{CONNECTIONS_MIN, Places};

/// Most connections that can be configured.
const CONNECTIONS_MAX: usize = 1 << 20;

/// What the table says, and otherwise the defaults.
pub(super) fn read(table: &PlacesTable, problems: &mut Problems<'_>) -> Places {
    let default = Places::default();
    let connections = count("connections", table.connections.as_ref(), CONNECTIONS_MIN, CONNECTIONS_MAX, problems);
    let connections = connections.unwrap_or(default.connections);
    let mut of_client = |field, said: Option<&Spanned<u64>>| count(field, said, 1, connections, problems);
    Places {
        connections,
        connections_per_client: of_client("connections_per_client", table.connections_per_client.as_ref()),
        requests_per_client: of_client("requests_per_client", table.requests_per_client.as_ref()),
        bodies_per_client: of_client("bodies_per_client", table.bodies_per_client.as_ref()).unwrap_or(default.bodies_per_client),
    }
}

fn count(field: &str, said: Option<&Spanned<u64>>, min: usize, max: usize, problems: &mut Problems<'_>) -> Option<usize> {
    let said = said?;
    match usize::try_from(*said.get_ref()) {
        Ok(count) if (min..=max).contains(&count) => Some(count),
        _ => {
            problems.add(said.span(), format!("`{field}` is from {min} to {max}"));
            None
        }
    }
}
