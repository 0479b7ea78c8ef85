//! The service itself.

use http::{Method, StatusCode};
use serde_json::json;

use super::super::backup::Form;
use super::super::system::{Cleanup, Version};
use super::operation::{Operation, Tag};
use super::schemas::{Schemas, list, number, object, text, truth};

pub(super) fn ping() -> Operation {
    Operation::new(Tag::System, Method::GET, "/artifactory/api/system/ping", "Whether the service runs")
        .answers_text(StatusCode::OK, "`OK`")
}

pub(super) fn version(schemas: &mut Schemas) -> Operation {
    let version = schemas.answer::<Version>();
    Operation::new(Tag::System, Method::GET, "/artifactory/api/system/version", "What service this is").answers_json(
        StatusCode::OK,
        version,
        "Its name and version.",
    )
}

const CLEANUP: &str = "/artifactory/api/system/storage/gc";

pub(super) fn freed(schemas: &mut Schemas) -> Operation {
    let cleanup = schemas.answer::<Cleanup>();
    Operation::new(Tag::System, Method::GET, CLEANUP, "What cleanup has removed").answers_json(
        StatusCode::OK,
        cleanup,
        "Counted since the process started.",
    )
}

pub(super) fn collect_garbage(schemas: &mut Schemas) -> Operation {
    let cleanup = schemas.answer::<Cleanup>();
    Operation::new(Tag::System, Method::POST, CLEANUP, "Clean up now")
        .notes("It happens by itself within seconds of a deletion; nobody has to ask for it.")
        .answers_json(StatusCode::OK, cleanup, "What this pass has removed.")
}

const BACKUP: &str = "/artifactory/api/system/backup";

pub(super) fn make_backup(schemas: &mut Schemas) -> Operation {
    let file = object(&["name", "size"], json!({ "name": { "type": "string" }, "size": number("In bytes.") }));
    let manifest = object(
        &["format", "version", "created", "dataFiles", "dataBytes", "metaFiles", "missing", "missingData", "unreadable", "unreadableRows"],
        json!({
            "format": number("The format of the backup."),
            "version": text("The version of Berth that made it."),
            "created": text("The moment at which the store was as it is there."),
            "dataFiles": number("Files of data."),
            "dataBytes": number("Their bytes."),
            "metaFiles": list(&file),
            "missing": number("Files that the store had lost by then."),
            "missingData": list(&text("The first of them.")),
            "unreadable": number("In how many places the metadata could not be read."),
            "unreadableRows": list(&text("The first of them.")),
        }),
    );
    let taken = object(
        &["path", "manifest", "copiedFiles", "copiedBytes"],
        json!({
            "path": text("Where it is."),
            "manifest": manifest,
            "copiedFiles": number("Files that had to be copied; all others are links to files that were there."),
            "copiedBytes": number("Their bytes."),
        }),
    );
    let taken = schemas.written("Backup", taken);
    Operation::new(Tag::System, Method::POST, BACKUP, "Make a backup")
        .takes(schemas.request::<Form>())
        .answers_json(StatusCode::OK, taken, "It is made.")
        .refuses(&[StatusCode::CONFLICT])
}

pub(super) fn backup_progress(schemas: &mut Schemas) -> Operation {
    let progress = object(
        &["running", "files", "bytes", "filesTotal", "bytesTotal"],
        json!({
            "running": truth("Whether one is under way."),
            "files": number("Files that are where they belong."),
            "bytes": number("Their bytes."),
            "filesTotal": number("How many files there are to be; 0 as long as nobody knows."),
            "bytesTotal": number("Their bytes."),
        }),
    );
    let progress = schemas.written("BackupProgress", progress);
    Operation::new(Tag::System, Method::GET, BACKUP, "How far the present backup is").answers_json(StatusCode::OK, progress, "So far.")
}

pub(super) fn alive() -> Operation {
    Operation::new(Tag::System, Method::GET, "/healthz/live", "Whether the process runs").answers_text(StatusCode::OK, "It does.")
}

pub(super) fn ready() -> Operation {
    Operation::new(Tag::System, Method::GET, "/healthz/ready", "Whether the service can answer")
        .also("InShort", Method::GET, "/healthz")
        .answers_text(StatusCode::OK, "It can.")
        .answers_text(StatusCode::SERVICE_UNAVAILABLE, "The store does not answer.")
}

pub(super) fn description() -> Operation {
    Operation::new(Tag::System, Method::GET, "/artifactory/api/openapi.json", "This description")
        .header("If-None-Match", json!({ "type": "string" }), "What an answer gave as `ETag`.")
        .answers_json(StatusCode::OK, json!({ "type": "object" }), "OpenAPI 3.1.")
        .answers_nothing(StatusCode::NOT_MODIFIED, "It is the same as before.")
        .refuses(&[StatusCode::PRECONDITION_FAILED])
}
