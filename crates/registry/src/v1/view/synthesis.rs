//! The V1 images of a V2 image: pure functions of its manifest and its config.

use std::collections::BTreeMap;

use berth_names::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::super::ImageId;
use super::makes_ids;
use crate::hash::digest_of;
use crate::json::{check_names, shapes};
use crate::manifests::LAYER_TYPES;

/// What only V2 says.
const V2_ONLY: [&str; 2] = ["rootfs", "history"];

/// What a manifest says of an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    pub(super) config: Digest,
    /// Root first.
    pub(super) layers: Vec<Layer>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct WireManifest {
    config: WireConfig,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct WireConfig {
    digest: Digest,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
    #[serde(default)]
    history: Vec<History>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct History {
    created: Option<String>,
    created_by: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

/// What the manifest says, if it is an image with layers that V1 clients can take.
pub(super) fn recipe_of(manifest: &[u8]) -> Option<Recipe> {
    let WireManifest { config, layers } = serde_json::from_slice(manifest).ok()?;
    let fits =
        !layers.is_empty() && makes_ids(&config.digest) && layers.iter().all(|layer| LAYER_TYPES.contains(&layer.media_type.as_str()));
    fits.then_some(Recipe { config: config.digest, layers })
}

/// The ids of the V1 images of a config, root first.
pub(super) fn chain_ids(config: &[u8], digest: &Digest) -> Option<Vec<ImageId>> {
    let Config { rootfs, .. } = serde_json::from_slice(config).ok()?;
    // V2 clients would find other layers in it.
    check_names(config, &shapes::CONFIG).ok()?;
    let mut chain: Vec<Digest> = Vec::with_capacity(rootfs.diff_ids.len());
    for diff_id in rootfs.diff_ids {
        let next = match chain.last() {
            Some(below) => digest_of(Algorithm::Sha256, format!("{below} {diff_id}").as_bytes()),
            None => diff_id,
        };
        chain.push(next);
    }
    *chain.last_mut()? = *digest;
    chain.iter().map(|link| link.hash().try_into().ok().filter(|_| makes_ids(link)).map(ImageId::from_bytes)).collect()
}

/// The JSON of the V1 image at a place of the chain of `count`: the top one has the whole config, every other one what
/// the history says of it.
pub(super) fn v1_json(config: &[u8], (id, parent): (&ImageId, Option<&ImageId>), at: usize, count: usize) -> Option<Vec<u8>> {
    if at + 1 == count {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(config).ok()?;
        fields.retain(|name, _| !V2_ONLY.contains(&name.as_str()));
        fields.insert("id".to_owned(), to_raw_value(id).ok()?);
        if let Some(parent) = parent {
            fields.insert("parent".to_owned(), to_raw_value(parent).ok()?);
        }
        return serde_json::to_vec(&fields).ok();
    }
    #[derive(Serialize)]
    struct Dependency<'a> {
        id: &'a ImageId,
        #[serde(skip_serializing_if = "Option::is_none")]
        parent: Option<&'a ImageId>,
        // Docker before 1.10 reads a time here, and shows it.
        created: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        author: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
        container_config: serde_json::Value,
    }
    let Config { history, .. } = serde_json::from_slice(config).ok()?;
    let told = history.into_iter().filter(|entry| !entry.empty_layer).nth(at);
    let (created, created_by, author, comment) =
        told.map_or((None, None, None, None), |told| (told.created, told.created_by, told.author, told.comment));
    let created = created.unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned());
    let container_config = created_by.map_or_else(|| json!({}), |text| json!({ "Cmd": [text] }));
    serde_json::to_vec(&Dependency { id, parent, created, author, comment, container_config }).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema1 {
    schema_version: u8,
    fs_layers: Vec<FsLayer>,
    history: Vec<Compatibility>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compatibility {
    v1_compatibility: String,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// Layers and the JSON of their V1 images, root first, of a manifest of schema 1. Docker before 1.10 wrote some twice in a row.
fn schema1_chain(manifest: &[u8]) -> Option<Vec<(Digest, String)>> {
    let Schema1 { schema_version: 1, fs_layers, history } = serde_json::from_slice(manifest).ok()? else { return None };
    let mut chain: Vec<(Digest, String)> = Vec::with_capacity(history.len());
    let name = |json: &str| serde_json::from_str::<Named>(json).ok().map(|named| named.id);
    for (layer, entry) in fs_layers.into_iter().zip(history).rev() {
        if chain.last().is_none_or(|(_, below)| name(below) != name(&entry.v1_compatibility)) {
            chain.push((layer.blob_sum, entry.v1_compatibility));
        }
    }
    Some(chain)
}

/// The V1 images of a manifest of schema 1, root first, each with its layer.
///
/// Its own ids are not taken: clients chose them, and whoever may push one image could give it the ids of another's. These
/// are hashes of what the images are, and so the same wherever they are the same.
pub(super) fn schema1_images(manifest: &[u8]) -> Option<Vec<(ImageId, Digest)>> {
    let mut images: Vec<(ImageId, Digest)> = Vec::new();
    for (layer, json) in schema1_chain(manifest)? {
        let below = images.last().map(|(id, _)| id.to_string()).unwrap_or_default();
        let id = digest_of(Algorithm::Sha256, format!("{} {below} {json}", layer.hex()).as_bytes());
        images.push((ImageId::from_bytes(id.hash().try_into().ok()?), layer));
    }
    Some(images).filter(|images| !images.is_empty())
}

/// The JSON of one of them, with the ids that are shown in place of its own.
pub(super) fn schema1_json(manifest: &[u8], (id, parent): (&ImageId, Option<&ImageId>), at: usize) -> Option<Vec<u8>> {
    let (_, json) = schema1_chain(manifest)?.into_iter().nth(at)?;
    let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&json).ok()?;
    for own in ["parent", "throwaway"] {
        fields.remove(own);
    }
    fields.insert("id".to_owned(), to_raw_value(id).ok()?);
    if let Some(parent) = parent {
        fields.insert("parent".to_owned(), to_raw_value(parent).ok()?);
    }
    serde_json::to_vec(&fields).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::sha256([byte; 32])
    }

    fn config() -> Vec<u8> {
        json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(1), digest(2)] },
            "history": [
                { "created": "2019-01-01T00:00:00Z", "created_by": "ADD x" }, { "created_by": "ENV a=b", "empty_layer": true },
                { "created": "2020-01-01T00:00:00Z", "created_by": "RUN y", "comment": "c" },
            ],
        })
        .to_string()
        .into_bytes()
    }

    #[test]
    fn ids_are_chain_ids_and_the_configs_digest() {
        let own = digest_of(Algorithm::Sha256, &config());
        let ids = chain_ids(&config(), &own).unwrap();
        assert_eq!(ids.iter().map(ToString::to_string).collect::<Vec<_>>(), [digest(1).hex(), own.hex()]);
        let three = json!({ "rootfs": { "diff_ids": [digest(1), digest(2), digest(3)] } }).to_string();
        let second = digest_of(Algorithm::Sha256, format!("{} {}", digest(1), digest(2)).as_bytes());
        assert_eq!(chain_ids(three.as_bytes(), &own).unwrap()[1].to_string(), second.hex());
        for none in [r#"{"rootfs":{"diff_ids":[]}}"#, "{}", "[]", ""] {
            assert_eq!(chain_ids(none.as_bytes(), &own), None, "{none}");
        }
    }

    #[test]
    fn the_top_has_the_config_and_the_others_what_the_history_says() {
        let own = digest_of(Algorithm::Sha256, &config());
        let ids = chain_ids(&config(), &own).unwrap();
        let read =
            |at, parent| -> serde_json::Value { serde_json::from_slice(&v1_json(&config(), (&ids[at], parent), at, 2).unwrap()).unwrap() };
        assert_eq!(read(0, None), json!({ "id": ids[0], "created": "2019-01-01T00:00:00Z", "container_config": { "Cmd": ["ADD x"] } }));
        assert_eq!(
            read(1, Some(&ids[0])),
            json!({ "id": ids[1], "parent": ids[0], "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
                "config": { "Cmd": ["sh"] } })
        );
    }

    #[test]
    fn schema_1_is_shown_under_ids_that_follow_from_what_it_is() {
        let compatibility = |id: u8, parent: Option<u8>, more: &str| {
            let parent = parent.map(|parent| format!(r#""parent":"{}","#, digest(parent).hex())).unwrap_or_default();
            json!({ "v1Compatibility": format!(r#"{{"id":"{}",{parent}"comment":"{more}"}}"#, digest(id).hex()) })
        };
        let manifest = |root_layer: u8| {
            json!({ "schemaVersion": 1, "name": "a", "tag": "1",
                "fsLayers": [{ "blobSum": digest(2) }, { "blobSum": digest(2) }, { "blobSum": digest(root_layer) }],
                "history": [compatibility(8, Some(7), "top"), compatibility(8, Some(7), "top"), compatibility(7, None, "root")] })
            .to_string()
            .into_bytes()
        };
        let images = schema1_images(&manifest(1)).unwrap();
        assert_eq!(images.iter().map(|(_, layer)| *layer).collect::<Vec<_>>(), [digest(1), digest(2)]);
        let json: serde_json::Value =
            serde_json::from_slice(&schema1_json(&manifest(1), (&images[1].0, Some(&images[0].0)), 1).unwrap()).unwrap();
        assert_eq!(json, json!({ "id": images[1].0, "parent": images[0].0, "comment": "top" }));
        // Under the same ids of their own, other layers are other images.
        let others = schema1_images(&manifest(3)).unwrap();
        assert!(images.iter().all(|(id, _)| others.iter().all(|(other, _)| other != id)));
        assert_eq!(schema1_images(&config()), None);
    }

    #[test]
    fn only_images_that_v1_clients_can_unpack_are_shown() {
        let manifest = |layer_type: &str| {
            json!({ "config": { "digest": digest(9) }, "layers": [{ "mediaType": layer_type, "digest": digest(1), "size": 5 }] })
                .to_string()
        };
        for layer_type in LAYER_TYPES {
            assert_eq!(recipe_of(manifest(layer_type).as_bytes()).unwrap().layers[0].size, 5);
        }
        for other in [
            manifest("application/vnd.oci.image.layer.v1.tar+zstd"),
            manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
            json!({ "config": { "digest": digest(9) }, "layers": [] }).to_string(),
            json!({ "manifests": [] }).to_string(),
        ] {
            assert_eq!(recipe_of(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), at in 0..4_usize) {
            let id = ImageId::from_bytes([1; 32]);
            let _ = (recipe_of(&bytes), chain_ids(&bytes, &digest(1)), v1_json(&bytes, (&id, None), at, 4));
            let _ = (schema1_images(&bytes), schema1_json(&bytes, (&id, None), at));
        }
    }
}
