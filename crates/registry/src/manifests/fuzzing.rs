//! What the fuzz targets see of manifests and their signatures.

use berth_names::{Algorithm, Digest};

use super::document::{Document, Need};
use super::schema1::{self, manifest_digest};
use super::signature::{Key, Signed};

/// A manifest, as far as it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is.
    pub media_type: String,
    /// The blobs that it needs.
    pub blobs: Vec<Digest>,
    /// The manifests that it needs.
    pub manifests: Vec<Digest>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// What its digest is.
    pub digest: Digest,
    /// All that was read, for comparison.
    pub all: String,
}

/// Reads a manifest that was sent as `media_type`.
///
/// # Errors
/// Why it is refused.
pub fn manifest(media_type: Option<&str>, bytes: &[u8]) -> Result<Manifest, String> {
    let document = Document::parse(media_type, bytes).map_err(|error| error.to_string())?;
    let digests = |of: fn(&Need) -> bool| document.needs.iter().filter(|need| of(need)).map(|need| *need.digest()).collect();
    Ok(Manifest {
        blobs: digests(|need| matches!(need, Need::Blob { .. })),
        manifests: digests(|need| matches!(need, Need::Manifest { .. })),
        subject: document.subject,
        digest: manifest_digest(Algorithm::Sha256, &document.media_type, bytes),
        all: format!("{document:?}"),
        media_type: document.media_type,
    })
}

/// The media type of signed manifests.
pub const SIGNED: &str = schema1::SIGNED;

/// Signs documents.
pub struct Signer(Key);

impl Signer {
    /// With a new key.
    pub fn new() -> Option<Self> {
        Key::read(&Key::generate()?).map(Self)
    }

    /// The document with a signature, if it is one that can be signed.
    pub fn sign(&self, payload: &[u8]) -> Option<Vec<u8>> {
        self.0.sign(payload, "2015-01-01T00:00:00Z")
    }
}

/// What was signed, of a document whose signatures fit.
///
/// # Errors
/// Why it is refused.
pub fn verified(document: &[u8]) -> Result<Vec<u8>, &'static str> {
    let signed = Signed::read(document)?;
    signed.verify()?;
    Ok(signed.payload)
}
