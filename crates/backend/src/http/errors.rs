//! What a refusal looks like on the wire: one exhaustive match per API, and nothing about the inside.

use berth_registry::{Error, access};
use http::StatusCode;
use http::header::{CONNECTION, RETRY_AFTER};
use serde_json::{Value, json};

use super::docker::Docker;
use super::respond::{Answer, With, json, whole};
use super::route::Api;

/// How a name and a password are asked for: in UTF-8 (RFC 7617), which is what clients differ in.
pub(crate) const BASIC_CHALLENGE: &str = "Basic realm=\"Berth\", charset=\"UTF-8\"";

/// V2: `{"errors":[{"code","message","detail"}]}`.
pub(crate) fn v2(status: StatusCode, code: &str, message: &str) -> Answer {
    v2_with(status, code, message, &Value::Null)
}

/// V2, with a detail. Docker's own text without one decodes to a bare code, which docker 1.12 to 20.10 try again for 50 s.
pub(crate) fn v2_with(status: StatusCode, code: &str, message: &str, detail: &Value) -> Answer {
    json(status, &json!({ "errors": [{ "code": code, "message": message, "detail": detail }] }))
}

/// A refusal by the token service: as V2, and its text once more where docker's client looks first. A list of errors leads
/// newer dockers at `localhost` on to plain HTTP, and what they then report is that this was no use.
pub(crate) fn of_token_service(status: StatusCode, code: &str, message: &str) -> Answer {
    json(status, &json!({ "errors": [{ "code": code, "message": message, "detail": null }], "details": message }))
}

/// V1: `{"error":"text"}`, flat: docker prints a parse error in place of anything else.
pub(crate) fn v1(status: StatusCode, message: &str) -> Answer {
    json(status, &json!({ "error": message }))
}

/// REST: `{"errors":[{"status","message"}]}`.
pub(crate) fn rest(status: StatusCode, message: &str) -> Answer {
    json(status, &json!({ "errors": [{ "status": status.as_u16(), "message": message }] }))
}

/// No repository has this key.
pub(crate) fn unknown_repository(api: Api) -> Answer {
    match api {
        Api::V1 => v1(StatusCode::NOT_FOUND, "the repository is not known"),
        Api::V2 | Api::Rest => v2(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "the repository is not known"),
    }
}

/// What docker 1.5 hears, which calls layers by sums of their members when it pushes over V2.
pub(crate) const NO_TARSUMS: &str =
    "tarsums name nothing over V2, which docker 1.5 had in an early form: push with docker 1.6 or newer, or to a repository that speaks V1";

