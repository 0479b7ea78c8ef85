//! What can be done with a docker repository that no docker client does.

use berth_names::ApiVersion;
use berth_registry::v1::migration::RECEIPTS_MAX;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::images::Ancestry;
use super::super::job::{Receipts, ShownJob};
use super::super::{migration, promotion};
use super::names;
use super::operation::{Operation, Tag};
use super::schemas::{Schemas, list, number, text};

pub(super) fn promote(schemas: &mut Schemas, api_version: ApiVersion) -> Operation {
    let path = match api_version {
        ApiVersion::V1 => "/artifactory/api/docker/{repoKey}/v1/promote",
        ApiVersion::V2 => "/artifactory/api/docker/{repoKey}/v2/promote",
    };
    let summary = format!("Promote an image or one of its tags to another {api_version:?} repository");
    Operation::new(Tag::Docker, Method::POST, path, summary)
        .notes(
            "It moves, or stays too with `copy`. All of it happens at once, and no byte is copied. It takes the right to read, \
             to delete unless it is copied, and to deploy to the target.",
        )
        .takes(schemas.request::<promotion::Form>())
        .answers_text(StatusCode::OK, "It has been promoted.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

/// Progress of a job, told as it happens.
const EVENTS: &str = "text/event-stream";

/// A line of the events.
fn events() -> Value {
    text("Events `progress`, and `end` at last; the data of each is the job as one line of JSON.")
}

pub(super) fn migrate(schemas: &mut Schemas) -> Operation {
    let job = schemas.answer::<ShownJob<'_>>();
    let failed = StatusCode::UNPROCESSABLE_ENTITY;
    Operation::new(Tag::Docker, Method::POST, "/artifactory/api/docker/{repoKey}/v1/migrate", "Migrate V1 images into a V2 repository")
        .notes(
            "Everything, one image, or one tag. Both repositories serve meanwhile. It may be repeated, and goes on where it was \
             interrupted. The answer comes at the end; asked for as events, it tells of the progress.",
        )
        .query("async", json!({ "type": "string" }), "If it is there, the answer does not wait for the end.")
        .takes(schemas.request::<migration::Form>())
        .answers_json(StatusCode::OK, job.clone(), "It has ended. Tags that could not be migrated are in `failures`.")
        .answers_as(StatusCode::OK, EVENTS, events(), "")
        .answers_json(StatusCode::ACCEPTED, job.clone(), "It goes on. Ask for the job.")
        .answers_json(failed, job.clone(), "It has ended, and no tag could be migrated.")
        .answers_json(StatusCode::INTERNAL_SERVER_ERROR, job, "It was interrupted. Asked for again, it goes on.")
        .with_location("The job.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT])
}

pub(super) fn receipts(schemas: &mut Schemas) -> Operation {
    let page = schemas.answer::<Receipts>();
    let found = format!("Up to {RECEIPTS_MAX} of them.");
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/{repoKey}/v2/receipts", "What tags were migrated from")
        .query("image", schemas.inline_or_empty::<names::ImageName>(), "Only of this image.")
        .query("tag", schemas.inline_or_empty::<names::TagName>(), "Only of this tag of the image.")
        .query("after", json!({ "type": "string" }), "What an answer gave as `next`.")
        .answers_json(StatusCode::OK, page, &found)
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

pub(super) fn list_jobs(schemas: &mut Schemas) -> Operation {
    let jobs = list(&schemas.answer::<ShownJob<'_>>());
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/jobs", "One's own migrations; an admin's: all").answers_json(
        StatusCode::OK,
        jobs,
        "Those under way, and the last ones that have ended.",
    )
}

pub(super) fn get_job(schemas: &mut Schemas) -> Operation {
    let job = schemas.answer::<ShownJob<'_>>();
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/jobs/{jobId}", "How a migration stands")
        .answers_json(StatusCode::OK, job, "As it is now, or as events until it ends.")
        .answers_as(StatusCode::OK, EVENTS, events(), "")
        .refuses(&[StatusCode::NOT_FOUND])
}

pub(super) fn ancestry(schemas: &mut Schemas) -> Operation {
    let tree = schemas.answer::<Ancestry>();
    let drawn = text("The tree, drawn.");
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/{repoKey}/v1/ancestry", "The tree of V1 images")
        .notes("All below a tag, all tags of an image, or all that the caller sees.")
        .query("image", schemas.inline_or_empty::<names::ImageName>(), "Only of this image.")
        .query("tag", schemas.inline_or_empty::<names::TagName>(), "Only below this tag of the image.")
        .answers_json(StatusCode::OK, tree, "The tree, as a list; or drawn as `docker images --tree` does, as `text/plain`.")
        .answers_as(StatusCode::OK, "text/plain", drawn, "")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

pub(super) fn v1_info(schemas: &mut Schemas) -> Operation {
    let mut info = info("id", "Ids of the image and of all below it, top first.");
    let layers = &mut info["properties"];
    layers["parent"] = text("The id of the image below.");
    layers["virtualSize"] = number("Bytes of its layer and of all below.");
    layers["uri"] = text("Where it can be looked at.");
    let info = schemas.written("V1ImageInfo", info);
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/{repoKey}/v1/info", "What a V1 image is")
        .notes("Named by image and tag, or by id.")
        .query("image", schemas.inline_or_empty::<names::ImageName>(), "The image; then `tag` is needed.")
        .query("tag", schemas.inline_or_empty::<names::TagName>(), "The tag.")
        .query("id", schemas.inline::<names::V1ImageId>(), "The id, in place of both.")
        .answers_json(StatusCode::OK, info, "What is known of it. What is empty is left out.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

pub(super) fn v2_info(schemas: &mut Schemas) -> Operation {
    let mut info = info("digest", "Its layers, top first.");
    let platform = json!({
        "type": "object",
        "required": ["platform", "digest"],
        "properties": { "platform": { "type": "string" }, "digest": text("Of the manifest for it.") },
    });
    let fields = &mut info["properties"];
    fields["digest"] = text("Of the manifest.");
    fields["mediaType"] = text("Of the manifest.");
    fields["variant"] = text("Of the architecture.");
    fields["platforms"] = json!({ "type": "array", "items": platform, "description": "If it is one image for each of several platforms." });
    let info = schemas.written("V2ImageInfo", info);
    let platform = json!({ "type": "string", "default": "linux/amd64" });
    Operation::new(Tag::Docker, Method::GET, "/artifactory/api/docker/{repoKey}/v2/info", "What a V2 image is")
        .notes("Named by tag or by digest.")
        .required_query("image", schemas.inline::<names::ImageName>(), "The image.")
        .query("tag", schemas.inline_or_empty::<names::TagName>(), "The tag.")
        .query("digest", schemas.inline::<names::Digest>(), "The digest, in place of the tag.")
        .query("platform", platform, "Which one, if there are several; if it is not said and not there, the first.")
        .answers_json(StatusCode::OK, info, "What is known of it. What is empty is left out.")
        .refuses(&[StatusCode::FORBIDDEN, StatusCode::NOT_FOUND])
}

/// What is said of any image. Values that come from its own JSON are what its author put there.
fn info(layer_name: &str, layers: &str) -> Value {
    let layer = json!({
        "type": "object",
        "required": [layer_name, "size"],
        "properties": { layer_name: { "type": "string" }, "size": number("In bytes, as stored.") },
    });
    let mut properties = json!({
        "id": text("Its id: of V2 the digest of its config, as docker has it."),
        "size": number("In bytes: of V1 its own layer, of V2 all its layers."),
        "layers": { "type": "array", "items": layer, "description": layers },
        "ports": { "type": "array", "items": { "type": "string" } },
        "volumes": { "type": "array", "items": { "type": "string" } },
    });
    for name in [
        "created",
        "author",
        "comment",
        "container",
        "dockerVersion",
        "architecture",
        "os",
        "command",
        "entrypoint",
        "env",
        "labels",
        "user",
        "workingDir",
        "hostname",
        "domainName",
        "onBuild",
        "stopSignal",
        "memory",
        "memorySwap",
        "cpuShares",
        "cpuSet",
        "tty",
        "openStdin",
        "stdinOnce",
    ] {
        properties[name] = json!({ "description": "As the image's own JSON says." });
    }
    json!({ "type": "object", "required": ["id"], "properties": properties })
}
