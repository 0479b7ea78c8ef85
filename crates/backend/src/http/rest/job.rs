//! Migration jobs and receipts, as they are shown.

use std::time::Duration;

use berth_names::{AccountName, Digest, ImageName, RepositoryKey, Tag};
use berth_registry::v1::ImageId;
use berth_registry::v1::migration::{Job, JobId, JobState, Receipt};
use schemars::JsonSchema;
use serde::Serialize;

use super::openapi::names;

/// A migration.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Job")]
pub(super) struct ShownJob<'j> {
    #[schemars(with = "names::JobId")]
    id: String,
    /// Always `migration`.
    kind: &'static str,
    /// `interrupted`: asked for again, it goes on.
    #[schemars(with = "State")]
    state: JobState,
    #[schemars(with = "names::RepositoryKey")]
    source_repo: &'j RepositoryKey,
    #[schemars(with = "names::RepositoryKey")]
    target_repo: &'j RepositoryKey,
    /// `null`: all.
    #[schemars(with = "Option<names::ImageName>")]
    docker_repository: Option<&'j ImageName>,
    /// `null`: all.
    #[schemars(with = "Option<names::TagName>")]
    tag: Option<&'j Tag>,
    dry_run: bool,
    /// Who asked for it; `null`: the operator.
    #[schemars(with = "Option<names::AccountName>")]
    owner: Option<&'j AccountName>,
    #[schemars(with = "names::Time")]
    started: String,
    #[schemars(with = "Option<names::Time>")]
    ended: Option<String>,
    tags: TagCounts,
    layers: LayerCounts,
    /// Bytes of layers that were read through, because they had to be packed anew or nobody knew what they unpack to.
    bytes_read: u64,
    /// Tags that could not be migrated, as far as they are kept.
    failures: Vec<Failure<'j>>,
    /// If one image was asked for and has few tags: their receipts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipts: Option<Vec<ShownReceipt>>,
}

/// How a job stands.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "JobState")]
#[allow(dead_code, reason = "only its schema is used")]
enum State {
    /// It is under way.
    Running,
    /// It has looked at every tag.
    Finished,
    /// It was stopped, or the process ended, before that.
    Interrupted,
}

/// How many tags.
#[derive(Serialize, JsonSchema)]
struct TagCounts {
    migrated: u64,
    /// Migrated before, and the same since.
    unchanged: u64,
    failed: u64,
}

/// How many layers.
#[derive(Serialize, JsonSchema)]
struct LayerCounts {
    /// V2 clients get them as they were pushed.
    reused: u64,
    /// They had to be packed anew.
    repacked: u64,
}

/// A tag that could not be migrated, and why.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobFailure")]
struct Failure<'j> {
    #[schemars(with = "names::ImageName")]
    docker_repository: &'j ImageName,
    #[schemars(with = "names::TagName")]
    tag: &'j Tag,
    reason: &'j str,
}

/// What a tag was migrated from, and what it became.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Receipt")]
pub(super) struct ShownReceipt {
    #[schemars(with = "names::ImageName")]
    docker_repository: ImageName,
    #[schemars(with = "names::TagName")]
    tag: Tag,
    #[schemars(with = "names::Digest")]
    manifest: Digest,
    #[schemars(with = "names::Digest")]
    config: Digest,
    /// Root first.
    layers: Vec<ReceiptLayer>,
    from: Origin,
    #[schemars(with = "names::Time")]
    migrated: String,
}

/// What one V1 image became.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ReceiptLayer {
    #[schemars(with = "names::V1ImageId")]
    v1_id: ImageId,
    /// Its layer, as it was pushed.
    #[schemars(with = "names::Digest")]
    v1_layer: Digest,
    /// The digest of its uncompressed tar.
    #[schemars(with = "names::Digest")]
    diff_id: Digest,
    /// The layer that V2 clients get; `null` if there is nothing in it.
    #[schemars(with = "Option<names::Digest>")]
    layer: Option<Digest>,
}

/// Where a migrated tag was.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MigratedFrom")]
struct Origin {
    #[schemars(with = "names::RepositoryKey")]
    repo: RepositoryKey,
    #[schemars(with = "names::ImageName")]
    docker_repository: ImageName,
    #[schemars(with = "names::TagName")]
    tag: Tag,
    #[schemars(with = "names::V1ImageId")]
    v1_id: ImageId,
}

/// A page of receipts.
#[derive(Serialize, JsonSchema)]
pub(super) struct Receipts {
    pub(super) receipts: Vec<ShownReceipt>,
    /// The parameter `after` of the next page, if there is one.
    pub(super) next: Option<String>,
}

pub(super) fn job<'j>(id: &JobId, job: &'j Job) -> ShownJob<'j> {
    let failure = |failure: &'j berth_storage::records::JobFailure| Failure {
        docker_repository: &failure.image,
        tag: &failure.tag,
        reason: &failure.reason,
    };
    ShownJob {
        id: id.to_string(),
        kind: "migration",
        state: job.state,
        source_repo: &job.source,
        target_repo: &job.target,
        docker_repository: job.image.as_ref(),
        tag: job.tag.as_ref(),
        dry_run: job.dry_run,
        owner: job.owner.as_ref(),
        started: time(job.started_ms),
        ended: job.ended_ms.map(time),
        tags: TagCounts { migrated: job.done.migrated, unchanged: job.done.unchanged, failed: job.done.failed },
        layers: LayerCounts { reused: job.done.layers_reused, repacked: job.done.layers_repacked },
        bytes_read: job.done.bytes_read,
        failures: job.failures.iter().map(failure).collect(),
        receipts: None,
    }
}

pub(super) fn receipt(((docker_repository, tag), receipt): ((ImageName, Tag), Receipt)) -> ShownReceipt {
    let layers = receipt.layers.into_iter();
    ShownReceipt {
        docker_repository,
        tag,
        manifest: receipt.manifest,
        config: receipt.config,
        layers: layers
            .map(|layer| ReceiptLayer { v1_id: layer.id, v1_layer: layer.layer, diff_id: layer.diff_id, layer: layer.blob })
            .collect(),
        from: Origin { repo: receipt.source, docker_repository: receipt.image, tag: receipt.tag, v1_id: receipt.id },
        migrated: time(receipt.migrated_ms),
    }
}

fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}
