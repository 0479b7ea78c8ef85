//! What clients get that understand only schema 1: a manifest made of the one that is stored, and signed by the registry.
//!
//! As distribution does it (protocol reference §6.5, §6.6): one V1 image for each entry of the config's history, with ids that
//! are hashes of what is in them, and the empty layer where an entry has none. What is signed is the same each time and from
//! every backend, so its digest is too; nothing is stored of it.
//!
//! Each id is made of the digests of its layer and of all layers below, the top one's of the whole config too, and none of
//! what the config claims that layers unpack to: docker 1.6 to 1.9 keep what they have under an id, and so never get another
//! image's layers. Two images of the same layers share the ids below the top even if they say different things about how the
//! layers were made, which is what `docker history` shows and nothing runs by.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use berth_names::{Algorithm, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_storage::{Batch, get_record, keys, records};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::schema1::{FsLayer, History, LAYERS_MAX, SIGNED, Schema1, is_schema1};
use super::signature::{Key, pretty};
use super::{MANIFEST_BYTES_MAX, ManifestContent};
use crate::details::{Descriptor, OLD_PLATFORM, Wire};
use crate::hash::digest_of;
use crate::json::{check_names, or_empty, shapes};
use crate::v1::is_made_by_registry;
use crate::v1::migration::{NO_TIME, is_time};
use crate::{Error, Registry, Result, empty_layer};

/// The types of config that docker takes for an image's, over V1 as over V2. Docker 1.10 and some builders called theirs
/// by one of the last three, or by none; the config itself then says whether it is one.
const CONFIG_TYPES: [&str; 7] = [
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.plugin.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];

/// The layers that a docker of that time can unpack, over V1 as over V2: gzip and plain tars.
pub(crate) const LAYER_TYPES: [&str; 4] = [
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar",
];

/// Whether docker takes a config of this type for an image's.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    CONFIG_TYPES.contains(&media_type)
}

/// Of a config, what the manifest is made of.
#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
    created: Option<String>,
    rootfs: RootFs,
    history: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct RootFs {
    /// Docker leaves it out of the config of an image without layers.
    #[serde(default, deserialize_with = "or_empty")]
    diff_ids: Vec<Digest>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    created: Option<String>,
    author: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

/// The JSON of a V1 image below the top one.
#[derive(Serialize)]
struct V1Json<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parent: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    comment: &'a str,
    created: &'a str,
    container_config: ContainerConfig<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    author: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    throwaway: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig<'a> {
    cmd: [&'a str; 1],
}

/// What is to be signed, for an image of this name, tag, config and layers, root first.
pub(super) fn document(name: &str, tag: &str, config: &[u8], layers: &[Digest]) -> std::result::Result<Vec<u8>, &'static str> {
    const ODD: &str = "its config can't be read";
    if !crate::json::is_sane(config) || check_names(config, &shapes::CONFIG).is_err() {
        return Err(ODD);
    }
    let read: Config = serde_json::from_slice(config).map_err(|_| ODD)?;
    let history = history(&read, layers.len())?;
    let mut layers = layers.iter();
    let (mut fs_layers, mut compatibilities, mut parent) = (Vec::new(), Vec::new(), String::new());
    for (at, entry) in history.iter().enumerate() {
        let blob_sum = if entry.empty_layer { empty_layer::digest() } else { *layers.next().ok_or(ODD)? };
        let is_top = at + 1 == history.len();
        let mut named = format!("{} {parent}", blob_sum.hex()).into_bytes();
        if is_top {
            named.push(b' ');
            named.extend(config);
        }
        let id = digest_of(Algorithm::Sha256, &named).hex();
        let json = if is_top { top(config, &id, &parent, entry.empty_layer) } else { below(entry, &id, &parent) };
        fs_layers.push(FsLayer { blob_sum });
        compatibilities.push(History { v1_compatibility: json.map_err(|_| ODD)? });
        parent = id;
    }
    fs_layers.reverse();
    compatibilities.reverse();
    let architecture = read.architecture.filter(|text| !text.is_empty()).unwrap_or_else(|| "amd64".to_owned());
    let (name, tag) = (name.to_owned(), tag.to_owned());
    pretty(&Schema1 { schema_version: 1, name, tag, architecture, fs_layers, history: compatibilities }).ok_or(ODD)
}

/// The history, one entry for each V1 image, root first. An image without one gets an entry for each layer, and one for the
/// config if it has no layers either.
fn history(config: &Config, layers: usize) -> std::result::Result<Vec<Entry>, &'static str> {
    let history = match &config.history {
        Some(history) if !history.is_empty() => history.clone(),
        _ => {
            let entry = Entry { created: config.created.clone(), empty_layer: layers == 0, ..Entry::default() };
            vec![entry; layers.max(1)]
        }
    };
    if history.len() > LAYERS_MAX {
        return Err("it has too many layers");
    }
    let filled = history.iter().filter(|entry| !entry.empty_layer).count();
    if filled != layers || config.rootfs.diff_ids.len() != layers {
        return Err("its config is of other layers than its manifest");
    }
    Ok(history)
}

