//! `api/docker/<key>/v1/ancestry`, `v1/info` and `v2/info`: images as docker would show them.

use std::collections::HashMap;
use std::fmt::Write as _;

use berth_names::{ApiVersion, Digest, ImageName, Reference, RepositoryKey, Tag};
use berth_registry::access::Right;
use berth_registry::browse::path_of;
use berth_registry::details::LayerDetails;
use berth_registry::v1::{ImageId, TreeImage};
use berth_registry::{Error, Repository, is_sane_json};
use berth_storage::keys::Item;
use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::browse::Sight;
use super::openapi::names;
use super::promotion::{image_name, tag_name};
use super::storage::uri;
use super::{RestCall, bad, may, refused, require, said, seen_repository};
use crate::http::accept::Accept;
use crate::http::respond::{Answer, json as json_answer};

/// Values in the config or JSON of an image that is shown; docker's have some hundreds.
const CONFIG_VALUES_MAX: usize = 20_000;

type Outcome = Result<Answer, Answer>;

/// The repository, which must speak the protocol of the path.
async fn repository_of(call: &RestCall, key: &RepositoryKey, api_version: ApiVersion) -> Result<std::sync::Arc<Repository>, Answer> {
    let repository = seen_repository(call, key).await?;
    if repository.api_version == api_version {
        Ok(repository)
    } else {
        Err(bad(&format!("repository {key} has another API version than the path")))
    }
}

/// The parameters `image` and `tag`, if the caller may read the image.
fn named(call: &RestCall, repository: &Repository) -> Result<(Option<ImageName>, Option<Tag>), Answer> {
    let image = call.query.get("image").filter(|text| !text.is_empty());
    let image = image.map(|text| image_name(repository, "image", text)).transpose()?;
    if let Some(image) = &image {
        require(call, repository, image, Right::Read)?;
    }
    let tag = tag_name("tag", call.query.get("tag"))?;
    if image.is_none() && tag.is_some() { Err(bad("a tag needs an image")) } else { Ok((image, tag)) }
}

/// A tree of V1 images; each comes after its parent.
#[derive(Serialize, JsonSchema)]
pub(super) struct Ancestry {
    #[schemars(with = "names::RepositoryKey")]
    repo: RepositoryKey,
    images: Vec<PlacedImage>,
}

/// A V1 image in the tree.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PlacedImage {
    #[schemars(with = "names::V1ImageId")]
    id: ImageId,
    #[schemars(with = "Option<names::V1ImageId>")]
    parent: Option<ImageId>,
    /// How many images are below it.
    depth: usize,
    /// Bytes of its layer, as pushed.
    size: u64,
    /// Bytes of its layer and of all below.
    virtual_size: u64,
    /// The tags that point to it: `<image>:<tag>`.
    tags: Vec<String>,
    #[schemars(with = "Vec<names::V1ImageId>")]
    children: Vec<ImageId>,
    /// Where it can be looked at.
    uri: String,
}

/// The tree that `docker images --tree` shows: of one tag, of one image, or of everything that the caller sees.
pub(super) async fn ancestry(call: &RestCall, key: &RepositoryKey) -> Outcome {
    let repository = repository_of(call, key, ApiVersion::V1).await?;
    let (image, tag) = named(call, &repository)?;
    let sees = |image: &ImageName| may(call, &repository, image, Right::Read);
    let tree = call.registry.v1_tree(key, image.as_ref(), tag.as_ref(), &sees).await.map_err(refused)?;
    if Accept::of(&call.headers).prefers("text/plain", "application/json") {
        return Ok(said(StatusCode::OK, drawn(&tree)));
    }
    let images = tree
        .into_iter()
        .map(|image| PlacedImage {
            tags: image.tags.iter().map(|(name, tag)| format!("{name}:{tag}")).collect(),
            uri: uri(call, key, &path_of(ApiVersion::V1, &Item::V1Image(image.id))),
            id: image.id,
            parent: image.parent,
            depth: image.depth,
            size: image.size,
            virtual_size: image.virtual_size,
            children: image.children,
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &Ancestry { repo: key.clone(), images }))
}

