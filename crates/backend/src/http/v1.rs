//! Docker Registry V1: what docker 0.10 to 1.12 asks for. Statuses, bodies and headers are those of the original
//! registry wherever a client looks at them (protocol reference §2).

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use berth_names::{ApiVersion, ImageName, Tag};
use berth_registry::v1::{IMAGE_JSON_BYTES_MAX, ImageContent, ImageId, TagRecord};
use berth_registry::{BlobContent, Error};
use http::StatusCode;
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_TYPE, ETAG, EXPIRES, HeaderName, PRAGMA, WWW_AUTHENTICATE};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::body::{Unreadable, read_limited};
use super::call::{Call, RequestBody};
use super::errors;
use super::respond::{Answer, With, content, empty, json, tag_of, whole};
use super::route::V1;
use super::token;

const REGISTRY_VERSION: HeaderName = HeaderName::from_static("x-docker-registry-version");
const REGISTRY_STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");
const ENDPOINTS: HeaderName = HeaderName::from_static("x-docker-endpoints");
const TOKEN: HeaderName = HeaderName::from_static("x-docker-token");
const SIZE: HeaderName = HeaderName::from_static("x-docker-size");
const CHECKSUM: HeaderName = HeaderName::from_static("x-docker-checksum");
const CHECKSUM_PAYLOAD: HeaderName = HeaderName::from_static("x-docker-checksum-payload");

/// Old tools and docker up to 0.10 refuse a registry that does not tell its version; the original's last is told.
const VERSION: &str = "0.9.1";

/// The list of images that starts and ends a push: a few hundred bytes for each image and tag.
const INDEX_BYTES_MAX: usize = 4 << 20;

/// Images in that list: docker's chains end at 127.
const INDEX_IMAGES_MAX: usize = 10_000;

/// A tag's body is one quoted id.
const TAG_BYTES_MAX: usize = 1 << 10;

/// Images found by a search: what the protocol gives as default and as the most.
const SEARCH_PAGE_DEFAULT: usize = 25;
const SEARCH_PAGE_MAX: usize = 100;

/// Images in a search without a term: tools use it to list everything.
const SEARCH_ALL_MAX: usize = 10_000;

/// An image never changes; only who may see it does.
const FOREVER: &str = "private, max-age=31536000";

type Outcome = Result<Answer, Error>;

/// Hands a request that may go on to its handler.
pub(crate) async fn handle(call: &Call, route: &V1, body: RequestBody) -> Outcome {
    if call.repository.api_version == ApiVersion::V2 {
        return shown::handle(call, route).await;
    }
    match route {
        V1::Ping => Ok(ping()),
        // `docker login` up to 1.10 first tries to register. Credentials were checked: so the user exists.
        V1::CreateUser => Ok(user_exists()),
        V1::GetUser => Ok(user_is_valid()),
        V1::Search => search(call).await,
        V1::PutRepository { image } => put_repository(call, image, body).await,
        V1::GetRepositoryImages { image } => get_repository_images(call, image).await,
        V1::PutRepositoryImages { image } => put_repository_images(call, image, body).await,
        V1::GetProperties { image } => get_properties(call, image).await,
        V1::GetRepositoryJson { image } => get_repository_json(call, image).await,
        V1::GetTags { image } => get_tags(call, image).await,
        V1::GetTag { image, tag } => get_tag(call, image, tag).await,
        V1::PutTag { image, tag } => put_tag(call, image, tag, body).await,
        V1::DeleteTag { image, tag } => delete_tag(call, image, tag).await,
        V1::DeleteRepository { image } => delete_repository(call, image).await,
        V1::GetTagJson { image, tag } => get_tag_json(call, image, tag).await,
        V1::GetImageJson { id } => get_image_json(call, id).await,
        V1::PutImageJson { id } => put_image_json(call, id, body).await,
        V1::GetLayer { id } => get_layer(call, id).await,
        V1::PutLayer { id } => put_layer(call, id, body).await,
        V1::PutChecksum { id } => put_checksum(call, id).await,
        V1::GetAncestry { id } => get_ancestry(call, id).await,
    }
}

/// The protocol's "no data": the literal `true`.
fn done() -> Answer {
    json(StatusCode::OK, &true)
}

fn bad(message: &str) -> Outcome {
    Ok(errors::v1(StatusCode::BAD_REQUEST, message))
}

