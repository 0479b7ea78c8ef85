//! Docker Registry V2 and OCI distribution: take apart, one call to the registry, put together.

use berth_names::{Digest, ImageName, Reference};
use berth_registry::access::Right;
use berth_registry::{BlobContent, Error, MANIFEST_BYTES_MAX, Page, ReferrerDescriptor, UploadId};
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, LINK, LOCATION, RANGE, VARY,
};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::body::{ResponseBody, Unreadable, read_limited};
use super::call::{Call, RequestBody};
use super::errors;
use super::params::{ByteRange, PageSize, content_range, encoded, requested_range};
use super::respond::{Answer, With, empty, json, whole};
use super::route::{V2, is_tarsum};
use super::schemas;

pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Content under a digest never changes; only who may see it does.
const FOREVER: &str = "private, max-age=31536000";

/// Images in one answer to a catalog request that does not say how many.
pub(crate) const CATALOG_ENTRIES: usize = 1000;

type Outcome = Result<Answer, Error>;

/// Hands a request that may go on to its handler.
pub(crate) async fn handle(call: &Call, route: &V2, body: RequestBody) -> Outcome {
    match route {
        // Tokens are served before there is a caller.
        V2::Base | V2::Token => Ok(base()),
        V2::Catalog => catalog(call).await,
        V2::Tags { image } => tags(call, image).await,
        V2::GetManifest { image, reference } => get_manifest(call, image, reference).await,
        V2::PutManifest { image, reference } => put_manifest(call, image, reference, body).await,
        V2::DeleteManifest { image, reference } => delete_manifest(call, image, reference).await,
        V2::GetBlob { image, digest } => get_blob(call, image, digest).await,
        V2::DeleteBlob { image, digest } => delete_blob(call, image, digest).await,
        V2::StartUpload { image } => start_upload(call, image, body).await,
        V2::UploadStatus { image, id } => upload_status(call, image, id).await,
        V2::AppendUpload { image, id } => append_upload(call, image, id, body).await,
        V2::FinishUpload { image, id } => finish_upload(call, image, id, body).await,
        V2::CancelUpload { image, id } => cancel_upload(call, image, id).await,
        V2::Referrers { image, digest } => referrers(call, image, digest).await,
    }
}

fn invalid(code: &str, message: &str) -> Outcome {
    Ok(errors::v2(StatusCode::BAD_REQUEST, code, message))
}

pub(crate) fn base() -> Answer {
    json(StatusCode::OK, &json!({}))
}

pub(crate) async fn get_manifest(call: &Call, image: &ImageName, reference: &Reference) -> Outcome {
    let repository = &call.repository.key;
    let manifest = match reference {
        // Under a digest there is only what has that digest.
        Reference::Tag(tag) if schemas::only_schema1(&call.headers) => call.registry.manifest_as_schema1(repository, image, tag).await?,
        _ => call.registry.manifest(repository, image, reference).await?,
    };
    let manifest = match reference {
        Reference::Tag(tag) if schemas::rather_schema1(&call.headers, &manifest.media_type) => {
            match call.registry.manifest_as_schema1(repository, image, tag).await {
                Err(Error::NotAsSchema1(_)) => manifest,
                made => made?,
            }
        }
        _ => manifest,
    };
    let is_pushing = call.is_head && matches!(reference, Reference::Digest(_)) && call.rights(image).has(Right::Deploy);
    if is_pushing && !call.registry.lease(repository, image, &manifest.digest, &call.holder()).await? {
        return Err(Error::ManifestUnknown(reference.clone()));
    }
    // The signatures of a signed manifest are no part of what its digest is of.
    let weak = if manifest.is_signed() { "W/" } else { "" };
    let tag = format!("\"{}\"", manifest.digest);
    let is_seen = |seen: &str| seen.split(',').any(|one| one.trim().trim_start_matches("W/") == tag);
    let answer = if call.header(IF_NONE_MATCH).is_some_and(is_seen) {
        empty(StatusCode::NOT_MODIFIED)
    } else {
        whole(StatusCode::OK, &manifest.media_type, manifest.bytes)
    };
    let answer = answer.with(ETAG, format!("{weak}{tag}")).with(CONTENT_DIGEST, manifest.digest.to_string());
    Ok(match reference {
        Reference::Tag(_) => answer.with(VARY, "Accept, User-Agent"),
        Reference::Digest(_) => answer,
    })
}

