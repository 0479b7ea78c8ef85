//! The V1 images of a V2 image: pure functions of its manifest and its config.

use std::collections::BTreeMap;

use berth_names::{Algorithm, Digest};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::super::{ImageId, is_made_by_registry};
use crate::empty_layer;
use crate::hash::digest_of;
use crate::json::{check_names, or_empty, shapes};
use crate::manifests::{LAYER_TYPES, is_image_config};

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
    #[serde(default, deserialize_with = "or_empty")]
    media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct WireManifest {
    config: WireConfig,
    #[serde(default, deserialize_with = "or_empty")]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireConfig {
    #[serde(default, deserialize_with = "or_empty")]
    media_type: String,
    digest: Digest,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
    #[serde(default, deserialize_with = "or_empty")]
    history: Vec<History>,
}

#[derive(Deserialize)]
struct RootFs {
    /// Docker leaves it out of the config of an image without layers.
    #[serde(default, deserialize_with = "or_empty")]
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
    let fits = is_image_config(&config.media_type) && layers.iter().all(|layer| LAYER_TYPES.contains(&layer.media_type.as_str()));
    fits.then_some(Recipe { config: config.digest, layers })
}

/// The layers that V1 clients are shown. A V1 image can't be without one: an image that has none is its config on the empty
/// layer, which everybody has.
fn shown_layers(layers: Vec<Layer>) -> Vec<Layer> {
    if !layers.is_empty() {
        return layers;
    }
    let media_type = LAYER_TYPES[0].to_owned();
    vec![Layer { media_type, digest: empty_layer::digest(), size: empty_layer::bytes().len() as u64 }]
}

/// Names and values of a JSON, in the order in which they are written.
type Fields = BTreeMap<String, Box<RawValue>>;

/// The V1 images of a config and these layers, root first, each with its layer; none unless there are as many as the config
/// says.
pub(super) fn images(config: &[u8], layers: Vec<Layer>) -> Option<Vec<(ImageId, Layer)>> {
    let Config { rootfs, .. } = serde_json::from_slice(config).ok()?;
    if rootfs.diff_ids.len() != layers.len() {
        return None;
    }
    let layers = shown_layers(layers);
    Some(image_ids(config, &layers)?.into_iter().zip(layers).collect())
}

/// The ids of the V1 images of a config and these layers, root first.
fn image_ids(config: &[u8], layers: &[Layer]) -> Option<Vec<ImageId>> {
    let Config { history, .. } = serde_json::from_slice(config).ok()?;
    // V2 clients would find other layers in it.
    check_names(config, &shapes::CONFIG).ok()?;
    let mut told = told(history);
    let mut ids: Vec<ImageId> = Vec::with_capacity(layers.len());
    for (at, layer) in layers.iter().enumerate() {
        let json = if at + 1 == layers.len() { top(config)? } else { below(told.next())? };
        let json = serde_json::to_string(&json).ok()?;
        ids.push(id_of("view of a config ", &layer.digest, ids.last(), &json)?);
    }
    Some(ids)
}

/// The id of a V1 image: a hash of all that it is. `kind` stands in front, so that no two rules make the same of two things.
fn id_of(kind: &str, layer: &Digest, below: Option<&ImageId>, json: &str) -> Option<ImageId> {
    let below = below.map(ToString::to_string).unwrap_or_default();
    let named = format!("{kind}{} {below} {json}", layer.hex());
    digest_of(Algorithm::Sha256, named.as_bytes()).hash().try_into().ok().map(ImageId::from_bytes)
}

/// The JSON of the V1 image at a place of the chain of `count`: the top one has the whole config, every other one what
/// the history says of it.
pub(super) fn v1_json(config: &[u8], (id, parent): (&ImageId, Option<&ImageId>), at: usize, count: usize) -> Option<Vec<u8>> {
    let fields = if at + 1 == count {
        top(config)?
    } else {
        let Config { history, .. } = serde_json::from_slice(config).ok()?;
        below(told(history).nth(at))?
    };
    placed(fields, id, parent)
}

/// Adds what places a V1 image in its chain.
fn placed(mut fields: Fields, id: &ImageId, parent: Option<&ImageId>) -> Option<Vec<u8>> {
    fields.insert("id".to_owned(), to_raw_value(id).ok()?);
    if let Some(parent) = parent {
        fields.insert("parent".to_owned(), to_raw_value(parent).ok()?);
    }
    serde_json::to_vec(&fields).ok()
}

/// What the history says of each layer.
fn told(history: Vec<History>) -> impl Iterator<Item = History> {
    history.into_iter().filter(|entry| !entry.empty_layer)
}

/// The config without what only V2 says, and without what would place the image somewhere else.
fn top(config: &[u8]) -> Option<Fields> {
    let mut fields: Fields = serde_json::from_slice(config).ok()?;
    fields.retain(|name, _| !V2_ONLY.contains(&name.as_str()) && !is_made_by_registry(name));
    Some(fields)
}

fn below(told: Option<History>) -> Option<Fields> {
    let (created, created_by, author, comment) =
        told.map_or((None, None, None, None), |told| (told.created, told.created_by, told.author, told.comment));
    // Docker before 1.10 reads a time here, and shows it.
    let created = created.unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned());
    let container_config = created_by.map_or_else(|| json!({}), |text| json!({ "Cmd": [text] }));
    let mut fields = Fields::new();
    for (name, text) in [("created", Some(created)), ("author", author), ("comment", comment)] {
        if let Some(text) = text {
            fields.insert(name.to_owned(), to_raw_value(&text).ok()?);
        }
    }
    fields.insert("container_config".to_owned(), to_raw_value(&container_config).ok()?);
    Some(fields)
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
        images.push((id_of("", &layer, images.last().map(|(id, _)| id), &json)?, layer));
    }
    Some(images).filter(|images| !images.is_empty())
}

