//! Migrations as jobs: they go on when whoever asked has gone, say how far they are, and go on after a restart.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_names::{AccountName, ImageName, RepositoryKey, Tag};
use berth_storage::records::{self, JobDone, JobFailure, JobState, Record as _};
use berth_storage::{Batch, get_record, keys};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::Outcome;
use crate::blobs::{damaged, random_u64};
use crate::{Error, ExistingTag, Registry, Result};

/// Jobs that work at once; more wait for their turn.
const AT_WORK_MAX: usize = 2;

/// Jobs that work or wait.
pub(super) const OPEN_MAX: usize = 64;

/// Jobs that are remembered after their end; the oldest go first.
const KEPT_MAX: usize = 200;

/// Failures that a job names. Further ones are only counted.
const FAILURES_MAX: usize = 1000;

/// How often a job under way writes down how far it is.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// A job's record.
pub type Job = records::Job;

/// A name for a job: 32 hexadecimal digits that ascend with the time of its making.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobId(Arc<str>);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no job id, so there is no such job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidJobId;

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> std::result::Result<Self, InvalidJobId> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex { Ok(Self(text.into())) } else { Err(InvalidJobId) }
    }
}

/// What is to be migrated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationOrder {
    /// The V1 repository.
    pub source: RepositoryKey,
    /// The V2 repository.
    pub target: RepositoryKey,
    /// The image; `None`: all.
    pub image: Option<ImageName>,
    /// The tag; `None`: all. Without an image: that tag of every image.
    pub tag: Option<Tag>,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// Who asks; `None`: the operator.
    pub owner: Option<AccountName>,
    /// Whether it may go on by itself after a restart, when nobody can be asked what the owner may do: only if everything.
    pub resumes: bool,
}

/// Whether an image may be migrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It may, and this happens to tags that the target has already.
    Yes(ExistingTag),
    /// It may be seen in the source, but not pushed to the target.
    No,
    /// It may not even be seen.
    Hidden,
}

/// Says of each image whether it may be migrated.
pub type Allows = Arc<dyn Fn(&ImageName) -> Allowed + Send + Sync>;

/// The jobs of this process.
pub(crate) struct LiveJobs {
    pub(super) open: Mutex<HashMap<JobId, (watch::Receiver<Job>, AbortHandle)>>,
    turns: Semaphore,
}

impl Default for LiveJobs {
    fn default() -> Self {
        Self { open: Mutex::default(), turns: Semaphore::new(AT_WORK_MAX) }
    }
}

/// Counts what a job does, for all who watch it.
pub(super) struct Tally(watch::Sender<Job>);

impl Tally {
    /// The job as it stands.
    pub(super) fn job(&self) -> Job {
        self.0.borrow().clone()
    }

    pub(super) fn reused(&self) {
        self.0.send_modify(|job| job.done.layers_reused += 1);
    }

    pub(super) fn repacked(&self) {
        self.0.send_modify(|job| job.done.layers_repacked += 1);
    }

    pub(super) fn read(&self, bytes: u64) {
        self.0.send_modify(|job| job.done.bytes_read += bytes);
    }

    pub(super) fn count(&self, image: &ImageName, tag: &Tag, outcome: Outcome) {
        self.0.send_modify(|job| match outcome {
            Outcome::Migrated => job.done.migrated += 1,
            Outcome::Unchanged => job.done.unchanged += 1,
            Outcome::Gone => {}
            Outcome::Broken(broken) => {
                job.done.failed += 1;
                if job.failures.len() < FAILURES_MAX {
                    let (image, tag, reason) = (image.clone(), tag.clone(), broken.to_string());
                    job.failures.push(JobFailure { image, tag, reason });
                }
            }
        });
    }
}

impl Registry {
    /// Begins a migration and returns its name. It goes on by itself.
    ///
    /// # Errors
    /// [`Error::RepositoryUnknown`]; [`Error::MigrationInvalid`] unless it goes from V1 to V2; [`Error::ImageUnknown`] or
    /// [`Error::V1TagUnknown`] if what is named is not there; [`Error::TooManyJobs`].
    pub async fn start_migration(&self, order: MigrationOrder, allows: Allows) -> Result<JobId> {
        self.ends_of_migration(&order.source, &order.target).await?;
        if let Some(image) = &order.image {
            if allows(image) == Allowed::Hidden {
                return Err(Error::ImageUnknown(image.clone()));
            }
            match &order.tag {
                Some(tag) => drop(self.v1_tag(&order.source, image, tag).await?),
                None if self.store.scan(&keys::v1_tags(&order.source, image), None, 1).await?.is_empty() => {
                    return Err(Error::ImageUnknown(image.clone()));
                }
                None => {}
            }
        }
        let now_ms = self.clock.now_ms();
        let id = JobId(format!("{now_ms:016x}{:016x}", random_u64()?).into());
        let MigrationOrder { source, target, image, tag, dry_run, owner, resumes } = order;
        let job = Job {
            source,
            target,
            image,
            tag,
            dry_run,
            owner,
            resumes,
            state: JobState::Running,
            started_ms: now_ms,
            ended_ms: None,
            done: JobDone::default(),
            failures: Vec::new(),
        };
        self.forget_old_jobs().await?;
        let mut batch = Batch::new();
        batch.put_record(keys::job(&id.0), &job);
        self.store.commit(batch).await?;
        if let Err(refused) = self.set_to_work(&id, job, allows) {
            // Left behind, the next start would take it up.
            let mut batch = Batch::new();
            batch.delete(keys::job(&id.0));
            self.store.commit(batch).await?;
            return Err(refused);
        }
        Ok(id)
    }