pub(crate) async fn put_manifest(call: &Call, image: &ImageName, reference: &Reference, body: RequestBody) -> Outcome {
    let bytes = match read_limited(body, MANIFEST_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(Unreadable::TooLarge) => return Err(Error::ManifestTooLarge { max: MANIFEST_BYTES_MAX }),
        Err(Unreadable::Interrupted) => return Err(Error::Interrupted),
    };
    let stored = call
        .registry
        .put_manifest(&call.repository.key, image, reference, call.header(CONTENT_TYPE), bytes, call.push(image, &call.holder()))
        .await?;
    if let Reference::Tag(tag) = reference {
        call.registry.keep_newest_tags(&call.repository, image, tag).await?;
    }
    let location = format!("{}/manifests/{}", call.location(image), stored.digest);
    let answer = empty(StatusCode::CREATED).with(LOCATION, location).with(CONTENT_DIGEST, stored.digest.to_string());
    Ok(match stored.subject {
        Some(subject) => answer.with(OCI_SUBJECT, subject.to_string()),
        None => answer,
    })
}

pub(crate) async fn delete_manifest(call: &Call, image: &ImageName, reference: &Reference) -> Outcome {
    call.registry.delete_manifest(&call.repository.key, image, reference).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

pub(crate) async fn get_blob(call: &Call, image: &ImageName, digest: &Digest) -> Outcome {
    let etag = format!("\"{digest}\"");
    let describe = |answer: Answer| {
        answer
            .with(CONTENT_TYPE, "application/octet-stream")
            .with(CONTENT_DIGEST, digest.to_string())
            .with(ETAG, &etag)
            .with(CACHE_CONTROL, FOREVER)
            .with(ACCEPT_RANGES, "bytes")
    };
    if call.is_head {
        let size = call.registry.stat_blob(&call.repository.key, image, digest).await?;
        // Whoever may push asks whether it has to: what it hears must stay true until its manifest comes.
        if call.rights(image).has(Right::Deploy) && !call.registry.lease(&call.repository.key, image, digest, &call.holder()).await? {
            return Err(Error::BlobUnknown(*digest));
        }
        return Ok(describe(empty(StatusCode::OK).with(CONTENT_LENGTH, size.to_string())));
    }
    let blob = call.registry.open_blob(&call.repository.key, image, digest).await?;
    if call.header(IF_NONE_MATCH).is_some_and(|seen| seen.split(',').any(|one| one.trim() == etag)) {
        return Ok(describe(empty(StatusCode::NOT_MODIFIED)));
    }
    Ok(describe(stream_blob(&blob, call.header(RANGE))))
}

/// A blob or the part of it that a `Range` header asks for; V1 layers are served the same way.
pub(crate) fn stream_blob(blob: &BlobContent, range: Option<&str>) -> Answer {
    let (status, range) = match requested_range(range, blob.size) {
        ByteRange::Whole => (StatusCode::OK, 0..blob.size),
        ByteRange::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        ByteRange::Unsatisfiable => {
            // Docker takes a 416 without a body for "you have everything" (protocol reference §4.7).
            return empty(StatusCode::RANGE_NOT_SATISFIABLE)
                .with(CONTENT_RANGE, format!("bytes */{}", blob.size))
                .with(CONTENT_LENGTH, "0");
        }
    };
    let left = range.end - range.start;
    let mut answer = empty(status);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.with(CONTENT_RANGE, format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size));
    }
    *answer.body_mut() = ResponseBody::Stream { left, pieces: blob.read(range) };
    answer
}