/// The tree as docker draws it. Images come before what stands on them.
fn drawn(tree: &[TreeImage]) -> String {
    let last_children: HashMap<ImageId, bool> = tree
        .iter()
        .flat_map(|image| image.children.iter().enumerate().map(|(at, child)| (*child, at + 1 == image.children.len())))
        .collect();
    let last_root = tree.iter().rev().find(|image| image.parent.is_none()).map(|image| image.id);
    let mut drawn = String::new();
    // What stands in front of an image's children, for every image that is being drawn.
    let mut fronts: Vec<String> = vec![String::new()];
    for image in tree {
        fronts.truncate(image.depth + 1);
        let is_last = last_children.get(&image.id).copied().unwrap_or(last_root == Some(image.id));
        let front = fronts.last().cloned().unwrap_or_default();
        let id = image.id.to_string();
        let branch = if is_last { "└─" } else { "├─" };
        let _ = write!(drawn, "{front}{branch}{} Virtual Size: {}", &id[..12], human(image.virtual_size));
        let tags: Vec<String> = image.tags.iter().map(|(name, tag)| format!("{}:{tag}", short(name))).collect();
        if !tags.is_empty() {
            let _ = write!(drawn, " Tags: {}", tags.join(", "));
        }
        drawn.push('\n');
        fronts.push(front + if is_last { "  " } else { "│ " });
    }
    drawn
}

/// An image's name as docker's users write it.
fn short(name: &ImageName) -> &str {
    name.as_str().strip_prefix("library/").unwrap_or(name.as_str())
}

/// A size as docker writes it: four significant digits, in steps of 1000.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{size:.decimals$}");
    format!("{} {}", text.trim_end_matches('0').trim_end_matches('.'), UNITS[unit])
}

pub(super) async fn v1_info(call: &RestCall, key: &RepositoryKey) -> Outcome {
    let repository = repository_of(call, key, ApiVersion::V1).await?;
    let (image, tag) = named(call, &repository)?;
    let id = match (image, call.query.get("id")) {
        (Some(image), None) => {
            let tag = tag.ok_or_else(|| bad("say which tag: tag"))?;
            call.registry.v1_tag(key, &image, &tag).await.map_err(refused)?.id
        }
        (None, Some(id)) => {
            let id = id.parse().map_err(|_| bad("id is no V1 image id"))?;
            let sight = Sight::of(call).await?;
            if !sight.may_with_v1_image(&repository, &id, Right::Read).await? {
                return Err(sight.not_found(key, Error::V1ImageUnknown(id)));
            }
            id
        }
        _ => return Err(bad("say which image: image and tag, or id")),
    };
    let details = call.registry.v1_details(key, &id).await.map_err(refused)?;
    let json = value_of(&details.json);
    let mut info = Info::of(&json);
    info.put("id", json!(id));
    info.put("parent", json["parent"].clone());
    info.put_layers(&details.layers, "id");
    info.put("size", json!(details.layers.first().map(|layer| layer.size)));
    info.put("virtualSize", json!(details.layers.iter().map(|layer| layer.size).sum::<u64>()));
    info.put("uri", uri(call, key, &path_of(ApiVersion::V1, &Item::V1Image(id))).into());
    Ok(json_answer(StatusCode::OK, &info.0))
}

pub(super) async fn v2_info(call: &RestCall, key: &RepositoryKey) -> Outcome {
    let repository = repository_of(call, key, ApiVersion::V2).await?;
    let (image, tag) = named(call, &repository)?;
    let image = image.ok_or_else(|| bad("say which image: image"))?;
    let reference = match (tag, call.query.get("digest").map(str::parse::<Digest>)) {
        (Some(tag), None) => Reference::Tag(tag),
        (None, Some(Ok(digest))) => Reference::Digest(digest),
        (None, Some(Err(_))) => return Err(bad("digest is no digest")),
        _ => return Err(bad("say which one: tag or digest")),
    };
    let platform = call.query.get("platform").filter(|text| !text.is_empty());
    let details = call.registry.v2_details(key, &image, &reference, platform).await.map_err(refused)?;
    let config = value_of(&details.config);
    let mut info = Info::of(&config);
    // Docker calls an image by the digest of its config, and called it by its V1 id when there was none.
    info.put("id", details.config_digest.map_or_else(|| config["id"].clone(), |digest| json!(digest)));
    info.put("digest", json!(details.digest));
    info.put("mediaType", details.media_type.into());
    info.put("variant", config["variant"].clone());
    info.put_layers(&details.layers, "digest");
    info.put("size", json!(details.layers.iter().map(|layer| layer.size).sum::<u64>()));
    let platforms = details.platforms.iter().map(|one| json!({ "platform": one.name, "digest": one.digest }));
    info.put("platforms", platforms.collect());
    Ok(json_answer(StatusCode::OK, &info.0))
}