/// The JSON of one of them, with the ids that are shown in place of its own.
pub(super) fn schema1_json(manifest: &[u8], (id, parent): (&ImageId, Option<&ImageId>), at: usize) -> Option<Vec<u8>> {
    let (_, json) = schema1_chain(manifest)?.into_iter().nth(at)?;
    let mut fields: Fields = serde_json::from_str(&json).ok()?;
    fields.retain(|name, _| !is_made_by_registry(name));
    placed(fields, id, parent)
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

    fn layers(bytes: &[u8]) -> Vec<Layer> {
        bytes.iter().map(|byte| Layer { media_type: LAYER_TYPES[0].to_owned(), digest: digest(*byte), size: 1 }).collect()
    }

    #[test]
    fn an_id_stands_for_one_layer_one_json_and_one_id_below() {
        let ids = image_ids(&config(), &layers(&[11, 12])).unwrap();
        assert_eq!(image_ids(&config(), &layers(&[11, 12])).unwrap(), ids);
        let is_other = |config: &str, bytes: &[u8], shared: usize| {
            let others = image_ids(config.as_bytes(), &layers(bytes)).unwrap();
            assert_eq!(others[..shared], ids[..shared]);
            assert!(others[shared..].iter().all(|other| !ids.contains(other)), "{config} {bytes:?}");
        };
        let text = String::from_utf8(config()).unwrap();
        // The same config with other layers: what is claimed of them makes no difference.
        is_other(&text, &[11, 13], 1);
        is_other(&text, &[13, 12], 0);
        is_other(&text, &[12, 11], 0);
        // The same layers, of which something else is said.
        is_other(&text.replace("[\"sh\"]", "[\"ls\"]"), &[11, 12], 1);
        is_other(&text.replace("ADD x", "ADD y"), &[11, 12], 0);
        // What is claimed of layers is no part of them: the same images, whatever it is.
        let claims = text.replace(&digest(1).to_string(), &digest(3).to_string());
        assert_eq!(image_ids(claims.as_bytes(), &layers(&[11, 12])).unwrap(), ids);
        assert_eq!(images(&config(), layers(&[11])), None);
        for none in ["{}", r#"{"rootfs":null}"#, "[]", ""] {
            assert_eq!(images(none.as_bytes(), Vec::new()), None, "{none}");
        }
    }

    #[test]
    fn an_image_without_layers_is_its_config_on_the_empty_layer() {
        for rootfs in [json!({ "type": "layers" }), json!({ "type": "layers", "diff_ids": null }), json!({ "diff_ids": [] })] {
            let config = json!({ "os": "linux", "config": { "Labels": { "a": "b" } }, "rootfs": rootfs,
                "history": [{ "created_by": "LABEL a=b", "empty_layer": true }] })
            .to_string();
            for lists in [json!({ "layers": [] }), json!({ "layers": null }), json!({})] {
                let mut manifest = lists;
                manifest["config"] = json!({ "mediaType": "application/octet-stream", "digest": digest(9) });
                let Recipe { layers, .. } = recipe_of(manifest.to_string().as_bytes()).unwrap();
                let shown = images(config.as_bytes(), layers).unwrap();
                assert_eq!(shown.len(), 1);
                let (id, layer) = &shown[0];
                assert_eq!((layer.digest, layer.size), (empty_layer::digest(), 32));
                let json: serde_json::Value = serde_json::from_slice(&v1_json(config.as_bytes(), (id, None), 0, 1).unwrap()).unwrap();
                assert_eq!(json, json!({ "id": id, "os": "linux", "config": { "Labels": { "a": "b" } } }));
            }
            assert_eq!(images(config.as_bytes(), layers(&[1])), None);
        }
    }

    #[test]
    fn a_config_cannot_say_where_its_images_stand() {
        let id = ImageId::from_bytes([1; 32]);
        // Docker reads these names in any case.
        for names in [["id", "parent", "throwaway"], ["ID", "Parent", "Throwaway"]] {
            let [own, parent, throwaway] = names;
            let config =
                json!({ own: "x", parent: digest(7).hex(), throwaway: true, "os": "linux", "rootfs": { "diff_ids": [digest(1)] } });
            let shown = v1_json(config.to_string().as_bytes(), (&id, None), 0, 1).unwrap();
            let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
            assert_eq!(shown, json!({ "id": id, "os": "linux" }));
        }
    }

    #[test]
    fn the_top_has_the_config_and_the_others_what_the_history_says() {
        let ids = image_ids(&config(), &layers(&[11, 12])).unwrap();
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
            manifest(LAYER_TYPES[0]).replace(r#""config":{"#, r#""config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","#),
            json!({ "manifests": [] }).to_string(),
        ] {
            assert_eq!(recipe_of(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), at in 0..4_usize) {
            let id = ImageId::from_bytes([1; 32]);
            let _ = (recipe_of(&bytes), images(&bytes, layers(&[1])), v1_json(&bytes, (&id, None), at, 4));
            let _ = (schema1_images(&bytes), schema1_json(&bytes, (&id, None), at));
        }
    }
}