pub(crate) async fn delete_blob(call: &Call, image: &ImageName, digest: &Digest) -> Outcome {
    call.registry.delete_blob(&call.repository.key, image, digest).await?;
    Ok(empty(StatusCode::ACCEPTED).with(CONTENT_DIGEST, digest.to_string()))
}

pub(crate) async fn start_upload(call: &Call, image: &ImageName, body: RequestBody) -> Outcome {
    let repository = &call.repository.key;
    if let Some(mount) = call.query.get("mount") {
        let Ok(digest) = mount.parse::<Digest>() else { return invalid("DIGEST_INVALID", "mount must be a digest") };
        // Without a source, or with one that does not have it, the client uploads.
        if let Some(from) = call.query.get("from") {
            if from.parse::<ImageName>().is_err() {
                return invalid("NAME_INVALID", "from must be an image name");
            }
            // A source that the caller may not read is one that does not have it, and so is one in another repository, or a
            // name without a repository where names begin with one: nothing is shared between them.
            let source = call.place.image_named(from).filter(|(source, from)| source == repository && call.rights(from).has(Right::Read));
            if let Some((_, from)) = source
                && call.registry.mount_blob(repository, (&from, image), &digest, &call.holder()).await?
            {
                return Ok(created(call, image, &digest));
            }
        }
    }
    let id = call.registry.start_upload(repository, image, call.owner()).await?;
    match call.query.get("digest") {
        Some(digest) => match digest.parse() {
            Ok(digest) => finish(call, image, &id, &digest, body).await,
            Err(_) => invalid("DIGEST_INVALID", if is_tarsum(digest) { errors::NO_TARSUMS } else { "digest must be a digest" }),
        },
        None => Ok(accepted(call, image, &id, 0)),
    }
}

pub(crate) async fn upload_status(call: &Call, image: &ImageName, id: &UploadId) -> Outcome {
    let progress = call.registry.upload_progress(&call.repository.key, image, call.owner(), id).await?;
    Ok(positioned(empty(StatusCode::NO_CONTENT), call, image, id, progress.offset))
}

pub(crate) async fn append_upload(call: &Call, image: &ImageName, id: &UploadId, body: RequestBody) -> Outcome {
    let chunk = match call.header(CONTENT_RANGE).map(content_range) {
        Some(None) => return invalid("BLOB_UPLOAD_INVALID", "Content-Range must be <first>-<last>"),
        Some(Some((start, end))) => (Some(start), Some(end - start + 1)),
        None => (None, None),
    };
    match call.registry.append_upload(&call.repository.key, image, call.owner(), id, chunk, body).await {
        Ok(progress) => Ok(accepted(call, image, id, progress.offset)),
        Err(error @ Error::ChunkOutOfOrder { offset }) => Ok(positioned(errors::of_v2(&error), call, image, id, offset)),
        Err(error) => Err(error),
    }
}

pub(crate) async fn finish_upload(call: &Call, image: &ImageName, id: &UploadId, body: RequestBody) -> Outcome {
    let Some(Ok(digest)) = call.query.get("digest").map(str::parse) else {
        let names_tarsum = call.query.get("digest").is_some_and(is_tarsum);
        return invalid("DIGEST_INVALID", if names_tarsum { errors::NO_TARSUMS } else { "the digest parameter is missing or no digest" });
    };
    finish(call, image, id, &digest, body).await
}

async fn finish(call: &Call, image: &ImageName, id: &UploadId, digest: &Digest, body: RequestBody) -> Outcome {
    call.registry.finish_upload(&call.repository.key, image, call.client(&call.holder()), id, digest, body).await?;
    Ok(created(call, image, digest))
}

