//! The names that we read, or that clients read and pull by, in each kind of document.

use super::clear::Shape;
use super::clear::Shape::{Any, List, Object};

const PLATFORM: Shape =
    Object(&[("architecture", &Any), ("os", &Any), ("os.version", &Any), ("os.features", &Any), ("variant", &Any), ("features", &Any)]);

const DESCRIPTOR: Shape = Object(&[
    ("mediaType", &Any),
    ("digest", &Any),
    ("size", &Any),
    ("urls", &Any),
    ("annotations", &Any),
    ("data", &Any),
    ("platform", &PLATFORM),
    ("artifactType", &Any),
]);

/// Manifests and indexes of Docker and OCI.
pub(crate) const MANIFEST: Shape = Object(&[
    ("schemaVersion", &Any),
    ("mediaType", &Any),
    ("artifactType", &Any),
    ("config", &DESCRIPTOR),
    ("layers", &List(&DESCRIPTOR)),
    ("manifests", &List(&DESCRIPTOR)),
    ("subject", &DESCRIPTOR),
    ("annotations", &Any),
]);

const JWK: Shape = Object(&[("kty", &Any), ("crv", &Any), ("x", &Any), ("y", &Any), ("n", &Any), ("e", &Any), ("kid", &Any), ("d", &Any)]);

const SIGNATURE: Shape =
    Object(&[("header", &Object(&[("alg", &Any), ("jwk", &JWK), ("x5c", &Any)])), ("signature", &Any), ("protected", &Any)]);

/// Manifests of schema 1, and what was signed of them.
pub(crate) const SCHEMA1: Shape = Object(&[
    ("schemaVersion", &Any),
    ("mediaType", &Any),
    ("name", &Any),
    ("tag", &Any),
    ("architecture", &Any),
    ("fsLayers", &List(&Object(&[("blobSum", &Any)]))),
    ("history", &List(&Object(&[("v1Compatibility", &Any)]))),
    ("signatures", &List(&SIGNATURE)),
    ("config", &Any),
    ("layers", &Any),
    ("manifests", &Any),
    ("subject", &Any),
]);

/// The protected header of a signature of schema 1.
pub(crate) const PROTECTED: Shape = Object(&[("formatLength", &Any), ("formatTail", &Any), ("time", &Any)]);

/// The JSON of a V1 image: what it is and what it stands on.
pub(crate) const V1_IMAGE: Shape = Object(&[("id", &Any), ("parent", &Any), ("throwaway", &Any)]);

const HISTORY: Shape = Object(&[("created", &Any), ("created_by", &Any), ("author", &Any), ("comment", &Any), ("empty_layer", &Any)]);

/// Configs of images.
pub(crate) const CONFIG: Shape = Object(&[
    ("id", &Any),
    ("parent", &Any),
    ("architecture", &Any),
    ("os", &Any),
    ("os.version", &Any),
    ("os.features", &Any),
    ("variant", &Any),
    ("rootfs", &Object(&[("type", &Any), ("diff_ids", &Any)])),
    ("history", &List(&HISTORY)),
]);
