//! What the fuzz targets see of importing: the text that is written for a site.

use super::{Kind, Site, write};

/// The text of a `gateway.toml`.
pub fn toml(site: &Site, kind: Kind) -> String {
    write::toml(site, kind, &[])
}