/// Answers that may change must not be kept.
fn fresh(answer: Answer) -> Answer {
    answer.with(CACHE_CONTROL, "no-cache").with(PRAGMA, "no-cache").with(EXPIRES, "-1")
}

pub(crate) fn ping() -> Answer {
    // Standalone makes docker send the password with every request over TLS, rather than a token.
    fresh(done()).with(REGISTRY_VERSION, VERSION).with(REGISTRY_STANDALONE, "True")
}

/// `docker login` up to 1.10 first tries to register; this literal body makes it go on to check the password.
pub(crate) fn user_exists() -> Answer {
    whole(StatusCode::BAD_REQUEST, "application/json", r#""Username or email already exists""#.into())
}

pub(crate) fn user_is_valid() -> Answer {
    fresh(json(StatusCode::OK, &"OK"))
}

/// Reads the list of images that starts or ends a push.
///
/// What it says is said again image by image and tag by tag; docker up to 0.7 even lists tags that it will move again.
async fn read_index(body: RequestBody) -> Result<BTreeSet<ImageId>, Outcome> {
    let bytes = match read_limited(body, INDEX_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => return Err(Ok(errors::v1(StatusCode::PAYLOAD_TOO_LARGE, "Too many images"))),
        Err(Unreadable::Interrupted) => return Err(Err(Error::Interrupted)),
    };
    let ids = serde_json::from_slice(&bytes).map(|Index(ids)| ids).map_err(|_| {
        // Whether it is JSON at all is found out without keeping any of it.
        bad(if serde_json::from_slice::<IgnoredAny>(&bytes).is_ok() { "Invalid data" } else { "Error Decoding JSON" })
    })?;
    ids.ok_or_else(|| Ok(errors::v1(StatusCode::PAYLOAD_TOO_LARGE, "Too many images")))
}

/// The images of that list, or nothing if there are too many. It is read entry by entry: as values it could be a hundred times
/// as large as its text.
struct Index(Option<BTreeSet<ImageId>>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Entry {
            id: ImageId,
        }
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Index;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of images")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Index, A::Error> {
                let mut ids = Some(BTreeSet::new());
                while let Some(Entry { id }) = entries.next_element()? {
                    ids = ids.filter(|ids| ids.len() < INDEX_IMAGES_MAX || ids.contains(&id));
                    if let Some(ids) = &mut ids {
                        ids.insert(id);
                    }
                }
                Ok(Index(ids))
            }
        }
        deserializer.deserialize_seq(Entries)
    }
}

pub(crate) async fn put_repository(call: &Call, image: &ImageName, body: RequestBody) -> Outcome {
    match read_index(body).await {
        Ok(ids) => {
            // Docker asks for each next, and skips those that are there: they must stay until it has set its tags.
            let ids: Vec<ImageId> = ids.into_iter().collect();
            let eyes = call.v1_eyes();
            call.registry.lease_v1_images(&call.repository.key, &ids, &call.holder(), call.viewer(&eyes).sees_all).await?;
            Ok(fresh(with_session(call, image, "write", json(StatusCode::OK, &"")).await?))
        }
        Err(refused) => refused,
    }
}

pub(crate) async fn put_repository_images(call: &Call, image: &ImageName, body: RequestBody) -> Outcome {
    // Exactly 204: docker fails the whole push on anything else.
    match read_index(body).await {
        Ok(_) => with_session(call, image, "write", empty(StatusCode::NO_CONTENT)).await,
        Err(refused) => refused,
    }
}

pub(crate) async fn get_repository_images(call: &Call, image: &ImageName) -> Outcome {
    let ids = match call.registry.v1_images(&call.repository.key, image).await {
        Ok(ids) => ids,
        Err(Error::ImageUnknown(_)) => return Ok(errors::v1(StatusCode::NOT_FOUND, "images not found")),
        Err(error) => return Err(error),
    };
    // No `Tag` in the elements: docker would pull every image whose stale tag matches (protocol reference §2.3).
    let list: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    Ok(fresh(with_session(call, image, "read", json(StatusCode::OK, &list)).await?))
}

/// Docker up to 1.6 gives up without both headers, even if it goes on with the password and never uses the token. Over
/// plain HTTP it sends nothing but the token.
async fn with_session(call: &Call, image: &ImageName, access: &str, answer: Answer) -> Outcome {
    let signature = token::v1_token(call, image, access == "write").await?;
    let token = format!("signature={signature},repository=\"{image}\",access={access}");
    let answer = answer.with(ENDPOINTS, call.view.origin.authority().to_string());
    Ok(answer.with(WWW_AUTHENTICATE, format!("Token {token}")).with(TOKEN, token))
}

