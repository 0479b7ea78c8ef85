//! What a V1 client is told about a V2 repository that lets V1 clients pull.

use std::collections::BTreeMap;

use berth_names::{ImageName, Tag};
use berth_registry::Error;
use berth_registry::v1::ImageId;
use http::StatusCode;
use serde_json::{Value, json};

use super::super::call::Call;
use super::super::errors;
use super::super::respond::json as json_answer;
use super::super::route::V1;
use super::{
    Outcome, access_of, fresh, image_answer, layer_answer, ping, push_information, search, user_exists, user_is_valid, with_session,
};

/// Hands a request that may go on to its handler.
pub(super) async fn handle(call: &Call, route: &V1) -> Outcome {
    match route {
        V1::Ping => Ok(ping()),
        V1::CreateUser => Ok(user_exists()),
        V1::GetUser => Ok(user_is_valid()),
        V1::Search => search(call).await,
        V1::GetRepositoryImages { image } => get_repository_images(call, image).await,
        V1::GetProperties { image } => get_properties(call, image).await,
        V1::GetTags { image } => get_tags(call, image).await,
        V1::GetTag { image, tag } => get_tag(call, image, tag).await,
        V1::GetRepositoryJson { image } => get_properties(call, image).await.map(|_| nobodys_push()),
        V1::GetTagJson { image, tag } => get_tag(call, image, tag).await.map(|_| nobodys_push()),
        V1::GetImageJson { id } => get_image_json(call, id).await,
        V1::GetLayer { id } => get_layer(call, id).await,
        V1::GetAncestry { id } => get_ancestry(call, id).await,
        V1::PutRepository { .. }
        | V1::PutRepositoryImages { .. }
        | V1::PutTag { .. }
        | V1::DeleteTag { .. }
        | V1::DeleteRepository { .. }
        | V1::PutImageJson { .. }
        | V1::PutLayer { .. }
        | V1::PutChecksum { .. } => Ok(errors::v1(StatusCode::FORBIDDEN, "the repository takes pushes over V2 only")),
    }
}

/// Nobody pushed it over V1, so nobody said with what.
fn nobodys_push() -> super::Answer {
    fresh(json_answer(StatusCode::OK, &push_information(None)))
}

async fn get_repository_images(call: &Call, image: &ImageName) -> Outcome {
    let ids = match call.registry.viewed_images(&call.repository.key, image).await {
        Ok(ids) => ids,
        Err(Error::ImageUnknown(_)) => return Ok(errors::v1(StatusCode::NOT_FOUND, "images not found")),
        Err(error) => return Err(error),
    };
    let list: Vec<Value> = ids.into_iter().map(|id| json!({ "id": id })).collect();
    Ok(fresh(with_session(call, image, "read", json_answer(StatusCode::OK, &list)).await?))
}

async fn get_properties(call: &Call, image: &ImageName) -> Outcome {
    call.registry.viewed_tags(&call.repository.key, image).await?;
    Ok(access_of(call))
}

async fn get_tags(call: &Call, image: &ImageName) -> Outcome {
    let tags = call.registry.viewed_tags(&call.repository.key, image).await?;
    let tags: BTreeMap<String, ImageId> = tags.into_iter().map(|(tag, id)| (tag.to_string(), id)).collect();
    Ok(fresh(json_answer(StatusCode::OK, &tags)))
}

async fn get_tag(call: &Call, image: &ImageName, tag: &Tag) -> Outcome {
    Ok(fresh(json_answer(StatusCode::OK, &call.registry.viewed_tag(&call.repository.key, image, tag).await?)))
}

async fn get_image_json(call: &Call, id: &ImageId) -> Outcome {
    let eyes = call.v1_eyes();
    Ok(image_answer(call.registry.viewed_image(&call.repository.key, id, call.viewer(&eyes).sees).await?))
}

async fn get_layer(call: &Call, id: &ImageId) -> Outcome {
    let eyes = call.v1_eyes();
    Ok(layer_answer(call.registry.viewed_layer(&call.repository.key, id, call.viewer(&eyes).sees).await?))
}

async fn get_ancestry(call: &Call, id: &ImageId) -> Outcome {
    let eyes = call.v1_eyes();
    let chain = call.registry.viewed_ancestry(&call.repository.key, id, call.viewer(&eyes).sees).await?;
    Ok(super::ancestry_answer(&chain))
}
