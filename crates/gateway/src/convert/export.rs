//! What NGINX or Apache must be told to stand where the gateway stands.

use super::{Kind, Site};

/// The configuration of another proxy.
pub fn export(_site: &Site, _kind: Kind) -> String {
    String::new()
}
