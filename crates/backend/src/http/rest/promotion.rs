//! `POST /api/docker/<key>/v1|v2/promote`.

use berth_names::{ApiVersion, ImageName, RepositoryKey, Tag};
use berth_registry::access::Right;
use berth_registry::{Body, ExistingTag, Promotion, Repository};
use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use super::openapi::names;
use super::{RestCall, bad, may, read_json, refused, require, said, seen_repository};
use crate::http::respond::Answer;

type Outcome = Result<Answer, Answer>;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Form {
    /// Where to: a repository with the same API version.
    #[schemars(with = "names::RepositoryKey")]
    target_repo: RepositoryKey,
    /// The image.
    docker_repository: String,
    /// What the image is called there. Empty, or not there: the same.
    target_docker_repository: Option<String>,
    /// Empty, or not there: all of them.
    tag: Option<String>,
    /// What the tag is called there. Empty, or not there: the same.
    target_tag: Option<String>,
    /// Whether it stays where it is, too.
    #[serde(default)]
    copy: bool,
}

/// An image's name, as clients of the repository's protocol write it.
pub(super) fn image_name(repository: &Repository, field: &str, text: &str) -> Result<ImageName, Answer> {
    let parsed = match repository.api_version {
        ApiVersion::V1 => ImageName::from_v1(text),
        ApiVersion::V2 => text.parse(),
    };
    parsed.map_err(|_| bad(&format!("{field} is no image name")))
}

/// A tag, if there is one; the empty text is none.
pub(super) fn tag_name(field: &str, text: Option<&str>) -> Result<Option<Tag>, Answer> {
    text.filter(|text| !text.is_empty()).map(str::parse).transpose().map_err(|_| bad(&format!("{field} is no tag")))
}

pub(super) async fn promote(call: &RestCall, api_version: ApiVersion, key: &RepositoryKey, body: Body) -> Outcome {
    let form: Form = read_json(call, body).await?;
    let source = seen_repository(call, key).await?;
    if source.api_version != api_version {
        return Err(bad(&format!("repository {key} has another API version than the path")));
    }
    let target = seen_repository(call, &form.target_repo).await?;
    let image = image_name(&source, "dockerRepository", &form.docker_repository)?;
    let target_image = match form.target_docker_repository.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => image_name(&target, "targetDockerRepository", text)?,
        None => image.clone(),
    };
    require(call, &source, &image, Right::Read)?;
    if !form.copy {
        require(call, &source, &image, Right::Delete)?;
    }
    require(call, &target, &target_image, Right::Deploy)?;
    let existing = if may(call, &target, &target_image, Right::Delete) { ExistingTag::Moves } else { ExistingTag::Stays };
    let promotion = Promotion {
        image,
        tag: tag_name("tag", form.tag.as_deref())?,
        target_image,
        target_tag: tag_name("targetTag", form.target_tag.as_deref())?,
        copy: form.copy,
    };
    call.registry.promote(key, &target.key, &promotion, existing).await.map_err(refused)?;
    Ok(said(StatusCode::OK, "Promotion ended successfully".to_owned()))
}
