//! `api/storage/<key>/<path>`: what is in the tree, and what is said about it; and the files themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, UNIX_EPOCH};

use berth_names::{ApiVersion, Reference, RepositoryKey};
use berth_registry::access::Right;
use berth_registry::browse::{File, Folder, Listing, Node};
use berth_registry::properties::PropertyChange;
use berth_registry::{Error, Repository};
use berth_storage::keys::Item;
use http::StatusCode;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::browse::{Place, Sight};
use super::openapi::names;
use super::{RestCall, bad, forbidden, log_in, notation, refused, require, seen_repository};
use crate::http::errors;
use crate::http::respond::{Answer, With, content, empty, json as json_answer};

type Outcome = Result<Answer, Answer>;

const CHECKSUM_SHA256: HeaderName = HeaderName::from_static("x-checksum-sha256");

/// Questions of Artifactory's that have no answer here.
const UNANSWERED: [(&str, &str); 3] = [
    ("stats", "downloads are not counted"),
    ("permissions", "permissions are at /api/security/permissions"),
    ("effectivePermissions", "permissions are at /api/security/permissions"),
];

/// A time as Artifactory writes it.
pub(super) fn time(at_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms)).to_string()
}

/// Where something can be looked at.
pub(super) fn uri(call: &RestCall, key: &RepositoryKey, path: &str) -> String {
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{}/artifactory/api/storage/{key}{slash}{path}", call.view.origin)
}

/// A query's switch: there, and not `0`.
fn is_on(call: &RestCall, name: &str) -> bool {
    call.query.get(name).is_some_and(|value| value != "0" && value != "false")
}

pub(super) async fn info(call: &RestCall, place: &Place) -> Outcome {
    if let Some((_, why)) = UNANSWERED.iter().find(|(name, _)| call.query.get(name).is_some()) {
        return Err(bad(why));
    }
    let repository = seen_repository(call, &place.key).await?;
    let sight = Sight::of(call).await?;
    if is_on(call, "list") {
        return list(call, &sight, &repository, &place.path).await;
    }
    let node = sight.node(&repository, &place.path).await?;
    if let Some(names) = call.query.get("properties") {
        return properties(call, &repository, place, &node, names).await;
    }
    if call.query.get("lastModified").is_some() {
        return last_modified(call, place, &node);
    }
    Ok(json_answer(StatusCode::OK, &describe(call, &repository, &place.path, &node).await?))
}

/// What something in the tree is, in Artifactory's form. Who made it is not known, so it is not said.
pub(super) async fn describe(call: &RestCall, repository: &Repository, path: &str, node: &Node) -> Result<Map<String, Value>, Answer> {
    let (created_ms, modified_ms) = match node {
        Node::Folder(folder) => (folder.created_ms, folder.modified_ms),
        Node::File(file) => (file.created_ms, file.modified_ms),
    };
    let mut described = Map::new();
    let mut put = |name: &str, value: Value| described.insert(name.to_owned(), value);
    put("repo", json!(repository.key));
    put("path", format!("/{path}").into());
    put("created", time(created_ms).into());
    put("lastModified", time(modified_ms).into());
    put("lastUpdated", time(modified_ms).into());
    put("uri", uri(call, &repository.key, path).into());
    match node {
        Node::Folder(Folder { children, more, .. }) => {
            let children = children.iter().map(|(name, folder)| json!({ "uri": format!("/{name}"), "folder": folder }));
            put("children", children.collect());
            if *more {
                put("incomplete", true.into());
            }
        }
        Node::File(file) => {
            put("downloadUri", format!("{}/artifactory/{}/{path}", call.view.origin, repository.key).into());
            put("mimeType", file.media_type.clone().into());
            put("size", file.content.size.to_string().into());
            put("checksums", checksums(file).await?.into());
            // Only a V2 client names the digest of what it sends.
            let original = file.sha256.as_ref().filter(|_| repository.api_version == ApiVersion::V2);
            put("originalChecksums", original.map_or_else(|| json!({}), |sha256| json!({ "sha256": sha256 })));
        }
    }
    Ok(described)
}