pub(crate) async fn cancel_upload(call: &Call, image: &ImageName, id: &UploadId) -> Outcome {
    call.registry.cancel_upload(&call.repository.key, image, call.owner(), id).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn created(call: &Call, image: &ImageName, digest: &Digest) -> Answer {
    let location = format!("{}/blobs/{digest}", call.location(image));
    empty(StatusCode::CREATED).with(LOCATION, location).with(CONTENT_DIGEST, digest.to_string())
}

fn accepted(call: &Call, image: &ImageName, id: &UploadId, offset: u64) -> Answer {
    positioned(empty(StatusCode::ACCEPTED), call, image, id, offset)
}

/// Tells the client where its upload is and how far. An empty upload is `0-0`, as every registry has it.
fn positioned(answer: Answer, call: &Call, image: &ImageName, id: &UploadId, offset: u64) -> Answer {
    answer
        .with(LOCATION, format!("{}/blobs/uploads/{id}", call.location(image)))
        .with(RANGE, format!("0-{}", offset.saturating_sub(1)))
        .with(UPLOAD_UUID, id.to_string())
}

pub(crate) async fn tags(call: &Call, image: &ImageName) -> Outcome {
    let limit = match call.query.page_size() {
        PageSize::Invalid => return bad_page_size(),
        PageSize::Absent => None,
        PageSize::Entries(limit) => Some(limit),
    };
    let page = call.registry.tags(&call.repository.key, image, call.query.get("last"), limit).await?;
    let answer = json(StatusCode::OK, &json!({ "name": call.place.name_of(image), "tags": page.names }));
    Ok(linked(answer, &format!("{}/tags/list", call.location(image)), &page, limit))
}

pub(crate) async fn catalog(call: &Call) -> Outcome {
    let limit = match call.query.page_size() {
        PageSize::Invalid => return bad_page_size(),
        PageSize::Absent => CATALOG_ENTRIES,
        PageSize::Entries(limit) => limit,
    };
    let page = call.registry.images(&call.repository.key, call.query.get("last"), Some(limit), &|name| call.lists(name)).await?;
    Ok(catalog_page(&page, &call.view.location_root(call.user_agent()), limit))
}

/// A page of a catalog.
pub(crate) fn catalog_page(page: &Page, root: &str, limit: usize) -> Answer {
    linked(json(StatusCode::OK, &json!({ "repositories": page.names })), &format!("{root}v2/_catalog"), page, Some(limit))
}

pub(crate) fn bad_page_size() -> Outcome {
    // Docker's own registry has a code for this, which the OCI specification does not know.
    invalid("UNSUPPORTED", "n must be a whole number, zero or more")
}

/// Where the next page is. Names need no escaping in a query.
fn linked(answer: Answer, path: &str, page: &Page, limit: Option<usize>) -> Answer {
    match (page.names.last(), limit) {
        (Some(last), Some(limit)) if page.more => answer.with(LINK, format!("<{path}?n={limit}&last={last}>; rel=\"next\"")),
        _ => answer,
    }
}

/// An index, as far as a list of referrers has one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    annotations: &'a RawValue,
}

impl<'a> Descriptor<'a> {
    fn of(found: &'a ReferrerDescriptor) -> Self {
        let ReferrerDescriptor { digest, media_type, size, artifact_type, annotations } = found;
        Self { media_type, digest: *digest, size: *size, artifact_type: artifact_type.as_deref(), annotations }
    }
}

pub(crate) async fn referrers(call: &Call, image: &ImageName, subject: &Digest) -> Outcome {
    let wanted = call.query.get("artifactType");
    let Ok(last) = call.query.get("last").map(str::parse).transpose() else { return invalid("DIGEST_INVALID", "last must be a digest") };
    let page = call.registry.referrers((&call.repository.key, image), subject, last.as_ref(), wanted).await?;
    let manifests = page.manifests.iter().map(Descriptor::of).collect();
    let answer = json(StatusCode::OK, &Index { schema_version: 2, media_type: OCI_INDEX, manifests }).with(CONTENT_TYPE, OCI_INDEX);
    let answer = if wanted.is_some() { answer.with(OCI_FILTERS, "artifactType") } else { answer };
    let Some(next) = page.next else { return Ok(answer) };
    let filter = wanted.map(|wanted| format!("&artifactType={}", encoded(wanted))).unwrap_or_default();
    Ok(answer.with(LINK, format!("<{}/referrers/{subject}?last={next}{filter}>; rel=\"next\"", call.location(image))))
}
