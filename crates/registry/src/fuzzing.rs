//! A door for the fuzz targets in `fuzz/`, which say what must be true of any input. It is compiled for them and for tests
//! only, and shows no more than they need.

pub use crate::manifests::fuzzing::{Manifest, SIGNED, Signer, manifest, verified};
pub use crate::v1::fuzzing::{Member, tar_members};
