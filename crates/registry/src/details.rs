//! What one image is made of, for people who look at it.

use berth_names::{Digest, ImageName, Reference, RepositoryKey};
use bytes::Bytes;
use futures::TryStreamExt;
use serde::Deserialize;

use crate::json::or_empty;
use crate::manifests::{is_schema1, shown};
use crate::v1::ImageId;
use crate::{Error, ManifestContent, Registry, Result};

/// The largest config that is read into memory, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// The platform of an index that a client gets who can't say which it wants.
pub(crate) const OLD_PLATFORM: &str = "linux/amd64";

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
    /// The config's digest; an image of schema 1 has no config of its own.
    pub config_digest: Option<Digest>,
    /// The config, or the top V1 image's JSON.
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

/// What a manifest or an index refers to.
#[derive(Deserialize)]
pub(crate) struct Wire {
    pub(crate) config: Option<Descriptor>,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "or_empty")]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) media_type: String,
    #[serde(default)]
    size: u64,
    platform: Option<WirePlatform>,
}

/// The manifest of one image.
pub(crate) struct OneImage {
    pub(crate) manifest: ManifestContent,
    /// What it refers to.
    pub(crate) wire: Wire,
    /// The platforms that the index it was found through offers.
    platforms: Vec<Platform>,
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
        let OneImage { manifest, wire, platforms } = self.one_image(repository, image, reference, platform).await?;
        let (digest, media_type) = (manifest.digest, manifest.media_type.clone());
        let (config_digest, config, layers) = if is_schema1(&media_type) {
            let shown = shown(&manifest.bytes).ok_or_else(|| Error::ManifestInvalid("it can't be read as an image".to_owned()))?;
            let mut layers = Vec::with_capacity(shown.layers.len());
            for layer in shown.layers {
                layers.push(LayerDetails { name: layer.to_string(), size: self.stat_blob(repository, image, &layer).await? });
            }
            (None, Bytes::from(shown.top), layers)
        } else {
            let config_digest = wire.config.ok_or_else(|| Error::ManifestInvalid("it has no config".to_owned()))?.digest;
            let layers = wire.layers.iter().rev().map(|one| LayerDetails { name: one.digest.to_string(), size: one.size }).collect();
            (Some(config_digest), self.config(repository, image, &config_digest).await?, layers)
        };
        if platforms.is_empty() && platform.is_some_and(|wanted| !is_for(&config, wanted)) {
            return Err(Error::ManifestUnknown(reference.clone()));
        }
        Ok(V2Details { digest, media_type, config_digest, config, layers, platforms })
    }

    /// The manifest of one image; of an index that of the platform that is asked for (`None`: `linux/amd64`, or else the
    /// first).
    pub(crate) async fn one_image(
        &self,
        repository: &RepositoryKey,
        image: &ImageName,
        reference: &Reference,
        platform: Option<&str>,
    ) -> Result<OneImage> {
        let manifest = self.manifest(repository, image, reference).await?;
        let wire = read(&manifest.bytes)?;
        if wire.manifests.is_empty() {
            return Ok(OneImage { manifest, wire, platforms: Vec::new() });
        }
        let platforms: Vec<Platform> =
            wire.manifests.iter().filter_map(|one| Some(Platform { digest: one.digest, name: name(one.platform.as_ref()?) })).collect();
        let of = |wanted: &str| platforms.iter().find(|one| fits(&one.name, wanted)).map(|one| one.digest);
        let chosen = match platform {
            Some(wanted) => of(wanted),
            None => of(OLD_PLATFORM).or_else(|| wire.manifests.first().map(|one| one.digest)),
        };
        let chosen = Reference::Digest(chosen.ok_or_else(|| Error::ManifestUnknown(reference.clone()))?);
        let manifest = self.manifest(repository, image, &chosen).await?;
        let wire = read(&manifest.bytes)?;
        Ok(OneImage { manifest, wire, platforms })
    }

    /// An image's config.
    ///
    /// # Errors
    /// [`Error::BlobUnknown`]; [`Error::ManifestInvalid`] if it has more than [`CONFIG_BYTES_MAX`].
    pub(crate) async fn config(&self, repository: &RepositoryKey, image: &ImageName, digest: &Digest) -> Result<Bytes> {
        let content = self.open_blob(repository, image, digest).await?;
        if content.size > CONFIG_BYTES_MAX {
            return Err(Error::ManifestInvalid("its config is too large to be shown".to_owned()));
        }
        Ok(content.read(0..content.size).try_collect::<Vec<Bytes>>().await?.concat().into())
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