fn below(entry: &Entry, id: &str, parent: &str) -> serde_json::Result<String> {
    serde_json::to_string(&V1Json {
        id,
        parent,
        comment: entry.comment.as_deref().unwrap_or_default(),
        created: entry.created.as_deref().filter(|text| is_time(text)).unwrap_or(NO_TIME),
        container_config: ContainerConfig { cmd: [entry.created_by.as_deref().unwrap_or_default()] },
        author: entry.author.as_deref().unwrap_or_default(),
        throwaway: entry.empty_layer,
    })
}

/// The top image's JSON: the config without what only later dockers know.
fn top(config: &[u8], id: &str, parent: &str, throwaway: bool) -> serde_json::Result<String> {
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(config)?;
    fields.retain(|name, _| !["rootfs", "history"].contains(&name.as_str()) && !is_made_by_registry(name));
    fields.insert("id".to_owned(), to_raw_value(id)?);
    if !parent.is_empty() {
        fields.insert("parent".to_owned(), to_raw_value(parent)?);
    }
    if throwaway {
        fields.insert("throwaway".to_owned(), to_raw_value(&true)?);
    }
    serde_json::to_string(&fields)
}

/// The config and the layers, if a docker of that time can make something of them.
fn usable(wire: &Wire) -> std::result::Result<(Digest, Vec<Digest>), &'static str> {
    let config = wire.config.as_ref().filter(|config| is_image_config(&config.media_type));
    let config = config.ok_or("this is no image that docker could run")?;
    if wire.layers.iter().any(|layer| layer.media_type.contains("zstd")) {
        return Err("the image has layers packed with zstd");
    }
    if wire.layers.iter().any(|layer| !LAYER_TYPES.contains(&layer.media_type.as_str())) {
        return Err("the image has layers that are neither gzip nor plain tars, or are kept elsewhere");
    }
    let digest = |one: &Descriptor| one.digest;
    Ok((config.digest, wire.layers.iter().map(digest).collect()))
}

impl Registry {
    /// What a tag points to, as a signed manifest of schema 1; what was pushed so is as it was pushed. Of an index that is
    /// the image for `linux/amd64`.
    ///
    /// What is signed, and with it the digest, depends only on what is stored. Only the signature itself differs from one
    /// time to the next.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`]; [`Error::NotAsSchema1`] says why it can't be.
    pub async fn manifest_as_schema1(&self, repository: &RepositoryKey, image: &ImageName, tag: &Tag) -> Result<ManifestContent> {
        let row = get_record::<records::Tag>(self.store.as_ref(), &keys::tag(repository, image, tag)).await?;
        let (row, _) = row.ok_or_else(|| Error::ManifestUnknown(Reference::Tag(tag.clone())))?;
        let stored = Reference::Digest(row.digest);
        if is_schema1(&row.media_type) {
            return self.manifest(repository, image, &stored).await;
        }
        let one = self.one_image(repository, image, &stored, Some(OLD_PLATFORM)).await.map_err(|error| match error {
            Error::ManifestUnknown(_) => Error::NotAsSchema1("the image is not for linux/amd64"),
            error => error,
        })?;
        if is_schema1(&one.manifest.media_type) {
            return Ok(one.manifest);
        }
        let (config, layers) = usable(&one.wire).map_err(Error::NotAsSchema1)?;
        let config = self.config(repository, image, &config).await?;
        let payload = document(image.as_str(), tag.as_str(), &config, &layers).map_err(Error::NotAsSchema1)?;
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(row.updated_ms)).to_string();
        let signed = self.schema1_key().await?.sign(&payload, &time).ok_or(Error::Internal("a manifest could not be signed"))?;
        if signed.len() > MANIFEST_BYTES_MAX {
            return Err(Error::NotAsSchema1("its manifest would be too large"));
        }
        Ok(ManifestContent { digest: digest_of(Algorithm::Sha256, &payload), media_type: SIGNED.to_owned(), bytes: signed.into() })
    }

    /// Makes the key that generated manifests are signed with, unless there is one: pulls are to write nothing.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn prepare_signing(&self) -> Result<()> {
        self.schema1_key().await.map(drop)
    }

    /// The key that generated manifests are signed with: one for the whole store.
    async fn schema1_key(&self) -> Result<Key> {
        let row = keys::schema1_key();
        let pkcs8 = match self.store.get(&row).await? {
            Some(pkcs8) => pkcs8,
            None => {
                self.commit_with(|| async {
                    // Another request may have been first.
                    if let Some(pkcs8) = self.store.get(&row).await? {
                        return Ok((Batch::deferred(), pkcs8));
                    }
                    let pkcs8 = Bytes::from(Key::generate().ok_or(Error::Internal("no key could be made"))?);
                    let mut batch = Batch::new();
                    batch.expect(row.clone(), None).put(row.clone(), pkcs8.clone());
                    Ok((batch, pkcs8))
                })
                .await?
            }
        };
        Key::read(&pkcs8).ok_or_else(|| crate::blobs::damaged(&row))
    }
}
