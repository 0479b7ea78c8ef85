//! `POST /api/docker/<key>/v1/migrate`, the jobs that do it, and the receipts that are left.

use std::sync::Arc;
use std::time::Duration;

use berth_names::{ImageName, RepositoryKey, Tag};
use berth_registry::access::Right;
use berth_registry::v1::migration::{Allowed, Allows, Job, JobId, JobState, MigrationOrder, Wanted};
use berth_registry::{Body, Error, ExistingTag, Repository};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::job::{self, Receipts, ShownReceipt};
use super::openapi::names;
use super::promotion::{image_name, tag_name};
use super::{RestCall, bad, may, read_json, refused, require, seen_repository};
use crate::http::accept::Accept;
use crate::http::body::ResponseBody;
use crate::http::errors;
use crate::http::respond::{Answer, With, json as json_answer};

type Outcome = Result<Answer, Answer>;

/// How long an answer waits for the end of a migration. Then it says where to ask for it.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// How often progress is told at most.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How long nothing may be told before a line says that the connection lives.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Receipts that the answer to a migration brings.
const RECEIPTS_SHOWN_MAX: u64 = 100;

const EVENTS: &str = "text/event-stream";

/// Tells nginx not to keep events back.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Form {
    /// Where to: a V2 repository.
    #[schemars(with = "names::RepositoryKey")]
    target_repo: RepositoryKey,
    /// The image. Empty, or not there: all of them.
    docker_repository: Option<String>,
    /// Empty, or not there: all of them.
    tag: Option<String>,
    /// Whether nothing is to be changed.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn migrate(call: &RestCall, key: &RepositoryKey, body: Body) -> Outcome {
    let form: Form = read_json(call, body).await?;
    let source = seen_repository(call, key).await?;
    let target = seen_repository(call, &form.target_repo).await?;
    let image = match form.docker_repository.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Some(image_name(&source, "dockerRepository", text)?),
        None => None,
    };
    if let Some(image) = &image {
        require(call, &source, image, Right::Read)?;
        require(call, &target, image, Right::Deploy)?;
    }
    let everywhere = |repository: &Repository| call.policy.rights_everywhere(&call.caller, repository);
    let order = MigrationOrder {
        source: source.key.clone(),
        target: target.key.clone(),
        image: image.clone(),
        tag: tag_name("tag", form.tag.as_deref())?,
        dry_run: form.dry_run,
        owner: call.caller.account_name().cloned(),
        resumes: everywhere(&source).has(Right::Read) && [Right::Deploy, Right::Delete].iter().all(|right| everywhere(&target).has(*right)),
    };
    let id = call.registry.start_migration(order, allows(call, source, target)).await.map_err(refused)?;
    let location = format!("{}/artifactory/api/docker/jobs/{id}", call.view.origin);
    let Some((job, watch)) = call.registry.job(&id).await.map_err(refused)? else {
        return Err(errors::rest(StatusCode::INTERNAL_SERVER_ERROR, "internal error"));
    };
    if wants_events(call) {
        return Ok(events(&id, job, watch).with(LOCATION, location));
    }
    let waits = call.query.get("async").is_none();
    let job = match watch {
        Some(watch) if waits => ended(watch).await.unwrap_or(job),
        _ => job,
    };
    // The end is written down before the job is forgotten here, so the record is the last word.
    let status = match (job.state, &job.done) {
        (JobState::Running, _) => StatusCode::ACCEPTED,
        (JobState::Interrupted, _) => StatusCode::INTERNAL_SERVER_ERROR,
        (JobState::Finished, done) if done.failed > 0 && done.migrated + done.unchanged == 0 => StatusCode::UNPROCESSABLE_ENTITY,
        (JobState::Finished, _) => StatusCode::OK,
    };
    let mut shown = job::job(&id, &job);
    if let Some(image) = image.filter(|_| !job.dry_run && job.done.migrated + job.done.unchanged <= RECEIPTS_SHOWN_MAX) {
        shown.receipts = Some(receipts_of(call, &job.target, &image, job.tag.as_ref()).await?);
    }
    Ok(json_answer(status, &shown).with(LOCATION, location))
}

/// What the caller may do with each image, as it is now: it holds for the whole migration.
fn allows(call: &RestCall, source: Arc<Repository>, target: Arc<Repository>) -> Allows {
    let (caller, policy) = (call.caller.clone(), Arc::clone(&call.policy));
    Arc::new(move |image| {
        let there = policy.rights(&caller, &target, image);
        if !policy.rights(&caller, &source, image).has(Right::Read) {
            Allowed::Hidden
        } else if !there.has(Right::Deploy) {
            Allowed::No
        } else if there.has(Right::Delete) {
            Allowed::Yes(ExistingTag::Moves)
        } else {
            Allowed::Yes(ExistingTag::Stays)
        }
    })
}

