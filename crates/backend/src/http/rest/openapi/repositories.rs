//! Repositories.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::repositories::{Form, Listed};
use super::operation::{Operation, Tag};
use super::schemas::{Schemas, list as list_of, number, text, truth};

const ONE: &str = "/artifactory/api/repositories/{repoKey}";

pub(super) fn list(schemas: &mut Schemas) -> Operation {
    let entries = list_of(&schemas.answer::<Listed<'_>>());
    Operation::new(Tag::Repositories, Method::GET, "/artifactory/api/repositories", "All repositories that the caller sees")
        .query("type", json!({ "type": "string" }), "Only of this class, in any case of letters. All are `local`.")
        .query("packageType", json!({ "type": "string" }), "Only of this package type, in any case of letters. All are `docker`.")
        .answers_json(StatusCode::OK, entries, "What they are and where.")
}

pub(super) fn get(schemas: &mut Schemas) -> Operation {
    let configuration = schemas.written("RepositoryConfiguration", configuration());
    Operation::new(Tag::Repositories, Method::GET, ONE, "One repository's configuration")
        .notes("Whoever is no admin sees less of it.")
        .answers_json(StatusCode::OK, configuration, "As it is now.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

fn configuration() -> Value {
    json!({
        "type": "object",
        "required": ["key", "rclass", "packageType", "description", "dockerApiVersion", "serveV1"],
        "properties": {
            "key": text("Its key."),
            "rclass": { "const": "local" },
            "packageType": { "const": "docker" },
            "description": { "type": "string" },
            "notes": { "type": "string" },
            "includesPattern": text("Patterns of the image names that may be pushed, separated by commas."),
            "excludesPattern": text("Patterns of the image names that may not be pushed, separated by commas."),
            "dockerApiVersion": { "type": "string", "enum": ["V1", "V2"] },
            "maxUniqueTags": number("Tags of one image that are kept, the newest; `0`: all."),
            "blockPushingSchema1": truth("Whether manifests of schema 1 are refused."),
            "forceDockerAuthentication": truth("The opposite of `anonymousPull`."),
            "blackedOut": { "const": false },
            "anonymousPull": truth("Whether pulling needs no credentials."),
            "challenge": { "type": "string", "enum": ["bearer", "basic"], "description": "How clients are asked for credentials." },
            "serveV1": truth("Whether V1 clients may pull V2 images."),
            "repoLayoutRef": {},
        },
        "additionalProperties": { "description": "Artifactory's settings without meaning here, as they were given." },
    })
}

pub(super) fn create(schemas: &mut Schemas) -> Operation {
    Operation::new(Tag::Repositories, Method::PUT, ONE, "Create a repository")
        .takes(schemas.request::<Form>())
        .answers_text(StatusCode::OK, "It is there now. A key that is taken is refused (400).")
        .refuses(&[StatusCode::CONFLICT])
}

pub(super) fn update(schemas: &mut Schemas) -> Operation {
    Operation::new(Tag::Repositories, Method::POST, ONE, "Change a repository")
        .notes("What is left out stays as it is. The API version can change only while the repository is empty (400).")
        .takes(schemas.request::<Form>())
        .answers_text(StatusCode::OK, "It is so now.")
        .refuses(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn delete() -> Operation {
    Operation::new(Tag::Repositories, Method::DELETE, ONE, "Delete a repository with all that is in it")
        .answers_text(StatusCode::OK, "It is gone; its space comes back within seconds.")
        .refuses(&[StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}
