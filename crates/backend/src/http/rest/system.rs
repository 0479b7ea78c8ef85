//! The system as a whole: whether it runs, what it is, what cleanup has removed.

use std::borrow::Cow;

use berth_registry::Freed;
use http::StatusCode;
use http::header::CACHE_CONTROL;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{RestCall, refused, said};
use crate::http::respond::{Answer, With, json as json_answer};

pub(super) fn ping() -> Answer {
    said(StatusCode::OK, "OK".to_owned()).with(CACHE_CONTROL, "no-store")
}

/// What this is.
#[derive(Serialize, JsonSchema)]
pub(super) struct Version {
    /// Always `Berth`.
    product: &'static str,
    version: &'static str,
    /// Always empty: nothing has to be bought.
    addons: [String; 0],
}

pub(super) fn version() -> Answer {
    json_answer(StatusCode::OK, &Version { product: "Berth", version: env!("CARGO_PKG_VERSION"), addons: [] })
}

/// What cleanup has removed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cleanup {
    /// In this pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FreedSchema>")]
    freed: Option<Freed>,
    /// Since the process started.
    #[schemars(with = "FreedSchema")]
    since_start: Freed,
}

/// The schema of [`Freed`].
enum FreedSchema {}

impl JsonSchema for FreedSchema {
    fn schema_name() -> Cow<'static, str> {
        "Freed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let counts = [
            ("manifests", "Manifests that no tag, index or subject led to."),
            ("links", "Blobs that were readable through an image whose manifests no longer refer to them."),
            ("v1Images", "V1 images that no tag and no child led to."),
            ("images", "Images of which nothing was left."),
            ("blobs", "Blobs that nothing used any more."),
            ("blobBytes", "Their bytes."),
            ("files", "Files among them, deleted from the data directory; smaller blobs are rows."),
            ("fileBytes", "The bytes of those files."),
        ];
        let properties: Map<String, Value> = counts
            .iter()
            .map(|(name, meaning)| ((*name).to_owned(), json!({ "type": "integer", "minimum": 0, "description": meaning })))
            .collect();
        json_schema!({ "type": "object", "required": counts.map(|(name, _)| name), "properties": properties })
    }
}

pub(super) fn freed(call: &RestCall) -> Answer {
    json_answer(StatusCode::OK, &Cleanup { freed: None, since_start: call.registry.freed_so_far() })
}

pub(super) async fn collect_garbage(call: &RestCall) -> Result<Answer, Answer> {
    let freed = call.registry.collect_garbage().await.map_err(refused)?;
    Ok(json_answer(StatusCode::OK, &Cleanup { freed: Some(freed), since_start: call.registry.freed_so_far() }))
}

pub(super) fn alive() -> Answer {
    said(StatusCode::OK, "ok\n".to_owned()).with(CACHE_CONTROL, "no-store")
}

/// Whether the store answers: a backend that can't read it can do nothing for anybody.
pub(super) async fn ready(call: &RestCall) -> Result<Answer, Answer> {
    match call.registry.repositories().await {
        // Whoever pulls or deletes is served: to be taken out of service would help nobody.
        Ok(_) if call.registry.is_disk_full() => {
            Ok(said(StatusCode::OK, "ok, but the disk is full: only what frees space is accepted\n".to_owned())
                .with(CACHE_CONTROL, "no-store"))
        }
        Ok(_) => Ok(alive()),
        Err(error) => {
            tracing::error!(%error, "not ready");
            Err(said(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n".to_owned()).with(CACHE_CONTROL, "no-store"))
        }
    }
}
