//! What the fuzz targets see of properties in queries.

pub(crate) use super::notation::{list, properties};
