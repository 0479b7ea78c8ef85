//! Schema 1: what docker 1.6 to 1.9 push and pull over V2. The document carries its own signatures.
//!
//! What must stay true:
//! - The digest of a signed manifest is that of what was signed: of the document without its signatures.
//! - What the whole document says and what was signed are the same.

use std::collections::HashSet;

use berth_names::{Algorithm, Digest, ImageName, Reference, RepositoryKey};
use berth_storage::Batch;
use serde::{Deserialize, Serialize};

use super::signature::Signed;
use crate::hash::digest_of;
use crate::json::{check_names, shapes};
use crate::receive::Received;
use crate::v1::ImageId;
use crate::{Error, Registry, Result, empty_layer};

/// The media type of a signed manifest.
pub(crate) const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The media type of one without signatures.
pub(crate) const UNSIGNED: &str = "application/vnd.docker.distribution.manifest.v1+json";

/// The most layers that a manifest may list, empty ones included.
pub(super) const LAYERS_MAX: usize = 1024;

/// What a manifest of schema 1 says: the whole of it that means anything to us.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Schema1 {
    pub(super) schema_version: u8,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) tag: String,
    #[serde(default)]
    pub(super) architecture: String,
    /// Top first, as the history.
    pub(super) fs_layers: Vec<FsLayer>,
    pub(super) history: Vec<History>,
}

/// One layer.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FsLayer {
    pub(super) blob_sum: Digest,
}

/// The V1 image that the layer belongs to.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct History {
    /// Its JSON, as text.
    pub(super) v1_compatibility: String,
}

#[derive(Deserialize)]
struct V1Json {
    id: ImageId,
    parent: Option<String>,
}

/// The digest of a manifest: of its bytes, or if it is signed, of what was signed.
pub(crate) fn manifest_digest(algorithm: Algorithm, media_type: &str, bytes: &[u8]) -> Digest {
    let signed = (media_type == SIGNED).then(|| Signed::read(bytes).ok()).flatten();
    signed.map_or_else(|| digest_of(algorithm, bytes), |signed| digest_of(algorithm, &signed.payload))
}

