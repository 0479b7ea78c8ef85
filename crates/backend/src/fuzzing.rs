//! A door for the fuzz targets in `fuzz/`, which say what must be true of any input. It is compiled for them and for tests
//! only, and shows no more than they need.

pub use crate::http::fuzzing::{
    Asked, Docker, PARTS_MAX, Read, client_view, content_range, list, properties, query, requested_range, route, schema1,
};
pub use crate::import::fuzzing::{Found, archive_members};
