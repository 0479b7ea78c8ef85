//! The tree, the files in it, properties, and search.

use berth_registry::browse::{CHILDREN_MAX, LISTED_MAX};
use berth_registry::search::PAGE_MAX;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::search::RESULTS_DEFAULT;
use super::super::storage::FileList;
use super::names::Time;
use super::operation::{Operation, Tag};
use super::schemas::{Schemas, list, object, positive, switch, text, truth};

const INFO: &str = "/artifactory/api/storage/{repoKey}/{itemPath}";
const FILE: &str = "/artifactory/{repoKey}/{itemPath}";

/// How properties are written down in answers.
fn properties() -> Value {
    json!({
        "type": "object",
        "additionalProperties": { "type": "array", "items": { "type": "string" } },
        "description": "Values by name.",
    })
}

/// What a file or folder is. A result of a search may say all of it too.
fn item_fields(schemas: &mut Schemas) -> Value {
    let time = schemas.answer::<Time>();
    let child = object(&["uri", "folder"], json!({ "uri": text("Its name, behind a slash."), "folder": { "type": "boolean" } }));
    let sums = |which: &str| {
        let sums = json!({ "sha1": { "type": "string" }, "md5": { "type": "string" }, "sha256": { "type": "string" } });
        json!({ "type": "object", "properties": sums, "description": which })
    };
    let children = format!("Of a folder: what is in it, up to {CHILDREN_MAX}.");
    json!({
        "repo": text("The repository."),
        "path": text("The path within it."),
        "created": time,
        "lastModified": time,
        "lastUpdated": time,
        "uri": text("Where it can be looked at."),
        "children": { "type": "array", "items": child, "description": children },
        "incomplete": truth("Whether a folder has more than is shown."),
        "downloadUri": text("Of a file: where its content is."),
        "mimeType": { "type": "string" },
        "size": { "type": "string", "pattern": "^[0-9]+$", "description": "Of a file, in bytes." },
        "checksums": sums("Of a file: what is known. SHA-1 and MD5 are computed for small files only."),
        "originalChecksums": sums("Of a file: what the client that pushed it said."),
    })
}