/// What a JSON says; nothing if it is none, or would fill the memory.
fn value_of(json: &[u8]) -> Value {
    Some(json).filter(|json| is_sane_json(json, CONFIG_VALUES_MAX)).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}

/// What is known of an image. What is empty is left out.
struct Info(Map<String, Value>);

impl Info {
    /// What V1's image JSON and V2's config have in common.
    fn of(json: &Value) -> Self {
        let mut info = Self(Map::new());
        for (name, field) in [
            ("created", "created"),
            ("author", "author"),
            ("comment", "comment"),
            ("container", "container"),
            ("dockerVersion", "docker_version"),
            ("architecture", "architecture"),
            ("os", "os"),
        ] {
            info.put(name, json[field].clone());
        }
        let config = &json["config"];
        for (name, field) in [
            ("command", "Cmd"),
            ("entrypoint", "Entrypoint"),
            ("env", "Env"),
            ("labels", "Labels"),
            ("user", "User"),
            ("workingDir", "WorkingDir"),
            ("hostname", "Hostname"),
            ("domainName", "Domainname"),
            ("onBuild", "OnBuild"),
            ("stopSignal", "StopSignal"),
            ("memory", "Memory"),
            ("memorySwap", "MemorySwap"),
            ("cpuShares", "CpuShares"),
            ("cpuSet", "Cpuset"),
            ("tty", "Tty"),
            ("openStdin", "OpenStdin"),
            ("stdinOnce", "StdinOnce"),
        ] {
            info.put(name, config[field].clone());
        }
        // Maps whose values say nothing.
        for (name, field) in [("ports", "ExposedPorts"), ("volumes", "Volumes")] {
            info.put(name, config[field].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default());
        }
        info
    }

    fn put(&mut self, name: &str, value: Value) {
        let is_empty = match &value {
            Value::Null => true,
            Value::Bool(is_so) => !is_so,
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Number(number) => number.as_u64() == Some(0) && !matches!(name, "size" | "virtualSize"),
        };
        if !is_empty {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// Layers, top first.
    fn put_layers(&mut self, layers: &[LayerDetails], name: &str) {
        self.put("layers", layers.iter().map(|layer| json!({ name: layer.name, "size": layer.size })).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_docker_writes_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (2_433_303, "2.433 MB"),
            (131_500_000, "131.5 MB"),
            (24_090_000, "24.09 MB"),
            (1_200_000_000, "1.2 GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn trees_are_drawn_as_docker_draws_them() {
        let id = |number: u8| ImageId::from_bytes([number; 32]);
        let node = |number: u8, parent: Option<u8>, depth, children: &[u8], tags: &[(&str, &str)]| TreeImage {
            id: id(number),
            parent: parent.map(id),
            depth,
            size: 1000,
            virtual_size: 1000 * (depth as u64 + 1),
            tags: tags.iter().map(|(name, tag)| (name.parse().unwrap(), tag.parse().unwrap())).collect(),
            children: children.iter().copied().map(id).collect(),
        };
        let tree = [
            node(1, None, 0, &[2, 4], &[]),
            node(2, Some(1), 1, &[3], &[("library/ubuntu", "12.04"), ("jfrog/ubuntu", "12.04")]),
            node(3, Some(2), 2, &[], &[]),
            node(4, Some(1), 1, &[], &[("library/busybox", "latest")]),
            node(5, None, 0, &[6], &[]),
            node(6, Some(5), 1, &[], &[]),
        ];
        let expected = "\
├─010101010101 Virtual Size: 1 kB
│ ├─020202020202 Virtual Size: 2 kB Tags: ubuntu:12.04, jfrog/ubuntu:12.04
│ │ └─030303030303 Virtual Size: 3 kB
│ └─040404040404 Virtual Size: 2 kB Tags: busybox:latest
└─050505050505 Virtual Size: 1 kB
  └─060606060606 Virtual Size: 2 kB
";
        assert_eq!(drawn(&tree), expected);
    }
}