/// A V1 image can be read through the names that lead to it: to whoever may read none of them, it is not there.
async fn require_visible(call: &Call, id: &ImageId) -> Result<(), Error> {
    let eyes = call.v1_eyes();
    if call.registry.is_v1_visible(&call.repository.key, id, call.viewer(&eyes)).await? { Ok(()) } else { Err(Error::V1ImageUnknown(*id)) }
}

pub(crate) async fn get_tags(call: &Call, image: &ImageName) -> Outcome {
    let tags = call.registry.v1_tags(&call.repository.key, image).await?;
    let tags: BTreeMap<String, ImageId> = tags.into_iter().map(|(tag, row)| (tag.to_string(), row.id)).collect();
    Ok(fresh(json(StatusCode::OK, &tags)))
}

pub(crate) async fn get_tag(call: &Call, image: &ImageName, tag: &Tag) -> Outcome {
    // A bare JSON string: docker 1.8 and later decode nothing else.
    Ok(fresh(json(StatusCode::OK, &call.registry.v1_tag(&call.repository.key, image, tag).await?.id)))
}

pub(crate) async fn put_tag(call: &Call, image: &ImageName, tag: &Tag, body: RequestBody) -> Outcome {
    let id = match read_limited(body, TAG_BYTES_MAX).await {
        Ok(bytes) => serde_json::from_slice::<String>(&bytes),
        Err(Unreadable::TooLarge) => return bad("Invalid data"),
        Err(Unreadable::Interrupted) => return Err(Error::Interrupted),
    };
    let Ok(id) = id else { return bad("Invalid data") };
    let Ok(id) = id.parse::<ImageId>() else { return Ok(errors::v1(StatusCode::NOT_FOUND, "Image not found")) };
    let (repository, eyes) = (&call.repository.key, call.v1_eyes());
    let (holder, pusher) = (call.holder(), call.viewer(&eyes));
    call.registry.put_v1_tag((repository, image, tag), &id, call.user_agent(), call.push(image, &holder), pusher).await?;
    call.registry.keep_newest_tags(&call.repository, image, tag).await?;
    Ok(fresh(done()))
}

pub(crate) async fn delete_tag(call: &Call, image: &ImageName, tag: &Tag) -> Outcome {
    call.registry.delete_v1_tag(&call.repository.key, image, tag).await?;
    Ok(fresh(done()))
}

/// All tags of an image, and with them the image: what only they led to goes by itself.
pub(crate) async fn delete_repository(call: &Call, image: &ImageName) -> Outcome {
    match call.registry.delete_v1_tags(&call.repository.key, image).await? {
        0 => Err(Error::ImageUnknown(image.clone())),
        _ => Ok(fresh(done())),
    }
}

pub(crate) async fn get_tag_json(call: &Call, image: &ImageName, tag: &Tag) -> Outcome {
    let row = call.registry.v1_tag(&call.repository.key, image, tag).await?;
    Ok(fresh(json(StatusCode::OK, &push_information(Some(&row)))))
}

pub(crate) async fn get_repository_json(call: &Call, image: &ImageName) -> Outcome {
    let tags = call.registry.v1_tags(&call.repository.key, image).await?;
    let latest = tags.iter().find(|(tag, _)| tag.as_str() == "latest").map(|(_, row)| row);
    Ok(fresh(json(StatusCode::OK, &push_information(latest))))
}

/// Who pushed a tag and when, from the words of the client's `User-Agent` (protocol reference §2.4).
fn push_information(row: Option<&TagRecord>) -> Value {
    let agent = row.map_or("", |row| row.user_agent.as_str());
    let word = |name: &str| agent.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('/'));
    json!({
        "last_update": row.map(|row| row.updated_ms / 1000),
        "docker_version": word("docker"),
        "docker_go_version": word("go"),
        "arch": word("arch").unwrap_or("amd64"),
        "os": word("os").unwrap_or("linux"),
        "kernel": word("kernel"),
    })
}

pub(crate) async fn get_properties(call: &Call, image: &ImageName) -> Outcome {
    call.registry.v1_tags(&call.repository.key, image).await?;
    Ok(access_of(call))
}

fn access_of(call: &Call) -> Answer {
    let access = if call.repository.anonymous_pull { "public" } else { "private" };
    fresh(json(StatusCode::OK, &json!({ "access": access })))
}