async fn checksums(file: &File) -> Result<Map<String, Value>, Answer> {
    let sums = file.checksums().await.map_err(refused)?;
    let known = [("sha1", sums.sha1), ("md5", sums.md5), ("sha256", sums.sha256)];
    Ok(known.into_iter().filter_map(|(name, sum)| Some((name.to_owned(), sum?.into()))).collect())
}

/// What is in a folder, as a list.
#[derive(Serialize, JsonSchema)]
pub(super) struct FileList {
    /// The folder.
    uri: String,
    files: Vec<ListedFile>,
    /// Whether there is more than a list shows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

/// A file or folder in a list.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ListedFile {
    /// Its path below the folder.
    uri: String,
    /// In bytes; of folders -1.
    size: i64,
    #[schemars(with = "names::Time")]
    last_modified: String,
    folder: bool,
    /// SHA-256, if it is known without reading the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha2: Option<String>,
}

async fn list(call: &RestCall, sight: &Sight<'_>, repository: &Repository, path: &str) -> Outcome {
    let depth = match call.query.number("depth") {
        None if is_on(call, "deep") => usize::MAX,
        None => 1,
        Some(Ok(depth)) if depth > 0 => depth,
        Some(_) => return Err(bad("depth must be a whole number above zero")),
    };
    let listed = sight.look(async |eyes| call.registry.list_below(repository, path, depth, eyes).await).await;
    let Listing { entries, more } = listed.map_err(|error| sight.not_found(&repository.key, error))?;
    let shows_folders = is_on(call, "listFolders");
    let files = entries
        .into_iter()
        .filter(|entry| shows_folders || !entry.folder)
        .map(|entry| ListedFile {
            uri: entry.path,
            size: if entry.folder { -1 } else { entry.size.try_into().unwrap_or(i64::MAX) },
            last_modified: time(entry.modified_ms),
            folder: entry.folder,
            sha2: entry.sha256,
        })
        .collect();
    Ok(json_answer(StatusCode::OK, &FileList { uri: uri(call, &repository.key, path), files, incomplete: more }))
}

fn item(node: &Node) -> Option<&Item> {
    match node {
        Node::Folder(folder) => folder.item.as_ref(),
        Node::File(file) => file.item.as_ref(),
    }
}

async fn properties(call: &RestCall, repository: &Repository, place: &Place, node: &Node, names: &str) -> Outcome {
    let names: BTreeSet<String> = notation::list(names).ok_or_else(unreadable)?.into_iter().filter(|name| !name.is_empty()).collect();
    let mut said = match item(node) {
        Some(item) => call.registry.properties(&repository.key, item).await.map_err(refused)?,
        None => BTreeMap::new(),
    };
    if !names.is_empty() {
        said.retain(|name, _| names.contains(name));
    }
    if said.is_empty() {
        return Err(errors::rest(StatusCode::NOT_FOUND, "No properties could be found."));
    }
    Ok(json_answer(StatusCode::OK, &json!({ "properties": said, "uri": uri(call, &place.key, &place.path) })))
}

fn last_modified(call: &RestCall, place: &Place, node: &Node) -> Outcome {
    let modified_ms = match node {
        Node::File(file) => file.modified_ms,
        Node::Folder(folder) if folder.item.is_some() && !folder.more => folder.modified_ms,
        Node::Folder(_) => return Err(bad("when something was last modified is known of images, tags, V1 images and files")),
    };
    Ok(json_answer(StatusCode::OK, &json!({ "uri": uri(call, &place.key, &place.path), "lastModified": time(modified_ms) })))
}

fn unreadable() -> Answer {
    bad("properties are written name=value,value;name=value, with a backslash in front of what is not to be read so")
}

