//! Docker Registry V2 and OCI distribution: take apart, one call to the registry, put together.

use berth_names::{Digest, ImageName, Reference};
use berth_registry::access::Right;
use berth_registry::{Error, MANIFEST_BYTES_MAX, Page, Piece, ReferrerDescriptor, UploadId};
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LINK, LOCATION, RANGE, VARY,
};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::body::{Unreadable, read_limited};
use super::call::{Call, RequestBody};
use super::errors;
use super::params::{PageSize, content_range, encoded};
use super::respond::{Answer, With, content, empty, json, whole};
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
    let answer = whole(StatusCode::OK, &manifest.media_type, manifest.bytes)
        .with(ETAG, format!("{weak}\"{}\"", manifest.digest))
        .with(CONTENT_DIGEST, manifest.digest.to_string());
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
    let describe = |answer: Answer| {
        answer
            .with(CONTENT_TYPE, "application/octet-stream")
            .with(CONTENT_DIGEST, digest.to_string())
            .with(ETAG, format!("\"{digest}\""))
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
    Ok(describe(content(blob)))
}

pub(crate) async fn delete_blob(call: &Call, image: &ImageName, digest: &Digest) -> Outcome {
    call.registry.delete_blob(&call.repository.key, image, digest).await?;
    Ok(empty(StatusCode::ACCEPTED).with(CONTENT_DIGEST, digest.to_string()))
}

pub(crate) async fn start_upload(call: &Call, image: &ImageName, body: RequestBody) -> Outcome {
    if let Some(wanted) = call.query.get("mount") {
        let Ok(digest) = wanted.parse::<Digest>() else { return invalid("DIGEST_INVALID", "mount must be a digest") };
        // What can't be mounted, the client uploads.
        if mount(call, image, &digest).await? {
            return Ok(created(call, image, &digest));
        }
    }
    let id = call.registry.start_upload(&call.repository.key, image, call.owner()).await?;
    match call.query.get("digest") {
        Some(digest) => match digest.parse() {
            Ok(digest) => finish(call, image, &id, &digest, body.into()).await,
            Err(_) => invalid("DIGEST_INVALID", if is_tarsum(digest) { errors::NO_TARSUMS } else { "digest must be a digest" }),
        },
        None => Ok(accepted(call, image, &id, 0)),
    }
}

/// Makes a blob visible in the image that the client need not send, if it can be had from another image.
async fn mount(call: &Call, image: &ImageName, digest: &Digest) -> Result<bool, Error> {
    let repository = &call.repository.key;
    let source = match call.query.get("from") {
        // A source that the caller may not read is one that does not have it, and so is one in another repository, or a
        // name without a repository where names begin with one: nothing is shared between them.
        Some(from) => {
            let named = call.place.image_named(from).filter(|(source, _)| source == repository);
            named.map(|(_, from)| from).filter(|from| call.rights(from).has(Right::Read))
        }
        // No token can have been issued for a source that has no name: what the account may read decides.
        None => call.registry.image_with(repository, digest, &|name| call.lists(name)).await?,
    };
    match source {
        Some(from) => call.registry.mount_blob(repository, (&from, image), digest, &call.holder()).await,
        None => Ok(false),
    }
}

pub(crate) async fn upload_status(call: &Call, image: &ImageName, id: &UploadId) -> Outcome {
    let progress = call.registry.upload_progress(&call.repository.key, image, call.owner(), id).await?;
    Ok(positioned(empty(StatusCode::NO_CONTENT), call, image, id, progress.offset))
}

pub(crate) async fn append_upload(call: &Call, image: &ImageName, id: &UploadId, body: RequestBody) -> Outcome {
    let Some(piece) = piece(call, body) else { return not_a_range() };
    match call.registry.append_upload(&call.repository.key, image, call.owner(), id, piece).await {
        Ok(progress) => Ok(accepted(call, image, id, progress.offset)),
        Err(error) => out_of_order(call, image, id, error),
    }
}

pub(crate) async fn finish_upload(call: &Call, image: &ImageName, id: &UploadId, body: RequestBody) -> Outcome {
    let Some(Ok(digest)) = call.query.get("digest").map(str::parse) else {
        let names_tarsum = call.query.get("digest").is_some_and(is_tarsum);
        return invalid("DIGEST_INVALID", if names_tarsum { errors::NO_TARSUMS } else { "the digest parameter is missing or no digest" });
    };
    let Some(piece) = piece(call, body) else { return not_a_range() };
    // Some clients say where the last chunk was, or where the next would be, although they send nothing any more.
    let piece = Piece { is_empty: !call.announces_body(), ..piece };
    let finished = finish(call, image, id, &digest, piece).await;
    if matches!(finished, Err(Error::UploadUnknown)) && is_finished(call, image, &digest).await? {
        return Ok(created(call, image, &digest));
    }
    finished.or_else(|error| out_of_order(call, image, id, error))
}

/// What the request brings of an upload; `None` if it says where that belongs in a way that can't be read.
fn piece(call: &Call, body: RequestBody) -> Option<Piece> {
    let range = call.header(CONTENT_RANGE).map(content_range);
    if let Some(None) = range { None } else { Some(Piece { range: range.flatten(), ..body.into() }) }
}

fn not_a_range() -> Outcome {
    invalid("BLOB_UPLOAD_INVALID", "Content-Range must be <first>-<last>")
}

/// Whoever sends what belongs elsewhere is told where to go on.
fn out_of_order(call: &Call, image: &ImageName, id: &UploadId, error: Error) -> Outcome {
    match error {
        Error::ChunkOutOfOrder { offset } => Ok(positioned(errors::of_v2(&error), call, image, id, offset)),
        error => Err(error),
    }
}

/// Whether there is nothing left to do for whoever finishes an upload that is gone: the answer to the first time may have
/// been lost on the way. Who may not read the blob is not told that it is there.
async fn is_finished(call: &Call, image: &ImageName, digest: &Digest) -> Result<bool, Error> {
    if !call.rights(image).has(Right::Read) {
        return Ok(false);
    }
    match call.registry.stat_blob(&call.repository.key, image, digest).await {
        Ok(_) => call.registry.lease(&call.repository.key, image, digest, &call.holder()).await,
        Err(Error::BlobUnknown(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn finish(call: &Call, image: &ImageName, id: &UploadId, digest: &Digest, piece: Piece) -> Outcome {
    call.registry.finish_upload(&call.repository.key, image, call.client(&call.holder()), id, digest, piece).await?;
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