pub(crate) async fn put_image_json(call: &Call, id: &ImageId, body: RequestBody) -> Outcome {
    let bytes = match read_limited(body, IMAGE_JSON_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => return Ok(errors::v1(StatusCode::PAYLOAD_TOO_LARGE, "Image JSON is too large")),
        Err(Unreadable::Interrupted) => return Err(Error::Interrupted),
    };
    let eyes = call.v1_eyes();
    call.registry.put_v1_json(&call.repository.key, id, bytes, call.viewer(&eyes), &call.holder()).await?;
    Ok(fresh(done()))
}

pub(crate) async fn get_image_json(call: &Call, id: &ImageId) -> Outcome {
    require_visible(call, id).await?;
    Ok(image_answer(call.registry.v1_image(&call.repository.key, id).await?))
}

fn image_answer(image: ImageContent) -> Answer {
    let tag = tag_of(&image.json);
    let answer = whole(StatusCode::OK, "application/json", image.json).with(CACHE_CONTROL, FOREVER).with(ETAG, tag);
    let answer = answer.with(SIZE, image.layer_size.to_string());
    match image.payload_checksum {
        Some(checksum) => answer.with(CHECKSUM_PAYLOAD, checksum),
        None => answer,
    }
}

pub(crate) async fn put_layer(call: &Call, id: &ImageId, body: RequestBody) -> Outcome {
    let eyes = call.v1_eyes();
    call.registry.put_v1_layer(&call.repository.key, id, body, call.viewer(&eyes), &call.holder()).await?;
    Ok(fresh(done()))
}

pub(crate) async fn get_layer(call: &Call, id: &ImageId) -> Outcome {
    require_visible(call, id).await?;
    Ok(layer_answer(call.registry.v1_layer(&call.repository.key, id).await?))
}

fn layer_answer(layer: BlobContent) -> Answer {
    let tag = layer.digest().map(|digest| format!("\"{digest}\""));
    let answer = content(layer).with(CONTENT_TYPE, "application/octet-stream").with(CACHE_CONTROL, FOREVER).with(ACCEPT_RANGES, "bytes");
    match tag {
        Some(tag) => answer.with(ETAG, tag),
        None => answer,
    }
}

pub(crate) async fn put_checksum(call: &Call, id: &ImageId) -> Outcome {
    let claimed: Vec<String> = [CHECKSUM_PAYLOAD, CHECKSUM].into_iter().filter_map(|name| call.header(name)).map(str::to_owned).collect();
    call.registry.put_v1_checksum(&call.repository.key, id, &claimed, call.owner()).await?;
    Ok(fresh(done()))
}

pub(crate) async fn get_ancestry(call: &Call, id: &ImageId) -> Outcome {
    require_visible(call, id).await?;
    Ok(ancestry_answer(&call.registry.v1_ancestry(&call.repository.key, id).await?))
}

fn ancestry_answer(chain: &[ImageId]) -> Answer {
    let answer = serde_json::to_vec(&chain).unwrap_or_default();
    let tag = tag_of(&answer);
    whole(StatusCode::OK, "application/json", answer.into()).with(CACHE_CONTROL, FOREVER).with(ETAG, tag)
}

pub(crate) async fn search(call: &Call) -> Outcome {
    let term = call.query.get("q").unwrap_or_default();
    let number = |name: &str, default: usize| call.query.number(name).map_or(Some(default), Result::ok);
    let (size_default, size_max) = if term.is_empty() { (SEARCH_ALL_MAX, SEARCH_ALL_MAX) } else { (SEARCH_PAGE_DEFAULT, SEARCH_PAGE_MAX) };
    let (Some(size), Some(page)) = (number("n", size_default), number("page", 1)) else { return bad("n and page must be whole numbers") };
    let (size, page) = (size.clamp(1, size_max), page.max(1));
    let found = call.registry.search(&call.repository.key, term, (page, size), &|name| call.lists(name)).await?;
    let describe = |name: &String| {
        json!({
            "name": name, "description": "", "star_count": 0,
            "is_official": false, "is_trusted": false, "is_automated": false,
        })
    };
    let results: Vec<Value> = found.names.iter().map(describe).collect();
    let answer = json!({
        "query": term, "num_results": found.total, "results": results,
        "num_pages": found.total.div_ceil(size), "page": page, "page_size": size,
    });
    Ok(fresh(json(StatusCode::OK, &answer)))
}