pub(super) async fn set_properties(call: &RestCall, place: &Place) -> Outcome {
    let wanted = call.query.get("properties").and_then(notation::properties).ok_or_else(unreadable)?;
    if wanted.is_empty() {
        return Err(unreadable());
    }
    change(call, place, &PropertyChange::Set(wanted)).await
}

pub(super) async fn delete_properties(call: &RestCall, place: &Place) -> Outcome {
    let names = call.query.get("properties").and_then(notation::list).ok_or_else(unreadable)?;
    let names: BTreeSet<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(unreadable());
    }
    change(call, place, &PropertyChange::Remove(names)).await
}

async fn change(call: &RestCall, place: &Place, change: &PropertyChange) -> Outcome {
    let repository = seen_repository(call, &place.key).await?;
    let sight = Sight::of(call).await?;
    let node = sight.node(&repository, &place.path).await?;
    let Some(item) = item(&node) else { return Err(bad("properties are about images, tags and V1 images")) };
    match item {
        Item::Image(image) | Item::Tag(image, _) => require(call, &repository, image, Right::Annotate)?,
        Item::V1Image(id) if sight.may_with_v1_image(&repository, id, Right::Annotate).await? => {}
        Item::V1Image(_) if call.caller.is_anonymous() => return Err(log_in()),
        Item::V1Image(_) => return Err(forbidden()),
    }
    // As Artifactory does, unless it is told not to.
    let everything = call.query.get("recursive").is_none_or(|value| value != "0" && value != "false");
    call.registry.change_properties(&repository.key, item, change, everything).await.map_err(refused)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

pub(super) async fn download(call: &RestCall, place: &Place) -> Outcome {
    let repository = seen_repository(call, &place.key).await?;
    let node = Sight::of(call).await?.node(&repository, &place.path).await?;
    let Node::File(file) = node else {
        let message = format!("this is a folder; what is in it stands at {}", uri(call, &place.key, &place.path));
        return Err(errors::rest(StatusCode::NOT_FOUND, &message));
    };
    let answer = content(file.content)
        .with(CONTENT_TYPE, &file.media_type)
        .with(LAST_MODIFIED, httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(file.modified_ms)))
        .with(CACHE_CONTROL, "private, no-cache")
        // What somebody has pushed is not to be taken for a page of ours.
        .with(X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with(ACCEPT_RANGES, "bytes");
    Ok(match &file.sha256 {
        Some(sha256) => answer.with(ETAG, format!("\"{sha256}\"")).with(CHECKSUM_SHA256, sha256),
        None => answer,
    })
}

/// Deletes the image or tag that a path stands for. What only it led to goes by itself.
pub(super) async fn delete(call: &RestCall, place: &Place) -> Outcome {
    let repository = seen_repository(call, &place.key).await?;
    let node = Sight::of(call).await?.node(&repository, &place.path).await?;
    let (registry, key) = (&call.registry, &repository.key);
    match item(&node) {
        Some(Item::Tag(image, tag)) => {
            require(call, &repository, image, Right::Delete)?;
            match repository.api_version {
                ApiVersion::V1 => registry.delete_v1_tag(key, image, tag).await.map_err(refused)?,
                ApiVersion::V2 => registry.delete_manifest(key, image, &Reference::Tag(tag.clone())).await.map_err(refused)?,
            }
        }
        Some(Item::Image(image)) => {
            require(call, &repository, image, Right::Delete)?;
            let deleted = match repository.api_version {
                ApiVersion::V1 => registry.delete_v1_tags(key, image).await,
                ApiVersion::V2 => registry.delete_tags(key, image).await,
            };
            if deleted.map_err(refused)? == 0 {
                return Err(refused(Error::ImageUnknown(image.clone())));
            }
        }
        Some(Item::V1Image(_)) => return Err(bad("a V1 image goes by itself when no tag leads to it")),
        None => return Err(bad("only an image or a tag can be deleted; the rest goes by itself when nothing leads to it")),
    }
    Ok(empty(StatusCode::NO_CONTENT))
}