pub(super) async fn get(call: &RestCall, id: &JobId) -> Outcome {
    let found = call.registry.job(id).await.map_err(refused)?;
    let Some((job, watch)) = found.filter(|(job, _)| is_ones_own(call, job)) else {
        return Err(errors::rest(StatusCode::NOT_FOUND, "there is no such job"));
    };
    if wants_events(call) {
        return Ok(events(id, job, watch));
    }
    Ok(json_answer(StatusCode::OK, &job::job(id, &job)).with(CACHE_CONTROL, "no-store"))
}

pub(super) async fn list(call: &RestCall) -> Outcome {
    let jobs = call.registry.jobs().await.map_err(refused)?;
    let shown: Vec<_> = jobs.iter().filter(|(_, job)| is_ones_own(call, job)).map(|(id, job)| job::job(id, job)).collect();
    Ok(json_answer(StatusCode::OK, &shown).with(CACHE_CONTROL, "no-store"))
}

pub(super) async fn receipts(call: &RestCall, key: &RepositoryKey) -> Outcome {
    let repository = seen_repository(call, key).await?;
    let image = match call.query.get("image").filter(|text| !text.is_empty()) {
        Some(text) => Some(image_name(&repository, "image", text)?),
        None => None,
    };
    let tag = tag_name("tag", call.query.get("tag"))?;
    if let Some(image) = &image {
        require(call, &repository, image, Right::Read)?;
    }
    let wanted = match (&image, &tag) {
        (Some(image), Some(tag)) => Wanted::Tag(image, tag),
        (Some(image), None) => Wanted::Image(image),
        (None, None) => Wanted::All,
        (None, Some(_)) => return Err(bad("a tag needs an image")),
    };
    let sees = |image: &ImageName| may(call, &repository, image, Right::Read);
    let found = match call.registry.receipts(key, wanted, &sees, call.query.get("after")).await {
        Err(Error::PositionInvalid) => return Err(bad("after must be what an answer gave as `next`")),
        found => found.map_err(refused)?,
    };
    let receipts = found.receipts.into_iter().map(job::receipt).collect();
    Ok(json_answer(StatusCode::OK, &Receipts { receipts, next: found.next }))
}

async fn receipts_of(call: &RestCall, target: &RepositoryKey, image: &ImageName, tag: Option<&Tag>) -> Result<Vec<ShownReceipt>, Answer> {
    let wanted = tag.map_or(Wanted::Image(image), |tag| Wanted::Tag(image, tag));
    let found = call.registry.receipts(target, wanted, &|_| true, None).await.map_err(refused)?;
    Ok(found.receipts.into_iter().map(job::receipt).collect())
}

fn is_ones_own(call: &RestCall, job: &Job) -> bool {
    call.caller.is_admin() || (job.owner.is_some() && job.owner.as_ref() == call.caller.account_name())
}

fn wants_events(call: &RestCall) -> bool {
    Accept::of(&call.headers).prefers(EVENTS, "application/json")
}

/// The job once it has ended; `None` if that takes too long.
async fn ended(mut watch: watch::Receiver<Job>) -> Option<Job> {
    let waiting = async {
        // If nobody is at it any more, what it was last is what it is.
        let _ = watch.wait_for(|job| job.state != JobState::Running).await;
    };
    tokio::time::timeout(WAIT_MAX, waiting).await.ok()?;
    Some(watch.borrow().clone())
}

fn events(id: &JobId, job: Job, watch: Option<watch::Receiver<Job>>) -> Answer {
    let pieces: BoxStream<'static, Bytes> = match watch {
        Some(watch) => progress(id.clone(), watch),
        None => stream::iter([event("end", id, &job)]).boxed(),
    };
    let answer = Answer::new(ResponseBody::Live(pieces));
    answer.with(CONTENT_TYPE, EVENTS).with(CACHE_CONTROL, "no-store").with(ACCEL_BUFFERING, "no")
}

fn progress(id: JobId, mut watch: watch::Receiver<Job>) -> BoxStream<'static, Bytes> {
    watch.mark_changed();
    stream::unfold(Some(watch), move |watch| {
        let id = id.clone();
        async move {
            let mut watch = watch?;
            let changed = match tokio::time::timeout(SILENCE_MAX, watch.changed()).await {
                Ok(changed) => changed,
                Err(_) => return Some((Bytes::from_static(b": still at it\n\n"), Some(watch))),
            };
            let job = watch.borrow_and_update().clone();
            if changed.is_err() || job.state != JobState::Running {
                return Some((event("end", &id, &job), None));
            }
            let told = event("progress", &id, &job);
            tokio::time::sleep(PROGRESS_INTERVAL).await;
            Some((told, Some(watch)))
        }
    })
    .boxed()
}

/// A line of JSON as a server-sent event. JSON has no line breaks of its own.
fn event(name: &str, id: &JobId, job: &Job) -> Bytes {
    let data = serde_json::to_string(&job::job(id, job)).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}