    /// How a job stands, and a way to hear of its progress while it is under way in this process.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn job(&self, id: &JobId) -> Result<Option<(Job, Option<watch::Receiver<Job>>)>> {
        if let Some((watch, _)) = self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Ok(Some((watch.borrow().clone(), Some(watch.clone()))));
        }
        let row = get_record::<Job>(self.store.as_ref(), &keys::job(&id.0)).await?;
        Ok(row.map(|(job, _)| (job, None)))
    }

    /// Every job that is remembered, newest first.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn jobs(&self) -> Result<Vec<(JobId, Job)>> {
        let prefix = keys::jobs();
        let mut found = Vec::new();
        for (key, row) in self.store.scan(&prefix, None, KEPT_MAX + OPEN_MAX).await? {
            let id = key.text_after(&prefix).and_then(|text| text.parse::<JobId>().ok());
            let (Some(id), Some(stored)) = (id, Job::decode(&row)) else { return Err(damaged(&key)) };
            let live = self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(watch, _)| watch.borrow().clone());
            found.push((id, live.unwrap_or(stored)));
        }
        found.reverse();
        Ok(found)
    }

    /// Takes up jobs that an earlier process was at, as far as they may go on by themselves; returns how many.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn resume_jobs(&self) -> Result<usize> {
        let mut resumed = 0;
        for (id, job) in self.jobs().await?.into_iter().rev().filter(|(_, job)| job.state == JobState::Running) {
            if job.resumes {
                let anew = Job { done: JobDone::default(), failures: Vec::new(), ..job };
                self.set_to_work(&id, anew, Arc::new(|_| Allowed::Yes(ExistingTag::Moves)))?;
                resumed += 1;
            } else {
                let job = Job { state: JobState::Interrupted, ended_ms: Some(self.clock.now_ms()), ..job };
                self.save_job(&id, &job, Batch::new()).await?;
            }
        }
        Ok(resumed)
    }

    /// Stops all jobs, to be taken up by the next process.
    pub fn stop_jobs(&self) {
        for (_, (_, work)) in self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            work.abort();
        }
    }

    fn set_to_work(&self, id: &JobId, job: Job, allows: Allows) -> Result<()> {
        let mut open = self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX {
            return Err(Error::TooManyJobs { max: OPEN_MAX });
        }
        let (sender, watch) = watch::channel(job);
        let (registry, name) = (self.clone(), id.clone());
        let work = tokio::spawn(async move { registry.work_on(name, Arc::new(Tally(sender)), allows).await });
        open.insert(id.clone(), (watch, work.abort_handle()));
        Ok(())
    }

    async fn work_on(self, id: JobId, tally: Arc<Tally>, allows: Allows) {
        let work = async {
            // The semaphore is never closed.
            let _turn = self.jobs.turns.acquire().await;
            self.migrate(&id, &tally, &allows).await
        };
        let saving = async {
            loop {
                tokio::time::sleep(SAVE_INTERVAL).await;
                let job = tally.job();
                if let Err(error) = self.save_job(&id, &job, Batch::deferred()).await {
                    tracing::warn!(job = %id, %error, "how far a job is could not be written down");
                }
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = saving => Ok(()),
        };
        tally.0.send_modify(|job| {
            job.ended_ms = Some(self.clock.now_ms());
            job.state = if outcome.is_ok() { JobState::Finished } else { JobState::Interrupted };
        });
        let job = tally.job();
        match &outcome {
            Ok(()) => tracing::info!(job = %id, job.done.migrated, job.done.unchanged, job.done.failed, "a migration has ended"),
            Err(error) => tracing::error!(job = %id, %error, "a migration was interrupted"),
        }
        if let Err(error) = self.save_job(&id, &job, Batch::new()).await {
            tracing::error!(job = %id, %error, "the end of a job could not be written down");
        }
        self.jobs.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    async fn save_job(&self, id: &JobId, job: &Job, mut batch: Batch) -> Result<()> {
        batch.put_record(keys::job(&id.0), job);
        Ok(self.store.commit(batch).await?)
    }

    async fn forget_old_jobs(&self) -> Result<()> {
        let ended: Vec<_> = self.jobs().await?.into_iter().filter(|(_, job)| job.state != JobState::Running).collect();
        let mut batch = Batch::deferred();
        for (id, _) in ended.iter().skip(KEPT_MAX - 1) {
            batch.delete(keys::job(&id.0));
        }
        Ok(self.store.commit(batch).await?)
    }
}