impl Schema1 {
    /// Reads a manifest; the media type is what it is, whatever it was sent as.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<(Self, &'static str), String> {
        #[derive(Deserialize)]
        struct Outer {
            signatures: Option<serde::de::IgnoredAny>,
        }
        let read = |bytes: &[u8]| serde_json::from_slice::<Self>(bytes).map_err(|error| error.to_string());
        let manifest = read(bytes)?;
        manifest.check()?;
        let outer: Outer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if outer.signatures.is_none() {
            return Ok((manifest, UNSIGNED));
        }
        let signed = Signed::read(bytes)?;
        if !crate::json::is_sane(&signed.payload) || read(&signed.payload).ok().as_ref() != Some(&manifest) {
            return Err("it says other things than what was signed".to_owned());
        }
        // Its end stands in a signature's header, where nobody else looks; clients go by what was signed.
        check_names(&signed.payload, &shapes::SCHEMA1)?;
        // Else two documents of one digest could be different things.
        if serde_json::from_slice::<Outer>(&signed.payload).is_ok_and(|inner| inner.signatures.is_some()) {
            return Err("what was signed has signatures in it".to_owned());
        }
        signed.verify()?;
        Ok((manifest, SIGNED))
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.schema_version != 1 {
            return Err("schemaVersion must be 1".to_owned());
        }
        if self.fs_layers.is_empty() || self.fs_layers.len() != self.history.len() {
            return Err("fsLayers and history must be of one length, and not empty".to_owned());
        }
        if self.fs_layers.len() > LAYERS_MAX {
            return Err(format!("it may have {LAYERS_MAX} layers"));
        }
        let (mut above, mut seen) = (None::<V1Json>, HashSet::new());
        for entry in &self.history {
            let text = entry.v1_compatibility.as_bytes();
            let json = Some(text).filter(|text| crate::json::is_sane(text)).and_then(|text| serde_json::from_slice::<V1Json>(text).ok());
            let json = json.ok_or("a v1Compatibility is no V1 image's JSON")?;
            check_names(text, &shapes::V1_IMAGE)?;
            // Docker before 1.10 pushed some images with one twice in a row, and every docker pulls that.
            let fits = |above: &V1Json| above.id == json.id || above.parent.as_deref() == Some(json.id.to_string().as_str());
            if !above.as_ref().is_none_or(fits) {
                return Err("the history is no chain: an entry's parent is not the next one".to_owned());
            }
            if !seen.insert(json.id) && above.as_ref().is_none_or(|above| above.id != json.id) {
                return Err("the history is no chain: an image is in it twice".to_owned());
            }
            above = Some(json);
        }
        // Docker pulls no image whose chain goes on beyond what it is sent.
        match above.and_then(|root| root.parent).filter(|parent| !parent.is_empty()) {
            Some(_) => Err("the history is no chain: its last entry has a parent".to_owned()),
            None => Ok(()),
        }
    }

    /// The layers, each once.
    pub(super) fn layers(&self) -> Vec<Digest> {
        let mut layers = Vec::new();
        for FsLayer { blob_sum } in &self.fs_layers {
            if !layers.contains(blob_sum) {
                layers.push(*blob_sum);
            }
        }
        layers
    }

    /// Whether the manifest is pushed as what it says it is. On a registry of one's own docker leaves out `library/`.
    fn is_called(&self, image: &ImageName, reference: &Reference) -> bool {
        let short = |name: &str| name.strip_prefix("library/").unwrap_or(name).to_owned();
        short(&self.name) == short(image.as_str()) && !matches!(reference, Reference::Tag(tag) if tag.as_str() != self.tag)
    }
}

/// What is read of a manifest of schema 1 for people who look at it.
pub(crate) struct Shown {
    /// The top image's JSON.
    pub(crate) top: String,
    /// The layers, top first.
    pub(crate) layers: Vec<Digest>,
}

/// Reads a stored manifest for people.
pub(crate) fn shown(bytes: &[u8]) -> Option<Shown> {
    let manifest: Schema1 = serde_json::from_slice(bytes).ok()?;
    let layers = manifest.fs_layers.iter().map(|layer| layer.blob_sum).collect();
    Some(Shown { top: manifest.history.into_iter().next()?.v1_compatibility, layers })
}

/// Whether a media type is one of schema 1.
pub(crate) fn is_schema1(media_type: &str) -> bool {
    matches!(media_type, SIGNED | UNSIGNED)
}

impl Registry {
    /// Refuses a manifest of schema 1 that the repository does not take or that is called otherwise than it is pushed.
    pub(super) async fn admit_schema1(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        reference: &Reference,
        manifest: &Schema1,
    ) -> Result<()> {
        if self.repository(repository).await?.block_schema1 {
            let why = format!("repository {repository} does not take schema 1 (blockPushingSchema1), which docker 1.9 and older push");
            return Err(Error::ManifestInvalid(why));
        }
        if manifest.is_called(image, reference) {
            Ok(())
        } else {
            Err(Error::ManifestInvalid(format!("it is of {}:{}, not of what it is pushed as", manifest.name, manifest.tag)))
        }
    }

    /// Adds to the batch that the empty layer is in the image, where it was not linked so far; returns its size. Whoever asks
    /// hears that it is there, so nobody has to push it.
    pub(super) async fn bring_empty_layer(&self, batch: &mut Batch, repository: &RepositoryKey, image: &ImageName) -> Result<u64> {
        let (digest, small) = (empty_layer::digest(), empty_layer::bytes());
        let size = small.len() as u64;
        self.name_bytes(batch, &digest, &Received { data: None, small, size }).await?;
        self.link_for_good(batch, repository, image, &digest).await?;
        Ok(size)
    }
}
