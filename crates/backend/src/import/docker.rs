//! `manifest.json` of docker 1.10 and later: configs, tags and layers. Out of each image becomes a manifest of schema 2, as
//! `docker push` makes one. Layers are packed the same way each time, so what was stored once is found again; those that are
//! in gzip already stay as they are. Whatever they are packed with, they must unpack to what the config says.

use std::collections::HashMap;
use std::io::Cursor;

use anyhow::Context as _;
use berth_names::{Digest, ImageName, Reference, Tag};
use berth_registry::Error;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive::{LIST_BYTES_MAX, only, unpacked_digest, upload};
use super::feed::Feed;
use super::tar::{Archive, Place};
use super::unpack::Packing;
use super::{HOLDER, Import, PUSH, Trouble};

/// The file that makes an archive one of these.
pub(super) const MANIFEST: &str = "manifest.json";

/// The largest config that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// One image of the archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: &'static str,
    size: u64,
    digest: Digest,
}

/// Layers that were stored, and an image that each is linked in.
type Layers = HashMap<Place, (Descriptor, ImageName)>;

/// Imports every image of the archive under every name it has.
pub(super) async fn import(import: &mut Import, archive: &Archive, name: Option<&str>) -> anyhow::Result<()> {
    let list = archive.read(MANIFEST, LIST_BYTES_MAX)?;
    let mut images: Vec<Saved> = serde_json::from_slice(&list).with_context(|| format!("`{MANIFEST}` can't be read"))?;
    if let Some(name) = name {
        images = vec![Saved { repo_tags: Some(vec![name.to_owned()]), ..only(images.into_iter())? }];
    }
    let mut layers = Layers::new();
    for saved in &images {
        let names = saved.repo_tags.as_deref().unwrap_or_default();
        if names.is_empty() {
            import.problem(&saved.config, "it has no name; import it alone and give it one with --image");
        }
        for name in names {
            import.show(name);
            let outcome = import_image(import, archive, saved, name, &mut layers).await;
            import.settle(name, outcome)?;
        }
    }
    Ok(())
}

async fn import_image(
    import: &mut Import,
    archive: &Archive,
    Saved { config, layers, .. }: &Saved,
    name: &str,
    stored: &mut Layers,
) -> Result<(), Trouble> {
    let (image, tag) = import.name(name)?;
    let config: Bytes = archive.read(config, CONFIG_BYTES_MAX).map_err(|error| Trouble::Skip(format!("its config: {error}")))?.into();
    let parsed: Config = serde_json::from_slice(&config).map_err(|error| Trouble::Skip(format!("its config can't be read: {error}")))?;
    let (diff_ids, paths) = (parsed.rootfs.diff_ids.unwrap_or_default(), layers.as_deref().unwrap_or_default());
    if diff_ids.len() != paths.len() {
        return Err(Trouble::Skip(format!("its config has {} layers, the archive {}", diff_ids.len(), paths.len())));
    }
    let config_digest = Digest::sha256(Sha256::digest(&config).into());
    if has(import, &image, &tag, &config_digest).await? {
        import.report.present += 1;
        return Ok(());
    }
    let mut layers = Vec::with_capacity(paths.len());
    for (path, diff_id) in paths.iter().zip(&diff_ids) {
        layers.push(import_layer(import, archive, &image, (path, diff_id), stored).await?);
    }
    let size = config.len() as u64;
    upload(import, &image, "its config", Feed::plain(Cursor::new(config), &import.meter), |_| Ok(config_digest)).await?;
    let config = Descriptor { media_type: CONFIG_TYPE, size, digest: config_digest };
    let manifest = Manifest { schema_version: 2, media_type: MANIFEST_TYPE, config, layers };
    // Text and numbers: serialising them cannot fail.
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default().into();
    let (registry, key) = (&import.registry, &import.repository.key);
    registry.put_manifest(key, &image, &Reference::Tag(tag.clone()), Some(MANIFEST_TYPE), bytes, PUSH).await?;
    import.report.imported += 1;
    import.keep_newest(&image, &tag).await
}

/// Whether the tag is there and points to an image with this config: the config names everything else.
async fn has(import: &Import, image: &ImageName, tag: &Tag, config: &Digest) -> Result<bool, Trouble> {
    #[derive(Deserialize)]
    struct Named {
        config: Blob,
    }
    #[derive(Deserialize)]
    struct Blob {
        digest: Digest,
    }
    match import.registry.manifest(&import.repository.key, image, &Reference::Tag(tag.clone())).await {
        Ok(found) => Ok(serde_json::from_slice::<Named>(&found.bytes).is_ok_and(|named| named.config.digest == *config)),
        Err(Error::ManifestUnknown(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Stores a layer, or finds it where it was stored already.
async fn import_layer(
    import: &Import,
    archive: &Archive,
    image: &ImageName,
    (path, diff_id): (&str, &Digest),
    stored: &mut Layers,
) -> Result<Descriptor, Trouble> {
    let skip = |why: String| Trouble::Skip(format!("its layer {}: {why}", path.escape_debug()));
    let place = archive.find(path).ok_or_else(|| skip(archive.why_absent(path).to_owned()))?;
    if let Some((layer, linked)) = stored.get(&place) {
        let (registry, key) = (&import.registry, &import.repository.key);
        if linked == image || registry.mount_blob(key, (linked, image), &layer.digest, HOLDER).await? {
            return Ok(*layer);
        }
    }
    let packing = archive.packing(place).map_err(|error| skip(error.to_string()))?;
    let feed = if packing == Packing::Gzip {
        let unpacked = unpacked_digest(import, archive, place, path).await?;
        require(path, &unpacked, diff_id).map_err(Trouble::Skip)?;
        Feed::plain(archive.content(place), &import.meter)
    } else {
        // Not every client unpacks the others.
        Feed::gzip(archive.unpacked(place).map_err(|error| skip(error.to_string()))?, &import.meter)
    };
    let fed = upload(import, image, path, feed, |fed| match packing {
        Packing::Gzip => Ok(fed.sent),
        _ => require(path, &fed.read, diff_id).map(|()| fed.sent),
    })
    .await?;
    let layer = Descriptor { media_type: LAYER_TYPE, size: fed.size, digest: fed.sent };
    stored.insert(place, (layer, image.clone()));
    Ok(layer)
}

fn require(path: &str, unpacked: &Digest, diff_id: &Digest) -> Result<(), String> {
    if unpacked == diff_id { Ok(()) } else { Err(format!("its layer {path} is {unpacked}, not {diff_id} as its config says")) }
}
