//! The system as a whole: whether it runs, what it is, what cleanup has removed.

use http::StatusCode;
use http::header::CACHE_CONTROL;
use serde_json::json;

use super::{RestCall, refused, said};
use crate::http::respond::{Answer, With, json as json_answer};

pub(super) fn ping() -> Answer {
    said(StatusCode::OK, "OK".to_owned()).with(CACHE_CONTROL, "no-store")
}

pub(super) fn version() -> Answer {
    json_answer(StatusCode::OK, &json!({ "product": "Berth", "version": env!("CARGO_PKG_VERSION"), "addons": [] }))
}

pub(super) fn freed(call: &RestCall) -> Answer {
    json_answer(StatusCode::OK, &json!({ "sinceStart": call.registry.freed_so_far() }))
}

pub(super) async fn collect_garbage(call: &RestCall) -> Result<Answer, Answer> {
    let freed = call.registry.collect_garbage().await.map_err(refused)?;
    Ok(json_answer(StatusCode::OK, &json!({ "freed": freed, "sinceStart": call.registry.freed_so_far() })))
}

pub(super) fn alive() -> Answer {
    said(StatusCode::OK, "ok\n".to_owned()).with(CACHE_CONTROL, "no-store")
}

/// Whether the store answers: a backend that can't read it can do nothing for anybody.
pub(super) async fn ready(call: &RestCall) -> Result<Answer, Answer> {
    match call.registry.repositories().await {
        Ok(_) => Ok(alive()),
        Err(error) => {
            tracing::error!(%error, "not ready");
            Err(said(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n".to_owned()).with(CACHE_CONTROL, "no-store"))
        }
    }
}