/// What a V2 request gets on a V1 repository. Docker 1.10 to 17.05 go on to V1 at once only if a 404 is not JSON and has no V2
/// header (protocol reference §4.5). Everybody else reads the error, and shows it; by its code, those that could still go on
/// to V1 do.
pub(crate) fn v2_on_v1_repository(docker: Option<Docker>) -> Answer {
    if docker.is_some_and(|docker| (Docker(1, 10)..Docker(17, 6)).contains(&docker)) {
        return whole(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into());
    }
    let message =
        "this repository speaks Docker V1; use docker 1.12 or older, or a repository that speaks V2, to which images can be migrated";
    v2(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
}

/// A registry's refusal to a V2 client.
pub(crate) fn of_v2(error: &Error) -> Answer {
    in_v2(error, v2)
}

/// A registry's refusal to whoever asks for a token.
pub(crate) fn of_token(error: &Error) -> Answer {
    in_v2(error, of_token_service)
}

fn in_v2(error: &Error, form: impl Fn(StatusCode, &str, &str) -> Answer) -> Answer {
    let (status, code) = match error {
        Error::RepositoryUnknown(_) | Error::ImageUnknown(_) | Error::ItemUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Error::PropertyInvalid(_) | Error::SearchInvalid(_) | Error::PositionInvalid => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
        Error::RepositoryExists(_)
        | Error::RepositoryNotEmpty(_)
        | Error::ApiVersionsDiffer(..)
        | Error::PromotionInvalid(_)
        | Error::MigrationInvalid(_)
        | Error::PromotionTooLarge { .. } => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
        Error::V1ImageDiffers(_) | Error::V1ImageTaken(_) | Error::V1ImageReliedOn(_) | Error::V1ImageReplaced(_) => {
            (StatusCode::CONFLICT, "DENIED")
        }
        Error::V1ChainTooLong(_) => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
        Error::RepositoryEmptying(_) => (StatusCode::CONFLICT, "DENIED"),
        Error::ImageNotTaken(_) => (StatusCode::FORBIDDEN, "DENIED"),
        Error::ManifestUnknown(_) | Error::NotAsSchema1(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        Error::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        Error::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        Error::SizeMismatch { .. } | Error::LengthMismatch => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        Error::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        Error::ManifestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
        Error::DigestMismatch(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        Error::InUse { .. } => (StatusCode::CONFLICT, "DENIED"),
        Error::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        Error::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
        Error::ChunkOutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        Error::Interrupted => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        Error::TooContended => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Error::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "INSUFFICIENT_STORAGE"),
        Error::TooManyLogins | Error::LoginsBlocked { .. } | Error::TooManyUploads { .. } | Error::TooManyJobs { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS")
        }
        Error::TagExists(_) => (StatusCode::FORBIDDEN, "DENIED"),
        Error::V1ImageUnknown(_)
        | Error::V1ImageIncomplete(_)
        | Error::V1ImageExists(_)
        | Error::V1JsonInvalid(_)
        | Error::V1ChecksumMismatch
        | Error::V1ChecksumMissing
        | Error::V1TagUnknown(_) => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
        Error::Storage(_) | Error::Internal(_) => return internal(error, |status, message| form(status, "UNKNOWN", message)),
    };
    advise(form(status, code, &error.to_string()), error)
}

/// A registry's refusal to a V1 client. The texts are those of the original registry, which tools compare.
pub(crate) fn of_v1(error: &Error) -> Answer {
    let own = error.to_string();
    let (status, message) = match error {
        Error::RepositoryUnknown(_) | Error::ItemUnknown => (StatusCode::NOT_FOUND, own.as_str()),
        Error::PropertyInvalid(_) | Error::SearchInvalid(_) | Error::PositionInvalid => (StatusCode::BAD_REQUEST, own.as_str()),
        Error::RepositoryExists(_)
        | Error::RepositoryNotEmpty(_)
        | Error::ApiVersionsDiffer(..)
        | Error::PromotionInvalid(_)
        | Error::MigrationInvalid(_)
        | Error::PromotionTooLarge { .. } => (StatusCode::BAD_REQUEST, own.as_str()),
        Error::V1ImageDiffers(_) | Error::V1ImageTaken(_) | Error::V1ImageReliedOn(_) | Error::V1ImageReplaced(_) => {
            (StatusCode::CONFLICT, own.as_str())
        }
        Error::V1ChainTooLong(_) => (StatusCode::BAD_REQUEST, own.as_str()),
        Error::RepositoryEmptying(_) => (StatusCode::CONFLICT, own.as_str()),
        Error::ImageNotTaken(_) => (StatusCode::FORBIDDEN, own.as_str()),
        Error::ImageUnknown(_) => (StatusCode::NOT_FOUND, "Repository not found"),
        Error::V1ImageUnknown(_) => (StatusCode::NOT_FOUND, "Image not found"),
        Error::V1TagUnknown(_) => (StatusCode::NOT_FOUND, "Tag not found"),
        Error::V1ImageIncomplete(_) => (StatusCode::BAD_REQUEST, "Image is being uploaded, retry later"),
        // The only text that docker interprets: it skips the image.
        Error::V1ImageExists(_) => (StatusCode::CONFLICT, "Image already exists"),
        Error::V1JsonInvalid(why) => (StatusCode::BAD_REQUEST, *why),
        Error::V1ChecksumMismatch => (StatusCode::BAD_REQUEST, "Checksum mismatch"),
        Error::V1ChecksumMissing => (StatusCode::BAD_REQUEST, "Missing Image's checksum"),
        Error::Interrupted | Error::LengthMismatch => (StatusCode::BAD_REQUEST, "Truncated layer"),
        Error::TooContended => (StatusCode::SERVICE_UNAVAILABLE, own.as_str()),
        Error::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, own.as_str()),
        Error::TooManyLogins | Error::LoginsBlocked { .. } | Error::TooManyUploads { .. } | Error::TooManyJobs { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, own.as_str())
        }
        Error::TagExists(_) => (StatusCode::FORBIDDEN, own.as_str()),
        Error::ManifestUnknown(_)
        | Error::NotAsSchema1(_)
        | Error::BlobUnknown(_)
        | Error::ManifestBlobUnknown(_)
        | Error::SizeMismatch { .. }
        | Error::ManifestInvalid(_)
        | Error::ManifestTooLarge { .. }
        | Error::DigestMismatch(_)
        | Error::InUse { .. }
        | Error::UploadUnknown
        | Error::UploadBusy
        | Error::ChunkOutOfOrder { .. } => (StatusCode::BAD_REQUEST, own.as_str()),
        Error::Storage(_) | Error::Internal(_) => return internal(error, v1),
    };
    advise(v1(status, message), error)
}

/// A registry's refusal to a REST client: the same statuses as over V2.
pub(crate) fn of_rest(error: &Error) -> Answer {
    let status = of_v2(error).status();
    let is_inside = status.is_server_error() && !matches!(error, Error::DiskFull);
    let message = if is_inside { "internal error".to_owned() } else { error.to_string() };
    advise(rest(status, &message), error)
}

/// A refusal to change users, groups, permissions or tokens.
pub(crate) fn of_access(error: &access::Error) -> Answer {
    let status = match error {
        access::Error::Unknown(..) | access::Error::TokenUnknown => StatusCode::NOT_FOUND,
        access::Error::Exists(..) | access::Error::LastAdmin => StatusCode::CONFLICT,
        access::Error::WeakPassword(_) | access::Error::Invalid(_) => StatusCode::BAD_REQUEST,
        access::Error::Registry(error) => return of_rest(error),
    };
    rest(status, &error.to_string())
}

/// Headers that help a client on.
fn advise(answer: Answer, error: &Error) -> Answer {
    match error {
        Error::TooContended | Error::TooManyLogins => answer.with(RETRY_AFTER, "1"),
        Error::LoginsBlocked { wait } => answer.with(RETRY_AFTER, wait.as_secs().max(1).to_string()),
        Error::TooManyUploads { .. } | Error::TooManyJobs { .. } => answer.with(RETRY_AFTER, "60"),
        // The rest of the body is not going to be read.
        Error::Interrupted => answer.with(CONNECTION, "close"),
        _ => answer,
    }
}

fn internal(error: &Error, form: impl Fn(StatusCode, &str) -> Answer) -> Answer {
    tracing::error!(%error, "a request failed inside");
    form(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
}
