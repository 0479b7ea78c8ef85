//! What one image is made of, for people who look at it.

use berth_names::{Digest, ImageName, Reference, RepositoryKey};
use bytes::Bytes;
use futures::TryStreamExt;
use serde::Deserialize;

use crate::v1::ImageId;
use crate::{Error, Registry, Result};

/// The largest config that is read into memory, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDetails {
    /// Its digest, or the id of the V1 image that it belongs to.
    pub name: String,
    /// Length in bytes, as stored.
    pub size: u64,
}

/// A V1 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Details {
    /// Its id.
    pub id: ImageId,
    /// Its JSON, as pushed.
    pub json: Bytes,
    /// Its layer and all below, top first.
    pub layers: Vec<LayerDetails>,
}

/// A V2 image of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2Details {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The config's digest.
    pub config_digest: Digest,
    /// The config.
    pub config: Bytes,
    /// The layers, top first.
    pub layers: Vec<LayerDetails>,
    /// The platforms that the tag offers, if it offers several.
    pub platforms: Vec<Platform>,
}

/// A platform that an index offers an image for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The manifest.
    pub digest: Digest,
    /// `os/architecture`, and the variant if there is one.
    pub name: String,
}

#[derive(Deserialize)]
struct Wire {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    #[serde(default)]
    size: u64,
    platform: Option<WirePlatform>,
}

#[derive(Deserialize)]
struct WirePlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Registry {
    /// A V1 image and what is below it.
    ///
    /// # Errors
    /// [`Error::V1ImageUnknown`], [`Error::V1ImageIncomplete`].
    pub async fn v1_details(&self, repository: &RepositoryKey, id: &ImageId) -> Result<V1Details> {
        let json = self.v1_image(repository, id).await?.json;
        let mut layers = Vec::new();
        for id in self.v1_ancestry(repository, id).await? {
            let (row, _) = self.v1_row(repository, &id).await?.ok_or(Error::V1ImageUnknown(id))?;
            layers.push(LayerDetails { name: id.to_string(), size: row.layer.map_or(0, |layer| layer.size) });
        }
        Ok(V1Details { id: *id, json, layers })
    }

    /// A V2 image; of an index the image of the platform that is asked for (`None`: `linux/amd64`, or else the first).
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] if there is none, or none for the platform; [`Error::ManifestInvalid`] if it is no image.
    pub async fn v2_details(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        reference: &Reference,
        platform: Option<&str>,
    ) -> Result<V2Details> {
        let mut manifest = self.manifest(repository, image, reference).await?;
        let mut wire = read(&manifest.bytes)?;
        let mut platforms = Vec::new();
        if !wire.manifests.is_empty() {
            platforms =
                wire.manifests.iter().filter_map(|one| Some(Platform { digest: one.digest, name: name(one.platform.as_ref()?) })).collect();
            let of = |wanted: &str| platforms.iter().find(|one| fits(&one.name, wanted)).map(|one| one.digest);
            let chosen = match platform {
                Some(wanted) => of(wanted),
                None => of("linux/amd64").or_else(|| wire.manifests.first().map(|one| one.digest)),
            };
            let chosen = Reference::Digest(chosen.ok_or_else(|| Error::ManifestUnknown(reference.clone()))?);
            manifest = self.manifest(repository, image, &chosen).await?;
            wire = read(&manifest.bytes)?;
        }
        let config_digest = wire.config.ok_or_else(|| Error::ManifestInvalid("it has no config".to_owned()))?.digest;
        let content = self.open_blob(repository, image, &config_digest).await?;
        if content.size > CONFIG_BYTES_MAX {
            return Err(Error::ManifestInvalid("its config is too large to be shown".to_owned()));
        }
        let config: Bytes = content.read(0..content.size).try_collect::<Vec<Bytes>>().await?.concat().into();
        if platforms.is_empty() && platform.is_some_and(|wanted| !is_for(&config, wanted)) {
            return Err(Error::ManifestUnknown(reference.clone()));
        }
        let layers = wire.layers.iter().rev().map(|one| LayerDetails { name: one.digest.to_string(), size: one.size }).collect();
        let (digest, media_type) = (manifest.digest, manifest.media_type);
        Ok(V2Details { digest, media_type, config_digest, config, layers, platforms })
    }
}

/// The image for `linux/amd64` among those that a manifest lists, or the first, if it lists any.
pub(crate) fn child_for(manifest: &[u8]) -> Option<Digest> {
    let wire = read(manifest).ok()?;
    let of = |wanted: &str| wire.manifests.iter().find(|one| one.platform.as_ref().is_some_and(|one| fits(&name(one), wanted)));
    of("linux/amd64").or_else(|| wire.manifests.first()).map(|one| one.digest)
}

fn read(bytes: &[u8]) -> Result<Wire> {
    serde_json::from_slice(bytes).map_err(|_| Error::ManifestInvalid("it can't be read as an image".to_owned()))
}

/// Whether the image that has this config is for a platform.
fn is_for(config: &[u8], wanted: &str) -> bool {
    serde_json::from_slice(config).is_ok_and(|platform| fits(&name(&platform), wanted))
}

/// Whether a platform is the one that is asked for; its variant need not be named.
fn fits(name: &str, wanted: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn name(platform: &WirePlatform) -> String {
    let WirePlatform { os, architecture, variant } = platform;
    variant.as_ref().map_or_else(|| format!("{os}/{architecture}"), |variant| format!("{os}/{architecture}/{variant}"))
}