pub(super) fn info(schemas: &mut Schemas) -> Operation {
    let mut item = object(&["repo", "path", "created", "lastModified", "lastUpdated", "uri"], item_fields(schemas));
    item["oneOf"] =
        json!([{ "required": ["children"] }, { "required": ["downloadUri", "mimeType", "size", "checksums", "originalChecksums"] }]);
    let item = schemas.written("ItemInfo", item);
    let said = object(&["properties", "uri"], json!({ "properties": properties(), "uri": { "type": "string" } }));
    let said = schemas.written("ItemProperties", said);
    let moment = object(&["uri", "lastModified"], json!({ "uri": { "type": "string" }, "lastModified": schemas.answer::<Time>() }));
    let moment = schemas.written("ItemLastModified", moment);
    let files = schemas.answer::<FileList>();
    let answer = json!({ "anyOf": [item, files, said, moment] });
    let listed = format!("List the files of the folder, up to {LISTED_MAX}.");
    Operation::new(Tag::Storage, Method::GET, INFO, "What something is, what is in it, or what is said about it")
        .also("OfRepository", Method::GET, "/artifactory/api/storage/{repoKey}")
        .notes(
            "Without parameters, what a file or folder is (`ItemInfo`). `list` comes before `properties` and that before `lastModified`.",
        )
        .query("list", switch(), &listed)
        .query("deep", switch(), "With `list`: and of all folders below.")
        .query("depth", positive(None), "With `list`: and of folders below, so many levels deep. Without it, it is not looked at.")
        .query("listFolders", switch(), "With `list`: list folders too.")
        .query("properties", json!({ "type": "string" }), "What is said about it (`ItemProperties`): all, or the names between commas.")
        .query("lastModified", json!({ "type": "string" }), "When it was last modified (`ItemLastModified`).")
        .answers_json(StatusCode::OK, answer, "What was asked for.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

const RECURSIVE: &str = "`0`: of an image only itself, not its tags.";

pub(super) fn set_properties() -> Operation {
    Operation::new(Tag::Storage, Method::PUT, INFO, "Set properties of an image, a tag or a V1 image")
        .notes("A property's values are replaced.")
        .required_query(
            "properties",
            json!({ "type": "string" }),
            "`name=value,value;name=value`; a backslash takes a sign's meaning away.",
        )
        .query("recursive", switch(), RECURSIVE)
        .answers_nothing(StatusCode::NO_CONTENT, "It is said now.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn delete_properties() -> Operation {
    Operation::new(Tag::Storage, Method::DELETE, INFO, "Take properties of an image, a tag or a V1 image away")
        .required_query("properties", json!({ "type": "string" }), "Their names, with commas between.")
        .query("recursive", switch(), RECURSIVE)
        .answers_nothing(StatusCode::NO_CONTENT, "They are gone.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn download() -> Operation {
    // Bytes: of them OpenAPI says nothing but their media type, which is the file's own.
    let bytes = || json!({});
    Operation::new(Tag::Storage, Method::GET, FILE, "A file's content")
        .also("Head", Method::HEAD, FILE)
        .header("Range", json!({ "type": "string" }), "A part of it: `bytes=0-1023`; several, up to 64, come as `multipart/byteranges`.")
        .header("If-Range", json!({ "type": "string" }), "The `ETag` of what one has the beginning of: of anything else the whole is sent.")
        .header("If-Match", json!({ "type": "string" }), "The `ETag` that it must have.")
        .header("If-None-Match", json!({ "type": "string" }), "What an answer gave as `ETag`.")
        .header("If-Modified-Since", json!({ "type": "string" }), "What an answer gave as `Last-Modified`.")
        .header("If-Unmodified-Since", json!({ "type": "string" }), "When it must have been last modified, at the latest.")
        .answers_as(StatusCode::OK, "*/*", bytes(), "The file.")
        .answers_as(StatusCode::PARTIAL_CONTENT, "*/*", bytes(), "The part.")
        .answers_nothing(StatusCode::NOT_MODIFIED, "It is the same as before.")
        .answers_nothing(StatusCode::RANGE_NOT_SATISFIABLE, "The part lies behind the end.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::PRECONDITION_FAILED])
}

pub(super) fn delete() -> Operation {
    Operation::new(Tag::Storage, Method::DELETE, FILE, "Delete a tag, or an image with all its tags")
        .notes("Layers and manifests go by themselves once nothing leads to them, and can't be deleted here (400).")
        .answers_nothing(StatusCode::NO_CONTENT, "It is gone.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

/// What is found. With details it says what `ItemInfo` says, properties, or both.
fn result(schemas: &mut Schemas) -> Value {
    let mut fields = item_fields(schemas);
    fields["properties"] = properties();
    schemas.written("SearchResult", object(&["uri"], fields))
}

/// The parameters and the header that both searches know.
fn search(operation: Operation) -> Operation {
    let limit = format!("How many results; {PAGE_MAX} at most are given, {RESULTS_DEFAULT} with details.");
    operation
        .query("repos", json!({ "type": "string" }), "Only in these repositories: their keys, with commas between.")
        .query("limit", positive(Some(RESULTS_DEFAULT)), &limit)
        .header("X-Result-Detail", json!({ "type": "string" }), "`info`, `properties`, or both with a comma between.")
        .refuses(&[StatusCode::NOT_FOUND])
}

pub(super) fn by_properties(schemas: &mut Schemas) -> Operation {
    let results = list(&result(schemas));
    let next = text("The parameter `from` of the next page, if there may be more.");
    let found = schemas.written("FoundByProperties", object(&["results"], json!({ "results": results, "next": next })));
    search(Operation::new(Tag::Search, Method::GET, "/artifactory/api/search/prop", "What has all these properties"))
        .any_query("wanted", "Each a property, with values between commas, any of which will do. `*` and `?` are wildcards.")
        .query("from", json!({ "type": "string" }), "What an answer gave as `next`.")
        .answers_json(StatusCode::OK, found, "A page of results, which may be empty though there is a next one.")
}

pub(super) fn by_name(schemas: &mut Schemas) -> Operation {
    let results = list(&result(schemas));
    let incomplete = truth("Whether `limit` cut it short.");
    let found = schemas.written("FoundByName", object(&["results"], json!({ "results": results, "incomplete": incomplete })));
    search(Operation::new(Tag::Search, Method::GET, "/artifactory/api/search/artifact", "Images, tags and V1 images of a name"))
        .required_query("name", json!({ "type": "string", "minLength": 1 }), "The name. `*` and `?` are wildcards.")
        .answers_json(StatusCode::OK, found, "What is called so.")
}
