//! The empty layer: what stands in an image's list of layers where nothing was written.
//!
//! Every image of a V2 repository has it, whether or not it was ever pushed there: its 32 bytes are a constant, known to
//! everybody, and what is made for old clients refers to it (see [`crate::manifests`]).

use berth_names::{Algorithm, Digest};
use bytes::Bytes;

use crate::hash::digest_of;

/// A gzip of an empty tar, as docker itself writes it.
const GZIP: [u8; 32] =
    [31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255, 46, 175, 181, 239, 0, 4, 0, 0];

/// SHA-256 of [`GZIP`].
const SHA256: [u8; 32] = [
    0xa3, 0xed, 0x95, 0xca, 0xeb, 0x02, 0xff, 0xe6, 0x8c, 0xdd, 0x9f, 0xd8, 0x44, 0x06, 0x68, 0x0a, 0xe9, 0x3d, 0x63, 0x3c, 0xb1, 0x64,
    0x22, 0xd0, 0x0e, 0x8a, 0x7c, 0x22, 0x95, 0x5b, 0x46, 0xd4,
];

/// The bytes.
pub(crate) fn bytes() -> Bytes {
    Bytes::from_static(&GZIP)
}

/// Their digest.
pub(crate) fn digest() -> Digest {
    Digest::sha256(SHA256)
}

/// The digest of the tar that they unpack to.
pub(crate) fn diff_id() -> Digest {
    digest_of(Algorithm::Sha256, &[0; 1024])
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_empty_layer_is_what_docker_calls_so() {
        assert_eq!(digest(), digest_of(Algorithm::Sha256, &bytes()));
        assert_eq!(digest().to_string(), "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4");
        assert_eq!(diff_id().to_string(), "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef");
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&GZIP[..]).read_to_end(&mut tar).unwrap();
        assert_eq!(tar, [0; 1024]);
    }
}
